//! Asking the others, for the plan: join ports, etcd, Sentinels; the same from a node as from the desk.

use crate::client::etcd::Etcd;
use crate::client::etcd_peer::EtcdPeer;
use crate::client::redis::{Redis, monitored_primary};
use crate::health::Access;
use anyhow::Result;
use hanode_core::etcd::Member;
use hanode_core::peer::{DiskStage, NodeReport};
use hanode_core::plan::{Observations, Peer, Sentinel};
use hanode_core::spec::Node;
use std::thread::{ScopedJoinHandle, scope};
use std::time::Duration;

/// For one question to one node; a peer that needs longer is asked again in the next round.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// Patroni's `initialize` key, below its default namespace.
pub fn initialize_key(scope: &str) -> String {
    format!("/service/{scope}/initialize")
}

/// Where etcd keeps how often a node was booted.
pub fn generation_key(scope: &str, node: &str) -> String {
    format!("/hanode/{scope}/generation/{node}")
}

/// Patroni's key of a living member; it goes away by itself within the ttl.
pub fn member_key(scope: &str, node: &str) -> String {
    format!("/service/{scope}/members/{node}")
}

/// Below it, each living member's key.
pub fn members_prefix(scope: &str) -> String {
    member_key(scope, "")
}

/// Who leads, as long as it does.
pub fn leader_key(scope: &str) -> String {
    format!("/service/{scope}/leader")
}

/// What `own` can know beside its own disk. `servers`: whose etcd and Sentinel are asked.
pub fn discover(access: &Access, own: NodeReport, servers: &[&Node]) -> Observations {
    let node = own.node.as_str();
    let first =
        (own.bootstrap_id.is_some() && own.disk == DiskStage::Blank).then(|| query_peers(access, node));
    // An agreed bootstrap needs no word of etcd, and etcds that have yet to find each other keep whoever asks waiting.
    if let Some(peers) = first.as_ref().filter(|peers| agreed(&own, peers)) {
        return Observations::of_peers(own.clone(), peers.clone());
    }
    scope(|threads| {
        let peers = threads.spawn(|| first.unwrap_or_else(|| query_peers(access, node)));
        let etcds: Vec<_> = servers.iter().map(|n| threads.spawn(|| query_etcd(access, n, node))).collect();
        let sentinels: Vec<_> = servers.iter().map(|n| threads.spawn(|| query_sentinel(access, n))).collect();
        let peers = peers.join().unwrap_or_default();
        let etcd = etcds.into_iter().filter_map(|t| t.join().ok()?.ok()).next().unwrap_or_default();
        let sentinels = sentinels.into_iter().filter_map(|t| t.join().ok()?.ok()).collect();
        let EtcdView { members, initialize, initializing, system, generation } = etcd;
        let removed = if members.is_none() { removed(access, &own, &peers, servers) } else { vec![] };
        Observations {
            etcd: members,
            removed,
            generation_in_etcd: generation,
            initialize,
            initializing,
            system,
            sentinels,
            ..Observations::of_peers(own.clone(), peers)
        }
    })
}

/// Every other node of the spec, in its order.
fn query_peers(access: &Access, node: &str) -> Vec<Peer> {
    let spec = &access.spec;
    let ask = |peer: &Node| {
        crate::peer::fetch_report(&access.cluster, peer.address, spec.network.join_port, TIMEOUT)
    };
    scope(|threads| {
        let peers: Vec<_> = spec.peers(node).map(|p| (p, threads.spawn(move || ask(p)))).collect();
        let heard = |(peer, thread): (&Node, ScopedJoinHandle<_>)| Peer {
            name: peer.name.clone(),
            answer: heard(peer, thread.join()),
        };
        peers.into_iter().map(heard).collect()
    })
}

/// Every disk bears this disk's bootstrap, and none has served.
fn agreed(own: &NodeReport, peers: &[Peer]) -> bool {
    let of_it = |peer: &NodeReport| peer.disk != DiskStage::Served && peer.bootstrap_id == own.bootstrap_id;
    peers.iter().all(|peer| peer.answer.as_ref().is_ok_and(of_it))
}

