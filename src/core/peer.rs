//! The report that each node serves to its peers on the join port; the plan is made from these reports.

mod limit;

use crate::backup::BackupReport;
use crate::restore::RestoreRequest;
use crate::selinux::{self, SelinuxState};
use crate::spec::Spec;
use crate::state::{Component, Phase, Problem};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub use limit::{MAX_REPORT, pack};

pub const SCHEMA: u32 = 1;

/// The port in the image's socket unit; for a different `network.join_port` a drop-in is rendered.
pub const PORT: u16 = 7081;

/// How far a node's disk has come in the life of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskStage {
    /// No service has data here.
    Blank,
    /// Some service has data, but the disk never served clients: an interrupted bootstrap or foreign data.
    Data,
    /// A service that accepts clients' data was started on this disk at least once.
    Served,
}

/// Which services have data on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskData {
    pub etcd: bool,
    pub postgres: bool,
    pub redis: bool,
    /// Whether a `sentinel.conf` with a Sentinel id exists.
    pub sentinel: bool,
}

/// The ids at the start of an etcd write-ahead log, in decimal as etcd's API prints them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EtcdLogIds {
    pub member: String,
    pub cluster: String,
}

/// Which PostgreSQL cluster the data on a disk belongs to, and where its WAL ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PostgresData {
    /// PostgreSQL's system identifier, the same on all copies.
    pub system: String,
    /// Timeline and LSN at which the WAL on this disk ends; read only when a decision needs it.
    pub end: Option<(u32, u64)>,
    /// Where the oldest WAL on this disk starts; `None` in the report of an older node.
    #[serde(default)]
    pub oldest_wal: Option<u64>,
    /// The major version that made the data; `None` in the report of an older node.
    #[serde(default)]
    pub major: Option<u32>,
}

/// One file system that holds a part of the system or a service's data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// The topmost directory on it, such as `/`.
    pub mount: String,
    /// What is on it: `system`, `etcd`, `PostgreSQL`, `Redis`, `logs`.
    #[serde(default)]
    pub holds: Vec<String>,
    pub size_bytes: u64,
    pub used_bytes: u64,
    /// Available to an ordinary user, without the blocks that are reserved for root.
    pub free_bytes: u64,
    /// 0 if the file system does not limit its inodes.
    #[serde(default)]
    pub inodes: u64,
    #[serde(default)]
    pub inodes_free: u64,
    /// Growth of the used bytes that lasts; `None` until there is enough history.
    #[serde(default)]
    pub growth_bytes_per_hour: Option<i64>,
    /// Age of the values; it grows while the storage does not answer.
    #[serde(default)]
    pub age_seconds: u64,
    /// Since a small write last reached the storage; 0 if this file system is not probed.
    #[serde(default)]
    pub write_age_seconds: u64,
    #[serde(default)]
    pub fault: Option<StorageFault>,
    /// The node has stopped servers because of the fault.
    #[serde(default)]
    pub roles_released: bool,
    /// Then the servers that run on, since no other node could take over.
    #[serde(default)]
    pub kept: Vec<Component>,
}

/// Why a file system cannot hold the data of a server in service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageFault {
    /// Full or nearly so: the servers' next write fails.
    Full,
    /// Small writes take seconds.
    Slow,
    /// Writes do not complete.
    Hangs,
    /// Reads or writes fail.
    Errors,
    ReadOnly,
    /// A fault that only a newer release knows.
    #[serde(other)]
    Unknown,
}

impl StorageFault {
    /// What the file system does, after its name.
    pub fn describe(self) -> &'static str {
        match self {
            StorageFault::Full => "is full",
            StorageFault::Slow => "takes seconds for each write",
            StorageFault::Hangs => "does not complete writes",
            StorageFault::Errors => "fails to read or write",
            StorageFault::ReadOnly => "is read-only",
            StorageFault::Unknown => "has a fault",
        }
    }
}

/// A server that a node's HAProxy holds down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownServer {
    pub backend: String,
    pub node: String,
    /// Since it went down.
    pub seconds: u64,
    /// HAProxy's result of the last check, such as `L4CON`.
    pub check: String,
}

/// Upper bound on untrusted input; a node has one or two.
const MAX_FILE_SYSTEMS: usize = 8;
/// Upper bound on untrusted input; a node rarely has one.
const MAX_FINDINGS: usize = 32;

