//! A restore: which nodes begin with it, and what waits for it.

use super::*;
use crate::restore::{PostgresRestored, RedisRestored, RestoreChoice, RestoreRecord, RestoreRequest};

fn request(text: &str) -> RestoreRequest {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn record() -> RestoreRecord {
    let choice = RestoreChoice {
        request: request("latest"),
        part: "hspas-20261130T115000Z".into(),
        backup: "20261130-120000F".into(),
        backup_finished: 5,
        timeline: 1,
        last_wal: "000000010000000000000003".into(),
    };
    RestoreRecord { choice, postgres: None, redis: None, redis_replicated: false }
}

/// Three blank nodes with this metadata key.
fn with_key(text: &str) -> Observations {
    let mut seen = blank();
    seen.own.restore_key = Some(request(text));
    (0..2).for_each(|i| peer(&mut seen, i).restore_key = Some(request(text)));
    seen
}

/// node1 has recorded the bootstrap with a restore, and etcd runs.
fn bootstrapping() -> Observations {
    let mut seen = with_key("latest");
    (seen.own.bootstrapping, seen.own.data.etcd) = (true, true);
    seen.own.restore = Some(request("latest"));
    (0..2).for_each(|i| peer(&mut seen, i).restore = Some(request("latest")));
    seen.etcd = quorum(members());
    seen
}

#[test]
fn nodes_with_different_keys_wait_and_name_both() {
    let mut seen = with_key("latest");
    assert!(etcd(&seen).record.is_some_and(|recorded| recorded != id()), "a restore is part of the id");
    peer(&mut seen, 1).restore_key = Some(request("2026-11-30T12:00:00+01:00"));
    let step = etcd(&seen);
    assert_eq!((step.step.action, step.record), (Action::Wait, None));
    assert_eq!(
        step.step.reason.to_string(),
        "the metadata key hanode_restore is 2026-11-30T11:00:00Z on node3 and latest here; all machines must have the same"
    );
    peer(&mut seen, 1).restore_key = None;
    let reason = etcd(&seen).step.reason.to_string();
    assert!(reason.contains("is not set on node3 and latest here"), "{reason}");
    seen.own.restore_key = None;
    assert!(etcd(&seen).step.reason.to_string().contains("is latest on node2 and not set here"));
}

#[test]
fn a_disk_with_data_refuses_a_key_that_is_not_known_to_be_done() {
    let mut seen = with_key("latest");
    (seen.own.disk, seen.own.data.etcd) = (DiskStage::Served, true);
    let step = etcd(&seen).step;
    assert_eq!(step.action, Action::Refuse);
    assert!(step.reason.to_string().contains("data of a cluster that was not restored"), "{}", step.reason);
    seen.own.restore = Some(request("latest"));
    assert_eq!(etcd(&seen).step.action, Action::Resume, "done already");
    seen.own.restore = Some(request("lsn:0/30"));
    let step = etcd(&seen).step;
    assert_eq!(step.action, Action::Refuse);
    assert!(step.reason.to_string().contains("that was restored with lsn:0/30"), "{}", step.reason);
    seen.etcd = quorum(members());
    view(&mut seen).restore = Some(record());
    assert_eq!(etcd(&seen).step.action, Action::Resume, "etcd knows that it is done");
    seen.own.restore_key = None;
    assert_eq!(etcd(&seen).step.action, Action::Resume, "the key was removed");
}

#[test]
fn a_new_disk_joins_only_the_cluster_that_was_restored_with_its_key() {
    let mut seen = with_key("latest");
    seen.etcd = quorum(members());
    let step = etcd(&seen).step;
    assert_eq!(step.action, Action::Refuse, "{}", step.reason);
    view(&mut seen).restore = Some(record());
    assert_eq!(etcd(&seen).step.action, Action::Join);
    seen.own.restore_key = Some(request("lsn:0/30"));
    let step = etcd(&seen).step;
    assert_eq!(step.action, Action::Refuse);
    assert!(
        step.reason.to_string().contains("is a cluster that was restored with latest"),
        "{}",
        step.reason
    );
    view(&mut seen).restore = None;
    peer(&mut seen, 0).restore = Some(request("latest"));
    assert_eq!(etcd(&seen).step.action, Action::Wait, "the cluster is about to be restored with another key");
    seen.own.restore_key = Some(request("latest"));
    assert_eq!(etcd(&seen).step.action, Action::Join, "the others have not recorded it in etcd yet");
}

#[test]
fn a_corrected_key_waits_until_no_node_is_in_the_old_bootstrap() {
    let mut seen = with_key("latest");
    (seen.own.bootstrap_id, seen.own.restore) = (Some("old".into()), Some(request("lsn:0/30")));
    peer(&mut seen, 0).bootstrap_id = Some("old".into());
    peer(&mut seen, 0).bootstrapping = true;
    assert_eq!(etcd(&seen).step.action, Action::Wait);
    peer(&mut seen, 0).bootstrapping = false;
    assert!(etcd(&seen).record.is_some());
}

#[test]
fn postgres_is_restored_and_never_created() {
    let mut seen = bootstrapping();
    let step = postgres(&seen);
    assert_eq!(
        (step.action, &step.reason),
        (Action::Wait, &Reason::ChoosingRestore { request: request("latest") })
    );
    view(&mut seen).restore = Some(record());
    let step = postgres(&seen);
    assert_eq!(step.action, Action::Bootstrap);
    assert!(step.reason.to_string().contains("from hspas-20261130T115000Z, backup 20261130-120000F"));
    // A machine that was replaced meanwhile, and has no key any more.
    (seen.own.restore, seen.own.restore_key, seen.own.bootstrapping) = (None, None, false);
    seen.own.disk = DiskStage::Served;
    assert!(matches!(postgres(&seen).reason, Reason::Restoring { .. }));
    view(&mut seen).restore = None;
    assert!(matches!(postgres(&seen).reason, Reason::ChoosingRestore { .. }), "the peers know");
}

#[test]
fn redis_starts_after_postgres_was_restored() {
    let mut seen = bootstrapping();
    assert_eq!((redis(&seen).step.action, redis(&seen).step.reason), (Action::Wait, Reason::PostgresFirst));
    view(&mut seen).restore = Some(record());
    assert_eq!(redis(&seen).step.reason, Reason::PostgresFirst);
    let postgres = Some(PostgresRestored { reached: 5, lsn: "0/30".into() });
    view(&mut seen).restore = Some(RestoreRecord { postgres, ..record() });
    let first = spec().redis.initial_primary;
    let of = |seen: &Observations, node: &str| {
        let spec = spec();
        let mut seen = seen.clone();
        seen.own.node = node.into();
        plan(&spec, spec.node(node).expect("a node"), &seen).redis.step
    };
    assert_eq!(of(&seen, &first).action, Action::Bootstrap);
    let other = spec().nodes.iter().map(|n| n.name.clone()).find(|name| *name != first).expect("another");
    assert_eq!(of(&seen, &other).reason, Reason::SnapshotFirst { primary: first });
    view(&mut seen).restore.as_mut().expect("a record").redis = Some(RedisRestored { snapshot: None });
    assert_eq!(of(&seen, &other).action, Action::Bootstrap);
}
