//! The plan: for each service, what this boot does and why. Pure: observations in, plan out.
//!
//! One rule stands above all others here: a node that cannot know waits. Each service has a file of its
//! own; every reason is a sentence an operator can act on.

mod etcd;
mod observations;
mod postgres;
mod recovery;
mod redis;

use crate::spec::Spec;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

pub use etcd::{JoinMethod, bootstrap_id, join_method, peer_url};
pub use observations::{Observations, Peer, Sentinel};
pub use recovery::{EtcdRecovery, Recovery, recovery};

pub(crate) const SCHEMA: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The one moment at which a new cluster comes to be.
    Bootstrap,
    /// Go on with the data on this disk.
    Resume,
    /// Become a member of a living cluster with no data of one's own.
    Join,
    /// Not now: something must be known first.
    Wait,
    /// Never by itself: the operator must decide.
    Refuse,
}

impl Action {
    /// Whether a service may start under it.
    pub fn may_start(self) -> bool {
        matches!(self, Action::Bootstrap | Action::Resume | Action::Join)
    }
}

/// What is decided for one service, and the sentence that says why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub action: Action,
    pub reason: String,
}

impl Step {
    pub fn new(action: Action, reason: impl Into<String>) -> Self {
        Step { action, reason: reason.into() }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub schema: u32,
    pub etcd: EtcdStep,
    pub postgres: Step,
    pub redis: RedisStep,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EtcdStep {
    #[serde(flatten)]
    pub step: Step,
    /// `new` at bootstrap, else `existing`; etcd ignores it once it has a log of its own.
    pub initial_state: String,
    /// `name=peer-url` for every member, in etcd's own order.
    pub initial_cluster: Vec<String>,
    pub token: String,
    /// All nodes agree on this bootstrap, but not every disk bears it yet: write it down, then look again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// A cluster that should answer does not: another machine may live under this node's address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub look_for_duplicate: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RedisStep {
    #[serde(flatten)]
    pub step: Step,
    /// Whom this node follows; its own address where it is the primary.
    pub primary: Option<IpAddr>,
    /// Sentinels must promote another node before this one may start.
    #[serde(default)]
    pub promote_another: bool,
}

/// Decides for all services of `node`, which must be a node of `spec`.
pub fn plan(spec: &Spec, node: &str, seen: &Observations) -> Plan {
    Plan {
        schema: SCHEMA,
        etcd: etcd::decide(spec, node, seen),
        postgres: postgres::decide(spec, node, seen),
        redis: redis::decide(spec, node, seen),
    }
}

/// What no program may decide, and how the operator does.
fn choose(what: &str) -> String {
    format!(
        "{what}; choose the node whose data is to be kept and run there: \
         hanode-firstboot recover --from-this-node --yes-data-on-others-is-lost"
    )
}

impl Plan {
    /// What services at bootstrap, on a reboot or as a newcomer do, for looking at what is rendered then.
    pub fn uniform(spec: &Spec, action: Action) -> Plan {
        let step = Step::new(action, "as asked for");
        let primary = spec.node(&spec.redis.initial_primary).map(|n| n.address);
        Plan {
            schema: SCHEMA,
            etcd: EtcdStep::plain(spec, step.clone(), None),
            postgres: step.clone(),
            redis: RedisStep { step, primary, promote_another: false },
        }
    }

    /// The plan before anything is known: all services wait. What it renders is what no plan changes.
    pub fn waiting(spec: &Spec) -> Plan {
        let mut plan = Plan::uniform(spec, Action::Wait);
        plan.redis.primary = None;
        plan
    }
}

#[cfg(test)]
mod tests;
