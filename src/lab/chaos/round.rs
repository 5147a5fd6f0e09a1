//! A round of a chaos run: the faults, and how the cluster recovered.

use super::role::{self, NodeRole};
use super::{Fault, Target};
use crate::load::{Gap, Service};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Times in seconds.
#[derive(Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) injected: Vec<InjectedFault>,
    /// Since the load started.
    pub(crate) at: f64,
    /// The longest time without an acknowledged write, by service.
    pub(crate) gaps: BTreeMap<Service, Gap>,
    /// From the end of the fault (node started, cable plugged in) until the cluster was healthy.
    pub(crate) healthy_after: f64,
    /// From the start of the fault until the cluster was healthy.
    pub(crate) duration: f64,
}

/// A planned fault with the nodes that it was injected into.
#[derive(Debug, Serialize)]
pub(crate) struct InjectedFault {
    pub(crate) fault: Fault,
    pub(crate) target: Target,
    pub(crate) seconds: u64,
    pub(crate) nodes: Vec<String>,
    /// The nodes' roles just before.
    pub(crate) roles: Vec<NodeRole>,
}

impl fmt::Display for InjectedFault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let roles = role::list(&self.roles);
        write!(f, "{} on {} ({roles}) for {} s", self.fault.name(), self.nodes.join(", "), self.seconds)
    }
}
