//! One test row per reason against removing a node.

use super::*;
use crate::health::testing::{healthy, spec};

fn assert_blocker(change: impl Fn(&mut Status), node: &str, text: &str) {
    let spec = spec();
    let mut status = healthy(&spec);
    change(&mut status);
    let found = blockers(&spec, &status, node);
    assert!(found.iter().any(|f| f.contains(text)), "{node}: {text:?} not in {found:?}");
}

#[test]
fn any_one_node_of_a_healthy_cluster_can_be_removed() {
    let spec = spec();
    for node in ["node1", "node2", "node3"] {
        assert_eq!(blockers(&spec, &healthy(&spec), node), Vec::<String>::new(), "{node}");
    }
}

#[test]
fn a_failed_node_can_be_removed() {
    let spec = spec();
    let mut status = healthy(&spec);
    (status.etcd[2].healthy, status.redis[2].link_up, status.nodes[2].haproxy) = (false, false, false);
    status.sentinel.faults.insert("node3".into(), "unreachable".into());
    (status.postgres[2].role, status.postgres[2].state) = (String::new(), "unknown to Patroni".into());
    assert_eq!(blockers(&spec, &status, "node3"), Vec::<String>::new());
    assert!(!blockers(&spec, &status, "node2").is_empty(), "a second failure is one too many");
}

#[test]
fn each_service_can_block_a_removal() {
    assert_blocker(|s| s.etcd[2].healthy = false, "node1", "etcd would have 1 healthy members, 2 are needed");
    assert_blocker(
        |s| s.postgres[1].role = "replica".into(),
        "node1",
        "no synchronous standby can take over",
    );
    assert_blocker(
        |s| s.postgres[1].state = "starting".into(),
        "node1",
        "no synchronous standby can take over",
    );
    assert_blocker(
        |s| s.postgres[2].state = "creating replica".into(),
        "node2",
        "the only synchronous standby",
    );
    assert_blocker(
        |s| s.redis[0].link_up = false,
        "node2",
        "Redis would have 1 connected replicas, 2 are needed",
    );
    assert_blocker(
        |s| s.redis[0].link_up = false,
        "node3",
        "Redis would have 0 connected replicas, 1 are needed",
    );
    assert_blocker(|s| s.sentinel.primary = None, "node3", "no majority of Sentinels");
    assert_blocker(
        |s| drop(s.sentinel.faults.insert("node3".into(), "x".into())),
        "node2",
        "cannot elect a new one",
    );
    assert_blocker(
        |s| drop(s.sentinel.faults.insert("node3".into(), "x".into())),
        "node1",
        "only 1 healthy Sentinel would remain, 2 must agree on a primary",
    );
    assert_blocker(
        |s| (0..2).for_each(|i| s.nodes[i].haproxy = false),
        "node3",
        "no other node can hold the virtual IP",
    );
}

#[test]
fn an_unknown_node_is_an_error() {
    let error =
        crate::health::removal_report(&spec(), &healthy(&spec()), "node9", false).expect_err("no such node");
    let report = hanode_util::user_error::report(&error);
    assert_eq!(report, "error: the spec has no node \"node9\"\nhelp: use one of node1, node2, node3");
}
