//! The spec: an operator's description of one cluster in `cluster.toml`, as one immutable value.
//!
//! [`parse`] reads and validates it: an odd number of nodes, addresses inside the subnet, distinct names and ports …
//! A value that code derives from a parsed one, such as the part of a single node, need not satisfy these rules.

mod access;
mod backup;
mod check;
mod libraries;
mod parse;
mod reader;
mod redis_users;
mod rules;
mod schema;
mod slots;
mod suggest;
mod warn;

use hanode_util::user_error::UserError;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

pub use access::{Database, Hba, HbaMethod, Role};
pub use backup::{Backup, Repository};
pub use libraries::Library;
pub use parse::{Fault, Faults, parse};
pub(crate) use redis_users::REDIS_OWN_USERS;
pub use redis_users::{RedisAccess, RedisUser};
pub(crate) use rules::is_cluster_name;
pub use rules::is_interface;
pub use schema::schema_text;
pub(crate) use slots::slot_of_node;
pub use slots::{Slot, SlotKind};
pub use suggest::nearest;
pub use warn::warnings;

/// The commented `cluster.toml` that `hanode init` writes.
pub const STARTER: &str = include_str!("cluster.toml");

/// The spec in the image.
pub const BAKED_PATH: &str = "/usr/lib/hanode/spec.toml";
/// The spec that an operator puts on a node; it replaces the image's.
pub const OVERRIDE_PATH: &str = "/etc/hanode/cluster.toml";

/// The version of the spec's keys that this program reads.
pub(crate) const SCHEMA: i64 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    pub schema: i64,
    /// Patroni's scope, and the first part of etcd's cluster token.
    pub name: String,
    pub network: Network,
    pub nodes: Vec<Node>,
    pub postgres: Postgres,
    pub patroni: Patroni,
    pub redis: Redis,
    pub haproxy: Haproxy,
    pub keepalived: Keepalived,
    pub pki: Pki,
    pub storage: Storage,
    /// Unset: there are no backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
    /// Roles of PostgreSQL besides those that hanode creates.
    #[serde(default, rename = "role", skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    #[serde(default, rename = "database", skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<Database>,
    /// How certain roles log in, before the rule for all others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hba: Vec<Hba>,
    /// Replication slots that Patroni creates on the leader and keeps after a failover.
    #[serde(default, rename = "slot", skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<Slot>,
    /// Users of Redis besides those that hanode creates.
    #[serde(default, rename = "redis_user", skip_serializing_if = "Vec::is_empty")]
    pub redis_users: Vec<RedisUser>,
    /// Component to version; overrides the target's versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, String>,
}

/// The components whose version a spec may pin.
pub(crate) const COMPONENTS: [&str; 6] = ["postgres", "patroni", "etcd", "redis", "haproxy", "keepalived"];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    pub subnet: IpNet,
    /// Networks that may reach the ports on the virtual IP.
    pub clients: Vec<IpNet>,
    /// Networks from which `hanode status` may be run; unset: the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operators: Option<Vec<IpNet>>,
    pub vip: IpAddr,
    pub vip_mode: VipMode,
    pub join_port: u16,
}

