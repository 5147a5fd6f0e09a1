//! One row per rule of joining.

use super::*;
use crate::client::etcd::Member;
use crate::join::{Answer, Data, Disk, EtcdLog, Postgres};
use crate::spec;

fn spec() -> Spec {
    spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"))
}

fn answer(node: &str) -> Answer {
    Answer::blank(&spec(), node, 1, &format!("disk-of-{node}"))
}

/// node1 looks at three blank nodes that all answer.
fn blank() -> Observations {
    let peers = ["node2", "node3"].map(|n| Peer { name: n.into(), answer: Ok(answer(n)) });
    Observations::of_peers(answer("node1"), peers.into())
}

fn id() -> String {
    genesis_id(["disk-of-node1", "disk-of-node2", "disk-of-node3"].into_iter())
}

fn peer(seen: &mut Observations, i: usize) -> &mut Answer {
    seen.peers[i].answer.as_mut().expect("answers")
}

fn member(name: &str, address: &str, started: bool) -> Member {
    let client_urls = if started { vec![format!("https://{address}:2379")] } else { vec![] };
    Member {
        id: format!("id-{name}"),
        name: name.into(),
        peer_urls: vec![format!("https://{address}:2380")],
        client_urls,
    }
}

fn living() -> Vec<Member> {
    vec![
        member("node1", "192.168.18.21", true),
        member("node2", "192.168.18.22", true),
        member("node3", "192.168.18.23", true),
    ]
}

fn etcd(seen: &Observations) -> EtcdStep {
    plan(&spec(), "node1", seen).etcd
}

fn redis(seen: &Observations) -> RedisStep {
    plan(&spec(), "node1", seen).redis
}

fn postgres(seen: &Observations) -> Step {
    plan(&spec(), "node1", seen).postgres
}

fn sentinels(named: [&str; 3]) -> Vec<Sentinel> {
    let all = named.iter().enumerate().filter(|(_, a)| !a.is_empty());
    all.map(|(i, a)| Sentinel {
        node: format!("node{}", i + 1),
        primary: a.parse().expect("address"),
        epoch: 1,
    })
    .collect()
}

fn log(member: &str, cluster: &str) -> Option<EtcdLog> {
    Some(EtcdLog { member: member.into(), cluster: cluster.into() })
}

#[test]
fn an_unreachable_node_is_not_a_blank_node() {
    let mut seen = blank();
    seen.peers[1].answer = Err("timed out".into());
    let step = etcd(&seen);
    assert_eq!(step.step.action, Action::Wait);
    assert_eq!(step.step.reason, "no etcd quorum answers, and node3 not heard of yet (node3: timed out)");
    assert_eq!(step.record, None);
}

#[test]
fn genesis_is_first_written_then_begun_by_all() {
    let mut seen = blank();
    assert_eq!(etcd(&seen).record, Some(id()), "all blank and agreed: write it down");
    seen.own.genesis = Some(id());
    assert_eq!(etcd(&seen).step.action, Action::Wait, "others have not written it");
    peer(&mut seen, 0).genesis = Some(id());
    assert_eq!(etcd(&seen).step.action, Action::Wait);
    peer(&mut seen, 1).genesis = Some(id());
    let step = etcd(&seen);
    assert_eq!((step.step.action, step.initial_state.as_str()), (Action::Begin, "new"));
    assert_eq!(step.token, format!("hspas-{}", id()));
    assert_eq!(step.initial_cluster[0], "node1=https://192.168.18.21:2380");
}

#[test]
fn a_peer_that_is_ahead_does_not_stop_the_genesis() {
    let mut seen = blank();
    seen.own.genesis = Some(id());
    for i in 0..2 {
        let ahead = peer(&mut seen, i);
        (ahead.genesis, ahead.began) = (Some(id()), true);
        (ahead.disk, ahead.data.etcd) = (Disk::Data, true);
    }
    assert_eq!(etcd(&seen).step.action, Action::Begin);
}

