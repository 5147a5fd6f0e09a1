//! PostgreSQL: Patroni does it right once etcd answers; what it must not do is begin a second cluster.

use super::{Action, Observations, Step, etcd};
use crate::peer::NodeReport;
use crate::spec::Spec;

pub(super) fn decide(spec: &Spec, node: &str, seen: &Observations) -> Step {
    let own = &seen.own;
    let Some(initialize) = seen.initialize else {
        return match etcd::lost_for_good(spec, seen) {
            Some(reason) => Step::new(Action::Refuse, reason),
            None => Step::new(Action::Wait, "no etcd quorum answers, so nobody knows who leads"),
        };
    };
    // Patroni would make itself known under this name, while etcd's gate still looks for a duplicate of it.
    if !own.data.etcd || etcd::decide(spec, node, seen).step.action == Action::Join {
        return Step::new(Action::Wait, "this node's etcd comes first");
    }
    if own.recovery_source {
        let action = if own.data.postgres { Action::Resume } else { Action::Bootstrap };
        return Step::new(action, "by the operator's word this node's data is the cluster's");
    }
    if let Some(chosen) = seen.chosen() {
        let reason =
            format!("by the operator's word the data of {} leads; it must be in service", chosen.node);
        return Step::new(Action::Wait, reason);
    }
    if let Some(reason) = another_cluster(seen) {
        return Step::new(Action::Refuse, reason);
    }
    if seen.initializing && (own.data.postgres || !own.bootstrapping) {
        let reason = match own.data.postgres {
            true => "PostgreSQL's first start was cut on this node; it is begun again",
            false => "PostgreSQL's first start has begun on some node and is not done",
        };
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
    if own.data.postgres {
        return furthest(seen);
    }
    if own.bootstrapping && seen.answers().all(|peer| !peer.data.postgres) {
        return Step::new(Action::Bootstrap, "all nodes agreed on this bootstrap and this boot is it");
    }
    let Some(peers) = seen.all_peers() else {
        let silent = seen.unreachable().join(", ");
        return Step::new(Action::Wait, format!("etcd knows of no cluster, and {silent} may have its data"));
    };
    match peers.iter().find(|p| p.data.postgres) {
        Some(peer) => {
            Step::new(Action::Wait, format!("{} has PostgreSQL data; it must start first", peer.node))
        }
        None => Step::new(
            Action::Bootstrap,
            "no node has PostgreSQL data: the bootstrap was interrupted before there was any",
        ),
    }
}

/// Whether the data on this disk is of another cluster than etcd knows. Only a person can know what it is good for.
fn another_cluster(seen: &Observations) -> Option<String> {
    let (known, here) = (seen.system.as_ref()?, &seen.own.postgres.as_ref()?.system);
    (known != here).then(|| {
        format!(
            "the PostgreSQL data on this disk is of cluster {here}, this node's is {known}; \
             move the data directory away, and this node clones its cluster's data"
        )
    })
}

/// etcd knows of no PostgreSQL cluster, but this disk has one: of all that have data, who has most starts first. The
/// others then find a cluster that etcd knows, and Patroni brings them in step with it.
fn furthest(seen: &Observations) -> Step {
    const UNKNOWN: &str = "etcd knows of no PostgreSQL cluster";
    let own = &seen.own;
    let Some(peers) = seen.all_peers() else {
        let silent = seen.unreachable().join(", ");
        return Step::new(Action::Wait, format!("{UNKNOWN}, and {silent} may have data that goes further"));
    };
    let all = [own].into_iter().chain(peers).filter(|a| a.data.postgres);
    let mut best: Option<(&NodeReport, (u32, u64))> = None;
    for holder in all {
        let Some((found, end)) = holder.postgres.as_ref().and_then(|p| Some((&p.system, p.end?))) else {
            let reason = format!("{UNKNOWN}, and {} has yet to say how far its data goes", holder.node);
            return Step::new(Action::Wait, reason);
        };
        if let Some(here) = own.postgres.as_ref().map(|p| &p.system).filter(|here| *here != found) {
            let reason = format!(
                "{UNKNOWN}, and the data of {} is of another one ({found}) than this node's ({here}); \
                 move the data directory away that is not to be kept",
                holder.node
            );
            return Step::new(Action::Refuse, reason);
        }
        let further = |(than, its): (&NodeReport, (u32, u64))| (its, &holder.node) < (end, &than.node);
        if best.is_none_or(further) {
            best = Some((holder, end));
        }
    }
    match best {
        Some((first, _)) if first.node != own.node => Step::new(
            Action::Wait,
            format!("{UNKNOWN}; the data of {} goes furthest, it starts first", first.node),
        ),
        _ => Step::new(Action::Resume, format!("{UNKNOWN}, and no node's data goes further than this one's")),
    }
}
