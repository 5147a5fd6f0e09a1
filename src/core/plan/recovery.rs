//! `hanode recover`: whether it is allowed now, what it costs, and how etcd starts again.

use super::{Observations, redis};
use crate::peer::NodeReport;
use crate::spec::Spec;
use serde::{Deserialize, Serialize};

/// What recovery does to etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EtcdRecovery {
    /// Leave etcd as it is: other nodes have its quorum, and only Redis needs recovery.
    Keep,
    /// Start a cluster of one member from the log on this disk: Patroni's settings survive.
    FromLog,
    /// Start an empty cluster of one member: Patroni registers its own data again.
    Empty,
}

/// What `hanode recover` does on this node, and what it costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    pub etcd: EtcdRecovery,
    /// The epoch for this node's Sentinel: higher than the epoch of every other Sentinel.
    pub epoch: u64,
    /// What is lost or at risk, one sentence each.
    pub costs: Vec<String>,
}

/// The recovery from this node's data, or why it is not allowed.
pub fn recovery(spec: &Spec, seen: &Observations) -> Result<Recovery, String> {
    let own = &seen.own;
    if seen.has_quorum() && !own.recovery_source && redis::primary_forgotten(spec, seen).is_none() {
        return Err(
            "etcd has a quorum: there is nothing to recover; replaced nodes rejoin automatically".into()
        );
    }
    if let Some(other) = seen.recovery_source() {
        return Err(format!("the operator already chose {}; only one node's data can be kept", other.node));
    }
    let epoch = seen.sentinels.iter().map(|s| s.epoch).max().unwrap_or(0) + 1;
    // Never replace a quorum of other nodes; a quorum of this node alone is an interrupted recovery.
    if seen.etcd.as_ref().is_ok_and(|etcd| etcd.members.len() > 1 || !own.recovery_source) {
        if !own.data.redis {
            return Err("this disk has no Redis data to keep; run this on a node that has some".into());
        }
        let costs = vec!["every Redis write that this node has not received is lost".to_string()];
        return Ok(Recovery { etcd: EtcdRecovery::Keep, epoch, costs });
    }
    if !own.data.postgres && !none_has_postgres(seen) {
        return Err("this disk has no PostgreSQL data to keep; run this on a node that has some".into());
    }
    let logs = seen.reports().chain([own]).filter(|a| seen.has_log(a)).count();
    if logs >= spec.majority() && !own.recovery_source {
        return Err(format!(
            "{logs} of {} nodes still have etcd's log, enough for a quorum: start those nodes, and the quorum returns automatically; see `hanode status`",
            spec.nodes.len()
        ));
    }
    let etcd = if own.data.etcd { EtcdRecovery::FromLog } else { EtcdRecovery::Empty };
    Ok(Recovery { etcd, epoch, costs: costs(seen) })
}

/// Every node answers, and none has PostgreSQL data.
fn none_has_postgres(seen: &Observations) -> bool {
    seen.all_peers().is_some_and(|peers| peers.iter().all(|p| !p.data.postgres))
}

fn costs(seen: &Observations) -> Vec<String> {
    let mut costs = vec!["every write that this node has not received is lost".to_string()];
    if seen.own.data.etcd && !seen.has_log(&seen.own) {
        costs.push(
            "this node's etcd member was replaced: the data on this disk is older than its replacement's"
                .into(),
        );
    }
    if !seen.own.data.postgres {
        costs.push("no node has PostgreSQL data: PostgreSQL starts empty".into());
    }
    if !seen.own.data.redis {
        costs.push("this node has no Redis data: Redis starts empty".into());
    }
    let has = |peer: &NodeReport| peer.data.postgres || peer.data.redis || peer.data.etcd;
    costs.extend(
        seen.reports()
            .filter(|p| has(p))
            .map(|peer| format!("{} has data: a copy of this node's replaces it", peer.node)),
    );
    costs.extend(seen.unreachable().into_iter().map(|name| {
        format!("{name} does not answer: the data on its disk counts as lost, and it must be powered off now")
    }));
    costs
}
