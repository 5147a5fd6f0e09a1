//! Redis: which primary the Sentinels name, and which nodes have its data.

use super::*;

#[test]
fn redis_bootstraps_once_etcd_has_a_quorum() {
    let mut seen = blank();
    seen.own.bootstrapping = true;
    assert_eq!(redis(&seen).step.action, Action::Wait);
    seen.etcd = quorum(members());
    let step = redis(&seen);
    assert_eq!(step.step.action, Action::Bootstrap);
    assert_eq!(step.primary, "192.168.18.22".parse().ok(), "the spec's initial primary");
    seen.sentinels = sentinels(["", "192.168.18.23", "192.168.18.23"]);
    let step = redis(&seen);
    assert_eq!(
        (step.step.action, step.primary),
        (Action::Join, "192.168.18.23".parse().ok()),
        "late: another node was promoted"
    );
    seen.sentinels = vec![];
    assert_eq!(redis(&seen).step.action, Action::Bootstrap, "nothing was ever written");
    peer(&mut seen, 1).data.redis = true;
    assert_ne!(
        redis(&seen).step.action,
        Action::Bootstrap,
        "late, and the Sentinels that know the primary do not answer"
    );
}

#[test]
fn redis_follows_the_majority_of_sentinels() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.redis) = (DiskStage::Served, true);
    seen.sentinels = sentinels(["192.168.18.21", "192.168.18.23", "192.168.18.23"]);
    let step = redis(&seen);
    assert_eq!((step.step.action, step.primary), (Action::Resume, "192.168.18.23".parse().ok()));
    seen.sentinels = sentinels(["192.168.18.21", "192.168.18.21", "192.168.18.23"]);
    assert_eq!(
        redis(&seen).primary,
        "192.168.18.21".parse().ok(),
        "this node is the primary and has its data"
    );
    (0..2).for_each(|i| peer(&mut seen, i).data.sentinel = true);
    seen.sentinels = sentinels(["192.168.18.21", "", ""]);
    assert_eq!(redis(&seen).step.action, Action::Wait, "only one of three Sentinels names a primary");
    seen.sentinels = sentinels(["192.168.18.21", "192.168.18.22", ""]);
    assert_eq!(redis(&seen).step.action, Action::Wait);
}

#[test]
fn an_empty_primary_waits_until_another_node_is_promoted() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd) = (DiskStage::Served, true);
    (seen.etcd, seen.sentinels) = (quorum(members()), sentinels(["", "192.168.18.21", "192.168.18.21"]));
    peer(&mut seen, 0).data.redis = true;
    let step = redis(&seen);
    assert_eq!((step.step.action, step.promote_another, step.primary), (Action::Wait, true, None));
    seen.peers[0].report = Err("gone".into());
    assert!(redis(&seen).promote_another, "an unreachable peer may have the data");
    seen.sentinels = sentinels(["", "192.168.18.22", "192.168.18.22"]);
    let step = redis(&seen);
    assert_eq!((step.step.action, step.primary), (Action::Join, "192.168.18.22".parse().ok()));
}

#[test]
fn a_primary_that_cannot_read_its_data_yields_to_a_copy() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.data.redis) = (DiskStage::Served, true, true);
    (seen.etcd, seen.sentinels) = (quorum(members()), sentinels(["", "192.168.18.21", "192.168.18.21"]));
    (seen.own.redis_unreadable, peer(&mut seen, 0).data.redis) = (true, true);
    let step = redis(&seen);
    assert_eq!((step.step.action, step.promote_another), (Action::Wait, true));
    peer(&mut seen, 0).redis_unreadable = true;
    let step = redis(&seen);
    assert_eq!((step.step.action, step.promote_another), (Action::Refuse, false), "no node can be promoted");
    assert!(step.step.reason.to_string().contains("redis-check-aof --fix"), "{}", step.step.reason);
    peer(&mut seen, 0).data.redis = false;
    assert_eq!(redis(&seen).step.action, Action::Refuse, "no bootstrap over data");
    seen.peers[1].report = Err("gone".into());
    let step = redis(&seen);
    assert_eq!((step.step.action, step.promote_another), (Action::Wait, false));
    assert!(step.step.reason.to_string().contains("node3 may have a copy"), "{}", step.step.reason);
    seen.own.redis_unreadable = false;
    assert_eq!(redis(&seen).step.action, Action::Resume);
    (seen.own.data.redis, seen.peers[1].report) = (false, Ok(report("node3")));
    (peer(&mut seen, 0).data.redis, peer(&mut seen, 0).redis_unreadable) = (true, true);
    let step = redis(&seen).step;
    assert_eq!(step.action, Action::Refuse, "its data is lost, and the only copy cannot be read");
    assert!(step.reason.to_string().contains("cannot read its data on node2, and"), "{}", step.reason);
    (seen.own.data.redis, seen.own.redis_unreadable) = (true, true);
    seen.sentinels = sentinels(["", "192.168.18.22", "192.168.18.22"]);
    assert_eq!(redis(&seen).step.action, Action::Resume, "the gate of a replica moves it aside");
}

#[test]
fn an_interrupted_bootstrap_of_redis_continues_if_no_node_has_data() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd) = (DiskStage::Served, true);
    (seen.etcd, seen.sentinels) = (quorum(members()), sentinels(["", "192.168.18.21", "192.168.18.21"]));
    assert_eq!(redis(&seen).step.action, Action::Bootstrap);
    seen.sentinels = vec![];
    assert_eq!(redis(&seen).step.action, Action::Bootstrap);
    peer(&mut seen, 0).data.sentinel = true;
    assert_eq!(redis(&seen).step.action, Action::Wait, "a Sentinel with a state file must answer");
}

#[test]
fn few_sentinels_suffice_only_if_each_node_with_data_has_one() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.etcd) = (DiskStage::Served, true, quorum(members()));
    peer(&mut seen, 0).data = DiskData { redis: true, sentinel: true, ..DiskData::default() };
    seen.sentinels = sentinels(["", "192.168.18.22", ""]);
    let step = redis(&seen);
    assert_eq!((step.step.action, step.primary), (Action::Join, "192.168.18.22".parse().ok()));
    peer(&mut seen, 1).data.redis = true;
    assert_eq!(redis(&seen).step.action, Action::Refuse, "node3 may have been promoted since");
    peer(&mut seen, 1).data.sentinel = true;
    assert_eq!(redis(&seen).step.action, Action::Wait, "its Sentinel has not answered yet");
}

#[test]
fn a_forgotten_primary_is_refused_with_the_recovery_command() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.data.redis) = (DiskStage::Served, true, true);
    seen.etcd = quorum(members());
    assert_eq!(redis(&seen).step.action, Action::Refuse, "data, and no Sentinel with a state file");
    seen.peers[0].report = Err("gone".into());
    assert_eq!(redis(&seen).step.action, Action::Wait, "its Sentinel may have a state file");
}
