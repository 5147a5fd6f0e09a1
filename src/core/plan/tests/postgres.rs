//! PostgreSQL: who begins, who waits for whose data.

use super::*;

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
    assert_eq!(postgres(&seen).action, Action::Bootstrap, "all answer, none has data");
    peer(&mut seen, 0).data.postgres = true;
    assert_eq!(postgres(&seen).action, Action::Wait);
    peer(&mut seen, 0).data.postgres = false;
    seen.peers[1].answer = Err("gone".into());
    assert_eq!(postgres(&seen).action, Action::Wait);
    seen.own.bootstrapping = true;
    assert_eq!(postgres(&seen).action, Action::Bootstrap);
    peer(&mut seen, 0).data.postgres = true;
    assert_eq!(postgres(&seen).action, Action::Wait, "late: others have begun, and etcd forgot them");
}

/// PostgreSQL data of the same cluster on node1 and node2, which etcd has forgotten.
#[test]
fn a_first_start_that_was_cut_is_waited_for_until_its_mark_is_gone() {
    let mut seen = blank();
    seen.etcd = Some(living());
    (seen.initialize, seen.initializing) = (Some(true), true);
    (seen.own.data.etcd, seen.own.etcd_member) = (true, Some("id-node1".into()));
    seen.own.bootstrapping = true;
    assert_eq!(postgres(&seen).action, Action::Join, "in the boot of the bootstrap Patroni itself waits");
    seen.own.bootstrapping = false;
    assert_eq!(postgres(&seen).action, Action::Wait);
    seen.own.data.postgres = true;
    assert_eq!(postgres(&seen).action, Action::Wait, "half a data directory is none");
    seen.own.bootstrapping = true;
    assert_eq!(postgres(&seen).action, Action::Wait, "not in the boot of the bootstrap either");
    seen.own.bootstrapping = false;
    assert!(postgres(&seen).reason.contains("was cut on this node"));
    (seen.initialize, seen.initializing, seen.own.data.postgres) = (Some(false), false, false);
    assert_eq!(postgres(&seen).action, Action::Bootstrap);
}

fn forgotten_postgres() -> Observations {
    let mut seen = blank();
    (seen.own.disk, seen.own.data.etcd) = (DiskStage::Served, true);
    (seen.etcd, seen.initialize) = (Some(living()), Some(false));
    let data = |end| Some(PostgresData { system: "77".into(), end });
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
    seen.own.bootstrapping = true;
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
