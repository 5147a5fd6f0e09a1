//! Health of the cluster: [`collect`] queries all nodes, [`find_problems`] evaluates the result (pure), [`table`] and
//! [`metrics`] format it. [`local`] checks the services of one node.

mod clock;
mod collect;
mod disk_space;
mod haproxy_view;
pub mod local;
mod metrics;
mod modes;
mod patroni_config;
mod problems;
mod progress;
mod removal;
mod restart;
mod selinux;
mod served_certs;
mod servers;
mod storage;
mod table;
#[cfg(test)]
mod testing;

use crate::client::etcd::KvHash;
use anyhow::Result;
use hanode_core::backup::BackupReport;
use hanode_core::bundle::Bundle;
use hanode_core::peer::{DownServer, FileSystem};
use hanode_core::selinux::SelinuxState;
use hanode_core::spec::Spec;
pub(crate) use hanode_core::state::{Phase, PostgresState, Problem, ProblemKind, RedisRole, Role};
use hanode_util::terminal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

pub use crate::access::Access;
pub use collect::{collect, collect_local};
pub use metrics::{metrics, node_metrics};
pub(crate) use patroni_config::PatroniConfig;
pub(crate) use problems::find_problems;
use problems::warnings;
pub use progress::{progress, shortened};
pub use removal::blockers;
pub use restart::{RestartStep, Restarted, next_restart, restart_blockers};
pub use served_certs::servers_with_old_certificates;
pub use servers::Servers;
pub use table::table;
use table::terminal_width;

pub(crate) const SCHEMA: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub(crate) schema: u32,
    pub healthy: bool,
    pub problems: Vec<Problem>,
    /// Risks that make the cluster no less healthy.
    #[serde(default)]
    pub warnings: Vec<String>,
    pub nodes: Vec<NodeStatus>,
    /// `None` if no Patroni or no etcd answers.
    #[serde(default)]
    pub(crate) patroni: Option<PatroniConfig>,
    pub(crate) redis_primary: RedisPrimary,
    pub vip: VipStatus,
    pub certificates: Vec<CertificateStatus>,
}

impl Status {
    pub fn node(&self, name: &str) -> Option<&NodeStatus> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The nodes that report about backups.
    pub fn backups(&self) -> Vec<(&str, &BackupReport)> {
        self.nodes.iter().filter_map(|node| Some((node.name.as_str(), node.backup.as_ref()?))).collect()
    }

    /// The same status with every text as one printable line: nodes and servers are not trusted with a terminal.
    fn printable(&self) -> Result<Status> {
        let mut value = serde_json::to_value(self)?;
        make_printable(&mut value);
        Ok(serde_json::from_value(value)?)
    }
}

fn make_printable(value: &mut Value) {
    match value {
        Value::String(text) => *text = terminal::line(text),
        Value::Array(values) => values.iter_mut().for_each(make_printable),
        Value::Object(values) => values.values_mut().for_each(make_printable),
        _ => {}
    }
}

/// A node with its servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: String,
    pub(crate) address: IpAddr,
    pub phase: Phase,
    /// `None` if the node is unreachable or older.
    #[serde(default)]
    pub(crate) clock: Option<clock::ClockOffset>,
    pub(crate) bundle_generation: Option<u64>,
    pub(crate) spec_hash: Option<String>,
    pub(crate) image: BTreeMap<String, String>,
    /// Data that did not belong to the cluster. It is no problem, but uses disk space.
    #[serde(default)]
    pub moved_aside: Vec<String>,
    /// How many more there are than in `moved_aside`.
    #[serde(default)]
    pub(crate) moved_aside_omitted: usize,
    /// Empty if the node is unreachable or older.
    #[serde(default)]
    pub file_systems: Vec<FileSystem>,
    /// `None` if the node's kernel has no SELinux, or if the node is unreachable or older.
    #[serde(default)]
    pub selinux: Option<SelinuxState>,
    /// `None` without backups, or if the node is unreachable or older.
    #[serde(default)]
    pub backup: Option<BackupReport>,
    /// How PostgreSQL differs from what the spec declares; empty on other nodes than the leader.
    #[serde(default)]
    pub(crate) sql_drift: Vec<String>,
    /// As the node itself reports them.
    pub(crate) problems: Vec<Problem>,
    /// Those that do not keep it from service.
    #[serde(default)]
    pub(crate) findings: Vec<Problem>,
    #[serde(flatten)]
    pub servers: Servers,
}

