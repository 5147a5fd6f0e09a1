//! Looking at the world for the plan: the own disk, the peers' join ports, etcd, the Sentinels.

use super::{disk, given::Given, state};
use crate::client::etcd::{Etcd, Member};
use crate::client::redis::{Redis, watched};
use crate::join::{self, Answer};
use crate::plan::{Observations, Peer, Sentinel};
use crate::spec::Node;
use anyhow::{Context, Result};
use std::path::Path;
use std::thread::scope;
use std::time::Duration;

/// For one question to one node; a peer that needs longer is asked again in the next round.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// Patroni's `initialize` key, below its default namespace.
fn initialize_key(scope: &str) -> String {
    format!("/service/{scope}/initialize")
}

/// Where etcd keeps how often a node was booted.
pub fn boots_key(scope: &str, node: &str) -> String {
    format!("/hanode/{scope}/boots/{node}")
}

/// Patroni's key of a living member; it goes away by itself within the ttl.
pub fn member_key(scope: &str, node: &str) -> String {
    format!("/service/{scope}/members/{node}")
}

pub fn observe(root: &Path, given: &Given, node: &str) -> Result<Observations> {
    let own = own_answer(root, given, node)?;
    let credentials = given.credentials()?;
    let spec = &given.spec;
    scope(|threads| {
        let peers: Vec<_> = spec
            .peers(node)
            .map(|peer| {
                let credentials = &credentials;
                (
                    peer,
                    threads
                        .spawn(move || join::ask(credentials, peer.address, spec.network.join_port, TIMEOUT)),
                )
            })
            .collect();
        let etcds: Vec<_> = spec.nodes.iter().map(|n| threads.spawn(|| ask_etcd(given, n, node))).collect();
        let sentinels: Vec<_> = spec.nodes.iter().map(|n| threads.spawn(|| ask_sentinel(given, n))).collect();
        let peers = peers
            .into_iter()
            .map(|(peer, thread)| Peer { name: peer.name.clone(), answer: heard(peer, thread.join()) });
        let peers = peers.collect();
        let etcd = etcds.into_iter().filter_map(|t| t.join().ok()?.ok()).next().unwrap_or_default();
        let sentinels = sentinels.into_iter().filter_map(|t| t.join().ok()?.ok()).collect();
        let Known { members, initialize, boots } = etcd;
        Ok(Observations { schema: 1, own, peers, etcd: members, boots_in_etcd: boots, initialize, sentinels })
    })
}

/// Looks in order to act: where etcd knows of later boots of this node, the disk's data is noted as stale first.
pub fn look(root: &Path, given: &Given, node: &str) -> Result<Observations> {
    let mut seen = observe(root, given, node)?;
    if let Some(boots) = seen.boots_in_etcd.filter(|boots| *boots > seen.own.boots) {
        disk::mark_stale(root, &given.target, boots)?;
        seen.own = own_answer(root, given, node)?;
    }
    Ok(seen)
}

/// An answer counts only from the node that should be there.
fn heard(peer: &Node, asked: std::thread::Result<Result<Answer>>) -> Result<Answer, String> {
    match asked {
        Ok(Ok(answer)) if answer.node == peer.name => Ok(answer),
        Ok(Ok(answer)) => Err(format!("{} answers as {}", peer.address, answer.node)),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err("asking failed".into()),
    }
}

/// What etcd knows; empty while no quorum answers.
#[derive(Default)]
struct Known {
    members: Option<Vec<Member>>,
    initialize: Option<bool>,
    boots: Option<u64>,
}

/// A linearizable list is itself the proof of a quorum, whichever member relays it.
fn ask_etcd(given: &Given, relay: &Node, node: &str) -> Result<Known> {
    let etcd = Etcd::new(&given.credentials()?, relay.address, TIMEOUT)?;
    let members = etcd.members()?;
    let initialize = etcd.get(&initialize_key(&given.spec.name))?.is_some();
    let boots = etcd.get(&boots_key(&given.spec.name, node))?;
    let boots = boots.and_then(|text| String::from_utf8(text).ok()?.parse().ok());
    Ok(Known { members: Some(members), initialize: Some(initialize), boots })
}

fn ask_sentinel(given: &Given, node: &Node) -> Result<Sentinel> {
    let (redis, password) = (&given.spec.redis, &given.bundle.secrets.sentinel);
    let credentials = given.redis_credentials()?;
    let mut sentinel =
        Redis::connect(credentials.as_ref(), node.address, redis.sentinel_port, password, TIMEOUT)?;
    let watched = watched(&mut sentinel, &redis.master_name)?;
    Ok(Sentinel { node: node.name.clone(), primary: watched.address, epoch: watched.epoch })
}

/// What this node says of itself, to its own plan and to its peers alike.
pub fn own_answer(root: &Path, given: &Given, node: &str) -> Result<Answer> {
    let record = disk::record(root)?;
    let data = disk::data(root, &given.target)?;
    let state = state::load(root);
    Ok(Answer {
        schema: join::SCHEMA,
        cluster: given.spec.name.clone(),
        node: node.into(),
        generation: given.bundle.stamp.generation,
        spec_hash: given.spec.hash(),
        install_id: disk::install_id(root)?.context("this disk has no install-id yet")?,
        disk: disk::judge(data, &record),
        data,
        genesis: record.genesis,
        began: disk::began(root),
        etcd_member: record.etcd_member,
        boots: record.boots,
        leads: record.leads,
        phase: state.phase.name().into(),
        holds_vip: super::machine::Machine::read(root)?.holds(given.spec.network.vip),
        image: given.image.clone(),
        problems: state.error.into_iter().map(|e| e.what).chain(state.waiting_for).collect(),
    })
}
