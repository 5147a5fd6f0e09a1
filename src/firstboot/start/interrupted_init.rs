//! An interrupted initialization of PostgreSQL: Patroni marks it by an empty `initialize` key in etcd. If the
//! node that set the key fails, every other Patroni waits without end.

use crate::host::process;
use crate::node::NodeContext;
use anyhow::{Result, ensure};
use hanode_cluster::client::etcd::EtcdClient;
use hanode_cluster::discovery::{initialize_key, leader_key, member_key, members_prefix};
use hanode_core::plan::Observations;
use nix::sys::signal::Signal;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For a leftover server to stop; it has no clients.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct InterruptedInit {
    /// Since when no Patroni has been seen to initialize PostgreSQL.
    abandoned: Option<Instant>,
}

impl InterruptedInit {
    /// Before this node's Patroni starts: its own initialization was interrupted if there is data and the key
    /// is still empty.
    pub(crate) fn before_patroni(&mut self, node: &NodeContext, seen: &Observations) -> Result<()> {
        if !seen.initializing || !seen.own.data.postgres {
            return if seen.own.bootstrapping { Ok(()) } else { self.delete_if_abandoned(node, seen) };
        }
        let (etcd, scope) = (node.etcd_with_quorum()?, &node.spec().name);
        let Some(revision) = empty_initialize_key(&etcd, scope)? else { return Ok(()) };
        let others = another_initializes(&etcd, scope, Some(node.name()))?;
        stop_leftover_server(&node.at(node.target().path("postgres_data")?))?;
        node.disk.move_postgres_aside()?;
        if !others {
            delete_initialize_key(&etcd, scope, &revision)?;
        }
        Ok(())
    }

    /// Deletes the key once no Patroni has worked on it for as long as Patroni's keys live; then one of them
    /// initializes.
    pub(crate) fn delete_if_abandoned(&mut self, node: &NodeContext, seen: &Observations) -> Result<()> {
        if !seen.initializing || seen.own.data.postgres {
            self.abandoned = None;
            return Ok(());
        }
        let (etcd, scope) = (node.etcd_with_quorum()?, &node.spec().name);
        let Some(revision) = empty_initialize_key(&etcd, scope)? else { return Ok(()) };
        if another_initializes(&etcd, scope, None)? {
            self.abandoned = None;
            return Ok(());
        }
        let patroni = &node.spec().patroni;
        let key_lifetime = Duration::from_secs(u64::from(patroni.ttl + patroni.loop_wait));
        match self.abandoned.get_or_insert_with(Instant::now).elapsed() < key_lifetime {
            true => Ok(()),
            false => delete_initialize_key(&etcd, scope, &revision),
        }
    }
}

/// The revision of the empty key, which tells it from the key of a later initialization.
fn empty_initialize_key(etcd: &EtcdClient, scope: &str) -> Result<Option<String>> {
    let found = etcd.get_with_revision(&initialize_key(scope))?;
    Ok(found.filter(|(value, _)| value.is_empty()).map(|(_, revision)| revision))
}

fn delete_initialize_key(etcd: &EtcdClient, scope: &str, revision: &str) -> Result<()> {
    tracing::warn!("PostgreSQL's initialization was interrupted; it starts again");
    etcd.delete_if(&initialize_key(scope), revision).map(drop)
}

/// Whether some Patroni leads or initializes; those that only wait for a leader report `stopped`. `except`: a
/// node whose Patroni does not run, though its key may still exist.
fn another_initializes(etcd: &EtcdClient, scope: &str, except: Option<&str>) -> Result<bool> {
    let own = except.map(|name| member_key(scope, name));
    let busy = |(key, member): &(String, Vec<u8>)| {
        let status: serde_json::Value = serde_json::from_slice(member).unwrap_or_default();
        own.as_ref() != Some(key) && status["state"] != "stopped"
    };
    Ok(etcd.get(&leader_key(scope))?.is_some() || etcd.list(&members_prefix(scope))?.iter().any(busy))
}

/// Stops a server that outlived its Patroni during the initialization; it never had clients.
fn stop_leftover_server(data: &Path) -> Result<()> {
    let start = Instant::now();
    while let Some(server) = process::postgres_server(data) {
        ensure!(start.elapsed() < STOP_TIMEOUT, "PostgreSQL (process {server}) does not stop");
        process::signal(server, Signal::SIGQUIT);
        sleep(Duration::from_millis(200));
    }
    Ok(())
}