#[test]
fn a_peer_in_another_genesis_is_waited_for() {
    let mut seen = blank();
    let other = peer(&mut seen, 0);
    (other.genesis, other.began) = (Some("other".into()), true);
    peer(&mut seen, 1).genesis = Some("other".into());
    let step = etcd(&seen);
    assert_eq!((step.step.action, step.record), (Action::Wait, None));
}

#[test]
fn whoever_served_makes_it_a_living_cluster() {
    let mut seen = blank();
    (0..2).for_each(|i| (peer(&mut seen, i).disk, peer(&mut seen, i).data.etcd) = (Disk::Served, true));
    let step = etcd(&seen);
    assert_eq!((step.step.action, step.record), (Action::Wait, None), "their quorum will answer");
    peer(&mut seen, 0).data.etcd = false;
    let step = etcd(&seen).step;
    assert_eq!(step.action, Action::Refuse, "one log of three will never be a quorum");
    assert!(step.reason.contains("recover --from-this-node"), "{}", step.reason);
    seen = blank();
    seen.own.disk = Disk::Served;
    assert_eq!(etcd(&seen).step.action, Action::Refuse);
}

#[test]
fn nodes_that_were_given_different_things_refuse() {
    for change in [
        (|a: &mut Answer| a.spec_hash = "other".into()) as fn(&mut Answer),
        |a| a.cluster = "other".into(),
        |a| a.generation = 2,
        |a| a.install_id = "disk-of-node1".into(),
    ] {
        let mut seen = blank();
        change(peer(&mut seen, 1));
        let step = etcd(&seen).step;
        assert_eq!(step.action, Action::Refuse);
        assert!(step.reason.contains("node3"), "{}", step.reason);
    }
}

#[test]
fn a_log_of_ones_own_is_resumed_with_nobody_else_in_sight() {
    let mut seen = blank();
    seen.peers.iter_mut().for_each(|p| p.answer = Err("gone".into()));
    (seen.own.disk, seen.own.data.etcd) = (Disk::Served, true);
    assert_eq!(etcd(&seen).step.action, Action::Resume);
}

#[test]
fn an_older_disk_is_a_lost_disk() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.boots) = (Disk::Served, true, 4);
    (seen.etcd, seen.boots_in_etcd) = (Some(living()), Some(4));
    assert_eq!(etcd(&seen).step.action, Action::Resume);
    seen.boots_in_etcd = Some(5);
    assert_eq!(etcd(&seen).step.action, Action::Join, "a snapshot from before the last boot");
    seen.boots_in_etcd = Some(4);
    seen.own.etcd_member = Some("id-of-before".into());
    assert_eq!(etcd(&seen).step.action, Action::Join, "this node was replaced meanwhile");
    seen.own.etcd_member = Some("id-node1".into());
    assert_eq!(etcd(&seen).step.action, Action::Resume);
    (seen.own.etcd_member, seen.own.etcd_log) = (None, log("id-of-before", "g"));
    assert_eq!(etcd(&seen).step.action, Action::Join, "cut before it was noted as in service; the log tells");
    seen.own.etcd_log = log("id-node1", "g");
    assert_eq!(etcd(&seen).step.action, Action::Resume);
    seen.etcd = Some(living()[1..].to_vec());
    assert_eq!(etcd(&seen).step.action, Action::Join, "this node was removed meanwhile");
}

#[test]
fn an_interrupted_genesis_is_begun_again_only_by_all() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.genesis) = (Disk::Data, true, Some(id()));
    seen.peers[1].answer = Err("gone".into());
    assert_eq!(etcd(&seen).step.action, Action::Wait);
    seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.genesis) = (Disk::Data, true, Some(id()));
    (0..2).for_each(|i| peer(&mut seen, i).genesis = Some(id()));
    assert_eq!(etcd(&seen).step.action, Action::Begin);
    peer(&mut seen, 0).began = true;
    assert_eq!(etcd(&seen).step.action, Action::Begin, "the others are under way with this very log");
    (peer(&mut seen, 0).began, peer(&mut seen, 0).disk) = (false, Disk::Served);
    assert_eq!(etcd(&seen).step.action, Action::Resume, "it took clients' data: no genesis any more");
}

