//! The roles of a node that a fault can target.

use hanode_cluster::health::Status;
use serde::Serialize;
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    EtcdLeader,
    PostgresLeader,
    RedisPrimary,
    VipHolder,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Role::EtcdLeader => "etcd leader",
            Role::PostgresLeader => "PostgreSQL leader",
            Role::RedisPrimary => "Redis primary",
            Role::VipHolder => "VIP",
        })
    }
}

impl Serialize for Role {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Role {
    const ALL: [Role; 4] = [Role::EtcdLeader, Role::PostgresLeader, Role::RedisPrimary, Role::VipHolder];

    fn is_held_by(self, node: &str, status: &Status) -> bool {
        match self {
            Role::EtcdLeader => status.etcd.iter().any(|m| m.name == node && m.leader),
            Role::PostgresLeader => {
                let leads = |role: &str| matches!(role, "leader" | "master");
                status.postgres.iter().any(|m| m.name == node && leads(&m.role))
            }
            Role::RedisPrimary => status.redis.iter().any(|r| r.name == node && r.role == "master"),
            Role::VipHolder => status.vip.holders.iter().any(|h| h == node),
        }
    }
}

/// The roles that the node has now.
pub(crate) fn roles(status: &Status, node: &str) -> Vec<Role> {
    Role::ALL.into_iter().filter(|role| role.is_held_by(node, status)).collect()
}

/// "etcd leader, VIP", or "no role".
pub(crate) fn list(roles: &[Role]) -> String {
    match roles {
        [] => "no role".into(),
        some => some.iter().map(Role::to_string).collect::<Vec<_>>().join(", "),
    }
}
