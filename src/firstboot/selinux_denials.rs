//! Denials of SELinux in the journal that concern hanode or its servers, for this node's report.
//!
//! A thread reads the journal; the report reads the result from a file in memory.

use crate::host::clock::{recent_age_ms, uptime_ms};
use crate::selinux;
use anyhow::{Result, ensure};
use hanode_core::selinux::{Denial, denials};
use hanode_util::command::capture;
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::thread::{sleep, spawn};
use std::time::Duration;

const READ_INTERVAL: Duration = Duration::from_secs(60);
const FILE: &str = "/run/hanode/selinux.json";
/// Older denials are not reported: the watcher does not run.
const MAX_FILE_AGE_MS: u64 = 180_000;

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// By the clock that counts since boot.
    saved_ms: u64,
    denials: Vec<Denial>,
}

/// Starts a thread that reads the journal until the process ends, if the kernel has SELinux.
pub(crate) fn start(root: &Path) {
    if !selinux::is_active(root) {
        return;
    }
    let root = root.to_path_buf();
    spawn(move || {
        loop {
            if let Err(error) = read_journal().and_then(|journal| save(&root, of_journal(&journal))) {
                tracing::warn!("cannot read SELinux' denials: {error:#}");
            }
            sleep(READ_INTERVAL);
        }
    });
}

/// Not limited to this boot: the unit does not see /proc/sys, where the id of the boot is. The kernel logs a denial to the
/// audit, or as its own message if nothing receives the audit.
fn read_journal() -> Result<String> {
    let mut journalctl = Command::new("journalctl");
    journalctl.args(["--quiet", "--since=-1h", "--lines=2000", "--output=json"]);
    journalctl.arg("--output-fields=MESSAGE,_AUDIT_ID");
    journalctl.args(["_AUDIT_TYPE=1400", "_AUDIT_TYPE=1107", "+", "_TRANSPORT=kernel"]);
    let output = capture(&mut journalctl)?;
    ensure!(output.status.success(), "journalctl: {}", output.stderr.trim());
    Ok(output.text_lossy())
}

#[derive(Deserialize)]
struct Record {
    /// Not a string if it is not UTF-8.
    #[serde(rename = "MESSAGE")]
    message: serde_json::Value,
    #[serde(rename = "_AUDIT_ID")]
    audit_id: Option<String>,
}

fn of_journal(journal: &str) -> Vec<Denial> {
    let records: Vec<Record> = journal.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut seen = BTreeSet::new();
    let is_new = |record: &&Record| audit_id(record).is_none_or(|id| seen.insert(id));
    denials(records.iter().filter(is_new).filter_map(|record| record.message.as_str()))
}

/// The audit and the kernel's own message have the same number.
fn audit_id(record: &Record) -> Option<String> {
    let of_kernel = || record.message.as_str()?.split_once(" audit(")?.1.split([':', ')']).nth(1);
    record.audit_id.clone().or_else(|| of_kernel().map(String::from))
}

fn save(root: &Path, denials: Vec<Denial>) -> Result<()> {
    let saved = Saved { saved_ms: uptime_ms(), denials };
    Ok(SafeTree::open(root)?.replace(FILE, &serde_json::to_vec(&saved)?, 0o644, None)?)
}

/// The denials for this node's report; none if the watcher does not run.
pub(crate) fn last_read(root: &Path) -> Vec<Denial> {
    read(root, uptime_ms()).unwrap_or_default()
}

fn read(root: &Path, now_ms: u64) -> Result<Vec<Denial>> {
    let saved: Saved = serde_json::from_slice(&std::fs::read(below(root, FILE))?)?;
    recent_age_ms(saved.saved_ms, now_ms, MAX_FILE_AGE_MS)?;
    Ok(saved.denials)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_in_both_logs_counts_once() {
        let denial = "avc:  denied  { node_bind } for  pid=7 comm=\"keepalived\" scontext=u:r:keepalived_t:s0 \
            tcontext=u:r:node_t:s0 tclass=rawip_socket permissive=0";
        let record = |message: String, id: Option<&str>| {
            serde_json::json!({"MESSAGE": message, "_AUDIT_ID": id, "__CURSOR": "x"}).to_string()
        };
        let kernel = |id: u32| format!("audit: type=1400 audit(1700000000.123:{id}): {denial}");
        let journal = [
            record(kernel(45), None),
            record(format!("AVC {denial}"), Some("45")),
            record(kernel(46), None),
            "{\"MESSAGE\":[1,2]}".to_string(),
            "not JSON".to_string(),
        ];
        let found = of_journal(&journal.join("\n"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].count, 2);
    }

    #[test]
    fn old_denials_are_not_reported() {
        let root = tempfile::tempdir().unwrap();
        let denial = Denial::parse(
            "avc: denied { read } for scontext=u:r:redis_t:s0 tcontext=u:r:etc_t:s0 tclass=file",
        );
        save(root.path(), vec![denial.unwrap()]).unwrap();
        let now = uptime_ms();
        assert_eq!(read(root.path(), now).unwrap().len(), 1);
        assert!(read(root.path(), now + MAX_FILE_AGE_MS + 1000).is_err());
    }
}
