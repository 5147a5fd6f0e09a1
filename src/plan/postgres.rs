//! PostgreSQL: Patroni does it right once etcd answers; what it must not do is begin a second cluster.

use super::{Action, Observations, Step};
use crate::spec::Spec;

pub(super) fn decide(_spec: &Spec, _node: &str, seen: &Observations) -> Step {
    let own = &seen.own;
    match seen.initialize {
        None => Step::new(Action::Wait, "no etcd quorum answers, so nobody knows who leads"),
        Some(true) if own.data.postgres => Step::new(Action::Resume, "this disk has data of the cluster that etcd knows"),
        Some(true) => Step::new(Action::Join, "the cluster exists; its data is cloned from the leader"),
        Some(false) => uninitialized(seen),
    }
}

/// etcd knows of no PostgreSQL cluster: it is new, or etcd lost what it knew.
fn uninitialized(seen: &Observations) -> Step {
    let own = &seen.own;
    if own.began {
        return Step::new(Action::Begin, "all nodes agreed on this genesis and this boot is it");
    }
    if own.data.postgres {
        return Step::new(
            Action::Refuse,
            "this disk has PostgreSQL data, but etcd knows of no cluster; see `hanode-firstboot recover --help`",
        );
    }
    let Some(peers) = seen.all_peers() else {
        let silent = seen.silent().join(", ");
        return Step::new(Action::Wait, format!("etcd knows of no cluster, and {silent} may have its data"));
    };
    match peers.iter().find(|p| p.data.postgres) {
        Some(peer) => Step::new(Action::Wait, format!("{} has PostgreSQL data; it must start first", peer.node)),
        None => Step::new(Action::Begin, "no node has PostgreSQL data: the genesis was interrupted before there was any"),
    }
}
