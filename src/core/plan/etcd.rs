//! etcd: resume with the log on this disk, join a quorum that answers, or bootstrap once all nodes agree.

use super::{Action, EtcdStep, Observations, Step};
use crate::etcd::Member;
use crate::peer::{DiskStage, NodeReport};
use crate::spec::{ETCD_PEER_PORT, Node, Spec};
use sha2::{Digest, Sha256};

pub fn peer_url(node: &Node) -> String {
    crate::etcd::url(node.address, ETCD_PEER_PORT)
}

/// The hash of all disks' install ids: nodes that see the same disks compute the same bootstrap id.
pub fn bootstrap_id<'a>(install_ids: impl Iterator<Item = &'a str>) -> String {
    let mut ids: Vec<&str> = install_ids.collect();
    ids.sort_unstable();
    hex::encode(Sha256::digest(ids.join("\n")))[..32].to_string()
}

/// How a node without a log joins a cluster that has a quorum.
#[derive(Debug, Clone, PartialEq)]
pub enum JoinMethod {
    /// The quorum lists it as never started: use that entry.
    TakeListed,
    /// The quorum lists it as this member, whose disk is lost: remove exactly this member, then add.
    Replace(String),
    /// The quorum does not list it: add.
    Add,
}

/// Identifies the member by its peer URL: a static bootstrap gives a name to members that never started.
pub fn join_method(members: &[Member], url: &str) -> JoinMethod {
    match members.iter().find(|m| m.peer_urls.iter().any(|u| u == url)) {
        None => JoinMethod::Add,
        Some(member) if member.client_urls.is_empty() => JoinMethod::TakeListed,
        Some(member) => JoinMethod::Replace(member.id.clone()),
    }
}

impl EtcdStep {
    /// A step whose initial cluster is all nodes of the spec.
    pub(super) fn with_spec_members(spec: &Spec, step: Step, bootstrap_id: Option<&str>) -> EtcdStep {
        let state = if step.action == Action::Bootstrap { "new" } else { "existing" };
        EtcdStep {
            step,
            initial_state: state.into(),
            initial_cluster: spec.nodes.iter().map(|n| format!("{}={}", n.name, peer_url(n))).collect(),
            token: format!("{}-{}", spec.name, bootstrap_id.unwrap_or("unknown")),
            record: None,
            look_for_duplicate: false,
        }
    }
}

pub(super) fn decide(spec: &Spec, node: &str, seen: &Observations) -> EtcdStep {
    let own = &seen.own;
    let bootstrap = own.bootstrap_id.as_deref();
    let step =
        |action, reason: String| EtcdStep::with_spec_members(spec, Step::new(action, reason), bootstrap);
    if own.bootstrapping && !own.data.etcd {
        return step(Action::Bootstrap, "all nodes agreed on this bootstrap, and it is in progress".into());
    }
    let ahead = ahead(seen).filter(|_| own.disk != DiskStage::Served);
    let exists = own.bootstrapping
        || own.disk == DiskStage::Served
        || own.etcd_member.is_some()
        || cluster_served(seen);
    if seen.has_log(own) && (exists || ahead.is_some()) {
        return match seen.etcd.as_ref().and_then(|members| outdated(spec, node, members, seen)) {
            Some(reason) => step(Action::Join, reason),
            None if exists => step(Action::Resume, "this disk has the log of this etcd member".into()),
            None => {
                step(Action::Bootstrap, "a peer is in the bootstrap that wrote the log on this disk".into())
            }
        };
    }
    if let Some(members) = &seen.etcd {
        return join_quorum(spec, node, members, own);
    }
    if let Some(peer) = ahead {
        return match mismatch(own, peer) {
            Some(reason) => step(Action::Refuse, reason),
            None => step(
                Action::Bootstrap,
                format!("{} is already in the bootstrap recorded on this disk", peer.node),
            ),
        };
    }
    match seen.all_peers() {
        None => step(Action::Wait, format!("no etcd quorum answers, and {}", seen.unreachable_reasons())),
        Some(peers) => with_all_nodes(spec, seen, &peers),
    }
}

/// Peers with the bootstrap that is recorded on this disk.
fn of_this_bootstrap(seen: &Observations) -> impl Iterator<Item = &NodeReport> {
    seen.reports().filter(|peer| peer.bootstrap_id.is_some() && peer.bootstrap_id == seen.own.bootstrap_id)
}

/// Whether the cluster of the log on this disk has served clients: its quorum may need this log.
fn cluster_served(seen: &Observations) -> bool {
    let cluster = |node: &NodeReport| node.etcd_log.as_ref().map(|log| log.cluster.clone());
    let same = |peer: &&NodeReport| cluster(peer).is_some() && cluster(peer) == cluster(&seen.own);
    of_this_bootstrap(seen).chain(seen.reports().filter(same)).any(|peer| peer.disk == DiskStage::Served)
}

/// A peer that has started the bootstrap recorded on this disk. It has seen the record on all disks, so a disk that
/// was lost since then does not count.
fn ahead(seen: &Observations) -> Option<&NodeReport> {
    of_this_bootstrap(seen).find(|peer| peer.bootstrapping)
}

/// A quorum answers: the cluster exists, and this node can only join it.
fn join_quorum(spec: &Spec, node: &str, members: &[Member], own: &NodeReport) -> EtcdStep {
    let bootstrap = own.bootstrap_id.as_deref();
    let reason = match spec.node(node).map(|n| join_method(members, &peer_url(n))) {
        Some(JoinMethod::TakeListed) => {
            "etcd has a quorum, which lists this node as never started".to_string()
        }
        Some(JoinMethod::Replace(id)) => {
            format!(
                "etcd has a quorum, which lists this node as member {id}; this disk lacks that member's data"
            )
        }
        Some(JoinMethod::Add) | None => "etcd has a quorum, which does not list this node".to_string(),
    };
    EtcdStep::with_spec_members(spec, Step::new(Action::Join, reason), bootstrap)
}