/// One node's report; untrusted, since any machine may answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    pub schema: u32,
    pub cluster: String,
    pub node: String,
    pub bundle_generation: u64,
    pub spec_hash: String,
    /// Random, one for each disk.
    pub install_id: String,
    pub disk: DiskStage,
    pub data: DiskData,
    #[serde(default)]
    pub postgres: Option<PostgresData>,
    /// The major version of PostgreSQL in the image; `None` if unknown.
    #[serde(default)]
    pub postgres_major: Option<u32>,
    /// Redis has data here and failed to load it.
    #[serde(default)]
    pub redis_unreadable: bool,
    /// The etcd cluster for which Patroni first started without data here, until that cluster has registered the data
    /// that Patroni made.
    #[serde(default)]
    pub postgres_init: Option<String>,
    /// The bootstrap recorded on this disk.
    #[serde(default)]
    pub bootstrap_id: Option<String>,
    /// What this machine's metadata request: the cluster begins with a restore.
    #[serde(default)]
    pub restore_key: Option<RestoreRequest>,
    /// The restore with which the cluster of this disk began, recorded with its bootstrap.
    #[serde(default)]
    pub restore: Option<RestoreRequest>,
    /// Whether this boot has started services for that bootstrap.
    #[serde(default)]
    pub bootstrapping: bool,
    /// The etcd member id that this disk last had in a cluster with a quorum.
    #[serde(default)]
    pub etcd_member: Option<String>,
    /// The ids in the etcd log itself.
    #[serde(default)]
    pub etcd_log: Option<EtcdLogIds>,
    /// The disk's generation: grows by one at each boot and each 30 s in service.
    #[serde(default)]
    pub generation: u64,
    /// The operator chose this disk with `hanode recover`: its data becomes the cluster's. Reset once it is in service.
    #[serde(default)]
    pub recovery_source: bool,
    pub phase: Phase,
    /// The node's clock when it made this report, in milliseconds since 1970; `None` in the report of an older node.
    #[serde(default)]
    pub clock_ms: Option<i64>,
    #[serde(default)]
    pub holds_vip: bool,
    /// Which image this node runs: target, versions, build.
    #[serde(default)]
    pub image: BTreeMap<String, String>,
    /// Data that did not fit the cluster's and was moved aside, for the operator to inspect.
    #[serde(default)]
    pub moved_aside: Vec<String>,
    /// How many more there are than in `moved_aside`.
    #[serde(default)]
    pub moved_aside_omitted: usize,
    /// Empty in the report of an older node, and while the watcher does not run.
    #[serde(default)]
    pub file_systems: Vec<FileSystem>,
    /// `None` in the report of an older node, and while the watcher or HAProxy does not run.
    #[serde(default)]
    pub haproxy_down: Option<Vec<DownServer>>,
    /// Frontends, and servers as `BACKEND/NODE`, that a command set out of service in this node's HAProxy.
    #[serde(default)]
    pub haproxy_maintenance: Vec<String>,
    /// `None` if the kernel has no SELinux, and in the report of an older node.
    #[serde(default)]
    pub selinux: Option<SelinuxState>,
    /// `None` without `[backup]`, in the report of an older node, and while the watcher does not run.
    #[serde(default)]
    pub backup: Option<BackupReport>,
    /// How PostgreSQL differs from what the spec declares; empty on other nodes than the leader.
    #[serde(default)]
    pub sql_drift: Vec<String>,
    /// Problems that this node found with its own services.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// Problems that do not keep the node from service. Empty in the report of an older node.
    #[serde(default)]
    pub findings: Vec<Problem>,
}

impl NodeReport {
    /// The member that wrote the etcd log: from the log itself, or the recorded one if the log cannot be read.
    pub(crate) fn etcd_log_member(&self) -> Option<&String> {
        self.etcd_log.as_ref().map(|log| &log.member).or(self.etcd_member.as_ref())
    }

    /// The report of a node on the first boot of a blank disk.
    pub fn blank(spec: &Spec, node: &str, bundle_generation: u64, install_id: &str) -> NodeReport {
        NodeReport {
            schema: SCHEMA,
            cluster: spec.name.clone(),
            node: node.into(),
            bundle_generation,
            spec_hash: spec.hash(),
            install_id: install_id.into(),
            disk: DiskStage::Blank,
            data: DiskData::default(),
            postgres: None,
            postgres_major: None,
            redis_unreadable: false,
            postgres_init: None,
            bootstrap_id: None,
            restore_key: None,
            restore: None,
            bootstrapping: false,
            etcd_member: None,
            etcd_log: None,
            generation: 1,
            recovery_source: false,
            phase: Phase::default(),
            clock_ms: None,
            holds_vip: false,
            image: BTreeMap::new(),
            moved_aside: Vec::new(),
            moved_aside_omitted: 0,
            file_systems: Vec::new(),
            haproxy_down: None,
            haproxy_maintenance: Vec::new(),
            selinux: None,
            backup: None,
            sql_drift: Vec::new(),
            problems: Vec::new(),
            findings: Vec::new(),
        }
    }
}

/// Parses an answer of the join port. The content is untrusted: only its form and schema are checked here.
pub fn parse(text: &[u8]) -> Result<NodeReport> {
    let mut report: NodeReport =
        serde_json::from_slice(text).context("the answer of the join port cannot be parsed")?;
    ensure!(
        report.schema == SCHEMA,
        "the answer of the join port has schema {}, this program supports {SCHEMA}",
        report.schema
    );
    limit_file_systems(&mut report.file_systems);
    report.findings.truncate(MAX_FINDINGS);
    if let Some(selinux) = &mut report.selinux {
        selinux::limit(&mut selinux.denials);
    }
    Ok(report)
}

/// Each mount point once: it is a label of metrics, which must not repeat.
pub fn limit_file_systems(file_systems: &mut Vec<FileSystem>) {
    let mut seen = BTreeSet::new();
    file_systems.retain(|file_system| seen.insert(file_system.mount.clone()));
    file_systems.truncate(MAX_FILE_SYSTEMS);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(change: impl Fn(&mut serde_json::Value)) -> Result<NodeReport> {
        let spec = crate::spec::parse(crate::spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let mut value = serde_json::to_value(NodeReport::blank(&spec, "node1", 1, "id")).expect("JSON");
        change(&mut value);
        parse(value.to_string().as_bytes())
    }

    #[test]
    fn the_report_of_an_older_node_has_no_file_systems() {
        let report = parsed(|value| {
            value.as_object_mut().expect("an object").remove("file_systems");
        });
        assert_eq!(report.expect("a report").file_systems, []);
    }

    #[test]
    fn file_systems_are_limited_in_number_and_have_distinct_mount_points() {
        let report = parsed(|value| {
            let file_system = |i: usize| {
                let mount = format!("/{}", i / 2);
                serde_json::json!({"mount": mount, "size_bytes": 1, "used_bytes": 1, "free_bytes": u64::MAX})
            };
            value["file_systems"] = (0..100).map(file_system).collect();
        });
        let mounts: Vec<_> = report.expect("a report").file_systems.into_iter().map(|f| f.mount).collect();
        assert_eq!(mounts, ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7"]);
    }
}
