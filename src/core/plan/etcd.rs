//! etcd: resume on one's own log, join a quorum that answers, or begin when all nodes agree.

use super::{Action, EtcdStep, Observations, Step};
use crate::etcd::Member;
use crate::peer::{DiskStage, NodeReport};
use crate::spec::{ETCD_PEER_PORT, Node, Spec};
use sha2::{Digest, Sha256};

pub fn peer_url(node: &Node) -> String {
    crate::etcd::url(node.address, ETCD_PEER_PORT)
}

/// The hash of the install-ids of all disks: the same for all who see the same disks.
pub fn bootstrap_id<'a>(install_ids: impl Iterator<Item = &'a str>) -> String {
    let mut ids: Vec<&str> = install_ids.collect();
    ids.sort_unstable();
    hex::encode(Sha256::digest(ids.join("\n")))[..32].to_string()
}

/// How a node without a log of its own gets into a living cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum JoinMethod {
    /// The quorum lists it as never started: use that entry.
    TakeListed,
    /// Listed, and once started: that disk is lost. Remove exactly this member, then add.
    Replace(String),
    /// Not listed: add.
    Add,
}

/// Found by the peer URL, which is the node's own; a name proves nothing (a static bootstrap names all).
pub fn join_method(members: &[Member], url: &str) -> JoinMethod {
    match members.iter().find(|m| m.peer_urls.iter().any(|u| u == url)) {
        None => JoinMethod::Add,
        Some(member) if member.client_urls.is_empty() => JoinMethod::TakeListed,
        Some(member) => JoinMethod::Replace(member.id.clone()),
    }
}

