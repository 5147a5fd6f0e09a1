//! PostgreSQL: which node starts first, and which one waits.

use super::*;

#[test]
fn postgres_bootstraps_only_if_no_node_has_data() {
    let mut seen = blank();
    assert_eq!(postgres(&seen).action, Action::Wait, "no quorum");
    seen.etcd = registered("77");
    assert_eq!(postgres(&seen).action, Action::Wait, "its etcd has not joined yet");
    (seen.own.data.etcd, seen.own.etcd_member) = (true, Some("id-node1".into()));
    assert_eq!(postgres(&seen).action, Action::Join);
    seen.own.data.postgres = true;
    assert_eq!(postgres(&seen).action, Action::Resume);
    view(&mut seen).initialize = Initialize::Absent;
    seen.own.data.postgres = false;
    assert_eq!(postgres(&seen).action, Action::Bootstrap, "all answer, none has data");
    peer(&mut seen, 0).data.postgres = true;
    assert_eq!(postgres(&seen).action, Action::Wait);
    peer(&mut seen, 0).data.postgres = false;
    seen.peers[1].report = Err("gone".into());
    assert_eq!(postgres(&seen).action, Action::Wait);
    seen.own.bootstrapping = true;
    assert_eq!(postgres(&seen).action, Action::Bootstrap);
    peer(&mut seen, 0).data.postgres = true;
    assert_eq!(
        postgres(&seen).action,
        Action::Wait,
        "late: a peer has started, and etcd lost the registration"
    );
}

#[test]
fn a_node_waits_until_the_mark_of_an_interrupted_first_start_is_gone() {
    let mut seen = blank();
    seen.etcd = quorum(members());
    view(&mut seen).initialize = Initialize::InProgress;
    (seen.own.data.etcd, seen.own.etcd_member) = (true, Some("id-node1".into()));
    seen.own.bootstrapping = true;
    assert_eq!(postgres(&seen).action, Action::Join, "in the boot of the bootstrap Patroni itself waits");
    seen.own.bootstrapping = false;
    assert_eq!(postgres(&seen).action, Action::Wait);
    seen.own.data.postgres = true;
    assert_eq!(postgres(&seen).action, Action::Wait, "an incomplete data directory does not count");
    seen.own.bootstrapping = true;
    assert_eq!(postgres(&seen).action, Action::Wait, "not in the boot of the bootstrap either");
    seen.own.bootstrapping = false;
    assert!(postgres(&seen).reason.to_string().contains("was interrupted on this node"));
    view(&mut seen).initialize = Initialize::Absent;
    seen.own.data.postgres = false;
    assert_eq!(postgres(&seen).action, Action::Bootstrap);
}

#[test]
fn a_server_of_another_major_version_does_not_start() {
    let mut seen = unregistered_postgres();
    seen.etcd = registered("77");
    seen.own.postgres_major = Some(18);
    assert_eq!(postgres(&seen).action, Action::Resume, "older nodes do not report the version of their data");
    peer(&mut seen, 0).postgres.as_mut().expect("data").major = Some(17);
    for own_data in [true, false] {
        seen.own.data.postgres = own_data;
        let step = postgres(&seen);
        assert_eq!(step.action, Action::Refuse);
        let sentence = step.reason.to_string();
        assert!(sentence.contains("on node2, is of version 17, but this image has version 18"), "{sentence}");
    }
    peer(&mut seen, 0).postgres.as_mut().expect("data").system = "78".into();
    assert_eq!(postgres(&seen).action, Action::Join, "data of another cluster");
    seen.own.data.postgres = true;
    seen.own.postgres.as_mut().expect("data").major = Some(16);
    view(&mut seen).initialize = Initialize::Absent;
    assert!(postgres(&seen).reason.to_string().contains("on node1, is of version 16"), "its own data");
}

