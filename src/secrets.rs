//! The cluster's passwords: one per role, in `secrets.toml` of the cluster directory and in the bundle.

use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    pub postgres_admin: String,
    pub postgres_dbadmin: String,
    pub replicator: String,
    pub rewind: String,
    pub redis: String,
    pub sentinel: String,
    pub stats: String,
    pub patroni_rest: String,
    pub vrrp: String,
}

/// Passwords never reach a log: not even by way of a debug print.
impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}