#[test]
fn joining_goes_by_the_peer_url() {
    let mut seen = blank();
    seen.etcd = Some(living());
    assert_eq!(etcd(&seen).step.action, Action::Join);
    assert_eq!(joining(&living(), "https://192.168.18.21:2380"), Joining::Replace("id-node1".into()));
    let unstarted = vec![member("node1", "192.168.18.21", false), member("node2", "192.168.18.22", true)];
    assert_eq!(joining(&unstarted, "https://192.168.18.21:2380"), Joining::Take, "a name proves nothing");
    assert_eq!(joining(&unstarted, "https://192.168.18.23:2380"), Joining::Add);
}

#[test]
fn postgres_begins_only_where_nobody_has_data() {
    let mut seen = blank();
    assert_eq!(postgres(&seen).action, Action::Wait, "no quorum");
    (seen.etcd, seen.initialize) = (Some(living()), Some(true));
    assert_eq!(postgres(&seen).action, Action::Wait, "its etcd has not joined");
    (seen.own.data.etcd, seen.own.etcd_member) = (true, Some("id-node1".into()));
    assert_eq!(postgres(&seen).action, Action::Join);
    seen.own.data.postgres = true;
    assert_eq!(postgres(&seen).action, Action::Resume);
    seen.initialize = Some(false);
    seen.own.data.postgres = false;
    assert_eq!(postgres(&seen).action, Action::Begin, "all answer, none has data");
    peer(&mut seen, 0).data.postgres = true;
    assert_eq!(postgres(&seen).action, Action::Wait);
    peer(&mut seen, 0).data.postgres = false;
    seen.peers[1].answer = Err("gone".into());
    assert_eq!(postgres(&seen).action, Action::Wait);
    seen.own.began = true;
    assert_eq!(postgres(&seen).action, Action::Begin);
    peer(&mut seen, 0).data.postgres = true;
    assert_eq!(postgres(&seen).action, Action::Wait, "late: others have begun, and etcd forgot them");
}

/// PostgreSQL data of the same cluster on node1 and node2, which etcd has forgotten.
#[test]
fn a_first_start_that_was_cut_is_waited_for_until_its_mark_is_gone() {
    let mut seen = blank();
    seen.etcd = Some(living());
    (seen.initialize, seen.bootstrapping) = (Some(true), true);
    (seen.own.data.etcd, seen.own.etcd_member) = (true, Some("id-node1".into()));
    seen.own.began = true;
    assert_eq!(postgres(&seen).action, Action::Join, "in the boot of the genesis Patroni itself waits");
    seen.own.began = false;
    assert_eq!(postgres(&seen).action, Action::Wait);
    seen.own.data.postgres = true;
    assert_eq!(postgres(&seen).action, Action::Wait, "half a data directory is none");
    assert!(postgres(&seen).reason.contains("was cut on this node"));
    (seen.initialize, seen.bootstrapping, seen.own.data.postgres) = (Some(false), false, false);
    assert_eq!(postgres(&seen).action, Action::Begin);
}

fn forgotten_postgres() -> Observations {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd) = (Disk::Served, true);
    (seen.etcd, seen.initialize) = (Some(living()), Some(false));
    let data = |end| Some(Postgres { system: "77".into(), end });
    (seen.own.data.postgres, seen.own.postgres) = (true, data(Some((1, 500))));
    (peer(&mut seen, 0).data.postgres, peer(&mut seen, 0).postgres) = (true, data(Some((1, 400))));
    seen
}

