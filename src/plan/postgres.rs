//! PostgreSQL: Patroni does it right once etcd answers; what it must not do is begin a second cluster.

use super::{Action, Observations, Step, choose, etcd};
use crate::spec::Spec;

pub(super) fn decide(spec: &Spec, node: &str, seen: &Observations) -> Step {
    let own = &seen.own;
    let Some(initialize) = seen.initialize else {
        let lost = seen.all_peers().and_then(|peers| etcd::lost_for_good(spec, own, &peers));
        return match lost {
            Some(reason) => Step::new(Action::Refuse, reason),
            None => Step::new(Action::Wait, "no etcd quorum answers, so nobody knows who leads"),
        };
    };
    // Patroni would make itself known under this name, while etcd's gate still looks for a twin of it.
    if !own.data.etcd || etcd::decide(spec, node, seen).step.action == Action::Join {
        return Step::new(Action::Wait, "this node's etcd comes first");
    }
    if own.leads {
        return Step::new(Action::Resume, "by the operator's word this node's data is the cluster's");
    }
    if let Some(chosen) = seen.chosen() {
        let reason =
            format!("by the operator's word the data of {} leads; it must be in service", chosen.node);
        return Step::new(Action::Wait, reason);
    }
    match initialize {
        true if own.data.postgres => {
            Step::new(Action::Resume, "this disk has data of the cluster that etcd knows")
        }
        true => Step::new(Action::Join, "the cluster exists; its data is cloned from the leader"),
        false => uninitialized(seen),
    }
}

/// etcd knows of no PostgreSQL cluster: it is new, or etcd lost what it knew.
fn uninitialized(seen: &Observations) -> Step {
    let own = &seen.own;
    if own.began {
        return Step::new(Action::Begin, "all nodes agreed on this genesis and this boot is it");
    }
    if own.data.postgres {
        let what = "this disk has PostgreSQL data, but etcd knows of no cluster";
        return Step::new(Action::Refuse, choose(what));
    }
    let Some(peers) = seen.all_peers() else {
        let silent = seen.silent().join(", ");
        return Step::new(Action::Wait, format!("etcd knows of no cluster, and {silent} may have its data"));
    };
    match peers.iter().find(|p| p.data.postgres) {
        Some(peer) => {
            Step::new(Action::Wait, format!("{} has PostgreSQL data; it must start first", peer.node))
        }
        None => Step::new(
            Action::Begin,
            "no node has PostgreSQL data: the genesis was interrupted before there was any",
        ),
    }
}
