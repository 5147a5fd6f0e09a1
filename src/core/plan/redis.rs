//! Redis: the primary is the node that a majority of Sentinels names; it starts empty only at bootstrap.
//!
//! Decided at every start: a rebooted former primary would accept writes that are lost, and an empty primary would
//! make its replicas erase their data.

use super::{Action, Initialize, Observations, Reason, RedisStep, Step, UnusableData};
use crate::peer::NodeReport;
use crate::spec::{Node, Spec};
use std::net::IpAddr;

/// `etcd`: what this node's etcd does.
pub(super) fn decide(spec: &Spec, node: &Node, seen: &Observations, etcd: Action) -> RedisStep {
    let own = &seen.own;
    // etcd's gate checks for a duplicate of this node: a blank duplicate must not cause a failover.
    if etcd == Action::Join {
        return step(Action::Wait, Reason::EtcdMustJoin, None);
    }
    // Takes precedence over the Sentinels: those that survived the loss remember the old primary.
    let chosen = if own.recovery_source { Some(own) } else { seen.recovery_source() };
    if let Some(primary) = chosen.and_then(|c| spec.node(&c.node)) {
        if own.recovery_source && own.data.redis && own.redis_unreadable {
            return step(Action::Refuse, Reason::UnreadableChoice, None);
        }
        let action = if own.recovery_source || own.data.redis { Action::Resume } else { Action::Join };
        let reason = Reason::Chosen { node: primary.name.clone() };
        return step(action, reason, Some(primary.address));
    }
    // An epoch above zero: the Sentinels have already promoted another node.
    let promoted = seen.sentinels.iter().any(|s| s.epoch > 0);
    // A peer with data: Redis has accepted writes, even if no Sentinel answers now.
    let written = seen.reports().any(|peer| peer.data.redis);
    if own.bootstrapping && !own.data.redis && !promoted && !written {
        return at_bootstrap(spec, seen, Reason::BootstrapInProgress);
    }
    match named_by_majority(spec, seen).or_else(|| named_by_all(spec, seen)) {
        Some(primary) => with_primary(spec, node, seen, primary),
        None => without_majority(spec, seen),
    }
}

fn step(action: Action, reason: Reason, primary: Option<IpAddr>) -> RedisStep {
    RedisStep { step: Step::new(action, reason), primary, promote_another: false }
}

/// Redis accepts data only once etcd has a quorum: after that no bootstrap is repeated.
fn at_bootstrap(spec: &Spec, seen: &Observations, reason: Reason) -> RedisStep {
    if !seen.has_quorum() {
        return step(Action::Wait, Reason::NoQuorumYet, None);
    }
    // Which snapshot fits is known once PostgreSQL has been restored.
    let restored = seen.etcd.as_ref().is_ok_and(|etcd| match &etcd.restore {
        Some(record) => record.postgres.is_some(),
        // etcd has lost the record since.
        None => matches!(etcd.initialize, Initialize::Done(_)),
    });
    if seen.restore().is_some() && !restored {
        return step(Action::Wait, Reason::PostgresFirst, None);
    }
    // An empty replica could be promoted while the first primary still loads its snapshot.
    let record = seen.etcd.as_ref().ok().and_then(|etcd| etcd.restore.as_ref());
    if record.is_some_and(|record| record.redis.is_none()) && seen.own.node != spec.redis.initial_primary {
        let primary = spec.redis.initial_primary.clone();
        return step(Action::Wait, Reason::SnapshotFirst { primary }, None);
    }
    let primary = spec.node(&spec.redis.initial_primary).map(|n| n.address);
    step(Action::Bootstrap, reason, primary)
}

/// The primary that a majority of all Sentinels names. The newest epoch alone does not decide.
fn named_by_majority(spec: &Spec, seen: &Observations) -> Option<IpAddr> {
    seen.sentinels
        .iter()
        .map(|s| s.primary)
        .find(|p| seen.sentinels.iter().filter(|s| s.primary == *p).count() >= spec.majority())
}

