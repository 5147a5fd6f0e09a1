//! Recovery by the operator's word: whether it is allowed now, what it costs, and how etcd is begun again.

use super::{Observations, redis};
use crate::peer::NodeReport;
use crate::spec::Spec;
use serde::{Deserialize, Serialize};

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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    pub etcd: EtcdRecovery,
    /// The epoch with which this node's Sentinel overrules all that others remember.
    pub epoch: u64,
    /// What is lost or put at stake, one sentence each.
    pub costs: Vec<String>,
}

/// What recovering from this node means, or why it must not be.
pub fn recovery(spec: &Spec, seen: &Observations) -> Result<Recovery, String> {
    let own = &seen.own;
    if seen.etcd.is_some() && !own.recovery_source && redis::forgotten(spec, seen).is_none() {
        return Err(
            "etcd has a quorum: nothing needs to be recovered, lost nodes join it by themselves".into()
        );
    }
    if let Some(other) = seen.chosen() {
        return Err(format!("{} was already chosen; only one node's data can be the cluster's", other.node));
    }
    let epoch = seen.sentinels.iter().map(|s| s.epoch).max().unwrap_or(0) + 1;
    // A quorum of others is never undone; one of this node alone is a recovery that was cut.
    if seen.etcd.as_ref().is_some_and(|members| members.len() > 1 || !own.recovery_source) {
        if !own.data.redis {
            return Err("this disk has no Redis data to keep; run this on a node that has".into());
        }
        let costs = vec!["every write to Redis that this node has not received is lost".to_string()];
        return Ok(Recovery { etcd: EtcdRecovery::Keep, epoch, costs });
    }
    if !own.data.postgres && !none_has_postgres(seen) {
        return Err("this disk has no PostgreSQL data to keep; run this on a node that has".into());
    }
    let logs = seen.answers().chain([own]).filter(|a| seen.has_log(a)).count();
    if logs >= spec.majority() && !own.recovery_source {
        return Err(format!(
            "{logs} of {} nodes still have etcd's log: their quorum comes back by itself; see their `hanode status`",
            spec.nodes.len()
        ));
    }
    let etcd = if own.data.etcd { EtcdRecovery::FromLog } else { EtcdRecovery::Empty };
    Ok(Recovery { etcd, epoch, costs: costs(seen) })
}

/// Every node answers, and PostgreSQL never came to be on any of the disks that are left.
fn none_has_postgres(seen: &Observations) -> bool {
    seen.all_peers().is_some_and(|peers| peers.iter().all(|p| !p.data.postgres))
}

fn costs(seen: &Observations) -> Vec<String> {
    let mut costs = vec!["every write that this node has not received is lost".to_string()];
    if seen.own.data.etcd && !seen.has_log(&seen.own) {
        costs.push(
            "this disk was replaced since: what it holds is older than what its replacement had".into(),
        );
    }
    if !seen.own.data.postgres {
        costs.push("no node has PostgreSQL data: PostgreSQL begins empty".into());
    }
    if !seen.own.data.redis {
        costs.push("this node has no Redis data: Redis begins empty".into());
    }
    let has = |peer: &NodeReport| peer.data.postgres || peer.data.redis || peer.data.etcd;
    costs.extend(
        seen.answers()
            .filter(|p| has(p))
            .map(|peer| format!("{} answers and has data: it becomes a copy of this node's", peer.node)),
    );
    costs.extend(seen.unreachable().into_iter().map(|name| {
        format!("{name} does not answer: what its disk holds counts as lost, and it must not run now")
    }));
    costs
}
