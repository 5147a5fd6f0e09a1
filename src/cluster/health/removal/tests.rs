//! One test row per reason against removing a node.

use super::*;
use crate::health::PostgresState;
use crate::health::testing::{healthy, spec};

fn starting(state: &str) -> PostgresState {
    PostgresState::Other(state.into())
}

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
    let node = &mut status.nodes[2];
    (node.servers.etcd.healthy, node.servers.redis.link_up) = (false, false);
    (node.servers.haproxy.error, node.servers.sentinel.error) =
        (Some("refused".into()), Some("refused".into()));
    (node.servers.postgres.role, node.servers.postgres.state) = (None, PostgresState::Unlisted);
    assert_eq!(blockers(&spec, &status, "node3"), Vec::<String>::new());
    assert!(!blockers(&spec, &status, "node2").is_empty(), "a second failure is one too many");
}

#[test]
fn each_service_can_block_a_removal() {
    assert_blocker(
        |s| s.nodes[2].servers.etcd.healthy = false,
        "node1",
        "etcd would have 1 healthy members, 2 are needed",
    );
    assert_blocker(
        |s| s.nodes[1].servers.postgres.role = Some(Role::Replica),
        "node1",
        "no synchronous standby can take over",
    );
    assert_blocker(
        |s| s.nodes[1].servers.postgres.state = starting("starting"),
        "node1",
        "no synchronous standby can take over",
    );
    assert_blocker(
        |s| s.nodes[2].servers.postgres.state = starting("creating replica"),
        "node2",
        "the only synchronous standby",
    );
    assert_blocker(
        |s| s.nodes[0].servers.redis.link_up = false,
        "node2",
        "Redis would have 1 connected replicas, 2 are needed",
    );
    assert_blocker(
        |s| s.nodes[0].servers.redis.link_up = false,
        "node3",
        "Redis would have 0 connected replicas, 1 are needed",
    );
    assert_blocker(|s| s.redis_primary.address = None, "node3", "no majority of Sentinels");
    assert_blocker(
        |s| s.nodes[2].servers.sentinel.error = Some("x".into()),
        "node2",
        "cannot elect a new one",
    );
    assert_blocker(
        |s| s.nodes[2].servers.sentinel.error = Some("x".into()),
        "node1",
        "only 1 healthy Sentinel would remain, 2 must agree on a primary",
    );
    assert_blocker(
        |s| (0..2).for_each(|i| s.nodes[i].servers.haproxy.error = Some("x".into())),
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