/// An answer counts only from the node that should be there.
fn heard(peer: &Node, asked: std::thread::Result<Result<NodeReport>>) -> Result<NodeReport, String> {
    match asked {
        Ok(Ok(answer)) if answer.node == peer.name => Ok(answer),
        Ok(Ok(answer)) => Err(format!("{} answers as {}", peer.address, answer.node)),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err("asking failed".into()),
    }
}

/// What etcd knows; empty while no quorum answers.
#[derive(Default)]
struct EtcdView {
    members: Option<Vec<Member>>,
    initialize: Option<bool>,
    initializing: bool,
    system: Option<String>,
    generation: Option<u64>,
}

/// A linearizable list is itself the proof of a quorum, whichever member relays it.
fn query_etcd(access: &Access, relay: &Node, node: &str) -> Result<EtcdView> {
    let etcd = Etcd::new(&access.cluster, relay.address, TIMEOUT)?;
    let members = etcd.members()?;
    let initialize = etcd.get(&initialize_key(&access.spec.name))?;
    let generation = etcd.get(&generation_key(&access.spec.name, node))?;
    let generation = generation.and_then(|text| String::from_utf8(text).ok()?.parse().ok());
    let system = initialize.clone().and_then(|text| String::from_utf8(text).ok()).filter(|s| !s.is_empty());
    Ok(EtcdView {
        members: Some(members),
        initialize: Some(initialize.is_some()),
        initializing: initialize.is_some_and(|text| text.is_empty()),
        system,
        generation,
    })
}

/// Without a quorum: whose log is none any more. That matters only where every node answers, and with more than one.
fn removed(access: &Access, own: &NodeReport, peers: &[Peer], servers: &[&Node]) -> Vec<String> {
    let Ok(mut all) = peers.iter().map(|p| p.answer.as_ref()).collect::<Result<Vec<_>, _>>() else {
        return vec![];
    };
    all.push(own);
    let logs: Vec<_> = all.iter().filter(|a| a.data.etcd).filter_map(|a| a.etcd_log.clone()).collect();
    if logs.len() < 2 {
        return vec![];
    }
    let ask = |relay: &Node| EtcdPeer::new(&access.cluster, relay.address, TIMEOUT)?.removed(&logs);
    scope(|threads| {
        let asked: Vec<_> = servers.iter().map(|n| threads.spawn(|| ask(n))).collect();
        asked
            .into_iter()
            .filter_map(|t| t.join().ok()?.ok())
            .flatten()
            .map(|log| log.member.clone())
            .collect()
    })
}

fn query_sentinel(access: &Access, node: &Node) -> Result<Sentinel> {
    let redis = &access.spec.redis;
    let password = &access.secrets.sentinel;
    let mut sentinel =
        Redis::connect(access.redis.as_ref(), node.address, redis.sentinel_port, password, TIMEOUT)?;
    let watched = monitored_primary(&mut sentinel, &redis.master_name)?;
    Ok(Sentinel { node: node.name.clone(), primary: watched.address, epoch: watched.epoch })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::spec;

    #[test]
    fn etcd_is_not_asked_only_while_all_disks_bear_one_bootstrap_and_none_has_served() {
        let spec = spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let answer = |node: &str| NodeReport {
            bootstrap_id: Some("g".into()),
            ..NodeReport::blank(&spec, node, 1, &format!("disk-of-{node}"))
        };
        let own = answer("node1");
        let spoilt = |spoil: &dyn Fn(&mut NodeReport)| {
            let mut peers: Vec<_> = ["node2", "node3"].iter().map(|node| answer(node)).collect();
            spoil(&mut peers[1]);
            let peer = |a: NodeReport| Peer { name: a.node.clone(), answer: Ok(a) };
            agreed(&own, &peers.into_iter().map(peer).collect::<Vec<_>>())
        };
        assert!(spoilt(&|_| {}));
        assert!(spoilt(&|peer| peer.bootstrapping = true));
        assert!(!spoilt(&|peer| peer.disk = DiskStage::Served));
        assert!(!spoilt(&|peer| peer.bootstrap_id = None), "a disk that was lost after the others agreed");
        assert!(!spoilt(&|peer| peer.bootstrap_id = Some("another".into())));
        let silent = Peer { name: "node2".into(), answer: Err("no route".into()) };
        assert!(!agreed(&own, &[silent]));
    }
}
