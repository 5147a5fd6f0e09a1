//! Decides on every node, every few seconds, whether it makes a backup now, and what it reports about backups.

use super::{last_running, now, publish_stanza, redis, save_report, store};
use crate::host::systemd::Systemd;
use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_cluster::backup_records::Store;
use hanode_cluster::client::http::HttpClient;
use hanode_core::backup::{ArchiveQueue, BackupReport, Failed, Leader, Records, postgres_due, redis_due};
use hanode_core::spec::Backup;
use hanode_util::safe_path::SafeTree;
use std::fs::DirEntry;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const INTERVAL: Duration = Duration::from_secs(10);
/// In seconds, between two records of a failure that lasts.
const FAILURE_INTERVAL: i64 = 60;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const UNIT: &str = "hanode-backup.service";
const TIMER: &str = "hanode-backup.timer";
/// The time of this file is that of the last segment that was dropped.
const DROPPED: &str = "/var/spool/pgbackrest/dropped";
const SPOOL: &str = "/var/spool/pgbackrest/archive";
const MAX_ERROR: usize = 300;
/// In bytes; a larger file is not one of pgBackRest's.
const MAX_ERROR_FILE: u64 = 64 << 10;

/// Starts the timer with the current schedule, or stops it.
pub(crate) fn start_timer(node: &NodeContext) -> Result<()> {
    let systemd = Systemd::connect()?;
    match node.spec().backup {
        Some(_) => systemd.restart_redefined(TIMER),
        None => systemd.stop(&[TIMER]),
    }
}

/// Runs until the process ends.
pub(crate) fn watch(node: &NodeContext) {
    let Some(backup) = &node.spec().backup else { return };
    let mut last_error = String::new();
    loop {
        if let Err(error) = round(node, backup) {
            let error = format!("{error:#}");
            if error != last_error {
                tracing::info!("backups cannot be checked now: {error}");
            }
            last_error = error;
        }
        sleep(INTERVAL);
    }
}

fn round(node: &NodeContext, backup: &Backup) -> Result<()> {
    let (repository, name) = (backup.repository.to_string(), node.name());
    let store = store(node)?;
    let records = store.load()?;
    publish_stanza(node, records.archive_in(&repository))?;
    let leader = leader(node)?;
    let stanza = records.archive_in(&repository).map(|archive| archive.stanza.clone());
    let systemd = Systemd::connect()?;
    let idle =
        systemd.states(&[UNIT])?.iter().all(|unit| matches!(unit.state.as_str(), "inactive" | "failed"));
    let queue = match &leader {
        Some(leader) => Some(queue(node, stanza.as_deref(), leader.dropped)?),
        None => None,
    };
    if let Some(error) = queue.as_ref().and_then(|queue| queue.error.clone()).filter(|_| stanza.is_some()) {
        record_failure(&store, &records, Failed { at: now(), node: name.into(), error })?;
    }
    let report = BackupReport {
        repository: repository.clone(),
        records: records.clone(),
        queue,
        awaits_restart: leader.as_ref().is_some_and(|leader| leader.awaits_restart),
        running: if idle { None } else { last_running(node) },
        restore: crate::restore::record(node)?,
        at: now(),
    };
    save_report(node, &report)?;
    let postgres = leader.is_some_and(|l| postgres_due(&records, &repository, &l.of(name), now()).is_some());
    // Redis is queried only if a snapshot is due.
    let is_due = postgres || (redis_due(&records, &repository, name, now()) && redis::is_source(node)?);
    if is_due && idle {
        systemd.start(UNIT)?;
    }
    Ok(())
}

/// Records that WAL cannot be archived, at most once a minute while it lasts.
fn record_failure(store: &Store, records: &Records, failed: Failed) -> Result<()> {
    let recorded = records.archive_failed.as_ref().is_some_and(|last| failed.at - last.at < FAILURE_INTERVAL);
    if recorded { Ok(()) } else { store.put_archive_failed(&failed) }
}

/// This node as PostgreSQL's leader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaderState {
    timeline: i64,
    dropped: Option<i64>,
    awaits_restart: bool,
}

