//! hanode-backup.service: makes the backups that are due on this node.

use super::pgbackrest;
use super::watch::leader;
use super::{now, publish_stanza, redis, save_running, store};
use crate::node::NodeContext;
use anyhow::{Context, Result, ensure};
use hanode_cluster::backup_records::Store;
use hanode_core::backup::{
    Archive, BackupKind, Completed, Failed, Leader, Records, Server, postgres_due, redis_due,
};
use hanode_core::spec::Repository;
use hanode_util::user_error::UserError;
use std::os::unix::fs::MetadataExt;

pub(crate) fn run(node: &NodeContext) -> Result<()> {
    let Some(backup) = &node.spec().backup else { return Ok(()) };
    let (repository, name) = (backup.repository.to_string(), node.name());
    let store = store(node)?;
    let mut errors = Vec::new();

    if let Some(state) = leader(node)? {
        let (records, leader) = (store.load()?, state.of(name));
        if let Some(kind) = postgres_due(&records, &repository, &leader, now()) {
            let result = save_running(node, Server::Postgres)
                .and_then(|()| check_mount(node, &backup.repository))
                .and_then(|()| back_up_postgres(node, &records, &leader, kind, &repository));
            errors.extend(recorded(&store, Server::Postgres, name, result)?);
        }
    }
    if redis_due(&store.load()?, &repository, name, now()) && redis::is_source(node)? {
        let result = save_running(node, Server::Redis)
            .and_then(|()| check_mount(node, &backup.repository))
            .and_then(|()| redis::back_up(node, &repository));
        errors.extend(recorded(&store, Server::Redis, name, result)?);
    }
    match errors.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Records a failure in etcd, and returns it.
fn recorded(store: &Store, server: Server, node: &str, result: Result<()>) -> Result<Option<anyhow::Error>> {
    let Err(error) = result else { return Ok(None) };
    let failed = Failed { at: now(), node: node.into(), error: format!("{error:#}") };
    store.put_failed(server, &failed)?;
    Ok(Some(error.context(format!("backup of {}", server.name()))))
}

/// A repository on a file system must be mounted: otherwise a backup would fill the disk that it is made of.
fn check_mount(node: &NodeContext, repository: &Repository) -> Result<()> {
    let Repository::File { path } = repository else { return Ok(()) };
    let device = |path: &str| std::fs::metadata(node.at(path)).map(|m| m.dev());
    let mounted = match (device(path), device("/"), device(disk_of_data())) {
        (Ok(there), Ok(system), data) => there != system && data.map_or(true, |data| there != data),
        _ => false,
    };
    let what = || format!("{path} is not a mounted file system of its own");
    ensure!(mounted, UserError::with_help(what(), "mount the repository there on every node"));
    Ok(())
}

/// On the data volume, if there is one.
fn disk_of_data() -> &'static str {
    "/var/lib/hanode"
}

fn back_up_postgres(
    node: &NodeContext,
    records: &Records,
    leader: &Leader,
    kind: BackupKind,
    repository: &str,
) -> Result<()> {
    let store = store(node)?;
    let archive = match records.archive_in(repository) {
        Some(archive) => archive.clone(),
        None => {
            let stanza = Archive::stanza_name(&node.spec().name, now());
            Archive { stanza, repository: repository.into() }
        }
    };
    let stanza = &archive.stanza;
    pgbackrest::create_stanza(node, stanza)?;
    if records.archive_in(repository).is_none() {
        store.put_archive(&archive, records.archive.is_some())?;
        tracing::info!("created the archive {stanza} in {repository}");
    }
    ensure!(
        store.load()?.archive.as_ref() == Some(&archive),
        "another node has created an archive at the same moment; this backup is repeated there"
    );
    publish_stanza(node, Some(&archive))?;
    pgbackrest::back_up(node, stanza, if kind == BackupKind::Full { "full" } else { "diff" })?;

    let backups = pgbackrest::open(node)?.info()?;
    let backups = backups.get(stanza).map(|part| part.backups.as_slice()).unwrap_or_default();
    let last = backups.last().context("the repository does not list the backup that was just made")?;
    let full = backups.iter().rev().find(|backup| backup.full);
    let completed = Completed {
        stanza: stanza.clone(),
        label: last.label.clone(),
        started: last.started,
        finished: last.finished,
        bytes: last.bytes,
        node: leader.node.into(),
        timeline: leader.timeline,
        full_started: full.map_or(last.started, |full| full.started),
    };
    store.put_completed(Server::Postgres, &completed)?;
    // Recorded all the same: a repetition would read the same pages.
    ensure!(
        !last.damaged,
        "backup {} has pages with a wrong checksum: see journalctl -u hanode-backup, and check the disk of {}",
        last.label,
        leader.node
    );
    tracing::info!("PostgreSQL: backup {} is complete ({} bytes) in {repository}", last.label, last.bytes);
    Ok(())
}
