//! Backups of the running cluster: [`watch`] decides on every node whether it makes one now, [`run`] makes it in a unit
//! of its own. The records are in etcd, so that the schedule continues after a failover.

pub(crate) mod pgbackrest;
mod redis;
pub(crate) mod run;
pub(crate) mod watch;

use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_cluster::client::etcd::EtcdClient;
use hanode_core::backup::{Archive, BackupReport, Completed, Failed, Records, Server};
use serde::de::DeserializeOwned;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The stanza for PostgreSQL's archive_command. In memory: it is that of the cluster whose etcd answered in this boot.
const STANZA_FILE: &str = "/run/hanode/stanza";
const REPORT_FILE: &str = "/run/hanode/backup.json";
/// An older report is not used: the watcher does not run.
const MAX_REPORT_AGE: i64 = 120;
const ETCD_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// The records in etcd.
struct Store {
    etcd: EtcdClient,
    prefix: String,
}

impl Store {
    fn open(node: &NodeContext) -> Result<Store> {
        let etcd = node.etcd(node.own(), ETCD_TIMEOUT)?;
        Ok(Store { etcd, prefix: format!("/hanode/{}/backup/", node.spec().name) })
    }

    /// A record that cannot be read counts as missing: another version may have written it.
    fn load(&self) -> Result<Records> {
        let mut records = Records::default();
        for (key, value) in self.etcd.list(&self.prefix)? {
            match key.strip_prefix(&self.prefix).unwrap_or_default() {
                "archive" => records.archive = parsed(&value),
                "due" => records.due = parsed(&value),
                name => {
                    for server in Server::ALL {
                        if name == server.key() {
                            records.completed.extend(parsed(&value).map(|c: Completed| (server, c)));
                        } else if name == failed_key(server) {
                            records.failed.extend(parsed(&value).map(|f: Failed| (server, f)));
                        }
                    }
                }
            }
        }
        Ok(records)
    }

    fn put(&self, name: &str, value: &impl serde::Serialize) -> Result<()> {
        self.etcd.put(&format!("{}{name}", self.prefix), &serde_json::to_vec(value)?)
    }

    fn put_due(&self, at: i64) -> Result<()> {
        self.put("due", &at)
    }

    /// Another node may have created an archive at the same moment: the first one counts.
    fn put_archive(&self, archive: &Archive, replace: bool) -> Result<()> {
        if !replace {
            return self
                .etcd
                .create(&format!("{}archive", self.prefix), &serde_json::to_vec(archive)?)
                .map(drop);
        }
        self.put("archive", archive)
    }

    fn put_completed(&self, server: Server, completed: &Completed) -> Result<()> {
        self.put(server.key(), completed)
    }

    fn put_failed(&self, server: Server, failed: &Failed) -> Result<()> {
        self.put(&failed_key(server), failed)
    }
}

fn failed_key(server: Server) -> String {
    format!("{}-failed", server.key())
}

fn parsed<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

/// Records a time of the schedule (hanode-backup-due.service).
pub(crate) fn record_due(node: &NodeContext) -> Result<()> {
    Store::open(node)?.put_due(now()).context("recording in etcd that a backup is due")
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
    let records = Store::open(node)?.load()?;
    publish_stanza(node, records.archive_in(&backup.repository.to_string()))
}

fn save_report(node: &NodeContext, report: &BackupReport) -> Result<()> {
    Ok(node.tree()?.replace(REPORT_FILE, &serde_json::to_vec(report)?, 0o644, None)?)
}

/// This node's last report about backups.
pub(crate) fn last_report(node: &NodeContext) -> Option<BackupReport> {
    let report: BackupReport = parsed(&std::fs::read(node.at(REPORT_FILE)).ok()?)?;
    (now() - report.at <= MAX_REPORT_AGE).then_some(report)
}
