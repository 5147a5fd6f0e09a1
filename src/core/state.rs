//! The vocabulary of state: in the reports of nodes, in `--json`, in metrics, and wherever a decision depends on it.
//! Other names for the same state (master, primary, leader) end in the clients of the servers.

mod problem;

pub use problem::{Problem, ProblemKind};

use serde::{Deserialize, Serialize};
use std::fmt;

/// A part of a node that hanode configures. The names are those of target files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Component {
    Etcd,
    Firewall,
    Haproxy,
    Keepalived,
    Patroni,
    Postgres,
    Redis,
    Sentinel,
}

impl Component {
    const ALL: [Component; 8] = [
        Component::Etcd,
        Component::Firewall,
        Component::Haproxy,
        Component::Keepalived,
        Component::Patroni,
        Component::Postgres,
        Component::Redis,
        Component::Sentinel,
    ];

    /// The component with this key.
    pub fn find(key: &str) -> Option<Component> {
        Component::ALL.into_iter().find(|component| component.key() == key)
    }

    /// As in target files and in `--json`.
    pub fn key(self) -> &'static str {
        match self {
            Component::Etcd => "etcd",
            Component::Postgres => "postgres",
            Component::Patroni => "patroni",
            Component::Redis => "redis",
            Component::Sentinel => "sentinel",
            Component::Haproxy => "haproxy",
            Component::Keepalived => "keepalived",
            Component::Firewall => "firewall",
        }
    }
}

/// The name in messages.
impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Component::Postgres => "PostgreSQL",
            Component::Patroni => "Patroni",
            Component::Redis => "Redis",
            Component::Sentinel => "Sentinel",
            Component::Haproxy => "HAProxy",
            Component::Keepalived => "Keepalived",
            Component::Etcd | Component::Firewall => self.key(),
        })
    }
}

/// The phase of a node on its way into service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    #[default]
    Identity,
    WaitingForPeers,
    Planning,
    Applying,
    Starting,
    InService,
    Refused,
    Failed,
    /// Only as seen from outside: the node does not answer on its join port.
    Unreachable,
    /// Only as seen from outside: a phase of another version of hanode.
    #[serde(other)]
    Unknown,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Identity => "identity",
            Phase::WaitingForPeers => "waiting-for-peers",
            Phase::Planning => "planning",
            Phase::Applying => "applying",
            Phase::Starting => "starting",
            Phase::InService => "in-service",
            Phase::Refused => "refused",
            Phase::Failed => "failed",
            Phase::Unreachable => "unreachable",
            Phase::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The role of a PostgreSQL server in its Patroni cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Leader,
    SyncStandby,
    QuorumStandby,
    Replica,
}

impl Role {
    /// `None` for a role that Patroni may have beyond these, such as the leader of a standby cluster.
    pub fn of_patroni(name: &str) -> Option<Role> {
        match name {
            "leader" | "master" | "primary" => Some(Role::Leader),
            "sync_standby" => Some(Role::SyncStandby),
            "quorum_standby" => Some(Role::QuorumStandby),
            "replica" => Some(Role::Replica),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::SyncStandby => "sync_standby",
            Role::QuorumStandby => "quorum_standby",
            Role::Replica => "replica",
        }
    }

    /// Whether this standby has every acknowledged commit of a synchronous cluster.
    pub fn is_synchronous(self) -> bool {
        matches!(self, Role::SyncStandby | Role::QuorumStandby)
    }
}

/// The state of a PostgreSQL server; a text of Patroni on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum PostgresState {
    /// The leader, or a replica that does not stream yet.
    Running,
    /// A replica that receives WAL from the leader.
    Streaming,
    /// Patroni does not list the server.
    Unlisted,
    /// Not running, such as `starting` or `creating replica`.
    Other(String),
}

const UNLISTED: &str = "unknown to Patroni";

impl PostgresState {
    pub fn is_up(&self) -> bool {
        matches!(self, PostgresState::Running | PostgresState::Streaming)
    }
}

impl From<String> for PostgresState {
    fn from(text: String) -> Self {
        match text.as_str() {
            "running" => PostgresState::Running,
            "streaming" => PostgresState::Streaming,
            UNLISTED => PostgresState::Unlisted,
            _ => PostgresState::Other(text),
        }
    }
}

impl From<PostgresState> for String {
    fn from(state: PostgresState) -> String {
        state.to_string()
    }
}

impl fmt::Display for PostgresState {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            PostgresState::Running => "running",
            PostgresState::Streaming => "streaming",
            PostgresState::Unlisted => UNLISTED,
            PostgresState::Other(text) => text,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedisRole {
    Primary,
    Replica,
}

impl RedisRole {
    /// The role in `INFO replication`.
    pub fn of_redis(name: &str) -> Option<RedisRole> {
        match name {
            "master" => Some(RedisRole::Primary),
            "slave" => Some(RedisRole::Replica),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;

    fn read<T: DeserializeOwned>(name: &str) -> T {
        serde_json::from_value(name.into()).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    #[test]
    fn names_are_those_on_the_wire() {
        for component in Component::ALL {
            assert_eq!(read::<Component>(component.key()), component);
        }
        use Phase::*;
        for phase in [
            Identity,
            WaitingForPeers,
            Planning,
            Applying,
            Starting,
            InService,
            Refused,
            Failed,
            Unreachable,
            Unknown,
        ] {
            assert_eq!(read::<Phase>(phase.name()), phase);
        }
        for role in [Role::Leader, Role::SyncStandby, Role::QuorumStandby, Role::Replica] {
            assert_eq!(read::<Role>(role.name()), role);
        }
    }

    #[test]
    fn a_phase_of_another_version_is_unknown() {
        assert_eq!(read::<Phase>("resting"), Phase::Unknown);
    }
}
