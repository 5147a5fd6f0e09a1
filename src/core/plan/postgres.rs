//! PostgreSQL: Patroni decides once etcd answers; the plan prevents the bootstrap of a second cluster.

use super::{Action, Observations, Step, etcd};
use crate::peer::NodeReport;
use crate::spec::Spec;

pub(super) fn decide(spec: &Spec, node: &str, seen: &Observations) -> Step {
    let own = &seen.own;
    let Some(initialize) = seen.initialize else {
        return match etcd::quorum_lost(spec, seen) {
            Some(reason) => Step::new(Action::Refuse, reason),
            None => Step::new(Action::Wait, "no etcd quorum answers, so the leader is unknown"),
        };
    };
    // Patroni would register under this node's name while etcd's gate still checks for a duplicate of the node.
    if !own.data.etcd || etcd::decide(spec, node, seen).step.action == Action::Join {
        return Step::new(Action::Wait, "this node's etcd must join its cluster first");
    }
    if own.recovery_source {
        let action = if own.data.postgres { Action::Resume } else { Action::Bootstrap };
        return Step::new(action, "the operator chose this disk with `hanode recover`");
    }
    if let Some(chosen) = seen.recovery_source() {
        let reason =
            format!("the operator chose {} with `hanode recover`; it must be in service first", chosen.node);
        return Step::new(Action::Wait, reason);
    }
    if let Some(reason) = another_cluster(seen) {
        return Step::new(Action::Refuse, reason);
    }
    if seen.initializing && (own.data.postgres || !own.bootstrapping) {
        let reason = match own.data.postgres {
            true => "PostgreSQL's initialization was interrupted on this node; it will be repeated",
            false => "PostgreSQL's initialization is not complete on another node",
        };
        return Step::new(Action::Wait, reason);
    }
    match initialize {
        true if own.data.postgres => {
            Step::new(Action::Resume, "this disk has data of the cluster registered in etcd")
        }
        true => Step::new(Action::Join, "the cluster exists; Patroni clones its data from the leader"),
        false => uninitialized(seen),
    }
}

/// No PostgreSQL cluster is registered in etcd: either it is new, or etcd lost its data.
fn uninitialized(seen: &Observations) -> Step {
    let own = &seen.own;
    if own.data.postgres {
        return most_recent(seen);
    }
    if own.bootstrapping && seen.reports().all(|peer| !peer.data.postgres) {
        return Step::new(Action::Bootstrap, "all nodes agreed on this bootstrap, and it is in progress");
    }
    let Some(peers) = seen.all_peers() else {
        let unreachable = seen.unreachable().join(", ");
        let reason = format!("{UNREGISTERED}, and {unreachable} may have its data but does not answer");
        return Step::new(Action::Wait, reason);
    };
    match peers.iter().find(|p| p.data.postgres) {
        Some(peer) => {
            Step::new(Action::Wait, format!("{} has PostgreSQL data; it must start first", peer.node))
        }
        None => Step::new(
            Action::Bootstrap,
            "no node has PostgreSQL data: the bootstrap was interrupted before PostgreSQL's initialization",
        ),
    }
}

/// Why the data on this disk belongs to another cluster than the one registered in etcd. The operator must decide
/// about it.
fn another_cluster(seen: &Observations) -> Option<String> {
    let (known, here) = (seen.system.as_ref()?, &seen.own.postgres.as_ref()?.system);
    (known != here).then(|| {
        format!(
            "the PostgreSQL data on this disk belongs to cluster {here}, but etcd has {known}; \
             move the data directory away, then this node clones the cluster's data"
        )
    })
}

const UNREGISTERED: &str = "no PostgreSQL cluster is registered in etcd";

/// No PostgreSQL cluster is registered in etcd, but this disk has one: the node with the most recent data starts first.
/// The others then join the cluster that it registers.
fn most_recent(seen: &Observations) -> Step {
    let own = &seen.own;
    let Some(peers) = seen.all_peers() else {
        let unreachable = seen.unreachable().join(", ");
        let reason =
            format!("{UNREGISTERED}, and {unreachable} may have more recent data but does not answer");
        return Step::new(Action::Wait, reason);
    };
    let all = [own].into_iter().chain(peers).filter(|a| a.data.postgres);
    let mut best: Option<(&NodeReport, (u32, u64))> = None;
    for holder in all {
        let Some((found, end)) = holder.postgres.as_ref().and_then(|p| Some((&p.system, p.end?))) else {
            let reason =
                format!("{UNREGISTERED}, and {} has not reported yet where its WAL ends", holder.node);
            return Step::new(Action::Wait, reason);
        };
        if let Some(here) = own.postgres.as_ref().map(|p| &p.system).filter(|here| *here != found) {
            let reason = format!(
                "{UNREGISTERED}; the data on {} belongs to cluster {found}, the data on this node to {here}; \
                 move the data directory that you do not want to keep away",
                holder.node
            );
            return Step::new(Action::Refuse, reason);
        }
        let is_behind = |(best, best_end): (&NodeReport, _)| (best_end, &holder.node) < (end, &best.node);
        if best.is_none_or(is_behind) {
            best = Some((holder, end));
        }
    }
    match best {
        Some((first, _)) if first.node != own.node => Step::new(
            Action::Wait,
            format!("{UNREGISTERED}; {} has the most recent data and must start first", first.node),
        ),
        _ => Step::new(
            Action::Resume,
            format!("{UNREGISTERED}, and no node has more recent data than this one"),
        ),
    }
}
