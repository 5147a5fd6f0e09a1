//! The records about backups in etcd: written by the nodes, read by them and by the admin machine.

use crate::client::etcd::{EtcdClient, EtcdLock};
use anyhow::Result;
use hanode_core::backup::{Archive, Completed, Failed, Records, Server};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The records of one cluster.
pub struct Store {
    etcd: EtcdClient,
    prefix: String,
}

impl Store {
    pub fn new(etcd: EtcdClient, cluster: &str) -> Store {
        Store { etcd, prefix: format!("/hanode/{cluster}/backup/") }
    }

    /// A record that cannot be read counts as missing: another version may have written it.
    pub fn load(&self) -> Result<Records> {
        let mut records = Records::default();
        for (key, value) in self.etcd.list(&self.prefix)? {
            match key.strip_prefix(&self.prefix).unwrap_or_default() {
                "archive" => records.archive = parsed(&value),
                "due" => records.due = parsed(&value),
                "previous-due" => records.previous_due = parsed(&value),
                "archive-failed" => records.archive_failed = parsed(&value),
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

    /// Held by the node that makes the snapshot of Redis; the inner error is its name.
    pub fn lock_redis(self, node: &str, time: Duration) -> Result<Result<EtcdLock, String>> {
        let key = format!("{}redis-lock", self.prefix);
        self.etcd.lock(&key, node, time)
    }

    pub fn put_due(&self, at: i64) -> Result<()> {
        self.put("due", &at)
    }

    /// Records a time of the schedule. Each node does.
    pub fn put_scheduled(&self, at: i64) -> Result<()> {
        if let Some(previous) = self.load()?.due_before(at) {
            self.put("previous-due", &previous)?;
        }
        self.put_due(at)
    }

    pub fn put_archive_failed(&self, failed: &Failed) -> Result<()> {
        self.put("archive-failed", failed)
    }

    /// Another node may have created an archive at the same moment: the first one counts.
    pub fn put_archive(&self, archive: &Archive, replace: bool) -> Result<()> {
        if !replace {
            return self
                .etcd
                .create(&format!("{}archive", self.prefix), &serde_json::to_vec(archive)?)
                .map(drop);
        }
        self.put("archive", archive)
    }

    pub fn put_completed(&self, server: Server, completed: &Completed) -> Result<()> {
        self.put(server.key(), completed)
    }

    pub fn put_failed(&self, server: Server, failed: &Failed) -> Result<()> {
        self.put(&failed_key(server), failed)
    }
}

fn failed_key(server: Server) -> String {
    format!("{}-failed", server.key())
}

fn parsed<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}
