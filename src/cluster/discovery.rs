//! Discovery: queries join ports, etcd and Sentinels for the input of the plan, from a node or from the admin machine.

use crate::access::Access;
use crate::client::etcd::EtcdClient;
use anyhow::{Context, Result};
use hanode_core::peer::{DiskStage, NodeReport};
use hanode_core::plan::{EtcdError, EtcdView, Initialize, Observations, Peer, Sentinel};
use hanode_core::restore::RestoreRecord;
use hanode_core::spec::Node;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::thread::{ScopedJoinHandle, scope};
use std::time::Duration;

/// Time limit of one query; the next round queries a slower node again.
const QUERY_TIMEOUT: Duration = Duration::from_millis(1500);

/// Patroni's `initialize` key, below its default namespace.
pub fn initialize_key(scope: &str) -> String {
    format!("/service/{scope}/initialize")
}

/// What the admin machine requests of a node; see [`crate::request`].
pub(crate) fn request_key(scope: &str, node: &str) -> String {
    format!("/hanode/{scope}/request/{node}")
}

/// The node's answer to it.
pub(crate) fn answer_key(scope: &str, node: &str) -> String {
    format!("/hanode/{scope}/answer/{node}")
}

/// Held while a node, or a command, restarts servers of the cluster.
pub fn restart_lock_key(scope: &str) -> String {
    format!("/hanode/{scope}/applying")
}

/// Holds the generation of a node's disk.
pub fn generation_key(scope: &str, node: &str) -> String {
    format!("/hanode/{scope}/generation/{node}")
}

/// Prefix of the keys about the restore with which the cluster began.
pub fn restore_prefix(scope: &str) -> String {
    format!("/hanode/{scope}/restore/")
}

/// What etcd has about the restore with which the cluster began; `None` if it was not restored.
pub fn restore_record(etcd: &EtcdClient, scope: &str) -> Result<Option<RestoreRecord>> {
    let prefix = restore_prefix(scope);
    let found: BTreeMap<String, Vec<u8>> = etcd.list(&prefix)?.into_iter().collect();
    fn value<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
        serde_json::from_slice(text).context("etcd's record of the restore cannot be read")
    }
    let of = |name: &str| found.get(&format!("{prefix}{name}"));
    let Some(choice) = of("choice") else { return Ok(None) };
    Ok(Some(RestoreRecord {
        choice: value(choice)?,
        postgres: of("postgres").map(|text| value(text)).transpose()?,
        redis: of("redis").map(|text| value(text)).transpose()?,
        redis_replicated: of("redis-replicated").is_some(),
    }))
}

/// Held by the node whose PostgreSQL is cloned again.
pub fn reclone_key(scope: &str) -> String {
    format!("/hanode/{scope}/reclone")
}

/// While a disk of this node has a fault: its file systems, for `status`, since the node itself may not answer.
pub fn storage_key(scope: &str, node: &str) -> String {
    format!("/hanode/{scope}/storage/{node}")
}

/// The settings of Patroni's dynamic configuration that hanode wrote last.
pub fn dynamic_config_key(scope: &str) -> String {
    format!("/hanode/{scope}/dynamic")
}

/// Patroni's key of a running member; it expires within the TTL.
pub fn member_key(scope: &str, node: &str) -> String {
    format!("/service/{scope}/members/{node}")
}

/// Prefix of the keys of all running members.
pub fn members_prefix(scope: &str) -> String {
    member_key(scope, "")
}

/// Patroni's key with the standbys that have every acknowledged commit.
pub fn sync_key(scope: &str) -> String {
    format!("/service/{scope}/sync")
}

/// Held by a node whose clone makes no progress, so that it does not keep another from being cloned.
pub fn stalled_clone_key(scope: &str, node: &str) -> String {
    format!("/hanode/{scope}/stalled-clone/{node}")
}

/// Patroni's leader key, which expires unless the leader renews it.
pub fn leader_key(scope: &str) -> String {
    format!("/service/{scope}/leader")
}

/// The observations of the node of `own`: reports of all its peers, and etcd and the Sentinels on `servers`.
pub fn discover(access: &Access, own: NodeReport, servers: &[&Node]) -> Observations {
    let node = own.node.as_str();
    let early =
        (own.bootstrap_id.is_some() && own.disk == DiskStage::Blank).then(|| query_peers(access, node));
    // An agreed bootstrap does not depend on etcd, which would make its clients wait until it has a quorum.
    if let Some(peers) = early.as_ref().filter(|peers| same_bootstrap(&own, peers)) {
        return Observations::of_peers(own.clone(), peers.clone());
    }
    scope(|threads| {
        let peers = threads.spawn(|| early.unwrap_or_else(|| query_peers(access, node)));
        let etcds: Vec<_> = servers.iter().map(|n| threads.spawn(|| query_etcd(access, n, node))).collect();
        let sentinels: Vec<_> = servers.iter().map(|n| threads.spawn(|| query_sentinel(access, n))).collect();
        let peers = peers.join().unwrap_or_default();
        let etcd =
            first_view(servers.iter().zip(etcds).map(|(server, query)| (server.name.as_str(), query.join())));
        let sentinels = sentinels.into_iter().filter_map(|t| t.join().ok()?.ok()).collect();
        let removed = if etcd.is_err() { removed_members(access, &own, &peers, servers) } else { vec![] };
        Observations { etcd, removed, sentinels, ..Observations::of_peers(own.clone(), peers) }
    })
}