#[test]
fn where_etcd_forgot_postgres_the_furthest_data_starts_first() {
    let mut seen = forgotten_postgres();
    let ends = |seen: &mut Observations, end| peer(seen, 0).postgres.as_mut().expect("data").end = end;
    assert_eq!(postgres(&seen).action, Action::Resume);
    ends(&mut seen, Some((1, 501)));
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Wait);
    assert!(step.reason.contains("node2"), "{}", step.reason);
    ends(&mut seen, Some((2, 100)));
    assert_eq!(postgres(&seen).action, Action::Wait, "it was promoted later: a newer timeline goes further");
    ends(&mut seen, Some((1, 500)));
    assert_eq!(postgres(&seen).action, Action::Resume, "as far: the first by name, and only that one");
    ends(&mut seen, None);
    assert_eq!(postgres(&seen).action, Action::Wait, "it has yet to say");
    ends(&mut seen, Some((1, 400)));
    seen.own.postgres.as_mut().expect("data").end = None;
    assert_eq!(postgres(&seen).action, Action::Wait, "so has this node");
    seen = forgotten_postgres();
    seen.peers[1].answer = Err("gone".into());
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Wait, "what it has may go further");
    assert!(step.reason.contains("node3"), "{}", step.reason);
    seen = forgotten_postgres();
    (seen.own.data.postgres, seen.own.postgres) = (false, None);
    assert_eq!(postgres(&seen).action, Action::Wait, "without data: only after those that have some");
    seen.own.began = true;
    (seen.own.data.postgres, seen.own.postgres) = (true, forgotten_postgres().own.postgres);
    peer(&mut seen, 0).postgres = None;
    assert_eq!(postgres(&seen).action, Action::Wait, "forgotten within the boot that began it");
}

#[test]
fn postgres_data_of_another_cluster_is_for_a_person_to_judge() {
    let mut seen = forgotten_postgres();
    peer(&mut seen, 0).postgres.as_mut().expect("data").system = "78".into();
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Refuse);
    assert!(step.reason.contains("node2") && step.reason.contains("move"), "{}", step.reason);
    seen = forgotten_postgres();
    (seen.initialize, seen.system) = (Some(true), Some("77".into()));
    assert_eq!(postgres(&seen).action, Action::Resume);
    seen.system = Some("78".into());
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Refuse);
    assert!(step.reason.contains("move the data directory away"), "{}", step.reason);
    (seen.own.data.postgres, seen.own.postgres) = (false, None);
    assert_eq!(postgres(&seen).action, Action::Join, "moved away");
}

#[test]
fn redis_begins_at_genesis_once_etcd_has_its_quorum() {
    let mut seen = blank();
    seen.own.began = true;
    assert_eq!(redis(&seen).step.action, Action::Wait);
    seen.etcd = Some(living());
    let step = redis(&seen);
    assert_eq!(step.step.action, Action::Begin);
    assert_eq!(step.primary, "192.168.18.22".parse().ok(), "the spec's initial primary");
    seen.sentinels = sentinels(["", "192.168.18.23", "192.168.18.23"]);
    let step = redis(&seen);
    assert_eq!(
        (step.step.action, step.primary),
        (Action::Join, "192.168.18.23".parse().ok()),
        "late: another was promoted"
    );
    seen.sentinels = vec![];
    assert_eq!(redis(&seen).step.action, Action::Begin, "nothing was ever written");
    peer(&mut seen, 1).data.redis = true;
    assert_ne!(redis(&seen).step.action, Action::Begin, "late, and the Sentinels that know it are silent");
}

#[test]
fn redis_follows_the_majority_of_sentinels() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.redis) = (Disk::Served, true);
    seen.sentinels = sentinels(["192.168.18.21", "192.168.18.23", "192.168.18.23"]);
    let step = redis(&seen);
    assert_eq!((step.step.action, step.primary), (Action::Resume, "192.168.18.23".parse().ok()));
    seen.sentinels = sentinels(["192.168.18.21", "192.168.18.21", "192.168.18.23"]);
    assert_eq!(redis(&seen).primary, "192.168.18.21".parse().ok(), "this node, and its data is here");
    (0..2).for_each(|i| peer(&mut seen, i).data.sentinel = true);
    seen.sentinels = sentinels(["192.168.18.21", "", ""]);
    assert_eq!(redis(&seen).step.action, Action::Wait, "one Sentinel of three knows nothing");
    seen.sentinels = sentinels(["192.168.18.21", "192.168.18.22", ""]);
    assert_eq!(redis(&seen).step.action, Action::Wait);
}