/// Why the quorum's view makes the log on this disk obsolete. Such a disk counts as lost.
fn outdated(spec: &Spec, node: &str, members: &[Member], seen: &Observations) -> Option<String> {
    let own = &seen.own;
    if let Some(generation) = seen.generation_in_etcd.filter(|known| *known > own.generation) {
        return Some(format!(
            "etcd has generation {generation} of this node, this disk has {}: it is an older snapshot",
            own.generation
        ));
    }
    let listed = spec.node(node).and_then(|n| members.iter().find(|m| m.peer_urls.contains(&peer_url(n))));
    match (listed, own.etcd_log_member()) {
        (None, _) => {
            Some("etcd has a quorum, which no longer lists the member whose log is on this disk".into())
        }
        (Some(member), Some(id)) if member.id != *id => Some(format!(
            "etcd has a quorum, which lists this node as member {}; the log on this disk belongs to member {id}",
            member.id
        )),
        _ => None,
    }
}

/// No quorum, but every node answers: the only case in which a new cluster may be bootstrapped.
fn with_all_nodes(spec: &Spec, seen: &Observations, peers: &[&NodeReport]) -> EtcdStep {
    let own = &seen.own;
    let agreed = bootstrap_id(peers.iter().map(|p| p.install_id.as_str()).chain([own.install_id.as_str()]));
    let step =
        |action, reason: String| EtcdStep::with_spec_members(spec, Step::new(action, reason), Some(&agreed));
    if let Some(reason) = peers.iter().find_map(|peer| mismatch(own, peer)) {
        return step(Action::Refuse, reason);
    }
    if let Some(reason) = quorum_lost(spec, seen) {
        return step(Action::Refuse, reason);
    }
    if let Some(served) = peers.iter().copied().chain([own]).find(|p| p.disk == DiskStage::Served) {
        let reason = format!(
            "{} has served clients: the cluster exists, and its etcd quorum must answer first",
            served.node
        );
        return EtcdStep { look_for_duplicate: true, ..step(Action::Wait, reason) };
    }
    if let Some(other) = peers.iter().find(|p| p.bootstrapping && p.bootstrap_id.as_deref() != Some(&agreed))
    {
        let recorded =
            peers.iter().copied().chain([own]).filter(|p| p.bootstrap_id == other.bootstrap_id).count();
        if recorded < spec.majority() {
            return step(Action::Refuse, bootstrapped_without_quorum(&other.node, recorded));
        }
        let reason = format!(
            "{} is in a bootstrap that does not include this disk; its etcd quorum must answer first",
            other.node
        );
        return step(Action::Wait, reason);
    }
    let mut waiting = peers.iter().filter(|p| p.bootstrap_id.as_deref() != Some(&agreed) && !p.bootstrapping);
    if own.bootstrap_id.as_deref() != Some(&agreed) {
        let mut step = step(Action::Wait, "all nodes agree; recording the bootstrap on this disk".into());
        step.record = Some(agreed);
        return step;
    }
    match waiting.next() {
        Some(peer) => {
            step(Action::Wait, format!("{} has not recorded the bootstrap on its disk yet", peer.node))
        }
        None => step(Action::Bootstrap, "all nodes are new and agree".into()),
    }
}

/// Every node answers, the cluster has served, and too few nodes have etcd's log: waiting cannot restore a quorum.
pub(super) fn quorum_lost(spec: &Spec, seen: &Observations) -> Option<String> {
    let peers = seen.all_peers()?;
    let all = || peers.iter().copied().chain([&seen.own]);
    let logs = all().filter(|a| seen.has_log(a)).count();
    let lost = all().any(|a| a.disk == DiskStage::Served) && logs < spec.majority();
    let obsolete: Vec<&str> =
        all().filter(|a| a.data.etcd && !seen.has_log(a)).map(|a| a.node.as_str()).collect();
    let note = match obsolete.as_slice() {
        [] => String::new(),
        nodes => format!(" (the log on {} is of a replaced member)", nodes.join(", ")),
    };
    lost.then(|| {
        let (nodes, needed) = (spec.nodes.len(), spec.majority());
        super::needs_recovery(&format!(
            "{logs} of {nodes} nodes still have etcd's log, {needed} are needed{note}"
        ))
    })
}

/// The other disks of the bootstrap are lost and nothing was served: the bootstrap has to be repeated.
fn bootstrapped_without_quorum(node: &str, recorded: usize) -> String {
    format!(
        "{node} is in a bootstrap that only {recorded} disks have recorded, too few for a quorum; reboot {node}"
    )
}

/// Why two nodes cannot bootstrap one cluster.
fn mismatch(own: &NodeReport, peer: &NodeReport) -> Option<String> {
    let name = &peer.node;
    if own.cluster != peer.cluster {
        Some(format!(
            "{name} belongs to cluster {:?}, this node to {:?}; boot all nodes from one cluster's image",
            peer.cluster, own.cluster
        ))
    } else if own.spec_hash != peer.spec_hash {
        Some(format!(
            "{name} has a different cluster.toml or another hanode version; boot all nodes from the same build"
        ))
    } else if own.bundle_generation != peer.bundle_generation {
        Some(format!(
            "{name} has bundle generation {}, this node {}; boot all nodes from the same build",
            peer.bundle_generation, own.bundle_generation
        ))
    } else if own.install_id == peer.install_id {
        Some(format!("{name}'s disk is a copy of this node's, made after the first boot; wipe one of them"))
    } else {
        None
    }
}