impl NodeStatus {
    pub(crate) fn in_service(&self) -> bool {
        self.phase == Phase::InService
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EtcdStatus {
    pub(crate) healthy: bool,
    pub leader: bool,
    pub(crate) version: String,
    pub(crate) db_bytes: u64,
    pub(crate) alarms: usize,
    /// Latest revision of its key space; 0 if it does not respond.
    #[serde(default)]
    pub(crate) revision: i64,
    /// Hash of its key space up to the revision that all members have; `None` for releases that have no such call.
    #[serde(default)]
    pub(crate) kv_hash: Option<KvHash>,
    /// It has no vote.
    #[serde(default)]
    pub(crate) learner: bool,
    /// Why the hash is unknown.
    #[serde(default)]
    pub(crate) hash_error: Option<String>,
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PostgresStatus {
    /// `None` if Patroni does not list the node.
    pub role: Option<Role>,
    pub(crate) state: PostgresState,
    pub(crate) timeline: Option<i64>,
    /// Bytes behind the leader.
    pub(crate) lag: Option<i64>,
    /// The parameters that a restart would change, if Patroni names them; `None` without such a change.
    #[serde(default)]
    pub(crate) awaits_restart: Option<Vec<String>>,
    /// It leads although etcd does not answer its Patroni.
    #[serde(default)]
    pub(crate) failsafe: bool,
    /// Patroni's tags that have an effect; hanode sets none.
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    /// Why the node's Patroni does not answer.
    #[serde(default)]
    pub(crate) error: Option<String>,
}

impl PostgresStatus {
    pub(crate) fn is_streaming(&self) -> bool {
        self.state == PostgresState::Streaming
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RedisStatus {
    /// `None` if it does not respond.
    pub role: Option<RedisRole>,
    /// Whether it is a primary, or connected to one.
    pub(crate) link_up: bool,
    pub(crate) replicas: u32,
    /// Clients that write wait, as after `CLIENT PAUSE`.
    #[serde(default)]
    pub(crate) paused: bool,
    /// It is a replica that no Sentinel promotes.
    #[serde(default)]
    pub(crate) never_promoted: bool,
    pub(crate) error: Option<String>,
}

impl RedisStatus {
    pub fn is_primary(&self) -> bool {
        self.role == Some(RedisRole::Primary)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SentinelStatus {
    /// Settings that differ from hanode's, with both values.
    #[serde(default)]
    pub(crate) changed_settings: Vec<String>,
    /// Why it does not respond or sees no usable quorum.
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HaproxyStatus {
    /// Why it does not answer its health probe.
    pub(crate) error: Option<String>,
    /// The status of its health probe, if it takes no clients.
    #[serde(default)]
    pub(crate) refused: Option<u16>,
    /// The servers that it holds down, by the node's report; `None` if unknown.
    #[serde(default)]
    pub down: Option<Vec<DownServer>>,
    /// Frontends and servers that were set out of service, by the node's report.
    #[serde(default)]
    pub(crate) maintenance: Vec<String>,
}

impl HaproxyStatus {
    /// Whether it takes clients.
    pub(crate) fn answers(&self) -> bool {
        self.error.is_none() && self.refused.is_none()
    }
}

/// The Redis primary by the Sentinels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RedisPrimary {
    /// The primary that a majority reports.
    pub(crate) address: Option<IpAddr>,
    /// The number of Sentinels that report it.
    pub(crate) agree: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VipStatus {
    pub(crate) address: IpAddr,
    pub holders: Vec<String>,
    /// Whether HAProxy responds there, or a load balancer accepts connections, as seen from here.
    pub answers: bool,
    /// Why it does not answer.
    #[serde(default)]
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CertificateStatus {
    pub(crate) name: String,
    /// Seconds since 1970.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) days_left: i64,
}

/// The certificates and revocation lists of a bundle, for [`Access`].
pub fn certificates(bundle: &Bundle) -> Vec<(String, Vec<u8>)> {
    let expires = |path: &str| path.ends_with(".crt") || path.ends_with(".crl");
    let files = bundle.entries.iter().filter(|e| expires(&e.path));
    files.filter_map(|e| Some((e.path.clone(), bundle.file(&e.path)?.to_vec()))).collect()
}

/// The problems of a lab: without different bundles or specs, which is normal during a rolling update, and without disk space,
/// since containers share the host's file system.
pub fn lab_problems(status: &Status) -> Vec<String> {
    let counts = |problem: &&Problem| !(problem.kind.is_config_drift() || problem.kind.is_disk_space());
    status.problems.iter().filter(counts).map(|problem| terminal::line(&problem.to_string())).collect()
}

/// Whether a node can be removed now, and the report as text or JSON. Fails if the spec has no such node.
pub fn removal_report(spec: &Spec, status: &Status, node: &str, json: bool) -> Result<(bool, String)> {
    require_node(spec, node)?;
    let blockers = blockers(spec, status, node);
    let safe_to_remove = blockers.is_empty();
    let report = match (json, safe_to_remove) {
        (true, _) => serde_json::to_string_pretty(&serde_json::json!({
            "schema": 1, "node": node, "safe_to_remove": safe_to_remove, "blockers": blockers,
        }))?,
        (_, true) => format!("{node} can be removed now"),
        _ => terminal::lines(&format!("{node} cannot be removed now:\n  - {}", blockers.join("\n  - "))),
    };
    Ok((safe_to_remove, report))
}

/// Fails if the spec has no such node, which is probably a typing error.
pub fn require_node(spec: &Spec, node: &str) -> Result<()> {
    Ok(spec.require_node(node).map(drop)?)
}

/// Output format of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusFormat {
    Table,
    Json,
    /// The text format of Prometheus.
    Metrics,
}

impl StatusFormat {
    pub fn from_flags(json: bool, metrics: bool) -> StatusFormat {
        match (json, metrics) {
            (_, true) => StatusFormat::Metrics,
            (true, _) => StatusFormat::Json,
            _ => StatusFormat::Table,
        }
    }

    /// The status in this format; the table fits the width of the terminal.
    pub fn render(self, status: &Status) -> anyhow::Result<String> {
        Ok(match self {
            StatusFormat::Table => table(&status.printable()?, terminal_width()),
            StatusFormat::Json => terminal::json(&serde_json::to_string_pretty(status)?) + "\n",
            StatusFormat::Metrics => metrics(&status.printable()?),
        })
    }
}

/// Collects the status and prints it; the exit code is 0 if the cluster is healthy.
pub fn print_status(access: &Access, format: StatusFormat) -> anyhow::Result<ExitCode> {
    let status = collect(access)?;
    print!("{}", format.render(&status)?);
    Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
