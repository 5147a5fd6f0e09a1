//! The roles of a node that a fault can target.

use hanode_cluster::health::{NodeStatus, Status};
use hanode_core::state::Role;
use serde::Serialize;
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeRole {
    EtcdLeader,
    PostgresLeader,
    RedisPrimary,
    VipHolder,
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            NodeRole::EtcdLeader => "etcd leader",
            NodeRole::PostgresLeader => "PostgreSQL leader",
            NodeRole::RedisPrimary => "Redis primary",
            NodeRole::VipHolder => "VIP",
        })
    }
}

impl Serialize for NodeRole {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl NodeRole {
    const ALL: [NodeRole; 4] =
        [NodeRole::EtcdLeader, NodeRole::PostgresLeader, NodeRole::RedisPrimary, NodeRole::VipHolder];

    fn is_held_by(self, node: &NodeStatus, status: &Status) -> bool {
        match self {
            NodeRole::EtcdLeader => node.servers.etcd.leader,
            NodeRole::PostgresLeader => node.servers.postgres.role == Some(Role::Leader),
            NodeRole::RedisPrimary => node.servers.redis.is_primary(),
            NodeRole::VipHolder => status.vip.holders.contains(&node.name),
        }
    }
}

/// The roles that the node has now.
pub(crate) fn roles(status: &Status, node: &str) -> Vec<NodeRole> {
    let Some(node) = status.node(node) else { return Vec::new() };
    NodeRole::ALL.into_iter().filter(|role| role.is_held_by(node, status)).collect()
}

/// "etcd leader, VIP", or "no role".
pub(crate) fn list(roles: &[NodeRole]) -> String {
    match roles {
        [] => "no role".into(),
        some => some.iter().map(NodeRole::to_string).collect::<Vec<_>>().join(", "),
    }
}