#[test]
fn data_of_an_initialization_that_others_gave_up_does_not_count() {
    let mut seen = blank();
    seen.etcd = registered("78");
    let log = EtcdLogIds { member: "id-node1".into(), cluster: "c1".into() };
    let data = |system: &str| {
        Some(PostgresData { system: system.into(), end: Some((1, 500)), oldest_wal: None, major: None })
    };
    (seen.own.data.etcd, seen.own.etcd_member, seen.own.etcd_log) =
        (true, Some("id-node1".into()), Some(log));
    (seen.own.data.postgres, seen.own.postgres_init) = (true, Some("c1".into()));
    assert_eq!(postgres(&seen).action, Action::Join, "interrupted so early that it has no system identifier");
    seen.own.postgres = data("77");
    assert_eq!(postgres(&seen).action, Action::Join);
    seen.own.postgres = data("78");
    assert_eq!(postgres(&seen).action, Action::Resume, "registered, but the mark remained");
    seen.own.postgres = data("77");
    view(&mut seen).initialize = Initialize::Absent;
    assert_eq!(postgres(&seen).action, Action::Bootstrap, "given up, and not repeated yet");
    view(&mut seen).initialize = Initialize::InProgress;
    assert_eq!(postgres(&seen).action, Action::Wait);
    seen.etcd = registered("78");
    seen.own.postgres_init = Some("c2".into());
    assert_eq!(postgres(&seen).action, Action::Refuse, "it may have served another cluster");
    seen.own.postgres_init = None;
    assert_eq!(postgres(&seen).action, Action::Refuse);
    view(&mut seen).initialize = Initialize::Absent;
    (seen.own.data.postgres, seen.own.postgres) = (false, None);
    (peer(&mut seen, 0).data.postgres, peer(&mut seen, 0).postgres) = (true, data("77"));
    assert_eq!(postgres(&seen).action, Action::Wait);
    peer(&mut seen, 0).postgres_init = Some("c1".into());
    assert_eq!(postgres(&seen).action, Action::Bootstrap, "nor does it on a peer");
}

/// node1 and node2 have data of the same PostgreSQL cluster, which is not registered in etcd.
fn unregistered_postgres() -> Observations {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd) = (DiskStage::Served, true);
    seen.etcd = quorum(members());
    let data = |end| Some(PostgresData { system: "77".into(), end, oldest_wal: None, major: None });
    (seen.own.data.postgres, seen.own.postgres) = (true, data(Some((1, 500))));
    (peer(&mut seen, 0).data.postgres, peer(&mut seen, 0).postgres) = (true, data(Some((1, 400))));
    seen
}

#[test]
fn the_most_recent_data_starts_first_if_no_cluster_is_registered() {
    let mut seen = unregistered_postgres();
    let ends = |seen: &mut Observations, end| peer(seen, 0).postgres.as_mut().expect("data").end = end;
    assert_eq!(postgres(&seen).action, Action::Resume);
    ends(&mut seen, Some((1, 501)));
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Wait);
    assert!(step.reason.to_string().contains("node2"), "{}", step.reason);
    ends(&mut seen, Some((2, 100)));
    assert_eq!(postgres(&seen).action, Action::Wait, "a higher timeline is more recent");
    ends(&mut seen, Some((1, 500)));
    assert_eq!(postgres(&seen).action, Action::Resume, "equal: the first by name starts, and only that one");
    ends(&mut seen, None);
    assert_eq!(postgres(&seen).action, Action::Wait, "node2 has not reported its WAL end");
    ends(&mut seen, Some((1, 400)));
    seen.own.postgres.as_mut().expect("data").end = None;
    assert_eq!(postgres(&seen).action, Action::Wait, "nor has this node");
    seen = unregistered_postgres();
    seen.peers[1].report = Err("gone".into());
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Wait, "its data may be more recent");
    assert!(step.reason.to_string().contains("node3"), "{}", step.reason);
    seen = unregistered_postgres();
    (seen.own.data.postgres, seen.own.postgres) = (false, None);
    assert_eq!(postgres(&seen).action, Action::Wait, "without data: only after the nodes that have some");
    seen.own.bootstrapping = true;
    (seen.own.data.postgres, seen.own.postgres) = (true, unregistered_postgres().own.postgres);
    peer(&mut seen, 0).postgres = None;
    assert_eq!(postgres(&seen).action, Action::Wait, "lost within the boot of the bootstrap");
}

#[test]
fn the_operator_decides_about_postgres_data_of_another_cluster() {
    let mut seen = unregistered_postgres();
    peer(&mut seen, 0).postgres.as_mut().expect("data").system = "78".into();
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Refuse);
    assert!(
        step.reason.to_string().contains("node2") && step.reason.to_string().contains("move"),
        "{}",
        step.reason
    );
    seen = unregistered_postgres();
    seen.etcd = registered("77");
    assert_eq!(postgres(&seen).action, Action::Resume);
    seen.etcd = registered("78");
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Refuse);
    assert!(step.reason.to_string().contains("move the data directory away"), "{}", step.reason);
    (seen.own.data.postgres, seen.own.postgres) = (false, None);
    assert_eq!(postgres(&seen).action, Action::Join, "moved away");
}