/// The primary when too few Sentinels have a state file for a majority: every node answers, every Sentinel with a
/// state file answers, they all agree, and every node with Redis data has such a file.
fn named_by_all(spec: &Spec, seen: &Observations) -> Option<IpAddr> {
    let peers = seen.all_peers()?;
    let all = || peers.iter().copied().chain([&seen.own]);
    let with_state: Vec<_> = all().filter(|a| a.data.sentinel).collect();
    let answers = |node: &str| seen.sentinels.iter().any(|s| s.node == node);
    let primary = seen.sentinels.first()?.primary;
    let agreed = seen.sentinels.iter().all(|s| s.primary == primary);
    let complete = all().all(|a| a.data.sentinel || !a.data.redis);
    (with_state.len() < spec.majority() && with_state.iter().all(|a| answers(&a.node)) && agreed && complete)
        .then_some(primary)
}

/// The step when the Sentinels agree on `primary`.
fn with_primary(spec: &Spec, node: &Node, seen: &Observations, primary: IpAddr) -> RedisStep {
    // A restored snapshot lacks writes that were acknowledged since.
    let has_data = seen.own.data.redis && seen.newer_generation().is_none();
    if node.address != primary {
        let action = if has_data { Action::Resume } else { Action::Join };
        return step(action, Reason::PrimaryIs { primary }, Some(primary));
    }
    if has_data && !seen.own.redis_unreadable {
        return step(Action::Resume, Reason::PrimaryHere, Some(primary));
    }
    match seen.all_peers() {
        Some(peers) if !has_data && peers.iter().all(|p| !p.data.redis) => {
            at_bootstrap(spec, seen, Reason::NeverWritten)
        }
        _ => unusable_primary(seen, has_data),
    }
}

/// This node is the primary but has no readable data: a node with a copy must be promoted.
fn unusable_primary(seen: &Observations, has_data: bool) -> RedisStep {
    if let Some(reason) = unreadable_everywhere(seen) {
        return step(Action::Refuse, reason, None);
    }
    // Without data here, the Sentinels may promote any node. Unreadable data may be repairable: it is given up only
    // for a copy that is known to exist.
    let promote_another = seen.reports().any(has_readable_data) || !has_data;
    let why = if has_data { UnusableData::Unreadable } else { UnusableData::Missing };
    let reason = match promote_another {
        true => Reason::AnotherMustBePromoted { why },
        false => Reason::CopyUnreachable { why, unreachable: seen.unreachable().join(", ") },
    };
    RedisStep { promote_another, ..step(Action::Wait, reason, None) }
}

fn has_readable_data(node: &NodeReport) -> bool {
    node.data.redis && !node.redis_unreadable
}

/// Every node answers, and no node with Redis data can read it: the operator must decide what to lose.
fn unreadable_everywhere(seen: &Observations) -> Option<Reason> {
    let peers = seen.all_peers()?;
    let all = || peers.iter().copied().chain([&seen.own]);
    let nodes: Vec<&str> = all().filter(|a| a.data.redis).map(|a| a.node.as_str()).collect();
    let lost = !nodes.is_empty() && !all().any(has_readable_data);
    lost.then(|| Reason::UnreadableEverywhere { nodes: nodes.join(", ") })
}

/// The step when the Sentinels agree on no primary.
fn without_majority(spec: &Spec, seen: &Observations) -> RedisStep {
    let blank = |a: &&NodeReport| !a.data.redis && !a.data.sentinel;
    if !seen.own.data.redis && seen.all_peers().is_some_and(|peers| peers.iter().all(blank)) {
        return at_bootstrap(spec, seen, Reason::NeverWritten);
    }
    if let Some(reason) = primary_forgotten(spec, seen) {
        return step(Action::Refuse, reason, None);
    }
    let (answered, nodes, needed) = (seen.sentinels.len(), spec.nodes.len(), spec.majority());
    step(Action::Wait, Reason::SentinelsDisagree { answered, nodes, needed }, None)
}

/// Every node answers and there is data, but too few Sentinels have a state file to name the primary.
pub(super) fn primary_forgotten(spec: &Spec, seen: &Observations) -> Option<Reason> {
    let peers = seen.all_peers()?;
    let all = || peers.iter().copied().chain([&seen.own]);
    let (remember, needed) = (all().filter(|a| a.data.sentinel).count(), spec.majority());
    let all_answer =
        all().filter(|a| a.data.sentinel).all(|a| seen.sentinels.iter().any(|s| s.node == a.node));
    let lost = remember < needed && all_answer && all().any(|a| a.data.redis);
    lost.then_some(Reason::PrimaryForgotten { remember, nodes: spec.nodes.len(), needed })
}
