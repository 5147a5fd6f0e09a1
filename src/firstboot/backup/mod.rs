//! Backups of the running cluster: [`watch`] decides on every node whether it makes one now, [`run`] makes it in a unit
//! of its own. The records are in etcd, so that the schedule continues after a failover.

pub(crate) mod pgbackrest;
mod redis;
pub(crate) mod run;
pub(crate) mod watch;

use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_cluster::backup_records::Store;
use hanode_core::backup::{Archive, BackupReport, Running, Server};
use serde::de::DeserializeOwned;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The stanza for PostgreSQL's archive_command. In memory: it is that of the cluster whose etcd answered in this boot.
const STANZA_FILE: &str = "/run/hanode/stanza";
const REPORT_FILE: &str = "/run/hanode/backup.json";
/// Which backup this node makes; it counts only while its unit is active.
const RUNNING_FILE: &str = "/run/hanode/backup-running.json";
/// An older report is not used: the watcher does not run.
const MAX_REPORT_AGE: i64 = 120;
const ETCD_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

fn store(node: &NodeContext) -> Result<Store> {
    Ok(Store::new(node.etcd(node.own(), ETCD_TIMEOUT)?, &node.spec().name))
}

fn parsed<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

/// Records a time of the schedule (hanode-backup-due.service).
pub(crate) fn record_due(node: &NodeContext) -> Result<()> {
    store(node)?.put_scheduled(now()).context("recording in etcd that a backup is due")
}

/// Writes the stanza of this cluster's archive for PostgreSQL's archive_command; removes it if there is none.
fn publish_stanza(node: &NodeContext, archive: Option<&Archive>) -> Result<()> {
    let tree = node.tree()?;
    match archive {
        Some(archive) => {
            Ok(tree.replace(STANZA_FILE, format!("{}\n", archive.stanza).as_bytes(), 0o644, None)?)
        }
        None if tree.exists(STANZA_FILE)? => tree.remove_file(STANZA_FILE).context(STANZA_FILE),
        None => Ok(()),
    }
}

/// Before PostgreSQL starts: Patroni may archive the WAL of a crashed primary before it rewinds its data.
pub(crate) fn prepare_postgres(node: &NodeContext) -> Result<()> {
    let Some(backup) = &node.spec().backup else { return Ok(()) };
    let records = store(node)?.load()?;
    publish_stanza(node, records.archive_in(&backup.repository.to_string()))
}

fn save_report(node: &NodeContext, report: &BackupReport) -> Result<()> {
    Ok(node.tree()?.replace(REPORT_FILE, &serde_json::to_vec(report)?, 0o644, None)?)
}

fn save_running(node: &NodeContext, server: Server) -> Result<()> {
    let running = Running { server, since: now() };
    Ok(node.tree()?.replace(RUNNING_FILE, &serde_json::to_vec(&running)?, 0o644, None)?)
}

fn last_running(node: &NodeContext) -> Option<Running> {
    parsed(&std::fs::read(node.at(RUNNING_FILE)).ok()?)
}

/// This node's last report about backups.
pub(crate) fn last_report(node: &NodeContext) -> Option<BackupReport> {
    let report: BackupReport = parsed(&std::fs::read(node.at(REPORT_FILE)).ok()?)?;
    (now() - report.at <= MAX_REPORT_AGE).then_some(report)
}
