//! What this node observes: its own disk, its peers, etcd and the Sentinels.

use super::effects::Executor;
use crate::disk;
use crate::haproxy_view;
use crate::host::clock;
use crate::host::machine::Machine;
use crate::node::NodeContext;
use crate::selinux;
use crate::state::NodeState;
use crate::watch::{declared_sql, findings, storage};
use anyhow::{Context, Result};
use hanode_cluster::discovery;
use hanode_core::gate::{self, Service};
use hanode_core::peer::{self, NodeReport};
use hanode_core::plan::{Action, Observations, Peer};
use hanode_core::spec::Node;
use hanode_core::state::{Phase, Problem, ProblemKind};

pub(crate) fn observe(node: &NodeContext) -> Result<Observations> {
    let servers: Vec<_> = node.spec().nodes.iter().collect();
    Ok(discovery::discover(node.access(), own_report(node)?, &servers))
}

/// The observations without any query: every peer counts as unreachable.
pub(crate) fn local_observations(node: &NodeContext) -> Result<Observations> {
    let peer = |peer: &Node| Peer { name: peer.name.clone(), report: Err("not queried yet".into()) };
    Ok(Observations::of_peers(own_report(node)?, node.peers().map(peer).collect()))
}

/// Observes before an action: if etcd has a higher generation of this node than the disk, its data is marked
/// as stale.
pub(crate) fn observe_and_mark_stale(node: &NodeContext) -> Result<Observations> {
    let mut seen = observe(node)?;
    if let Some(stale) = gate::mark_stale(&seen) {
        Executor::new(node, Service::Etcd).perform_all(&[stale], Action::Wait)?;
        seen.own = own_report(node)?;
    }
    Ok(seen)
}

/// This node's report, for its own plan and for its peers.
pub(crate) fn own_report(node: &NodeContext) -> Result<NodeReport> {
    let (config, disk) = (&node.config, &node.disk);
    let recorded = disk.read_state()?;
    let data = disk.valid_data()?;
    let state = NodeState::load(node.root());
    let haproxy = haproxy_view::last_view(node);
    Ok(NodeReport {
        schema: peer::SCHEMA,
        cluster: config.spec.name.clone(),
        node: node.name().into(),
        bundle_generation: config.bundle.metadata.generation,
        spec_hash: config.spec.hash(),
        install_id: disk.install_id()?.context("this disk has no install-id yet")?,
        disk: disk::classify(data, &recorded),
        data,
        postgres: if data.postgres { disk.postgres_data() } else { None },
        postgres_major: config.postgres_major,
        redis_unreadable: data.redis && disk.redis_is_unreadable(),
        postgres_init: recorded.postgres_init,
        bootstrap_id: recorded.bootstrap_id,
        restore_key: disk.restore_key()?,
        restore: recorded.restore,
        bootstrapping: disk.bootstrapping(),
        etcd_member: recorded.etcd_member,
        etcd_log: if data.etcd { disk.etcd_log() } else { None },
        generation: recorded.generation,
        recovery_source: recorded.recovery_source,
        phase: state.phase,
        clock_ms: Some(clock::unix_ms()),
        holds_vip: Machine::read()?.has_address(config.spec.network.vip),
        image: config.image.clone(),
        moved_aside: disk.moved_aside()?,
        moved_aside_omitted: 0,
        file_systems: storage::add_faults(node.root(), disk::space::last_measured(disk)),
        haproxy_down: haproxy.as_ref().map(|view| view.down.clone()),
        haproxy_maintenance: haproxy.map(|view| view.maintenance).unwrap_or_default(),
        selinux: selinux::state(node.root()),
        backup: crate::backup::last_report(node),
        sql_drift: declared_sql::last_drift(node),
        problems: problems(state),
        findings: findings::last_found(node).into_iter().chain(declared_sql::last_slots(node)).collect(),
    })
}

/// Each problem once: the error of a node whose services are unhealthy only repeats their problems.
fn problems(state: NodeState) -> Vec<Problem> {
    let stopped = matches!(state.phase, Phase::Refused | Phase::Failed) || state.problems.is_empty();
    let error = state.error.filter(|_| stopped).map(|error| Problem::new(ProblemKind::Stopped, error.what));
    let waiting = state.waiting_for.into_iter().map(|node| Problem::new(ProblemKind::WaitingFor, node));
    error.into_iter().chain(state.problems).chain(waiting).collect()
}
