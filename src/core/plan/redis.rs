//! Redis: whoever a majority of Sentinels names is the primary; an empty one never is, but at bootstrap.
//!
//! A rebooted old primary that just starts would accept writes that are lost, and an empty one would make
//! its replicas erase theirs: so this is decided at every start.

use super::{Action, Observations, RedisStep, Step, choose, etcd};
use crate::peer::NodeReport;
use crate::spec::Spec;
use std::net::IpAddr;

pub(super) fn decide(spec: &Spec, node: &str, seen: &Observations) -> RedisStep {
    let own = &seen.own;
    // Its gate makes sure that no other machine is this node: a blank duplicate must not have its primary deposed.
    if etcd::decide(spec, node, seen).step.action == Action::Join {
        return step(Action::Wait, "this node's etcd comes first", None);
    }
    // Before any Sentinel is asked: those that outlived the loss remember what was.
    let chosen = if own.recovery_source { Some(own) } else { seen.chosen() };
    if let Some(primary) = chosen.and_then(|c| spec.node(&c.node)) {
        if own.recovery_source && own.data.redis && own.redis_unreadable {
            let reason = "Redis cannot read the data chosen by the operator's word; on this node run redis-check-aof \
                          --fix, which cuts off what cannot be read: Redis then starts by itself";
            return step(Action::Refuse, reason, None);
        }
        let action = if own.recovery_source || own.data.redis { Action::Resume } else { Action::Join };
        let reason = format!("by the operator's word the data of {} is the cluster's", primary.name);
        return step(action, reason, Some(primary.address));
    }
    // An epoch above zero means that Sentinels have already promoted another while this node was late.
    let promoted = seen.sentinels.iter().any(|s| s.epoch > 0);
    // Its Sentinels may be silent just now, but where it has been written to, Redis has begun.
    let written = seen.answers().any(|peer| peer.data.redis);
    if own.bootstrapping && !own.data.redis && !promoted && !written {
        return at_bootstrap(spec, seen, "all nodes agreed on this bootstrap and this boot is it");
    }
    match named(spec, seen).or_else(|| all_that_remember(spec, seen)) {
        Some(primary) => under(spec, node, seen, primary),
        None => without_majority(spec, seen),
    }
}

fn step(action: Action, reason: impl Into<String>, primary: Option<IpAddr>) -> RedisStep {
    RedisStep { step: Step::new(action, reason), primary, promote_another: false }
}

/// Data is taken only once etcd has its quorum on the disks: from then on no bootstrap is ever begun again.
fn at_bootstrap(spec: &Spec, seen: &Observations, reason: &str) -> RedisStep {
    if seen.etcd.is_none() {
        return step(Action::Wait, "etcd has no quorum yet", None);
    }
    let primary = spec.node(&spec.redis.initial_primary).map(|n| n.address);
    step(Action::Bootstrap, reason, primary)
}

/// The primary that a majority of all Sentinels names; where they disagree, the newest epoch does not
/// decide alone: it must have reached a majority.
fn named(spec: &Spec, seen: &Observations) -> Option<IpAddr> {
    seen.sentinels
        .iter()
        .map(|s| s.primary)
        .find(|p| seen.sentinels.iter().filter(|s| s.primary == *p).count() >= spec.majority())
}

/// Where so many files are gone (or were never written) that no majority can come together: every node
/// answers, every Sentinel that remembers does too, they agree, and no data is anywhere without such a memory.
fn all_that_remember(spec: &Spec, seen: &Observations) -> Option<IpAddr> {
    let peers = seen.all_peers()?;
    let all = || peers.iter().copied().chain([&seen.own]);
    let remember: Vec<_> = all().filter(|a| a.data.sentinel).collect();
    let heard = |node: &str| seen.sentinels.iter().any(|s| s.node == node);
    let primary = seen.sentinels.first()?.primary;
    let agreed = seen.sentinels.iter().all(|s| s.primary == primary);
    let known = all().all(|a| a.data.sentinel || !a.data.redis);
    (remember.len() < spec.majority() && remember.iter().all(|a| heard(&a.node)) && agreed && known)
        .then_some(primary)
}