#[test]
fn an_empty_primary_never_starts_before_another_is_promoted() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd) = (Disk::Served, true);
    (seen.etcd, seen.sentinels) = (Some(living()), sentinels(["", "192.168.18.21", "192.168.18.21"]));
    peer(&mut seen, 0).data.redis = true;
    let step = redis(&seen);
    assert_eq!((step.step.action, step.promote_another, step.primary), (Action::Wait, true, None));
    seen.peers[0].answer = Err("gone".into());
    assert!(redis(&seen).promote_another, "a silent peer may have the data");
    seen.sentinels = sentinels(["", "192.168.18.22", "192.168.18.22"]);
    let step = redis(&seen);
    assert_eq!((step.step.action, step.primary), (Action::Join, "192.168.18.22".parse().ok()));
}

#[test]
fn a_primary_that_cannot_read_its_data_lets_another_go_on() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.data.redis) = (Disk::Served, true, true);
    (seen.etcd, seen.sentinels) = (Some(living()), sentinels(["", "192.168.18.21", "192.168.18.21"]));
    (seen.own.redis_unreadable, peer(&mut seen, 0).data.redis) = (true, true);
    let step = redis(&seen);
    assert_eq!((step.step.action, step.promote_another), (Action::Wait, true));
    peer(&mut seen, 0).redis_unreadable = true;
    let step = redis(&seen);
    assert_eq!((step.step.action, step.promote_another), (Action::Refuse, false), "nobody to promote");
    assert!(step.step.reason.contains("redis-check-aof --fix"), "{}", step.step.reason);
    peer(&mut seen, 0).data.redis = false;
    assert_eq!(redis(&seen).step.action, Action::Refuse, "no genesis over data");
    seen.peers[1].answer = Err("gone".into());
    let step = redis(&seen);
    assert_eq!((step.step.action, step.promote_another), (Action::Wait, false));
    assert!(step.step.reason.contains("node3 may have a copy"), "{}", step.step.reason);
    seen.own.redis_unreadable = false;
    assert_eq!(redis(&seen).step.action, Action::Resume);
    (seen.own.data.redis, seen.peers[1].answer) = (false, Ok(answer("node3")));
    (peer(&mut seen, 0).data.redis, peer(&mut seen, 0).redis_unreadable) = (true, true);
    let step = redis(&seen).step;
    assert_eq!(step.action, Action::Refuse, "its own data is gone, and the only copy cannot be read");
    assert!(step.reason.contains("cannot read its data on node2, and"), "{}", step.reason);
    (seen.own.data.redis, seen.own.redis_unreadable) = (true, true);
    seen.sentinels = sentinels(["", "192.168.18.22", "192.168.18.22"]);
    assert_eq!(redis(&seen).step.action, Action::Resume, "a replica's gate sets it aside");
}

#[test]
fn an_interrupted_genesis_of_redis_goes_on_where_nobody_has_data() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd) = (Disk::Served, true);
    (seen.etcd, seen.sentinels) = (Some(living()), sentinels(["", "192.168.18.21", "192.168.18.21"]));
    assert_eq!(redis(&seen).step.action, Action::Begin);
    seen.sentinels = vec![];
    assert_eq!(redis(&seen).step.action, Action::Begin);
    peer(&mut seen, 0).data.sentinel = true;
    assert_eq!(redis(&seen).step.action, Action::Wait, "a Sentinel that remembers must be heard");
}

// --- what the model found ---

#[test]
fn a_genesis_begun_elsewhere_is_gone_on_with() {
    let mut seen = blank();
    seen.own.genesis = Some("g".into());
    (peer(&mut seen, 1).genesis, peer(&mut seen, 1).began) = (Some("g".into()), true);
    peer(&mut seen, 0).install_id = "a-new-disk".into();
    let step = etcd(&seen);
    assert_eq!(
        (step.step.action, step.token.as_str()),
        (Action::Begin, "hspas-g"),
        "node2's disk was lost since"
    );
    seen.peers[0].answer = Err("gone".into());
    assert_eq!(etcd(&seen).step.action, Action::Begin, "that all had written it is proved");
    seen.own.disk = Disk::Served;
    assert_eq!(etcd(&seen).step.action, Action::Wait, "a lost log is not begun again");
}

