//! PostgreSQL's parameters: hanode's defaults with the operator's overrides, split by where Patroni stores them.

use super::templates::fill;
use crate::spec::Spec;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use tera::Tera;

/// Parameters that Patroni reads from etcd only, because all members must agree on them.
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

/// The template with hanode's defaults, in TOML.
const DEFAULTS: &str = "postgres-parameters.toml";

/// The connections of `max_connections` that HAProxy leaves free, for Patroni and for repairs.
const RESERVED: u32 = 10;

/// Lists, because the template engine iterates over a map in no particular order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Parameters {
    /// In etcd, the same on every member.
    pub(crate) cluster: Vec<Setting>,
    /// In this node's `config.yml`, sized for this machine.
    pub(crate) local: Vec<Setting>,
    /// The maximum of HAProxy's connections to one server.
    pub(crate) client_connections: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Setting {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// hanode's own settings of a server: a template in TOML, name to value.
pub(super) fn defaults(
    template: &str,
    engine: &Tera,
    context: &tera::Context,
) -> Result<BTreeMap<String, String>> {
    let text = fill(engine, template, context)?;
    toml::from_str(&text).with_context(|| format!("template {template}"))
}

pub(super) fn parameters(spec: &Spec, engine: &Tera, context: &tera::Context) -> Result<Parameters> {
    let mut all = defaults(DEFAULTS, engine, context)?;
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