impl EtcdStep {
    /// A step whose member list is the spec's.
    pub(super) fn plain(spec: &Spec, step: Step, bootstrap_id: Option<&str>) -> EtcdStep {
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
    let step = |action, reason: String| EtcdStep::plain(spec, Step::new(action, reason), bootstrap);
    if own.bootstrapping && !own.data.etcd {
        return step(Action::Bootstrap, "all nodes agreed on this bootstrap and this boot is it".into());
    }
    let ahead = ahead(seen).filter(|_| own.disk != DiskStage::Served);
    let lives =
        own.bootstrapping || own.disk == DiskStage::Served || own.etcd_member.is_some() || served(seen);
    if seen.has_log(own) && (lives || ahead.is_some()) {
        return match seen.etcd.as_ref().and_then(|members| outdated(spec, node, members, seen)) {
            Some(reason) => step(Action::Join, reason),
            None if lives => step(Action::Resume, "this disk holds a write-ahead log of its own".into()),
            None => step(Action::Bootstrap, "the bootstrap that this disk has a log of goes on".into()),
        };
    }
    if let Some(members) = &seen.etcd {
        return among_living(spec, node, members, own);
    }
    if let Some(peer) = ahead {
        return match differs(own, peer) {
            Some(reason) => step(Action::Refuse, reason),
            None => {
                step(Action::Bootstrap, format!("{} has begun the bootstrap that this disk bears", peer.node))
            }
        };
    }
    match seen.all_peers() {
        None => step(Action::Wait, format!("no etcd quorum answers, and {}", seen.unreachable_reasons())),
        Some(peers) => among_all(spec, seen, &peers),
    }
}

/// Peers that bear the bootstrap written on this disk too.
fn of_this_bootstrap(seen: &Observations) -> impl Iterator<Item = &NodeReport> {
    seen.answers().filter(|peer| peer.bootstrap_id.is_some() && peer.bootstrap_id == seen.own.bootstrap_id)
}

/// Whether the cluster that this disk has a log of came to life: its quorum may hang on the log here.
fn served(seen: &Observations) -> bool {
    let cluster = |a: &NodeReport| a.etcd_log.as_ref().map(|log| log.cluster.clone());
    let same = |peer: &&NodeReport| cluster(peer).is_some() && cluster(peer) == cluster(&seen.own);
    of_this_bootstrap(seen).chain(seen.answers().filter(same)).any(|peer| peer.disk == DiskStage::Served)
}

/// A peer that has begun this disk's bootstrap_id: that all disks bear it was seen there, and a disk lost since
/// then is not asked again.
fn ahead(seen: &Observations) -> Option<&NodeReport> {
    of_this_bootstrap(seen).find(|peer| peer.bootstrapping)
}

/// A quorum answers: the cluster lives, so this node can only be one more of it.
fn among_living(spec: &Spec, node: &str, members: &[Member], own: &NodeReport) -> EtcdStep {
    let bootstrap = own.bootstrap_id.as_deref();
    let reason = match spec.node(node).map(|n| join_method(members, &peer_url(n))) {
        Some(JoinMethod::TakeListed) => "a quorum lists this node as never started".to_string(),
        Some(JoinMethod::Replace(id)) => {
            format!("a quorum lists this node as member {id} with data that this disk lacks")
        }
        Some(JoinMethod::Add) | None => "a quorum answers and does not list this node".to_string(),
    };
    EtcdStep::plain(spec, Step::new(Action::Join, reason), bootstrap)
}

/// Why a log on this disk is no longer this member's: a quorum knows better. Such a disk is a lost disk.
fn outdated(spec: &Spec, node: &str, members: &[Member], seen: &Observations) -> Option<String> {
    let own = &seen.own;
    if let Some(generation) = seen.generation_in_etcd.filter(|b| *b > own.generation) {
        return Some(format!(
            "etcd has counted this node's age to {generation}, this disk to {}: it is an older snapshot",
            own.generation
        ));
    }
    let listed = spec.node(node).and_then(|n| members.iter().find(|m| m.peer_urls.contains(&peer_url(n))));
    match (listed, own.member_of_log()) {
        (None, _) => Some("a quorum no longer lists the member whose log is on this disk".into()),
        (Some(member), Some(id)) if member.id != *id => Some(format!(
            "a quorum lists this node as member {}, the log on this disk is member {id}'s",
            member.id
        )),
        _ => None,
    }
}

/// No quorum, but every node answers: only now can a new cluster come to be.
fn among_all(spec: &Spec, seen: &Observations, peers: &[&NodeReport]) -> EtcdStep {
    let own = &seen.own;
    let agreed = bootstrap_id(peers.iter().map(|p| p.install_id.as_str()).chain([own.install_id.as_str()]));
    let step = |action, reason: String| EtcdStep::plain(spec, Step::new(action, reason), Some(&agreed));
    if let Some(reason) = peers.iter().find_map(|peer| differs(own, peer)) {
        return step(Action::Refuse, reason);
    }
    if let Some(reason) = lost_for_good(spec, seen) {
        return step(Action::Refuse, reason);
    }
    if let Some(served) = peers.iter().copied().chain([own]).find(|p| p.disk == DiskStage::Served) {
        let reason =
            format!("{} has served: this cluster exists, and its etcd quorum must answer first", served.node);
        return EtcdStep { look_for_duplicate: true, ..step(Action::Wait, reason) };
    }
    if let Some(other) = peers.iter().find(|p| p.bootstrapping && p.bootstrap_id.as_deref() != Some(&agreed))
    {
        let know =
            peers.iter().copied().chain([own]).filter(|p| p.bootstrap_id == other.bootstrap_id).count();
        if know < spec.majority() {
            return step(Action::Refuse, begun_alone(&other.node, know));
        }
        let reason = format!(
            "{} has begun a bootstrap without this disk; its etcd quorum must answer first",
            other.node
        );
        return step(Action::Wait, reason);
    }
    let mut waiting = peers.iter().filter(|p| p.bootstrap_id.as_deref() != Some(&agreed) && !p.bootstrapping);
    if own.bootstrap_id.as_deref() != Some(&agreed) {
        let mut step = step(Action::Wait, "all nodes agree; writing the bootstrap to this disk".into());
        step.record = Some(agreed);
        return step;
    }
    match waiting.next() {
        Some(peer) => {
            step(Action::Wait, format!("{} has not written the bootstrap to its disk yet", peer.node))
        }
        None => step(Action::Bootstrap, "all nodes are new and agree".into()),
    }
}

/// Every node answers, some have served, and too few have etcd's log: waiting longer brings nothing back.
pub(super) fn lost_for_good(spec: &Spec, seen: &Observations) -> Option<String> {
    let peers = seen.all_peers()?;
    let all = || peers.iter().copied().chain([&seen.own]);
    let logs = all().filter(|a| seen.has_log(a)).count();
    let lost = all().any(|a| a.disk == DiskStage::Served) && logs < spec.majority();
    let dead: Vec<&str> =
        all().filter(|a| a.data.etcd && !seen.has_log(a)).map(|a| a.node.as_str()).collect();
    let replaced = match dead.as_slice() {
        [] => String::new(),
        dead => format!(" (on {} lies that of a disk that was replaced since)", dead.join(", ")),
    };
    lost.then(|| {
        let (nodes, needed) = (spec.nodes.len(), spec.majority());
        super::choose(&format!(
            "{logs} of {nodes} nodes still have etcd's log, {needed} are needed{replaced}"
        ))
    })
}

/// The others lost their disks in between: nothing was served, and what was begun can only be begun again.
fn begun_alone(node: &str, know: usize) -> String {
    format!("{node} has begun a bootstrap that {know} disks know of, too few for a quorum; reboot {node}")
}

/// Why two nodes cannot begin one cluster together.
fn differs(own: &NodeReport, peer: &NodeReport) -> Option<String> {
    let name = &peer.node;
    if own.cluster != peer.cluster {
        Some(format!(
            "{name} belongs to cluster {:?}, this node to {:?}: one of the images is another cluster's",
            peer.cluster, own.cluster
        ))
    } else if own.spec_hash != peer.spec_hash {
        Some(format!("{name} was given another cluster.toml; boot all nodes with the same one"))
    } else if own.bundle_generation != peer.bundle_generation {
        Some(format!(
            "{name} carries bundle generation {}, this node {}; boot all nodes from the same build",
            peer.bundle_generation, own.bundle_generation
        ))
    } else if own.install_id == peer.install_id {
        Some(format!("{name} is a copy of this node's disk, taken after its first boot; wipe one of them"))
    } else {
        None
    }
}