#[test]
fn a_genesis_that_too_few_disks_know_names_the_node_to_reboot() {
    let mut seen = blank();
    (peer(&mut seen, 1).genesis, peer(&mut seen, 1).began) = (Some("g".into()), true);
    let step = etcd(&seen).step;
    assert_eq!(step.action, Action::Refuse);
    assert!(step.reason.contains("reboot node3"), "{}", step.reason);
    peer(&mut seen, 0).genesis = Some("g".into());
    assert_eq!(etcd(&seen).step.action, Action::Wait, "two of three can be a quorum");
}

#[test]
fn nothing_starts_beside_a_twin_or_on_an_older_disk() {
    let mut seen = blank();
    (seen.etcd, seen.initialize) = (Some(living()), Some(true));
    seen.sentinels = sentinels(["", "192.168.18.21", "192.168.18.21"]);
    peer(&mut seen, 0).data.redis = true;
    let step = redis(&seen);
    assert_eq!(
        (step.step.action, step.promote_another),
        (Action::Wait, false),
        "etcd's gate looks for a twin first"
    );
    seen.own.data = Data { etcd: true, postgres: true, redis: true, sentinel: true };
    (seen.own.disk, seen.boots_in_etcd) = (Disk::Served, Some(9));
    assert_eq!(postgres(&seen).action, Action::Wait, "an older snapshot joins etcd anew first");
    assert_eq!(redis(&seen).step.action, Action::Wait);
}

#[test]
fn where_too_few_logs_are_left_each_service_names_the_choice() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data) =
        (Disk::Served, Data { etcd: true, postgres: true, redis: true, sentinel: true });
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Refuse);
    assert!(step.reason.contains("recover --from-this-node"), "{}", step.reason);
    seen.peers[0].answer = Err("gone".into());
    assert_eq!(postgres(&seen).action, Action::Wait, "it may have a log");
}

/// node1 with its log, a blank node2, and on node3 a discarded disk: its member was replaced.
fn a_discarded_disk() -> Observations {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.etcd_log) = (Disk::Served, true, log("id-node1", "c"));
    seen.own.data.postgres = true;
    let node3 = peer(&mut seen, 1);
    (node3.disk, node3.data.etcd, node3.etcd_log) = (Disk::Served, true, log("id-of-before", "c"));
    seen
}

#[test]
fn a_replaced_members_log_is_none() {
    let mut seen = a_discarded_disk();
    assert_eq!(postgres(&seen).action, Action::Wait, "two of three could be a quorum");
    assert!(recovery(&spec(), &seen).expect_err("refused").contains("comes back by itself"));
    seen.removed = vec!["id-of-before".into()];
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Refuse);
    assert!(
        step.reason.contains("1 of 3 nodes still have etcd's log, 2 are needed (on node3"),
        "{}",
        step.reason
    );
    assert_eq!(etcd(&seen).step.action, Action::Resume, "its own log is one");
    assert_eq!(recovery(&spec(), &seen).expect("allowed").etcd, Etcd::FromItsLog);
    (peer(&mut seen, 0).disk, peer(&mut seen, 0).data.etcd) = (Disk::Served, true);
    assert_eq!(postgres(&seen).action, Action::Wait, "node2's may be a member's: its head cannot be read");
    peer(&mut seen, 0).etcd_member = Some("id-of-before".into());
    assert_eq!(postgres(&seen).action, Action::Refuse, "as it was noted beside the log");
}

#[test]
fn a_discarded_disk_does_not_go_on_with_its_log() {
    let mut seen = a_discarded_disk();
    assert_eq!(etcd(&seen).step.action, Action::Resume, "nobody has said so");
    seen.removed = vec!["id-node1".into()];
    assert_eq!(etcd(&seen).step.action, Action::Refuse, "one log of three is left, and it is not this one");
    let costs = recovery(&spec(), &seen).expect("allowed").costs;
    assert!(costs.iter().any(|c| c.contains("this disk was replaced since")), "{costs:?}");
    (peer(&mut seen, 0).disk, peer(&mut seen, 0).data.etcd) = (Disk::Served, true);
    assert_eq!(etcd(&seen).step.action, Action::Wait, "for the quorum that two others can be");
    seen.etcd = Some(living());
    assert_eq!(etcd(&seen).step.action, Action::Join);
}

