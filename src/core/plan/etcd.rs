//! etcd: resume with the log on this disk, join a quorum that answers, or bootstrap once all nodes agree.

use super::{Action, EtcdStep, Observations, Reason, Step};
use crate::etcd::Member;
use crate::peer::{DiskStage, NodeReport};
use crate::restore::RestoreRequest;
use crate::spec::{ETCD_PEER_PORT, Node, Spec};
use sha2::{Digest, Sha256};

pub fn peer_url(node: &Node) -> String {
    crate::etcd::url(node.address, ETCD_PEER_PORT)
}

/// The hash of all disks' install ids: nodes that see the same disks compute the same bootstrap id.
/// A restore is part of it, so no node takes part in another one's.
pub fn bootstrap_id<'a>(
    install_ids: impl Iterator<Item = &'a str>,
    restore: Option<&RestoreRequest>,
) -> String {
    let mut ids: Vec<String> = install_ids.map(String::from).collect();
    ids.sort_unstable();
    ids.extend(restore.map(RestoreRequest::to_string));
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

pub(super) fn decide(spec: &Spec, node: &Node, seen: &Observations) -> EtcdStep {
    let own = &seen.own;
    let bootstrap = own.bootstrap_id.as_deref();
    let step = |action, reason| EtcdStep::with_spec_members(spec, Step::new(action, reason), bootstrap);
    if let Some(refusal) = unknown_restore(seen) {
        return step(refusal.action, refusal.reason);
    }
    if own.bootstrapping && !own.data.etcd {
        return step(Action::Bootstrap, Reason::BootstrapInProgress);
    }
    let ahead = ahead(seen).filter(|_| own.disk != DiskStage::Served);
    let exists = own.bootstrapping
        || own.disk == DiskStage::Served
        || own.etcd_member.is_some()
        || cluster_served(seen);
    if seen.has_log(own) && (exists || ahead.is_some()) {
        return match outdated(node, seen) {
            Some(reason) => step(Action::Join, reason),
            None if exists => step(Action::Resume, Reason::OwnLog),
            None => step(Action::Bootstrap, Reason::PeerInBootstrapOfLog),
        };
    }
    if let Ok(etcd) = &seen.etcd {
        return step(Action::Join, listed_as(&etcd.members, node));
    }
    if let Some(peer) = ahead {
        return match mismatch(own, peer) {
            Some(reason) => step(Action::Refuse, reason),
            None => step(Action::Bootstrap, Reason::PeerIsAhead { peer: peer.node.clone() }),
        };
    }
    match seen.all_peers() {
        None => step(Action::Wait, Reason::PeersUnreachable { peers: seen.unreachable_reasons() }),
        Some(peers) => with_all_nodes(spec, seen, &peers),
    }
}

/// Why this node cannot follow its metadata key: it may have been restored before, but from something else.
fn unknown_restore(seen: &Observations) -> Option<Step> {
    let own = &seen.own;
    let key = own.restore_key.as_ref().filter(|key| own.restore.as_ref() != Some(*key))?;
    let of_cluster = seen.etcd.as_ref().ok().and_then(|etcd| Some(&etcd.restore.as_ref()?.choice.request));
    if of_cluster == Some(key) {
        return None;
    }
    if own.disk == DiskStage::Served {
        let (key, current) = (key.clone(), of_cluster.or(own.restore.as_ref()).cloned());
        return Some(Step::new(Action::Refuse, Reason::RestoreOnData { key, current }));
    }
    if let Some(peer) = ahead(seen) {
        let (theirs, ours) = (own.restore.clone(), Some(key.clone()));
        let reason = Reason::OtherRestore { peer: peer.node.clone(), theirs, ours };
        return Some(Step::new(Action::Wait, reason));
    }
    let etcd = seen.etcd.as_ref().ok()?;
    // Nodes of a cluster that is about to be restored know its request before etcd does.
    if let Some(peer) = seen.reports().find(|peer| peer.restore.is_some()).filter(|_| etcd.restore.is_none())
    {
        let (theirs, ours) = (peer.restore.clone(), Some(key.clone()));
        return (theirs != ours).then(|| {
            Step::new(Action::Wait, Reason::OtherRestore { peer: peer.node.clone(), theirs, ours })
        });
    }
    let (key, current) = (key.clone(), of_cluster.cloned());
    Some(Step::new(Action::Refuse, Reason::RestoreOfRunning { key, current }))
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

/// What a quorum knows of this node: the cluster exists, and this node can only join it.
fn listed_as(members: &[Member], node: &Node) -> Reason {
    match join_method(members, &peer_url(node)) {
        JoinMethod::TakeListed => Reason::ListedAsUnstarted,
        JoinMethod::Replace(member) => Reason::ListedWithData { member },
        JoinMethod::Add => Reason::NotListed,
    }
}

/// Why the quorum's view makes the log on this disk obsolete. Such a disk counts as lost.
fn outdated(node: &Node, seen: &Observations) -> Option<Reason> {
    let (own, etcd) = (&seen.own, seen.etcd.as_ref().ok()?);
    if let Some(in_etcd) = seen.newer_generation() {
        return Some(Reason::OlderSnapshot { in_etcd, on_disk: own.generation });
    }
    let Some(listed) = etcd.members.iter().find(|m| m.peer_urls.contains(&peer_url(node))) else {
        return Some(Reason::LogNoLongerListed);
    };
    let on_disk = own.etcd_log_member().filter(|id| **id != listed.id)?;
    Some(Reason::LogOfAnotherMember { listed: listed.id.clone(), on_disk: on_disk.clone() })
}

/// No quorum, but every node answers: the only case in which a new cluster may be bootstrapped.
fn with_all_nodes(spec: &Spec, seen: &Observations, peers: &[&NodeReport]) -> EtcdStep {
    let own = &seen.own;
    let ids = peers.iter().map(|p| p.install_id.as_str()).chain([own.install_id.as_str()]);
    let agreed = bootstrap_id(ids, own.restore_key.as_ref());
    let step = |action, reason| EtcdStep::with_spec_members(spec, Step::new(action, reason), Some(&agreed));
    let refusal = peers.iter().find_map(|peer| mismatch(own, peer)).or_else(|| quorum_lost(spec, seen));
    if let Some(reason) = refusal {
        return step(Action::Refuse, reason);
    }
    let all = || peers.iter().copied().chain([own]);
    if let Some(served) = all().find(|p| p.disk == DiskStage::Served) {
        let step = step(Action::Wait, Reason::HasServed { node: served.node.clone() });
        return EtcdStep { look_for_duplicate: true, ..step };
    }
    if let Some(peer) = peers.iter().find(|peer| peer.restore_key != own.restore_key) {
        let (theirs, ours) = (peer.restore_key.clone(), own.restore_key.clone());
        return step(Action::Wait, Reason::OtherRestore { peer: peer.node.clone(), theirs, ours });
    }
    let differs = |p: &&&NodeReport| p.bootstrap_id.as_deref() != Some(&agreed);
    if let Some(other) = peers.iter().filter(differs).find(|p| p.bootstrapping) {
        let recorded = all().filter(|p| p.bootstrap_id == other.bootstrap_id).count();
        let node = other.node.clone();
        return match recorded < spec.majority() {
            true => step(Action::Refuse, Reason::BootstrapWithoutQuorum { node, recorded }),
            false => step(Action::Wait, Reason::OtherBootstrap { node }),
        };
    }
    if own.bootstrap_id.as_deref() != Some(&agreed) {
        let step = step(Action::Wait, Reason::RecordingBootstrap);
        return EtcdStep { record: Some(agreed), ..step };
    }
    match peers.iter().find(differs) {
        Some(peer) => step(Action::Wait, Reason::NotRecorded { peer: peer.node.clone() }),
        None => step(Action::Bootstrap, Reason::AllNodesAreNew),
    }
}

/// Every node answers, the cluster has served, and too few nodes have etcd's log: waiting cannot restore a quorum.
pub(super) fn quorum_lost(spec: &Spec, seen: &Observations) -> Option<Reason> {
    let peers = seen.all_peers()?;
    let all = || peers.iter().copied().chain([&seen.own]);
    let (logs, needed) = (all().filter(|a| seen.has_log(a)).count(), spec.majority());
    let lost = all().any(|a| a.disk == DiskStage::Served) && logs < needed;
    let replaced = || all().filter(|a| a.data.etcd && !seen.has_log(a)).map(|a| a.node.clone()).collect();
    lost.then(|| Reason::QuorumLost { logs, nodes: spec.nodes.len(), needed, replaced: replaced() })
}

/// Why two nodes cannot bootstrap one cluster.
fn mismatch(own: &NodeReport, peer: &NodeReport) -> Option<Reason> {
    let name = peer.node.clone();
    if own.cluster != peer.cluster {
        let (theirs, ours) = (peer.cluster.clone(), own.cluster.clone());
        Some(Reason::OtherCluster { peer: name, theirs, ours })
    } else if own.spec_hash != peer.spec_hash {
        Some(Reason::OtherSpec { peer: name })
    } else if own.bundle_generation != peer.bundle_generation {
        let (theirs, ours) = (peer.bundle_generation, own.bundle_generation);
        Some(Reason::OtherBundle { peer: name, theirs, ours })
    } else if own.install_id == peer.install_id {
        Some(Reason::CopiedDisk { peer: name })
    } else {
        None
    }
}
