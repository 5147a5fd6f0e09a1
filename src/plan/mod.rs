//! The plan: for each service, what this boot does and why. Pure: observations in, plan out.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The one moment at which a new cluster comes to be.
    Begin,
    /// Go on with the data on this disk.
    Resume,
    /// Become a member of a living cluster with no data of one's own.
    Join,
    /// Not now: something must be known first.
    Wait,
    /// Never by itself: the operator must decide.
    Refuse,
}

/// What is decided for one service, and the sentence that says why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub action: Action,
    pub reason: String,
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
    /// `new` at genesis, else `existing`; etcd ignores it once it has a log of its own.
    pub initial_state: String,
    /// `name=peer-url` for every member, in etcd's own order.
    pub initial_cluster: Vec<String>,
    pub token: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RedisStep {
    #[serde(flatten)]
    pub step: Step,
    /// Whom this node follows; its own address where it is the primary.
    pub primary: Option<IpAddr>,
}