#[test]
fn a_few_sentinels_are_believed_only_where_no_data_lacks_a_memory() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.etcd) = (Disk::Served, true, Some(living()));
    peer(&mut seen, 0).data = Data { redis: true, sentinel: true, ..Data::default() };
    seen.sentinels = sentinels(["", "192.168.18.22", ""]);
    let step = redis(&seen);
    assert_eq!((step.step.action, step.primary), (Action::Join, "192.168.18.22".parse().ok()));
    peer(&mut seen, 1).data.redis = true;
    assert_eq!(redis(&seen).step.action, Action::Refuse, "node3 may have been promoted since");
    peer(&mut seen, 1).data.sentinel = true;
    assert_eq!(redis(&seen).step.action, Action::Wait, "its Sentinel will tell");
}

#[test]
fn forgotten_redis_names_the_choice() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.data.redis) = (Disk::Served, true, true);
    seen.etcd = Some(living());
    assert_eq!(redis(&seen).step.action, Action::Refuse, "data, and no Sentinel that remembers");
    seen.peers[0].answer = Err("gone".into());
    assert_eq!(redis(&seen).step.action, Action::Wait, "it may remember");
}

#[test]
fn beside_a_living_cluster_a_log_of_another_genesis_does_not_count() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.genesis) = (Disk::Data, true, Some("other".into()));
    seen.etcd = Some(living());
    assert_eq!(etcd(&seen).step.action, Action::Join);
    seen.own.genesis = Some("g".into());
    (peer(&mut seen, 0).genesis, peer(&mut seen, 0).disk) = (Some("g".into()), Disk::Served);
    assert_eq!(etcd(&seen).step.action, Action::Resume, "of this one it does");
    peer(&mut seen, 0).genesis = None;
    assert_eq!(etcd(&seen).step.action, Action::Join);
    (seen.own.etcd_log, peer(&mut seen, 0).etcd_log) = (log("id-node1", "c"), log("id-node2", "c"));
    assert_eq!(
        etcd(&seen).step.action,
        Action::Resume,
        "node2 is a newcomer of the cluster that this log is of"
    );
}

#[test]
fn while_a_served_cluster_is_silent_a_twin_is_looked_for() {
    let mut seen = blank();
    assert!(!etcd(&seen).look_for_twin, "all new");
    (0..2).for_each(|i| (peer(&mut seen, i).disk, peer(&mut seen, i).data.etcd) = (Disk::Served, true));
    assert!(etcd(&seen).look_for_twin, "this blank machine may stand where the living node should answer");
    seen.peers[0].answer = Err("gone".into());
    assert!(!etcd(&seen).look_for_twin, "that is why the cluster is silent");
}

#[test]
fn a_member_that_never_started_is_one_again_after_its_disk_was_lost_too() {
    let mut seen = blank();
    let mut members = living();
    members[0].client_urls.clear();
    seen.etcd = Some(members);
    let step = etcd(&seen).step;
    assert_eq!(step.action, Action::Join);
    assert!(step.reason.contains("never started"), "{}", step.reason);
    seen.etcd = Some(living());
    assert!(etcd(&seen).step.reason.contains("member id-node1"), "by its exact id");
    seen.etcd = Some(living()[1..].to_vec());
    assert!(etcd(&seen).step.reason.contains("does not list"), "{}", etcd(&seen).step.reason);
}

// --- by the operator's word ---

#[test]
fn the_chosen_node_leads_whatever_others_remember() {
    let mut seen = blank();
    (seen.own.disk, seen.own.leads) = (Disk::Served, true);
    seen.own.data = Data { etcd: true, postgres: true, redis: true, sentinel: true };
    (seen.etcd, seen.initialize) = (Some(living()), Some(false));
    assert_eq!(postgres(&seen).action, Action::Resume, "Patroni makes itself known from this data");
    seen.sentinels = sentinels(["", "192.168.18.22", "192.168.18.22"]);
    let step = redis(&seen);
    assert_eq!((step.step.action, step.primary), (Action::Resume, "192.168.18.21".parse().ok()));
}

