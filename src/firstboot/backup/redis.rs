//! A snapshot of Redis, as Redis sends it to a new replica, in the repository of PostgreSQL's backups.
//!
//! pgBackRest stores it, so one repository, one key and one set of credentials serve both servers.

use super::pgbackrest;
use super::{now, store};
use crate::node::NodeContext;
use anyhow::{Context, Result, ensure};
use hanode_cluster::client::pgbackrest::PgBackRest;
use hanode_core::backup::{Completed, Server, expired_snapshots, redis_due, snapshot_dir, snapshot_path};
use hanode_util::command::capture;
use std::process::Command;
use std::time::Duration;

/// On the data's file system: it is as large as the data.
const FILE: &str = "/var/lib/hanode/redis-snapshot.rdb";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// One node makes the snapshot. If it fails without releasing the lock, another one continues after this time.
const LOCK_TIME: Duration = Duration::from_secs(1800);

/// Whether this node's Redis may be copied: a replica that follows its primary, or a primary that has none.
pub(super) fn is_source(node: &NodeContext) -> Result<bool> {
    let mut redis = node.redis(node.own().address, REQUEST_TIMEOUT)?;
    let info = redis.info("replication")?;
    let is = |key: &str, value: &str| info.get(key).is_some_and(|v| v == value);
    Ok(is("master_link_status", "up") || (is("role", "master") && is("connected_slaves", "0")))
}

/// Makes the snapshot that is due, unless another node makes it.
pub(super) fn back_up(node: &NodeContext, repository: &str) -> Result<()> {
    let Ok(_lock) = store(node)?.lock_redis(node.name(), LOCK_TIME)? else { return Ok(()) };
    let store = store(node)?;
    let records = store.load()?;
    if !redis_due(&records, repository, node.name(), now()) {
        return Ok(());
    }
    let stanza = &records.archive_in(repository).context("there is no archive yet")?.stanza;
    let started = now();
    fetch(node)?;
    let finished = now();
    let tree = node.tree()?;
    let path = snapshot_path(stanza, finished);
    let pgbackrest = pgbackrest::open(node)?;
    let file = std::fs::File::open(node.at(FILE)).context(FILE)?;
    let bytes = file.metadata()?.len();
    let stored = pgbackrest.put(&path, file);
    tree.remove_file(FILE).context(FILE)?;
    stored?;
    let label = path.clone();
    let completed = Completed {
        stanza: stanza.clone(),
        label,
        started,
        finished,
        bytes,
        node: node.name().into(),
        timeline: 0,
        full_started: 0,
    };
    store.put_completed(Server::Redis, &completed)?;
    tracing::info!("Redis: stored {path} ({bytes} bytes) in {repository}");
    expire(&pgbackrest, stanza)
}

/// Fetches a snapshot into [`FILE`] and verifies it.
fn fetch(node: &NodeContext) -> Result<()> {
    let (own, spec) = (node.own(), &node.spec().redis);
    let tree = node.tree()?;
    if tree.exists(FILE)? {
        tree.remove_file(FILE).context(FILE)?;
    }
    // Redis' client would create it readable by everyone.
    drop(tree.create(FILE)?);
    let file = node.at(FILE);
    let mut client = Command::new("redis-cli");
    client.arg("-h").arg(own.address.to_string()).arg("-p").arg(spec.port.to_string());
    if spec.tls {
        client.args(["--tls", "--cacert", "/etc/ssl/myca/root.crt"]);
    }
    let secrets = &node.config.bundle.secrets;
    if secrets.redis_admin.is_some() {
        client.args(["--user", "hanode"]);
    }
    client
        .arg("--rdb")
        .arg(&file)
        .env("REDISCLI_AUTH", secrets.redis_admin.as_ref().unwrap_or(&secrets.redis));
    let output = capture(&mut client)?;
    let last = |text: &str| text.trim().lines().last().unwrap_or_default().to_string();
    ensure!(output.status.success(), "redis-cli --rdb: {}", last(&output.stderr));
    // The client's exit status does not show that the file is complete.
    let check = capture(Command::new("redis-check-rdb").arg(&file))?;
    ensure!(check.status.success(), "redis-check-rdb: {}", last(&check.text_lossy()));
    Ok(())
}

fn expire(pgbackrest: &PgBackRest, stanza: &str) -> Result<()> {
    let backups = pgbackrest.info()?;
    let Some(oldest) = backups.get(stanza).and_then(|part| part.backups.iter().map(|b| b.started).min())
    else {
        return Ok(());
    };
    let dir = snapshot_dir(stanza);
    let names: Vec<String> = pgbackrest.list(&dir)?.into_keys().collect();
    for name in expired_snapshots(&names, oldest) {
        pgbackrest.remove(&format!("{dir}/{name}"))?;
        tracing::info!("Redis: removed the expired snapshot {name}");
    }
    Ok(())
}
