//! Redis: whom the Sentinels name, and whose data it is.

use super::*;

#[test]
fn redis_begins_at_bootstrap_once_etcd_has_its_quorum() {
    let mut seen = blank();
    seen.own.bootstrapping = true;
    assert_eq!(redis(&seen).step.action, Action::Wait);
    seen.etcd = Some(living());
    let step = redis(&seen);
    assert_eq!(step.step.action, Action::Bootstrap);
    assert_eq!(step.primary, "192.168.18.22".parse().ok(), "the spec's initial primary");
    seen.sentinels = sentinels(["", "192.168.18.23", "192.168.18.23"]);
    let step = redis(&seen);
    assert_eq!(
        (step.step.action, step.primary),
        (Action::Join, "192.168.18.23".parse().ok()),
        "late: another was promoted"
    );
    seen.sentinels = vec![];
    assert_eq!(redis(&seen).step.action, Action::Bootstrap, "nothing was ever written");
    peer(&mut seen, 1).data.redis = true;
    assert_ne!(
        redis(&seen).step.action,
        Action::Bootstrap,
        "late, and the Sentinels that know it are silent"
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
    (seen.own.disk, seen.own.data.etcd) = (DiskStage::Served, true);
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
    (seen.own.disk, seen.own.data.etcd, seen.own.data.redis) = (DiskStage::Served, true, true);
    (seen.etcd, seen.sentinels) = (Some(living()), sentinels(["", "192.168.18.21", "192.168.18.21"]));
    (seen.own.redis_unreadable, peer(&mut seen, 0).data.redis) = (true, true);
    let step = redis(&seen);
    assert_eq!((step.step.action, step.promote_another), (Action::Wait, true));
    peer(&mut seen, 0).redis_unreadable = true;
    let step = redis(&seen);
    assert_eq!((step.step.action, step.promote_another), (Action::Refuse, false), "nobody to promote");
    assert!(step.step.reason.contains("redis-check-aof --fix"), "{}", step.step.reason);
    peer(&mut seen, 0).data.redis = false;
    assert_eq!(redis(&seen).step.action, Action::Refuse, "no bootstrap over data");
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
fn an_interrupted_bootstrap_of_redis_goes_on_where_nobody_has_data() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd) = (DiskStage::Served, true);
    (seen.etcd, seen.sentinels) = (Some(living()), sentinels(["", "192.168.18.21", "192.168.18.21"]));
    assert_eq!(redis(&seen).step.action, Action::Bootstrap);
    seen.sentinels = vec![];
    assert_eq!(redis(&seen).step.action, Action::Bootstrap);
    peer(&mut seen, 0).data.sentinel = true;
    assert_eq!(redis(&seen).step.action, Action::Wait, "a Sentinel that remembers must be heard");
}

// --- what the model found ---

#[test]
fn a_few_sentinels_are_believed_only_where_no_data_lacks_a_memory() {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd, seen.etcd) = (DiskStage::Served, true, Some(living()));
    peer(&mut seen, 0).data = DiskData { redis: true, sentinel: true, ..DiskData::default() };
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
    (seen.own.disk, seen.own.data.etcd, seen.own.data.redis) = (DiskStage::Served, true, true);
    seen.etcd = Some(living());
    assert_eq!(redis(&seen).step.action, Action::Refuse, "data, and no Sentinel that remembers");
    seen.peers[0].answer = Err("gone".into());
    assert_eq!(redis(&seen).step.action, Action::Wait, "it may remember");
}
