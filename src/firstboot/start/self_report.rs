//! What this node knows: its own disk, and what the others say.

use crate::disk::{self, etcd_log, postgres_wal, redis_log};
use crate::node_config::Given;
use crate::state;
use anyhow::{Context, Result};
use hanode_cluster::discovery;
use hanode_core::peer::{self, Answer};
use hanode_core::plan::{Observations, Peer};
use hanode_core::spec::Node;
use hanode_util::file_tree::below;
use std::path::Path;

pub(crate) fn observe(root: &Path, given: &Given, node: &str) -> Result<Observations> {
    let (access, own) = (given.access()?, own_answer(root, given, node)?);
    let servers: Vec<_> = access.spec.nodes.iter().collect();
    Ok(discovery::observe(&access, own, &servers))
}

/// What this node knows before it asks anybody.
pub(crate) fn unasked(root: &Path, given: &Given, node: &str) -> Result<Observations> {
    let peer = |peer: &Node| Peer { name: peer.name.clone(), answer: Err("not asked yet".into()) };
    let peers = given.spec.peers(node).map(peer).collect();
    Ok(Observations::of_peers(own_answer(root, given, node)?, peers))
}

/// Looks in order to act: where etcd knows of later boots of this node, the disk's data is noted as stale first.
pub(crate) fn look(root: &Path, given: &Given, node: &str) -> Result<Observations> {
    let mut seen = observe(root, given, node)?;
    if let Some(boots) = seen.boots_in_etcd.filter(|boots| *boots > seen.own.boots) {
        disk::mark_stale(root, &given.target, boots)?;
        seen.own = own_answer(root, given, node)?;
    }
    Ok(seen)
}

/// What this node says of itself, to its own plan and to its peers alike.
pub(crate) fn own_answer(root: &Path, given: &Given, node: &str) -> Result<Answer> {
    let record = disk::record(root)?;
    let data = disk::data(root, &given.target)?;
    let state = state::load(root);
    let postgres = if data.postgres { postgres_wal::told(root, &given.target)? } else { None };
    let logged = etcd_log::read(&below(root, given.target.path("etcd_data")?)).unwrap_or_default();
    Ok(Answer {
        schema: peer::SCHEMA,
        cluster: given.spec.name.clone(),
        node: node.into(),
        generation: given.bundle.stamp.generation,
        spec_hash: given.spec.hash(),
        install_id: disk::install_id(root)?.context("this disk has no install-id yet")?,
        disk: disk::judge(data, &record),
        data,
        postgres,
        redis_unreadable: data.redis && redis_log::unreadable(root, &given.target)?,
        genesis: record.genesis,
        began: disk::began(root),
        etcd_member: record.etcd_member,
        etcd_log: if data.etcd { logged } else { None },
        boots: record.boots,
        leads: record.leads,
        phase: state.phase.name().into(),
        holds_vip: crate::identity::machine::Machine::read(root)?.holds(given.spec.network.vip),
        image: given.image.clone(),
        kept_aside: disk::kept_aside(root, &given.target)?,
        problems: problems(state.error.map(|error| error.what), state.waiting_for),
    })
}

/// What is wrong, once: an error in service is made of the same sentences.
fn problems(error: Option<String>, waiting_for: Vec<String>) -> Vec<String> {
    let more = error.filter(|error| *error != waiting_for.join("; "));
    more.into_iter().chain(waiting_for).collect()
}