impl Network {
    pub fn operators(&self) -> &[IpNet] {
        self.operators.as_deref().unwrap_or(std::slice::from_ref(&self.subnet))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VipMode {
    /// Keepalived moves the virtual IP between the nodes.
    Vrrp,
    /// An external load balancer owns it and probes `GET :stats_port/health`.
    External,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub address: IpAddr,
    pub hostname: String,
    pub vrrp_priority: u8,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Postgres {
    pub tls: bool,
    pub alt_names: Vec<String>,
    pub synchronous: bool,
    /// The lag up to which a standby is promoted, with a unit; applies only with `synchronous = false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_lag_on_failover: Option<String>,
    pub port: u16,
    pub vip_port: u16,
    pub vip_read_port: u16,
    /// The age in seconds up to which a standby's data is served on the read port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_max_lag: Option<u32>,
    /// The limit of connections from one address to each of the two ports on the VIP; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_per_source: Option<u32>,
    /// Whether `dbadmin` may log in with its password alone, through HAProxy from `network.clients`.
    pub superusers_from_clients: bool,
    #[serde(default, skip_serializing_if = "WalLevel::is_default")]
    pub wal_level: WalLevel,
    /// Settings passed through to PostgreSQL, in the syntax of `postgresql.conf`.
    pub parameters: BTreeMap<String, String>,
}

impl Postgres {
    /// Patroni's default.
    pub const DEFAULT_LAG: &str = "1MB";
    /// Larger than every possible lag: 1 EiB.
    const UNLIMITED_LAG: u64 = 1 << 60;
    /// Longer than PostgreSQL's default `max_standby_streaming_delay`: a long query delays a standby that much.
    const DEFAULT_READ_LAG: u32 = 60;

    /// The age up to which a standby's data is served on the read port.
    pub fn read_limit(&self) -> Duration {
        Duration::from_secs(self.read_max_lag.unwrap_or(Self::DEFAULT_READ_LAG).into())
    }

    /// Patroni's `maximum_lag_on_failover`, in bytes.
    ///
    /// Patroni also applies the limit to the synchronous standby. That standby has every acknowledged commit, and no
    /// other standby is promoted in synchronous mode, so the limit could only prevent a failover that loses nothing.
    pub fn lag_limit(&self) -> u64 {
        let text = self.maximum_lag_on_failover.as_deref().unwrap_or(Self::DEFAULT_LAG);
        if self.synchronous { Self::UNLIMITED_LAG } else { rules::bytes(text).unwrap_or(1 << 20) }
    }
}

/// How much PostgreSQL writes into its WAL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalLevel {
    /// What standbys need.
    #[default]
    Replica,
    /// Also what logical decoding needs.
    Logical,
}

impl WalLevel {
    fn is_default(&self) -> bool {
        *self == WalLevel::default()
    }
}

/// Patroni's timing, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Patroni {
    pub ttl: u32,
    pub loop_wait: u32,
    pub retry_timeout: u32,
    pub restapi_port: u16,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Redis {
    pub tls: bool,
    pub alt_names: Vec<String>,
    /// Name of the node that is the primary at bootstrap.
    pub initial_primary: String,
    pub master_name: String,
    pub min_replicas: u32,
    pub port: u16,
    pub vip_port: u16,
    /// The limit of connections from one address to the port on the VIP; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_per_source: Option<u32>,
    pub sentinel_port: u16,
    /// Settings passed through to Redis; [`crate::redis_parameters`] has the names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Haproxy {
    pub stats_port: u16,
    pub crl_port: u16,
    /// Seconds after which an established session without data is closed.
    #[serde(default = "Haproxy::longest_idle", skip_serializing_if = "Haproxy::is_longest_idle")]
    pub idle_timeout: u32,
    /// Section (`global`, `defaults`) to further lines for it.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Haproxy {
    /// The longest time in whole days that HAProxy counts: in practice no limit.
    pub(crate) const LONGEST_IDLE: u32 = 24 * 86_400;

    fn longest_idle() -> u32 {
        Self::LONGEST_IDLE
    }

    fn is_longest_idle(idle: &u32) -> bool {
        *idle == Self::LONGEST_IDLE
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Keepalived {
    pub router_id: u8,
    /// Unset: the interface that holds the node's address.
    pub interface: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pki {
    pub ca_name: String,
    /// Where clients fetch the service CA's revocation list; always set once parsed.
    pub crl_url: String,
    pub ca_days: u32,
    pub leaf_days: u32,
    pub crl_days: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Storage {
    /// A separate volume for the servers' data, in fstab's syntax (`LABEL=…`, `UUID=…`, a device path).
    pub data: Option<String>,
}

// etcd's ports are fixed: no client outside the cluster uses them.
pub const ETCD_CLIENT_PORT: u16 = 2379;
pub const ETCD_PEER_PORT: u16 = 2380;
/// On the loopback address only.
pub(crate) const ETCD_METRICS_PORT: u16 = 2381;

impl Spec {
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// Fails if there is no such node, which is probably a typing error.
    pub fn require_node(&self, name: &str) -> Result<&Node, UserError> {
        self.node(name).ok_or_else(|| {
            let names: Vec<&str> = self.nodes.iter().map(|n| n.name.as_str()).collect();
            let help = format!("use one of {}", names.join(", "));
            UserError::with_help(format!("the spec has no node {name:?}"), help)
        })
    }

    /// How many replicas must confirm a Redis write so that a majority of the nodes has it: the Sentinels promote the
    /// most recent replica of a majority.
    pub fn confirming_replicas(&self) -> usize {
        self.majority() - 1
    }

    /// The number of nodes in a majority.
    pub fn majority(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    /// Every node but `name`, in the spec's order.
    pub fn peers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().filter(move |n| n.name != name)
    }

    /// A hash of the value, by which two nodes see whether they have the same spec. Comments and the order of keys do
    /// not change it; a key that a newer version adds does, even with its default.
    pub fn hash(&self) -> String {
        use sha2::{Digest, Sha256};
        let canonical = serde_json::to_vec(self).unwrap_or_default();
        hex::encode(Sha256::digest(canonical))
    }
}
