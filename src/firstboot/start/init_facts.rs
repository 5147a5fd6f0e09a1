//! What [`hanode_core::gate::InitGuard`] needs to know about an interrupted initialization of PostgreSQL, and what it
//! decides.

use crate::host::process;
use crate::node::NodeContext;
use anyhow::{Result, ensure};
use hanode_cluster::client::etcd::EtcdClient;
use hanode_cluster::discovery::{initialize_key, leader_key, member_key, members_prefix};
use hanode_core::gate::InitFacts;
use nix::sys::signal::Signal;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For a leftover server to stop; it has no clients.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What etcd shows about the initialization.
pub(crate) fn init_facts(node: &NodeContext) -> Result<InitFacts> {
    let (etcd, scope) = (node.etcd_with_quorum()?, &node.spec().name);
    let Some(revision) = empty_initialize_key(&etcd, scope)? else { return Ok(InitFacts::default()) };
    let leader = etcd.get(&leader_key(scope))?.is_some();
    let members = etcd.list(&members_prefix(scope))?;
    let own = member_key(scope, node.name());
    Ok(InitFacts {
        revision: Some(revision),
        any_works: leader || members.iter().any(works),
        another_works: leader || members.iter().any(|member| member.0 != own && works(member)),
    })
}

/// Whether a Patroni initializes or runs PostgreSQL: those that only wait for a leader report `stopped`.
fn works((_, member): &(String, Vec<u8>)) -> bool {
    let status: serde_json::Value = serde_json::from_slice(member).unwrap_or_default();
    status["state"] != "stopped"
}

/// The revision of the empty key, which tells it from the key of a later initialization.
fn empty_initialize_key(etcd: &EtcdClient, scope: &str) -> Result<Option<String>> {
    let found = etcd.get_with_revision(&initialize_key(scope))?;
    Ok(found.filter(|(value, _)| value.is_empty()).map(|(_, revision)| revision))
}

pub(super) fn delete_initialize_key(node: &NodeContext, revision: &str) -> Result<()> {
    tracing::warn!("PostgreSQL's initialization was interrupted; it starts again");
    node.etcd_with_quorum()?.delete_if(&initialize_key(&node.spec().name), revision).map(drop)
}

/// Stops a server that outlived its Patroni during the initialization; it never had clients.
pub(super) fn stop_leftover_server(node: &NodeContext) -> Result<()> {
    let data = node.at(node.target().path("postgres_data")?);
    let start = Instant::now();
    while let Some(server) = process::postgres_server(&data) {
        ensure!(start.elapsed() < STOP_TIMEOUT, "PostgreSQL (process {server}) does not stop");
        process::signal(server, Signal::SIGQUIT);
        sleep(Duration::from_millis(200));
    }
    Ok(())
}