fn under(spec: &Spec, node: &str, seen: &Observations, primary: IpAddr) -> RedisStep {
    let me = spec.node(node).is_some_and(|n| n.address == primary);
    // Data of a restored snapshot is not what was acknowledged since.
    let older = seen.generation_in_etcd.is_some_and(|generation| generation > seen.own.generation);
    let has_data = seen.own.data.redis && !older;
    if !me {
        let action = if has_data { Action::Resume } else { Action::Join };
        return step(action, format!("the Sentinels name {primary} as the primary"), Some(primary));
    }
    if has_data && !seen.own.redis_unreadable {
        return step(Action::Resume, "the Sentinels name this node, and its data is here", Some(primary));
    }
    match seen.all_peers() {
        Some(peers) if !has_data && peers.iter().all(|p| !p.data.redis) => {
            at_bootstrap(spec, seen, "no node has Redis data: nothing was ever written, so it begins empty")
        }
        _ => succeeded(seen, has_data),
    }
}

/// The primary by name has no data that its Redis can read: whoever has a copy goes on in its place.
fn succeeded(seen: &Observations, has_data: bool) -> RedisStep {
    if let Some(reason) = nobody_can_read(seen) {
        return step(Action::Refuse, reason, None);
    }
    // Of a node without data the silent ones' Sentinels know best; data that may yet be mended is not given up for theirs.
    let promote_another = seen.answers().any(readable) || !has_data;
    let why = if has_data { "Redis cannot read its data here" } else { "its data is gone" };
    let silent = seen.unreachable().join(", ");
    let reason = match promote_another {
        true => format!("Sentinels name this node, but {why}: another must be promoted first"),
        false => format!("Sentinels name this node, but {why}, and {silent} may have a copy"),
    };
    RedisStep { promote_another, ..step(Action::Wait, reason, None) }
}

fn readable(node: &NodeReport) -> bool {
    node.data.redis && !node.redis_unreadable
}

/// Every node answers, and wherever there is data, Redis gave up reading it: only a person can say what is to be lost.
fn nobody_can_read(seen: &Observations) -> Option<String> {
    let peers = seen.all_peers()?;
    let all = || peers.iter().copied().chain([&seen.own]);
    let have: Vec<&str> = all().filter(|a| a.data.redis).map(|a| a.node.as_str()).collect();
    let lost = !have.is_empty() && !all().any(readable);
    lost.then(|| {
        format!(
            "Redis cannot read its data on {}, and no other node has a copy; on the one whose data is to be kept run \
             redis-check-aof --fix, which cuts off what cannot be read: Redis then starts by itself",
            have.join(", ")
        )
    })
}

fn without_majority(spec: &Spec, seen: &Observations) -> RedisStep {
    let (answered, all) = (seen.sentinels.len(), spec.nodes.len());
    let blank = |a: &&crate::peer::NodeReport| !a.data.redis && !a.data.sentinel;
    if !seen.own.data.redis && seen.all_peers().is_some_and(|peers| peers.iter().all(blank)) {
        return at_bootstrap(
            spec,
            seen,
            "no node has Redis data: nothing was ever written, so it begins empty",
        );
    }
    if let Some(reason) = forgotten(spec, seen) {
        return step(Action::Refuse, reason, None);
    }
    let reason = format!(
        "{answered} of {all} Sentinels answer; {} must name the same primary before Redis starts",
        spec.majority()
    );
    step(Action::Wait, reason, None)
}

/// Every node answers, there is data, and too few Sentinels remember whose counts: nobody else will tell.
pub(super) fn forgotten(spec: &Spec, seen: &Observations) -> Option<String> {
    let peers = seen.all_peers()?;
    let all = || peers.iter().copied().chain([&seen.own]);
    let remember = all().filter(|a| a.data.sentinel).count();
    let heard = all().filter(|a| a.data.sentinel).all(|a| seen.sentinels.iter().any(|s| s.node == a.node));
    let lost = remember < spec.majority() && heard && all().any(|a| a.data.redis);
    lost.then(|| {
        let (nodes, needed) = (spec.nodes.len(), spec.majority());
        let what = format!(
            "{remember} of {nodes} Sentinels remember who was Redis' primary, {needed} are needed to agree"
        );
        choose(&what)
    })
}
