//! `hanode recover`: when the plan asks for it, and its effect.

use super::*;

#[test]
fn a_lost_quorum_is_refused_with_the_recovery_command() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data) =
        (DiskStage::Served, DiskData { etcd: true, postgres: true, redis: true, sentinel: true });
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Refuse);
    assert!(step.reason.to_string().contains("recover --from-this-node"), "{}", step.reason);
    seen.peers[0].report = Err("gone".into());
    assert_eq!(postgres(&seen).action, Action::Wait, "node2 may have a log");
}

#[test]
fn the_chosen_node_takes_precedence_over_the_sentinels() {
    let mut seen = blank();
    (seen.own.disk, seen.own.recovery_source) = (DiskStage::Served, true);
    seen.own.data = DiskData { etcd: true, postgres: true, redis: true, sentinel: true };
    seen.etcd = quorum(members());
    assert_eq!(postgres(&seen).action, Action::Resume, "Patroni registers this data");
    seen.sentinels = sentinels(["", "192.168.18.22", "192.168.18.22"]);
    let step = redis(&seen);
    assert_eq!((step.step.action, step.primary), (Action::Resume, "192.168.18.21".parse().ok()));
}

#[test]
fn the_chosen_node_must_be_able_to_read_redis_data() {
    let mut seen = blank();
    (seen.own.disk, seen.own.recovery_source) = (DiskStage::Served, true);
    seen.own.data = DiskData { etcd: true, postgres: true, redis: true, sentinel: true };
    (seen.etcd, seen.own.redis_unreadable) = (quorum(members()), true);
    let step = redis(&seen).step;
    assert_eq!(step.action, Action::Refuse);
    assert!(step.reason.to_string().contains("redis-check-aof --fix"), "{}", step.reason);
}

#[test]
fn other_nodes_follow_the_chosen_node() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.data.postgres) = (DiskStage::Served, true, true);
    seen.etcd = registered("77");
    peer(&mut seen, 1).recovery_source = true;
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Wait, "it could win the leader race");
    assert!(step.reason.to_string().contains("node3"), "{}", step.reason);
    let step = redis(&seen);
    assert_eq!((step.step.action, step.primary), (Action::Join, "192.168.18.23".parse().ok()));
}

#[test]
fn recovery_needs_a_lost_quorum_and_a_node_with_data() {
    let why = |seen: &Observations| recovery(&spec(), seen).expect_err("refused");
    let mut seen = blank();
    peer(&mut seen, 0).data.postgres = true;
    assert!(why(&seen).contains("no PostgreSQL data"));
    peer(&mut seen, 0).data.postgres = false;
    let costs = recovery(&spec(), &seen).expect("no node has data").costs;
    assert!(costs.iter().any(|c| c.contains("PostgreSQL starts empty")), "{costs:?}");
    seen.peers[0].report = Err("gone".into());
    assert!(why(&seen).contains("no PostgreSQL data"), "the unreachable node may have some");
    seen = blank();
    (seen.own.data.postgres, seen.own.data.redis) = (true, true);
    let found = recovery(&spec(), &seen).expect("allowed");
    assert_eq!((found.etcd, found.epoch, found.costs.len()), (EtcdRecovery::Empty, 1, 1));
    seen.own.data.etcd = true;
    seen.sentinels = sentinels(["192.168.18.22", "", ""]);
    let found = recovery(&spec(), &seen).expect("allowed");
    assert_eq!((found.etcd, found.epoch), (EtcdRecovery::FromLog, 2), "above the epoch of every Sentinel");
    peer(&mut seen, 0).data.etcd = true;
    assert!(why(&seen).contains("enough for a quorum"));
    seen.peers[0].report = Err("gone".into());
    let costs = recovery(&spec(), &seen).expect("allowed").costs;
    assert!(costs.iter().any(|c| c.contains("node2 does not answer")), "{costs:?}");
    peer(&mut seen, 1).recovery_source = true;
    assert!(why(&seen).contains("already chose node3"));
    peer(&mut seen, 1).recovery_source = false;
    seen.etcd = quorum(members());
    seen.sentinels = sentinels(["192.168.18.22", "192.168.18.22", "192.168.18.22"]);
    assert!(why(&seen).contains("has a quorum"));
    seen.own.recovery_source = true;
    let found = recovery(&spec(), &seen).expect("an interrupted recovery is completed");
    assert_eq!(found.etcd, EtcdRecovery::Keep, "other nodes have joined it since");
    seen.etcd = quorum(members()[..1].to_vec());
    assert_eq!(recovery(&spec(), &seen).expect("still the only member").etcd, EtcdRecovery::FromLog);
}

#[test]
fn a_forgotten_redis_primary_is_recovered_without_touching_etcd() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.data.redis) = (DiskStage::Served, true, true);
    (0..2).for_each(|i| (peer(&mut seen, i).disk, peer(&mut seen, i).data.etcd) = (DiskStage::Served, true));
    seen.etcd = quorum(members());
    assert_eq!(redis(&seen).step.action, Action::Refuse);
    let found = recovery(&spec(), &seen).expect("the command that the refusal names");
    assert_eq!((found.etcd, found.epoch, found.costs.len()), (EtcdRecovery::Keep, 1, 1));
    seen.own.data.redis = false;
    peer(&mut seen, 0).data.redis = true;
    assert!(recovery(&spec(), &seen).expect_err("nothing to keep").contains("no Redis data"));
}
