//! Which units make up a node.

use crate::host::systemd::UnitState;
use crate::node_config::NodeConfig;
use anyhow::Result;
use hanode_core::spec::VipMode;
use hanode_core::state::{Component, Problem, ProblemKind};

pub(crate) const WATCH_UNIT: &str = "hanode-ready.service";
pub(crate) const JOIN_SOCKET: &str = "hanode-join.socket";

/// The units that must run for the node to be healthy: its servers, the firewall and the join port.
pub(crate) fn watched(config: &NodeConfig) -> Result<Vec<&str>> {
    let mut units = of_node(config)?;
    units.push(&config.target.firewall.unit);
    units.push(JOIN_SOCKET);
    Ok(units)
}

/// The units of the servers, those with a slow start first.
pub(crate) fn of_node(config: &NodeConfig) -> Result<Vec<&str>> {
    use Component::*;
    let vrrp = config.spec.network.vip_mode == VipMode::Vrrp;
    let components = [Etcd, Patroni, Sentinel, Redis, Haproxy, Keepalived].into_iter();
    components.filter(|c| vrrp || *c != Keepalived).map(|c| config.target.unit(c)).collect()
}

/// A problem for each unit that is not active.
pub(crate) fn down(units: &[UnitState]) -> Vec<Problem> {
    let inactive = units.iter().filter(|u| u.state != "active");
    inactive.map(|u| Problem::new(ProblemKind::UnitDown, format!("{} is {}", u.name, u.state))).collect()
}
