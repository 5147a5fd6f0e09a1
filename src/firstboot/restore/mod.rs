//! The restore with which a cluster begins: one node looks up in the repository what is restored and records it in etcd.
//! Patroni restores PostgreSQL with the scripts that [`prepare_postgres`] configures, then [`redis`] loads a snapshot.

pub(crate) mod redis;

use crate::backup::now;
use crate::backup::pgbackrest;
use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_cluster::discovery::{restore_prefix, restore_record};
use hanode_cluster::repository::Found;
use hanode_core::plan::Reason;
use hanode_core::restore::{PostgresRestored, RestoreChoice, RestoreRecord, RestoreRequest};
use hanode_core::state::Component;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

const ETCD_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to read a repository.
const REPOSITORY_INTERVAL: Duration = Duration::from_secs(5);
/// Between two attempts to restore: each may fetch the whole backup.
const ATTEMPT_INTERVAL: Duration = Duration::from_secs(60);
/// Of the scripts of the last attempt.
const LOG: &str = "/run/pgbackrest/restore.log";
const LOG_TAIL: usize = 64 << 10;
const MAX_ERROR: usize = 300;
/// In the data directory, so that every copy has it.
const RESULT_FILE: &str = "hanode-restored";

fn key(node: &NodeContext, name: &str) -> String {
    format!("{}{name}", restore_prefix(&node.spec().name))
}

pub(crate) fn record(node: &NodeContext) -> Result<Option<RestoreRecord>> {
    restore_record(&node.etcd(node.own(), ETCD_TIMEOUT)?, &node.spec().name)
}

/// Records a step of the restore in etcd; the first record of it counts.
fn publish(node: &NodeContext, name: &str, value: &impl Serialize) -> Result<()> {
    let etcd = node.etcd(node.own(), ETCD_TIMEOUT)?;
    etcd.create(&key(node, name), &serde_json::to_vec(value)?).map(drop)
}

/// Looks up what is restored and records it; returns why that is impossible.
pub(crate) fn choose(node: &NodeContext, request: &RestoreRequest) -> Result<Option<Reason>> {
    match in_repository(node, request) {
        Ok(choice) => {
            publish(node, "choice", &choice)?;
            node.fail_point("restore-chosen");
            tracing::info!("restoring {request}: {}, backup {}", choice.part, choice.backup);
            Ok(None)
        }
        Err(error) => {
            sleep(REPOSITORY_INTERVAL);
            Ok(Some(Reason::NotRestorable { error: format!("{request} cannot be restored: {error:#}") }))
        }
    }
}

fn in_repository(node: &NodeContext, request: &RestoreRequest) -> Result<RestoreChoice> {
    Ok(Found::look_up(&pgbackrest::repository(node)?, request)?.choose(request, now())?)
}

/// Why the last attempt failed, for some time after it.
pub(crate) fn pause_after_failure(node: &NodeContext) -> Result<Option<Reason>> {
    // A restore that was successful has removed the marker.
    let marker = node.disk.clone_marker();
    if let Ok(started) = std::fs::metadata(&marker).and_then(|meta| meta.modified())
        && let Some(failure) = failure_since(node, started)?
        && failure.at.elapsed().is_ok_and(|ago| ago < ATTEMPT_INTERVAL)
    {
        return Ok(Some(Reason::RestoreFailed { error: failure.error }));
    }
    Ok(None)
}

/// Configures Patroni to restore the data if it initializes the cluster.
pub(crate) fn prepare_postgres(node: &NodeContext, choice: &RestoreChoice) -> Result<()> {
    node.disk.update_state(|disk| disk.restore_choice = Some(choice.clone()))?;
    node.apply_component(Component::Patroni)
}

struct Failure {
    at: SystemTime,
    error: String,
}

/// Why the attempt that started then has failed; `None` if its machine was switched off.
fn failure_since(node: &NodeContext, started: SystemTime) -> Result<Option<Failure>> {
    let newest = |dir: &Path| -> Option<PathBuf> {
        let files = std::fs::read_dir(dir).ok()?.flatten().filter(|entry| entry.path().is_file());
        files.max_by_key(|entry| entry.metadata().and_then(|meta| meta.modified()).ok()).map(|e| e.path())
    };
    let server_log = newest(&node.at(node.target().path("postgres_log")?));
    let in_file = |path: PathBuf, mark: &str| {
        let at = std::fs::metadata(&path).ok()?.modified().ok().filter(|at| *at >= started)?;
        let text = std::fs::read(&path).ok()?;
        let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL)..]).into_owned();
        let line = tail.lines().rev().find_map(|line| line.split_once(mark))?.1;
        let error = line.chars().filter(|c| !c.is_control()).take(MAX_ERROR).collect::<String>();
        Some(Failure { at, error: error.trim().to_string() })
    };
    let scripts = in_file(node.at(LOG), "ERROR: ");
    Ok(scripts.or_else(|| in_file(server_log?, "FATAL: ")))
}

/// Records in etcd where PostgreSQL's recovery ended, once this node has its data, and that a replica has the data of this
/// node's Redis. Runs until both are recorded.
pub(crate) fn watch(node: &NodeContext) {
    loop {
        match publish_result(node) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!("the end of the restore cannot be recorded yet: {error:#}"),
        }
        sleep(Duration::from_secs(1));
    }
}

/// Returns whether nothing is left to record.
fn publish_result(node: &NodeContext) -> Result<bool> {
    let disk = node.disk.read_state()?;
    if disk.restore.is_none() {
        // A replaced disk gets the restore and this mark when it joins.
        return Ok(disk.served);
    }
    let Some(record) = record(node)? else { return Ok(false) };
    if record.postgres.is_none() {
        return publish_postgres(node).map(|()| false);
    }
    if record.redis.is_some() && !record.redis_replicated && redis::is_replicated(node)? {
        publish(node, "redis-replicated", &true)?;
        return Ok(true);
    }
    Ok(record.redis_replicated)
}

fn publish_postgres(node: &NodeContext) -> Result<()> {
    // The script writes the result before it removes the marker.
    if node.disk.clone_is_incomplete() {
        return Ok(());
    }
    let path = format!("{}/{RESULT_FILE}", node.target().path("postgres_data")?);
    let tree = node.tree()?;
    if !tree.exists(&path)? {
        return Ok(());
    }
    let result: PostgresRestored = serde_json::from_slice(&tree.read(&path)?).context(path)?;
    publish(node, "postgres", &result)?;
    tracing::info!("PostgreSQL is restored to {}", result.lsn);
    Ok(())
}
