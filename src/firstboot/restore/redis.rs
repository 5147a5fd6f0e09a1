//! Loads a snapshot of Redis before its first start.
//!
//! Redis reads an append-only file that is a snapshot in every version; 7 and later move it into their own directory.

use super::{publish, record};
use crate::backup::pgbackrest;
use crate::node::NodeContext;
use crate::selinux;
use anyhow::{Context, Result, ensure};
use hanode_cluster::client::pgbackrest::PgBackRest;
use hanode_cluster::repository;
use hanode_core::plan::Reason;
use hanode_core::restore::{RedisRestored, RedisSnapshot};
use hanode_util::command::capture;
use hanode_util::file_tree::Ids;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

const RETRY_INTERVAL: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const FILE: &str = "appendonly.aof";
const UNFINISHED: &str = "hanode-snapshot.part";
const COMPLETE: &str = "hanode-snapshot.rdb";

/// Returns why Redis cannot be restored.
pub(crate) fn load(node: &NodeContext) -> Result<Option<Reason>> {
    match restore(node) {
        Ok(()) => Ok(None),
        Err(error) => {
            sleep(RETRY_INTERVAL);
            let error = format!("the snapshot of Redis cannot be loaded: {error:#}");
            Ok(Some(Reason::SnapshotNotLoaded { error }))
        }
    }
}

/// The snapshot gets its name as Redis' data last. Once a replica has it, too, it is not fetched again, so that it never
/// replaces data that Redis has accepted since; before that no other node has any data.
fn restore(node: &NodeContext) -> Result<()> {
    let record = record(node)?.context("etcd has no record of the restore")?;
    match &record.redis {
        None => {
            let reached = record.postgres.as_ref().context("PostgreSQL has not been restored yet")?.reached;
            let (part, pgbackrest) = (&record.choice.part, pgbackrest::open(node)?);
            let chosen = repository::snapshot(&pgbackrest, part, &record.choice.request.moment, reached)?;
            match &chosen.snapshot {
                Some(snapshot) => {
                    fetch(node, &pgbackrest, snapshot)?;
                    tracing::info!("Redis starts with {}", snapshot.path);
                }
                None => {
                    tracing::warn!(
                        "{part} has no snapshot of Redis from before that moment: Redis starts empty"
                    )
                }
            }
            node.fail_point("snapshot-fetched");
            publish(node, "redis", &chosen)?;
            node.fail_point("snapshot-recorded");
        }
        Some(RedisRestored { snapshot: Some(snapshot) })
            if !record.redis_replicated && !is_fetched(node)? =>
        {
            fetch(node, &pgbackrest::open(node)?, snapshot)?;
            tracing::warn!("Redis starts with {} again, since no node has its data", snapshot.path);
        }
        // One that was fetched before would replace what clients have done since.
        Some(_) if record.redis_replicated => return discard(node),
        Some(_) => {}
    }
    install(node)
}

fn discard(node: &NodeContext) -> Result<()> {
    let complete = format!("{}/{COMPLETE}", node.target().path("redis_data")?);
    match node.tree()?.remove_file(&complete) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(complete),
        _ => Ok(()),
    }
}

fn is_fetched(node: &NodeContext) -> Result<bool> {
    Ok(node.tree()?.exists(format!("{}/{COMPLETE}", node.target().path("redis_data")?))?)
}

/// Whether this node's Redis is a primary with a replica that has all its data.
pub(super) fn is_replicated(node: &NodeContext) -> Result<bool> {
    let info = node.redis(node.own().address, REQUEST_TIMEOUT)?.info("replication")?;
    let online =
        |(key, value): (&String, &String)| key.starts_with("slave") && value.contains("state=online");
    Ok(info.get("role").is_some_and(|role| role == "master") && info.iter().any(online))
}

/// Fetches the snapshot into [`COMPLETE`] and verifies it.
fn fetch(node: &NodeContext, pgbackrest: &PgBackRest, snapshot: &RedisSnapshot) -> Result<()> {
    let (tree, data) = (node.tree()?, node.target().path("redis_data")?);
    let unfinished = format!("{data}/{UNFINISHED}");
    if tree.exists(&unfinished)? {
        tree.remove_file(&unfinished).context(UNFINISHED)?;
    }
    let file = tree.create(&unfinished)?;
    pgbackrest.fetch(&snapshot.path, file.try_clone()?).with_context(|| snapshot.path.clone())?;
    let user = node.target().users.get("redis").context("the target has no user for Redis")?;
    let ids = Ids::read(node.root())?;
    std::os::unix::fs::fchown(&file, Some(ids.uid(user)?), Some(ids.gid(user)?))?;
    file.sync_all().with_context(|| unfinished.clone())?;
    let check = capture(Command::new("redis-check-rdb").arg(node.at(&unfinished)))?;
    let output = check.text_lossy();
    let last = output.trim().lines().last().unwrap_or_default();
    ensure!(check.status.success(), "redis-check-rdb {}: {last}", snapshot.path);
    tree.rename(&unfinished, COMPLETE).context(COMPLETE)
}

/// Gives a complete snapshot its name as Redis' data.
fn install(node: &NodeContext) -> Result<()> {
    let (tree, data) = (node.tree()?, node.target().path("redis_data")?);
    let complete = format!("{data}/{COMPLETE}");
    if !tree.exists(&complete)? {
        return Ok(());
    }
    // Of an earlier start without any data; Redis would read it instead.
    if tree.exists(format!("{data}/appendonlydir"))? {
        node.disk.move_redis_aside()?;
    }
    tree.rename(&complete, FILE).context(FILE)?;
    selinux::restore(node.root(), &[format!("{data}/{FILE}")])
}