/// The reports of all other nodes, in the order of the spec.
fn query_peers(access: &Access, node: &str) -> Vec<Peer> {
    let spec = &access.spec;
    let fetch = |peer: &Node| access.report(peer, QUERY_TIMEOUT);
    scope(|threads| {
        let peers: Vec<_> = spec.peers(node).map(|p| (p, threads.spawn(move || fetch(p)))).collect();
        let joined = |(peer, thread): (&Node, ScopedJoinHandle<_>)| Peer {
            name: peer.name.clone(),
            report: check_sender(peer, thread.join()),
        };
        peers.into_iter().map(joined).collect()
    })
}

/// Whether every disk has recorded the same bootstrap, and none has served.
fn same_bootstrap(own: &NodeReport, peers: &[Peer]) -> bool {
    let same = |peer: &NodeReport| peer.disk != DiskStage::Served && peer.bootstrap_id == own.bootstrap_id;
    peers.iter().all(|peer| peer.report.as_ref().is_ok_and(same))
}

/// Accepts only a report of the node that the spec has at this address.
fn check_sender(peer: &Node, report: std::thread::Result<Result<NodeReport>>) -> Result<NodeReport, String> {
    match report {
        Ok(Ok(report)) if report.node == peer.name => Ok(report),
        Ok(Ok(report)) => Err(format!("{} is {}", peer.address, report.node)),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err("the query failed".into()),
    }
}

/// The first answer, or the errors of all servers.
fn first_view<'a>(
    queries: impl Iterator<Item = (&'a str, std::thread::Result<Result<EtcdView>>)>,
) -> Result<EtcdView, EtcdError> {
    let mut errors = Vec::new();
    for (server, query) in queries {
        match query {
            Ok(Ok(view)) => return Ok(view),
            Ok(Err(error)) => errors.push((server.to_string(), format!("{error:#}"))),
            Err(_) => errors.push((server.to_string(), "the query failed".into())),
        }
    }
    Err(EtcdError::NoQuorum(errors))
}

/// Queries etcd through the member on `relay`: a linearizable member list proves that there is a quorum.
fn query_etcd(access: &Access, relay: &Node, node: &str) -> Result<EtcdView> {
    let etcd = access.etcd(relay, QUERY_TIMEOUT)?;
    let members = etcd.members()?;
    let initialize = etcd.get(&initialize_key(&access.spec.name))?;
    let generation = etcd.get(&generation_key(&access.spec.name, node))?;
    let generation = generation.and_then(|text| String::from_utf8(text).ok()?.parse().ok());
    let initialize = match initialize {
        None => Initialize::Absent,
        Some(system) if system.is_empty() => Initialize::InProgress,
        Some(system) => Initialize::Done(String::from_utf8_lossy(&system).into_owned()),
    };
    let restore = restore_record(&etcd, &access.spec.name)?;
    Ok(EtcdView { members, initialize, generation, restore })
}

/// Members of which etcd knows, without a quorum, that they were removed. Empty unless all nodes report and at least two
/// have a log: otherwise the plan does not need it.
fn removed_members(access: &Access, own: &NodeReport, peers: &[Peer], servers: &[&Node]) -> Vec<String> {
    let Ok(mut all) = peers.iter().map(|p| p.report.as_ref()).collect::<Result<Vec<_>, _>>() else {
        return vec![];
    };
    all.push(own);
    let logs: Vec<_> = all.iter().filter(|a| a.data.etcd).filter_map(|a| a.etcd_log.clone()).collect();
    if logs.len() < 2 {
        return vec![];
    }
    let query = |relay: &Node| access.etcd_peer(relay, QUERY_TIMEOUT)?.removed(&logs);
    scope(|threads| {
        let queries: Vec<_> = servers.iter().map(|n| threads.spawn(|| query(n))).collect();
        queries
            .into_iter()
            .filter_map(|t| t.join().ok()?.ok())
            .flatten()
            .map(|log| log.member.clone())
            .collect()
    })
}

fn query_sentinel(access: &Access, node: &Node) -> Result<Sentinel> {
    let primary = access.sentinel(node, QUERY_TIMEOUT)?.primary()?;
    Ok(Sentinel { node: node.name.clone(), primary: primary.address, epoch: primary.epoch })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::spec;

    #[test]
    fn etcd_is_skipped_only_if_all_disks_have_one_bootstrap_and_none_has_served() {
        let spec = spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let report = |node: &str| NodeReport {
            bootstrap_id: Some("g".into()),
            ..NodeReport::blank(&spec, node, 1, &format!("disk-of-{node}"))
        };
        let own = report("node1");
        let agreed_with = |change: &dyn Fn(&mut NodeReport)| {
            let mut peers: Vec<_> = ["node2", "node3"].iter().map(|node| report(node)).collect();
            change(&mut peers[1]);
            let peer = |a: NodeReport| Peer { name: a.node.clone(), report: Ok(a) };
            same_bootstrap(&own, &peers.into_iter().map(peer).collect::<Vec<_>>())
        };
        assert!(agreed_with(&|_| {}));
        assert!(agreed_with(&|peer| peer.bootstrapping = true));
        assert!(!agreed_with(&|peer| peer.disk = DiskStage::Served));
        assert!(!agreed_with(&|peer| peer.bootstrap_id = None), "a disk replaced after the others agreed");
        assert!(!agreed_with(&|peer| peer.bootstrap_id = Some("another".into())));
        let unreachable = Peer { name: "node2".into(), report: Err("no route".into()) };
        assert!(!same_bootstrap(&own, &[unreachable]));
    }
}
