//! Health: what the whole cluster looks like from here, and what is wrong with it.
//!
//! [`collect`] asks, [`find_problems`] finds fault (pure), [`table`] and [`metrics`] show; [`local`] is one node's view of
//! itself.

mod collect;
pub mod local;
mod metrics;
mod problems;
mod removal;
mod replication;
mod served_certs;
mod table;
#[cfg(test)]
mod testing;

use crate::client::etcd::KvHash;
use crate::client::tls::Credentials;
use anyhow::{Result, ensure};
use hanode_core::bundle::Bundle;
use hanode_core::secrets::Secrets;
use hanode_core::spec::Spec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

pub use collect::{collect, collect_local};
pub use metrics::{metrics, node_metrics};
pub(crate) use problems::{config_drift, find_problems};
pub use removal::blockers;
pub use served_certs::servers_with_old_certificates;
pub use table::{table, terminal_width};

pub(crate) const SCHEMA: u32 = 1;

/// What it takes to ask the nodes, from the desk or from one of them.
pub struct Access {
    pub spec: Spec,
    pub secrets: Secrets,
    /// Under the cluster CA: the operator's leaf or a node's.
    pub cluster: Credentials,
    /// `None` where the spec turns TLS off for Redis.
    pub redis: Option<Credentials>,
    /// Name and PEM text of the certificates and revocation lists in the bundle.
    pub certificates: Vec<(String, Vec<u8>)>,
    pub bundle_generation: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub(crate) schema: u32,
    pub healthy: bool,
    pub problems: Vec<String>,
    pub nodes: Vec<NodeStatus>,
    pub etcd: Vec<EtcdStatus>,
    pub postgres: Vec<PostgresStatus>,
    pub redis: Vec<RedisStatus>,
    pub sentinel: SentinelStatus,
    pub vip: VipStatus,
    pub certificates: Vec<CertificateStatus>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: String,
    pub(crate) address: IpAddr,
    /// The service's phase, or `unreachable`.
    pub(crate) phase: String,
    pub(crate) bundle_generation: Option<u64>,
    pub(crate) spec_hash: Option<String>,
    pub(crate) image: BTreeMap<String, String>,
    /// Whether HAProxy answers its health probe.
    pub(crate) haproxy: bool,
    /// Data that did not fit the cluster's, kept for somebody to look at. No problem, but disk space.
    #[serde(default)]
    pub moved_aside: Vec<String>,
    pub(crate) problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EtcdStatus {
    pub name: String,
    pub(crate) healthy: bool,
    pub leader: bool,
    pub(crate) version: String,
    pub(crate) db_bytes: u64,
    pub(crate) alarms: usize,
    /// How far its data goes; 0 if it does not answer.
    #[serde(default)]
    pub(crate) revision: i64,
    /// What it holds up to the revision that all members have; not known of older releases.
    #[serde(default)]
    pub(crate) kv_hash: Option<KvHash>,
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PostgresStatus {
    pub name: String,
    /// `leader`, `sync_standby`, `replica` …; empty where Patroni does not know the node.
    pub role: String,
    pub(crate) state: String,
    pub(crate) timeline: Option<i64>,
    /// Bytes behind the leader.
    pub(crate) lag: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RedisStatus {
    pub name: String,
    /// `master` or `slave`, as Redis says it.
    pub role: String,
    pub(crate) link_up: bool,
    pub(crate) replicas: u32,
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SentinelStatus {
    /// Whom a majority names.
    pub(crate) primary: Option<IpAddr>,
    /// How many name it.
    pub(crate) agree: usize,
    /// Nodes whose Sentinel does not see a usable quorum, with its words.
    pub(crate) faults: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VipStatus {
    pub(crate) address: IpAddr,
    pub holders: Vec<String>,
    /// Whether HAProxy answers there, or a load balancer takes connections, as seen from here.
    pub answers: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CertificateStatus {
    pub(crate) name: String,
    /// Seconds since 1970.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) days_left: i64,
}

/// The certificates and revocation lists that a bundle holds, for [`Access`].
pub fn certificates(bundle: &Bundle) -> Vec<(String, Vec<u8>)> {
    let judged = |path: &str| path.ends_with(".crt") || path.ends_with(".crl");
    let files = bundle.entries.iter().filter(|e| judged(&e.path));
    files.filter_map(|e| Some((e.path.clone(), bundle.file(&e.path)?.to_vec()))).collect()
}

/// What is wrong apart from nodes that run another build than this directory's.
pub fn problems_except_drift(access: &Access, status: &Status) -> Vec<String> {
    let config_drift = config_drift(&access.spec, access.bundle_generation, status);
    status.problems.iter().filter(|p| !config_drift.contains(p)).cloned().collect()
}

/// Says in a sentence each, or as JSON, whether a node may be taken away now.
pub fn removal_report(spec: &Spec, status: &Status, node: &str, json: bool) -> Result<(bool, String)> {
    require_node(spec, node)?;
    let found = blockers(spec, status, node);
    let may = found.is_empty();
    let words = match (json, may) {
        (true, _) => serde_json::to_string_pretty(&serde_json::json!({
            "schema": 1, "node": node, "safe_to_remove": may, "blockers": found,
        }))?,
        (_, true) => format!("{node} may be taken away now"),
        _ => format!("{node} must stay for now:\n  - {}", found.join("\n  - ")),
    };
    Ok((may, words))
}

/// A node that the spec does not have is a slip of the pen, and said to be one.
pub fn require_node(spec: &Spec, node: &str) -> Result<()> {
    let names: Vec<&str> = spec.nodes.iter().map(|n| n.name.as_str()).collect();
    ensure!(names.contains(&node), "the spec has no node {node:?}; there are: {}", names.join(", "));
    Ok(())
}

/// How a status is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Table,
    Json,
    /// In Prometheus' text format.
    Metrics,
}

impl Format {
    pub fn from_flags(json: bool, metrics: bool) -> Format {
        match (json, metrics) {
            (_, true) => Format::Metrics,
            (true, _) => Format::Json,
            _ => Format::Table,
        }
    }

    pub fn render(self, status: &Status) -> anyhow::Result<String> {
        Ok(match self {
            Format::Table => table(status, terminal_width()),
            Format::Json => serde_json::to_string_pretty(status)? + "\n",
            Format::Metrics => metrics(status),
        })
    }
}

/// Collects, prints, and says by the exit code whether all is well.
pub fn print_status(access: &Access, format: Format) -> anyhow::Result<ExitCode> {
    let status = collect(access)?;
    print!("{}", format.render(&status)?);
    Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
