//! The plan: for each service, what this boot does and why. A pure function of spec and observations.
//!
//! The first rule: a node that does not know enough waits. Each service has its own module; every [`Reason`] is a
//! sentence that an operator can act on.

mod etcd;
mod observations;
mod postgres;
mod reason;
mod recovery;
mod redis;

use crate::spec::{Node, Spec};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

pub use etcd::{JoinMethod, bootstrap_id, join_method, peer_url};
pub use observations::{EtcdError, EtcdView, FOREIGN_CERTIFICATE, Initialize, Observations, Peer, Sentinel};
pub use reason::{Reason, Remedy, UnusableData};
pub use recovery::{EtcdRecovery, Recovery, recovery};

pub(crate) const SCHEMA: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Start a new cluster.
    Bootstrap,
    /// Continue with the data on this disk.
    Resume,
    /// Join the existing cluster without data.
    Join,
    /// Do not start until more is known.
    Wait,
    /// Do not start until the operator acts.
    Refuse,
}

impl Action {
    /// Whether the service may start.
    pub fn may_start(self) -> bool {
        matches!(self, Action::Bootstrap | Action::Resume | Action::Join)
    }
}

/// The action for one service and its reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    pub action: Action,
    pub reason: Reason,
}

impl Step {
    pub fn new(action: Action, reason: Reason) -> Self {
        Step { action, reason }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub schema: u32,
    pub etcd: EtcdStep,
    pub postgres: Step,
    pub redis: RedisStep,
}

/// The step for etcd, and how etcd is configured for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EtcdStep {
    #[serde(flatten)]
    pub step: Step,
    /// `new` at bootstrap, else `existing`; etcd ignores it once it has a log.
    pub initial_state: String,
    /// `name=peer-url` for every member, in etcd's order.
    pub initial_cluster: Vec<String>,
    pub token: String,
    /// The bootstrap id to record on this disk before the next plan: all nodes agree on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// Check whether another machine has this node's address: a cluster that should answer does not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub look_for_duplicate: bool,
}

/// The step for Redis, and the primary it is configured for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RedisStep {
    #[serde(flatten)]
    pub step: Step,
    /// The primary to replicate from; the node's own address if it is the primary.
    pub primary: Option<IpAddr>,
    /// The Sentinels must promote another node before this one may start.
    pub promote_another: bool,
}

/// Plans all services of `own`, a node of `spec`.
pub fn plan(spec: &Spec, own: &Node, seen: &Observations) -> Plan {
    let etcd = etcd::decide(spec, own, seen);
    let postgres = postgres::decide(spec, seen, etcd.step.action);
    let redis = redis::decide(spec, own, seen, etcd.step.action);
    Plan { schema: SCHEMA, etcd, postgres, redis }
}

impl Plan {
    /// A plan with the same action for every service, to render a node's files without observations.
    pub fn uniform(spec: &Spec, action: Action) -> Plan {
        let step = Step::new(action, Reason::Unobserved);
        let primary = spec.node(&spec.redis.initial_primary).map(|n| n.address);
        Plan {
            schema: SCHEMA,
            etcd: EtcdStep::with_spec_members(spec, step.clone(), None),
            postgres: step.clone(),
            redis: RedisStep { step, primary, promote_another: false },
        }
    }

    /// The plan before any observation: all services wait. It renders the static configuration only.
    pub fn waiting(spec: &Spec) -> Plan {
        let mut plan = Plan::uniform(spec, Action::Wait);
        plan.redis.primary = None;
        plan
    }
}

#[cfg(test)]
mod tests;