#[test]
fn the_chosen_node_must_be_able_to_read_redis_data() {
    let mut seen = blank();
    (seen.own.disk, seen.own.leads) = (Disk::Served, true);
    seen.own.data = Data { etcd: true, postgres: true, redis: true, sentinel: true };
    (seen.etcd, seen.own.redis_unreadable) = (Some(living()), true);
    let step = redis(&seen).step;
    assert_eq!(step.action, Action::Refuse);
    assert!(step.reason.contains("redis-check-aof --fix"), "{}", step.reason);
}

#[test]
fn others_follow_the_chosen_node() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.data.postgres) = (Disk::Served, true, true);
    (seen.etcd, seen.initialize) = (Some(living()), Some(true));
    peer(&mut seen, 1).leads = true;
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Wait, "it would contend for the lead");
    assert!(step.reason.contains("node3"), "{}", step.reason);
    let step = redis(&seen);
    assert_eq!((step.step.action, step.primary), (Action::Join, "192.168.18.23".parse().ok()));
}

#[test]
fn recovery_is_for_a_lost_quorum_and_a_node_with_data() {
    let why = |seen: &Observations| recovery(&spec(), seen).expect_err("refused");
    let mut seen = blank();
    peer(&mut seen, 0).data.postgres = true;
    assert!(why(&seen).contains("no PostgreSQL data"));
    peer(&mut seen, 0).data.postgres = false;
    let costs = recovery(&spec(), &seen).expect("the only way on").costs;
    assert!(costs.iter().any(|c| c.contains("PostgreSQL begins empty")), "{costs:?}");
    seen.peers[0].answer = Err("gone".into());
    assert!(why(&seen).contains("no PostgreSQL data"), "the silent one may have some");
    seen = blank();
    (seen.own.data.postgres, seen.own.data.redis) = (true, true);
    let found = recovery(&spec(), &seen).expect("allowed");
    assert_eq!((found.etcd, found.epoch, found.costs.len()), (Etcd::Anew, 1, 1));
    seen.own.data.etcd = true;
    seen.sentinels = sentinels(["192.168.18.22", "", ""]);
    let found = recovery(&spec(), &seen).expect("allowed");
    assert_eq!((found.etcd, found.epoch), (Etcd::FromItsLog, 2), "above what any Sentinel remembers");
    peer(&mut seen, 0).data.etcd = true;
    assert!(why(&seen).contains("comes back by itself"));
    seen.peers[0].answer = Err("gone".into());
    let costs = recovery(&spec(), &seen).expect("allowed").costs;
    assert!(costs.iter().any(|c| c.contains("node2 does not answer")), "{costs:?}");
    peer(&mut seen, 1).leads = true;
    assert!(why(&seen).contains("node3 was already chosen"));
    peer(&mut seen, 1).leads = false;
    seen.etcd = Some(living());
    seen.sentinels = sentinels(["192.168.18.22", "192.168.18.22", "192.168.18.22"]);
    assert!(why(&seen).contains("has a quorum"));
    seen.own.leads = true;
    let found = recovery(&spec(), &seen).expect("a recovery that was cut is completed");
    assert_eq!(found.etcd, Etcd::Kept, "others have joined it since");
    seen.etcd = Some(living()[..1].to_vec());
    assert_eq!(recovery(&spec(), &seen).expect("still alone").etcd, Etcd::FromItsLog);
}

#[test]
fn forgotten_redis_is_recovered_without_touching_etcd() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.own.data.redis) = (Disk::Served, true, true);
    (0..2).for_each(|i| (peer(&mut seen, i).disk, peer(&mut seen, i).data.etcd) = (Disk::Served, true));
    seen.etcd = Some(living());
    assert_eq!(redis(&seen).step.action, Action::Refuse);
    let found = recovery(&spec(), &seen).expect("the way out that the refusal names");
    assert_eq!((found.etcd, found.epoch, found.costs.len()), (Etcd::Kept, 1, 1));
    seen.own.data.redis = false;
    peer(&mut seen, 0).data.redis = true;
    assert!(recovery(&spec(), &seen).expect_err("nothing to keep").contains("no Redis data"));
}
