//! PostgreSQL: Patroni decides once etcd answers; the plan prevents the bootstrap of a second cluster.

use super::{Action, Initialize, Observations, Reason, Step, etcd};
use crate::peer::NodeReport;
use crate::restore::RestoreRecord;
use crate::spec::Spec;

/// `etcd`: what this node's etcd does.
pub(super) fn decide(spec: &Spec, seen: &Observations, etcd: Action) -> Step {
    let own = &seen.own;
    let view = match &seen.etcd {
        Ok(view) => view,
        Err(error) => {
            return match etcd::quorum_lost(spec, seen) {
                Some(reason) => Step::new(Action::Refuse, reason),
                None => Step::new(Action::Wait, Reason::LeaderUnknown { error: error.clone() }),
            };
        }
    };
    // Patroni would register under this node's name while etcd's gate still checks for a duplicate of the node.
    if !own.data.etcd || etcd == Action::Join {
        return Step::new(Action::Wait, Reason::EtcdMustJoin);
    }
    if own.recovery_source {
        let action = if seen.has_postgres(own) { Action::Resume } else { Action::Bootstrap };
        return Step::new(action, Reason::ChosenHere);
    }
    if let Some(chosen) = seen.recovery_source() {
        return Step::new(Action::Wait, Reason::ChosenElsewhere { node: chosen.node.clone() });
    }
    match &view.initialize {
        Initialize::Done(registered) => {
            other_major(seen, registered).unwrap_or_else(|| registered_cluster(seen, registered))
        }
        Initialize::InProgress if own.data.postgres => Step::new(Action::Wait, Reason::InitInterrupted),
        Initialize::InProgress if !own.bootstrapping => Step::new(Action::Wait, Reason::InitElsewhere),
        // Each Patroni of a bootstrap waits for the one that initializes.
        Initialize::InProgress => Step::new(Action::Join, Reason::CloneFromLeader),
        Initialize::Absent => restored_or_new(uninitialized(seen), seen, view.restore.as_ref()),
    }
}

/// PostgreSQL's data is created only if this cluster does not begin with a restore.
fn restored_or_new(step: Step, seen: &Observations, record: Option<&RestoreRecord>) -> Step {
    let Some(request) = seen.restore().filter(|_| step.action == Action::Bootstrap) else { return step };
    match record {
        None => Step::new(Action::Wait, Reason::ChoosingRestore { request: request.clone() }),
        Some(RestoreRecord { choice, .. }) => {
            let (part, backup) = (choice.part.clone(), choice.backup.clone());
            Step::new(Action::Bootstrap, Reason::Restoring { part, backup })
        }
    }
}

/// A server of another major version can neither clone nor read the data.
fn other_major(seen: &Observations, system: &str) -> Option<Step> {
    let ours = seen.own.postgres_major?;
    let found = |report: &NodeReport| {
        let data = report.postgres.as_ref().filter(|data| data.system == system)?;
        let theirs = data.major.filter(|major| *major != ours)?;
        Some(Reason::OtherPostgresMajor { node: report.node.clone(), theirs, ours })
    };
    let reason = [&seen.own].into_iter().chain(seen.reports()).find_map(found)?;
    Some(Step::new(Action::Refuse, reason))
}

/// Data that served another cluster is the operator's to decide about.
fn registered_cluster(seen: &Observations, registered: &str) -> Step {
    let own = &seen.own;
    if seen.has_failed_init(own) {
        return Step::new(Action::Join, Reason::InitElsewhereCompleted);
    }
    match own.postgres.as_ref().map(|postgres| &postgres.system).filter(|here| *here != registered) {
        Some(here) => {
            let (here, registered) = (here.clone(), registered.into());
            Step::new(Action::Refuse, Reason::OtherPostgres { here, registered })
        }
        None if own.data.postgres => Step::new(Action::Resume, Reason::RegisteredData),
        None => Step::new(Action::Join, Reason::CloneFromLeader),
    }
}

/// No PostgreSQL cluster is registered in etcd: either it is new, or etcd lost its data.
fn uninitialized(seen: &Observations) -> Step {
    let own = &seen.own;
    if seen.has_postgres(own) {
        let here = own.postgres.as_ref().map(|data| data.system.as_str());
        let refused = here.and_then(|system| other_major(seen, system));
        return refused.unwrap_or_else(|| most_recent(seen));
    }
    if own.bootstrapping && !seen.reports().any(|peer| seen.has_postgres(peer)) {
        return Step::new(Action::Bootstrap, Reason::BootstrapInProgress);
    }
    let Some(peers) = seen.all_peers() else {
        return Step::new(Action::Wait, Reason::MayHaveData { unreachable: seen.unreachable().join(", ") });
    };
    match peers.iter().find(|p| seen.has_postgres(p)) {
        Some(peer) => Step::new(Action::Wait, Reason::PeerHasData { peer: peer.node.clone() }),
        None => Step::new(Action::Bootstrap, Reason::NeverInitialized),
    }
}

/// No PostgreSQL cluster is registered in etcd, but this disk has one: the node with the most recent data starts first.
/// The others then join the cluster that it registers.
fn most_recent(seen: &Observations) -> Step {
    let own = &seen.own;
    let Some(peers) = seen.all_peers() else {
        let unreachable = seen.unreachable().join(", ");
        return Step::new(Action::Wait, Reason::MayHaveNewerData { unreachable });
    };
    let all = [own].into_iter().chain(peers).filter(|a| seen.has_postgres(a));
    let mut best: Option<(&NodeReport, (u32, u64))> = None;
    for holder in all {
        let Some((found, end)) = holder.postgres.as_ref().and_then(|p| Some((&p.system, p.end?))) else {
            return Step::new(Action::Wait, Reason::WalEndUnknown { node: holder.node.clone() });
        };
        if let Some(here) = own.postgres.as_ref().map(|p| &p.system).filter(|here| *here != found) {
            let (node, theirs, ours) = (holder.node.clone(), found.clone(), here.clone());
            return Step::new(Action::Refuse, Reason::PostgresDiffers { node, theirs, ours });
        }
        let is_behind = |(best, best_end): (&NodeReport, _)| (best_end, &holder.node) < (end, &best.node);
        if best.is_none_or(is_behind) {
            best = Some((holder, end));
        }
    }
    match best {
        Some((first, _)) if first.node != own.node => {
            Step::new(Action::Wait, Reason::MostRecentElsewhere { node: first.node.clone() })
        }
        _ => Step::new(Action::Resume, Reason::MostRecentHere),
    }
}
