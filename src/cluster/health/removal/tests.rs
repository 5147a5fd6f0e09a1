//! One row per reason to keep a node.

use super::*;
use crate::health::testing::{healthy, spec};

fn names_why(change: impl Fn(&mut Status), node: &str, words: &str) {
    let spec = spec();
    let mut status = healthy(&spec);
    change(&mut status);
    let found = blockers(&spec, &status, node);
    assert!(found.iter().any(|f| f.contains(words)), "{node}: {words:?} not in {found:?}");
}

#[test]
fn of_a_well_cluster_any_one_may_go() {
    let spec = spec();
    for node in ["node1", "node2", "node3"] {
        assert_eq!(blockers(&spec, &healthy(&spec), node), Vec::<String>::new(), "{node}");
    }
}

#[test]
fn a_node_that_is_already_gone_may_be_replaced() {
    let spec = spec();
    let mut status = healthy(&spec);
    (status.etcd[2].healthy, status.redis[2].link_up, status.nodes[2].haproxy) = (false, false, false);
    status.sentinel.faults.insert("node3".into(), "gone".into());
    (status.postgres[2].role, status.postgres[2].state) = (String::new(), "unknown to Patroni".into());
    assert_eq!(blockers(&spec, &status, "node3"), Vec::<String>::new());
    assert!(!blockers(&spec, &status, "node2").is_empty(), "a second one would be too many");
}

#[test]
fn each_service_may_hold_a_node_back() {
    names_why(|s| s.etcd[2].healthy = false, "node1", "etcd would have 1 healthy members, 2 are needed");
    names_why(|s| s.postgres[1].role = "replica".into(), "node1", "no synchronous standby could take over");
    names_why(|s| s.postgres[1].state = "starting".into(), "node1", "no synchronous standby could take over");
    names_why(|s| s.postgres[2].state = "creating replica".into(), "node2", "the only synchronous standby");
    names_why(
        |s| s.redis[0].link_up = false,
        "node2",
        "Redis would have 1 replicas with a link, 2 are needed",
    );
    names_why(
        |s| s.redis[0].link_up = false,
        "node3",
        "Redis would have 0 replicas with a link, 1 are needed",
    );
    names_why(|s| s.sentinel.primary = None, "node3", "no majority of Sentinels");
    names_why(
        |s| drop(s.sentinel.faults.insert("node3".into(), "x".into())),
        "node2",
        "could not choose a new one",
    );
    names_why(
        |s| (0..2).for_each(|i| s.nodes[i].haproxy = false),
        "node3",
        "no other node could hold the virtual IP",
    );
}

#[test]
fn a_node_that_is_not_there_is_a_slip_of_the_pen() {
    let slip =
        crate::health::removal_report(&spec(), &healthy(&spec()), "node9", false).expect_err("no such node");
    assert!(
        slip.to_string().contains("the spec has no node \"node9\"; there are: node1, node2, node3"),
        "{slip}"
    );
}
