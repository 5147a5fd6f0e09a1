//! What this node observes: its own disk, its peers, etcd and the Sentinels.

use crate::disk::{self, etcd_log, postgres_wal, redis_log};
use crate::node_config::NodeConfig;
use crate::state;
use crate::watch::disk_space;
use anyhow::{Context, Result};
use hanode_cluster::discovery;
use hanode_core::peer::{self, NodeReport};
use hanode_core::plan::{Observations, Peer};
use hanode_core::spec::Node;
use hanode_util::file_tree::below;
use std::path::Path;

pub(crate) fn observe(root: &Path, config: &NodeConfig, node: &str) -> Result<Observations> {
    let (access, own) = (config.access()?, own_report(root, config, node)?);
    let servers: Vec<_> = access.spec.nodes.iter().collect();
    Ok(discovery::discover(&access, own, &servers))
}

/// The observations without any query: every peer counts as unreachable.
pub(crate) fn local_observations(root: &Path, config: &NodeConfig, node: &str) -> Result<Observations> {
    let peer = |peer: &Node| Peer { name: peer.name.clone(), report: Err("not queried yet".into()) };
    let peers = config.spec.peers(node).map(peer).collect();
    Ok(Observations::of_peers(own_report(root, config, node)?, peers))
}

/// Observes before an action: if etcd has a higher generation of this node than the disk, its data is marked
/// as stale.
pub(crate) fn observe_and_mark_stale(root: &Path, config: &NodeConfig, node: &str) -> Result<Observations> {
    let mut seen = observe(root, config, node)?;
    if let Some(generation) = seen.generation_in_etcd.filter(|generation| *generation > seen.own.generation) {
        disk::mark_stale(root, &config.target, generation)?;
        seen.own = own_report(root, config, node)?;
    }
    Ok(seen)
}

/// This node's report, for its own plan and for its peers.
pub(crate) fn own_report(root: &Path, config: &NodeConfig, node: &str) -> Result<NodeReport> {
    let recorded = disk::read_state(root)?;
    let data = disk::valid_data(root, &config.target)?;
    let state = state::load(root);
    let postgres = if data.postgres { postgres_wal::read(root, &config.target)? } else { None };
    let etcd_log = etcd_log::read(&below(root, config.target.path("etcd_data")?)).unwrap_or_default();
    Ok(NodeReport {
        schema: peer::SCHEMA,
        cluster: config.spec.name.clone(),
        node: node.into(),
        bundle_generation: config.bundle.metadata.generation,
        spec_hash: config.spec.hash(),
        install_id: disk::install_id(root)?.context("this disk has no install-id yet")?,
        disk: disk::classify(data, &recorded),
        data,
        postgres,
        redis_unreadable: data.redis && redis_log::unreadable(root, &config.target)?,
        bootstrap_id: recorded.bootstrap_id,
        bootstrapping: disk::bootstrapping(root),
        etcd_member: recorded.etcd_member,
        etcd_log: if data.etcd { etcd_log } else { None },
        generation: recorded.generation,
        recovery_source: recorded.recovery_source,
        phase: state.phase.name().into(),
        holds_vip: crate::identity::machine::Machine::read(root)?.has_address(config.spec.network.vip),
        image: config.image.clone(),
        moved_aside: disk::moved_aside(root, &config.target)?,
        file_systems: disk_space::last_measured(root),
        problems: problems(state.error.map(|error| error.what), state.waiting_for),
    })
}

/// Each problem once: the error of a node in service repeats `waiting_for`.
fn problems(error: Option<String>, waiting_for: Vec<String>) -> Vec<String> {
    let other = error.filter(|error| *error != waiting_for.join("; "));
    other.into_iter().chain(waiting_for).collect()
}