impl LeaderState {
    pub(super) fn of<'a>(&self, node: &'a str) -> Leader<'a> {
        Leader { node, timeline: self.timeline, dropped: self.dropped }
    }
}

/// `None` if this node is not PostgreSQL's leader.
pub(crate) fn leader(node: &NodeContext) -> Result<Option<LeaderState>> {
    let port = node.spec().patroni.restapi_port;
    let url = format!("https://{}/patroni", SocketAddr::new(node.own().address, port));
    let body = HttpClient::new(Some(&node.access().cluster), REQUEST_TIMEOUT)?.get(&url)?.body;
    let leads = matches!(body["role"].as_str(), Some("primary" | "master")) && body["state"] == "running";
    if !leads {
        return Ok(None);
    }
    Ok(Some(LeaderState {
        timeline: body["timeline"].as_i64().context("Patroni reports no timeline")?,
        dropped: modified(&node.at(DROPPED)),
        awaits_restart: body["pending_restart"].as_bool().unwrap_or_default(),
    }))
}

fn modified(path: &Path) -> Option<i64> {
    let modified = std::fs::metadata(path).and_then(|m| m.modified()).ok()?;
    Some(modified.duration_since(UNIX_EPOCH).ok()?.as_secs() as i64)
}

/// The segments that wait, by PostgreSQL's own marks.
fn queue(node: &NodeContext, stanza: Option<&str>, dropped: Option<i64>) -> Result<ArchiveQueue> {
    let marks = node.at(node.target().path("postgres_data")?).join("pg_wal/archive_status");
    let (mut segments, mut oldest) = (0, None::<SystemTime>);
    for entry in std::fs::read_dir(&marks).with_context(|| marks.display().to_string())? {
        let entry = entry?;
        if entry.path().extension().is_none_or(|extension| extension != "ready") {
            continue;
        }
        // It is renamed once the segment is archived.
        let Ok(at) = entry.metadata().and_then(|m| m.modified()) else { continue };
        segments += 1;
        oldest = Some(oldest.map_or(at, |oldest| oldest.min(at)));
    }
    let oldest = oldest.and_then(|at| Some(at.duration_since(UNIX_EPOCH).ok()?.as_secs() as i64));
    let error = match stanza {
        Some(stanza) => spooled_error(&node.tree()?, &format!("{SPOOL}/{stanza}/out"))?,
        None => Some("the repository has no archive of this cluster yet".into()),
    };
    Ok(ArchiveQueue { segments, oldest, error, dropped })
}

/// The error that pgBackRest's asynchronous process recorded: its code in the first line, then the message.
///
/// The directory belongs to PostgreSQL's user, so links and other special files are not read.
fn spooled_error(tree: &SafeTree, dir: &str) -> Result<Option<String>> {
    if !tree.exists(dir)? {
        return Ok(None);
    }
    let handle = tree.open_dir(dir)?;
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", handle.as_raw_fd()))?.flatten();
    let is_error = |entry: &DirEntry| {
        let small = entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_ERROR_FILE);
        small && entry.path().extension().is_some_and(|extension| extension == "error")
    };
    let errors = entries.filter(is_error).filter_map(|entry| entry.file_name().into_string().ok());
    let Some(first) = errors.min() else { return Ok(None) };
    let text = tree.read(format!("{dir}/{first}"))?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().skip(1).map(str::trim).collect::<Vec<_>>().join(" ");
    Ok(Some(line.chars().filter(|c| !c.is_control()).take(MAX_ERROR).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_the_first_segment_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let error = || spooled_error(&SafeTree::open(dir.path()).unwrap(), "/out").unwrap();
        assert_eq!(error(), None);
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        for (name, text) in [
            ("2.error", "45\nlater"),
            ("1.error", "103\nunable to find a valid repository:\nrepo1: x"),
            ("0.ok", ""),
        ] {
            std::fs::write(out.join(name), text).unwrap();
        }
        std::fs::write(dir.path().join("secret"), "1\nsecret").unwrap();
        std::os::unix::fs::symlink("../secret", out.join("0.error")).unwrap();
        assert_eq!(error().as_deref(), Some("unable to find a valid repository: repo1: x"));
    }
}
