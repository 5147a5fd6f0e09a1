//! PostgreSQL's parameters: hanode's, overlaid with the operator's, and parted by where Patroni keeps them.

use super::templates::fill;
use crate::spec::Spec;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use tera::Tera;

/// Those that Patroni takes from etcd only, because all members must agree on them.
const CLUSTER_WIDE: [&str; 12] = [
    "hot_standby",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "track_commit_timestamp",
    "wal_keep_segments",
    "wal_keep_size",
    "wal_level",
    "wal_log_hints",
];

/// The template that lists hanode's own: names and values, in TOML.
const DEFAULTS: &str = "postgres-parameters.toml";

/// What HAProxy leaves free of `max_connections`: for Patroni, and for whoever must get in to repair.
const RESERVED: u32 = 10;

/// Lists, as the engine goes through a map in no particular order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Parameters {
    /// In etcd, the same on every member.
    pub(crate) cluster: Vec<Setting>,
    /// In this node's `config.yml`, sized for this machine.
    pub(crate) local: Vec<Setting>,
    /// How many connections HAProxy lets through to one server.
    pub(crate) client_connections: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Setting {
    pub(crate) name: String,
    pub(crate) value: String,
}

pub(super) fn parameters(spec: &Spec, engine: &Tera, context: &tera::Context) -> Result<Parameters> {
    let text = fill(engine, DEFAULTS, context)?;
    let mut all: BTreeMap<String, String> =
        toml::from_str(&text).with_context(|| format!("template {DEFAULTS}"))?;
    for (name, value) in &spec.postgres.parameters {
        all.insert(name.to_lowercase(), value.clone());
    }
    let max_connections = all.get("max_connections").map(String::as_str).unwrap_or_default();
    let max_connections: u32 = max_connections.parse().with_context(|| {
        format!("postgres.parameters: max_connections = {max_connections:?} is not a number")
    })?;
    let settings = all.into_iter().map(|(name, value)| Setting { name, value });
    let (cluster, local) = settings.partition(|s| CLUSTER_WIDE.contains(&s.name.as_str()));
    let client_connections = max_connections.saturating_sub(RESERVED).max(1);
    Ok(Parameters { cluster, local, client_connections })
}
