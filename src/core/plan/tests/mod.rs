//! One test for each rule of the plan. This module builds the observations that the tests modify.

mod etcd;
mod postgres;
mod recovery;
mod redis;
mod restore;

use super::*;
use crate::etcd::Member;
use crate::peer::{DiskData, DiskStage, EtcdLogIds, NodeReport, PostgresData};
use crate::spec;

fn spec() -> Spec {
    spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"))
}

fn report(node: &str) -> NodeReport {
    NodeReport::blank(&spec(), node, 1, &format!("disk-of-{node}"))
}

/// What node1 observes when all three nodes are blank and answer.
fn blank() -> Observations {
    let peers = ["node2", "node3"].map(|n| Peer { name: n.into(), report: Ok(report(n)) });
    Observations::of_peers(report("node1"), peers.into())
}

fn id() -> String {
    bootstrap_id(["disk-of-node1", "disk-of-node2", "disk-of-node3"].into_iter(), None)
}

fn peer(seen: &mut Observations, i: usize) -> &mut NodeReport {
    seen.peers[i].report.as_mut().expect("answers")
}

fn member(name: &str, address: &str, started: bool) -> Member {
    let client_urls = if started { vec![format!("https://{address}:2379")] } else { vec![] };
    Member {
        id: format!("id-{name}"),
        name: name.into(),
        peer_urls: vec![format!("https://{address}:2380")],
        client_urls,
    }
}

fn members() -> Vec<Member> {
    vec![
        member("node1", "192.168.18.21", true),
        member("node2", "192.168.18.22", true),
        member("node3", "192.168.18.23", true),
    ]
}

fn quorum(members: Vec<Member>) -> Result<EtcdView, EtcdError> {
    Ok(EtcdView { members, initialize: Initialize::Absent, generation: None, restore: None })
}

/// A quorum of all members, with this PostgreSQL cluster.
fn registered(system: &str) -> Result<EtcdView, EtcdError> {
    Ok(EtcdView { initialize: Initialize::Done(system.into()), ..quorum(members())? })
}

fn view(seen: &mut Observations) -> &mut EtcdView {
    seen.etcd.as_mut().expect("a quorum")
}

fn etcd(seen: &Observations) -> EtcdStep {
    plan(&spec(), &spec().nodes[0], seen).etcd
}

fn redis(seen: &Observations) -> RedisStep {
    plan(&spec(), &spec().nodes[0], seen).redis
}

fn postgres(seen: &Observations) -> Step {
    plan(&spec(), &spec().nodes[0], seen).postgres
}

fn sentinels(named: [&str; 3]) -> Vec<Sentinel> {
    let all = named.iter().enumerate().filter(|(_, a)| !a.is_empty());
    all.map(|(i, a)| Sentinel {
        node: format!("node{}", i + 1),
        primary: a.parse().expect("address"),
        epoch: 1,
    })
    .collect()
}

fn log(member: &str, cluster: &str) -> Option<EtcdLogIds> {
    Some(EtcdLogIds { member: member.into(), cluster: cluster.into() })
}
