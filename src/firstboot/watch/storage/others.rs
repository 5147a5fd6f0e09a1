//! What the other nodes could take over from this one.

use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_cluster::client::patroni::PatroniStatus;
use hanode_cluster::client::replication::Replication;
use hanode_cluster::discovery::{leader_key, sync_key};
use hanode_core::peer::{NodeReport, StorageFault};
use hanode_core::spec::Node;
use hanode_core::state::{Component, Phase, RedisRole, Role};
use serde::Deserialize;
use std::thread::{ScopedJoinHandle, scope};
use std::time::Duration;

const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer whose own writes take longer may have the same fault, only later.
const MAX_PEER_WRITE_AGE_SECONDS: u64 = 3;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Others {
    nodes: usize,
    /// Their etcd has a quorum.
    pub(super) has_quorum: bool,
    /// Nodes whose etcd and storage work.
    able: usize,
    /// Those of them on which every service is healthy.
    in_service: usize,
    /// One of them has PostgreSQL's leader, or a standby that Patroni would promote.
    postgres: bool,
    /// One of them has Redis' primary, or a replica that follows it.
    redis: bool,
}

impl Others {
    /// Without this node they must have a quorum. A slow node still serves, so all services of the others must be
    /// healthy.
    pub(super) fn can_take_over(&self, fault: StorageFault) -> bool {
        let quorum = self.nodes / 2 + 1;
        self.has_quorum && if fault == StorageFault::Slow { self.in_service } else { self.able } >= quorum
    }

    /// Whether they can also take over what this server holds: without a copy to promote, a disk that still reads is
    /// better than none.
    pub(super) fn can_replace(&self, server: Component, fault: StorageFault) -> bool {
        let has_copy = match server {
            Component::Patroni => self.postgres,
            Component::Redis | Component::Sentinel => self.redis,
            _ => true,
        };
        has_copy && self.can_take_over(fault)
    }
}

/// What one other node answers.
struct Answer {
    name: String,
    report: Result<NodeReport>,
    /// Its etcd has a quorum.
    etcd: bool,
    patroni: Result<PatroniStatus>,
    redis: Result<Replication>,
}

impl Answer {
    fn is_able(&self) -> bool {
        self.etcd && self.report.as_ref().is_ok_and(storage_works)
    }
}

fn storage_works(report: &NodeReport) -> bool {
    report.file_systems.iter().all(|f| f.fault.is_none() && f.write_age_seconds <= MAX_PEER_WRITE_AGE_SECONDS)
}

/// What Patroni has in etcd.
#[derive(Debug, Default)]
struct PatroniKeys {
    /// The node that holds the leader lock.
    leader: Option<String>,
    /// The standbys that have every acknowledged commit.
    synchronous: Vec<String>,
}

pub(super) fn query(node: &NodeContext) -> Others {
    let query = |peer: &Node| {
        let access = node.access();
        scope(|threads| {
            let report = threads.spawn(|| access.report(peer, QUERY_TIMEOUT));
            let etcd = threads.spawn(|| node.etcd(peer, QUERY_TIMEOUT)?.members().context("no quorum"));
            let patroni = threads.spawn(|| access.patroni(peer, QUERY_TIMEOUT)?.status());
            let redis = threads.spawn(|| node.redis(peer.address, QUERY_TIMEOUT)?.replication());
            Answer {
                name: peer.name.clone(),
                report: joined(report),
                etcd: joined(etcd).is_ok(),
                patroni: joined(patroni),
                redis: joined(redis),
            }
        })
    };
    let (answers, keys): (Vec<_>, _) = scope(|threads| {
        let keys = threads.spawn(|| patroni_keys(node));
        let threads: Vec<_> = node.peers().map(|peer| threads.spawn(move || query(peer))).collect();
        (threads.into_iter().map(joined).collect(), joined(keys))
    });
    let spec = node.spec();
    summary(spec.nodes.len(), node.name(), spec.postgres.synchronous, keys.as_ref(), &answers)
}

fn joined<T>(thread: ScopedJoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// From the first of the other nodes that answers.
fn patroni_keys(node: &NodeContext) -> Option<PatroniKeys> {
    let scope = &node.spec().name;
    node.peers().find_map(|peer| {
        let etcd = node.etcd(peer, QUERY_TIMEOUT).ok()?;
        let leader = etcd.get(&leader_key(scope)).ok()?;
        let synchronous = etcd.get(&sync_key(scope)).ok()?;
        Some(PatroniKeys {
            leader: leader.map(|name| String::from_utf8_lossy(&name).into_owned()),
            synchronous: synchronous.as_deref().map(standbys_of).unwrap_or_default(),
        })
    })
}

#[derive(Deserialize)]
struct SyncKey {
    sync_standby: Option<String>,
}

/// The names in Patroni's key, separated by commas.
fn standbys_of(key: &[u8]) -> Vec<String> {
    let names = serde_json::from_slice(key).ok().and_then(|SyncKey { sync_standby }| sync_standby);
    let names = names.unwrap_or_default();
    names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(String::from).collect()
}

/// `synchronous`: only a synchronous standby is promoted. `keys`: `None` if unknown.
fn summary(
    nodes: usize,
    own: &str,
    synchronous: bool,
    keys: Option<&PatroniKeys>,
    answers: &[Answer],
) -> Others {
    let able: Vec<&Answer> = answers.iter().filter(|answer| answer.is_able()).collect();
    let in_service = |a: &&&Answer| a.report.as_ref().is_ok_and(|report| report.phase == Phase::InService);
    let promotable = |answer: &&Answer, keys: &PatroniKeys| {
        let runs = answer
            .patroni
            .as_ref()
            .is_ok_and(|patroni| patroni.state.is_up() && patroni.role != Some(Role::Leader));
        runs && (!synchronous || keys.synchronous.contains(&answer.name))
    };
    let leads = |answer: &&Answer, keys: &PatroniKeys| {
        let patroni = answer.patroni.as_ref();
        let runs = patroni.is_ok_and(|own| own.state.is_up() && own.role == Some(Role::Leader));
        runs && answer.name != own && keys.leader.as_ref() == Some(&answer.name)
    };
    let postgres =
        keys.is_some_and(|keys| able.iter().any(|answer| leads(answer, keys) || promotable(answer, keys)));
    let redis = able.iter().filter_map(|answer| answer.redis.as_ref().ok());
    let redis = redis.into_iter().any(|redis| match redis.role {
        Some(RedisRole::Primary) => true,
        Some(RedisRole::Replica) => redis.linked,
        None => false,
    });
    Others {
        nodes,
        has_quorum: answers.iter().any(|answer| answer.etcd),
        able: able.len(),
        in_service: able.iter().filter(in_service).count(),
        postgres,
        redis,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::peer::FileSystem;
    use hanode_core::spec;
    use hanode_core::state::PostgresState;

    fn answer(name: &str) -> Answer {
        let spec = spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let file_system = FileSystem { write_age_seconds: 1, ..FileSystem::default() };
        let report = NodeReport {
            phase: Phase::InService,
            file_systems: vec![file_system],
            ..NodeReport::blank(&spec, name, 1, "id")
        };
        let patroni = PatroniStatus {
            role: Some(Role::Replica),
            state: PostgresState::Running,
            streams: None,
            standbys: Vec::new(),
            awaits_restart: None,
            failsafe: false,
            tags: vec![],
        };
        let redis = Replication { role: Some(RedisRole::Replica), linked: true, ..Replication::default() };
        Answer { name: name.into(), report: Ok(report), etcd: true, patroni: Ok(patroni), redis: Ok(redis) }
    }

    fn changed(name: &str, change: impl Fn(&mut NodeReport)) -> Answer {
        let mut answer = answer(name);
        answer.report.iter_mut().for_each(change);
        answer
    }

    fn keys(leader: &str) -> PatroniKeys {
        PatroniKeys { leader: Some(leader.into()), synchronous: vec!["node2".into()] }
    }

    #[test]
    fn roles_are_released_only_if_the_others_have_a_quorum_and_working_storage() {
        let can = |nodes, answers: &[Answer], fault| {
            summary(nodes, "node1", true, Some(&keys("node1")), answers).can_take_over(fault)
        };
        let good = || answer("node2");
        let starting = || changed("node3", |report| report.phase = Phase::Starting);
        let hangs = StorageFault::Hangs;
        assert!(can(3, &[good(), good()], hangs));
        assert!(can(3, &[good(), starting()], hangs), "its standby lost the leader");
        assert!(!can(3, &[good(), starting()], StorageFault::Slow), "it still serves");
        assert!(can(3, &[good(), good()], StorageFault::Slow));
        assert!(!can(3, &[good()], hangs), "one is unreachable");
        let silent = Answer { report: Err(anyhow::anyhow!("timeout")), ..answer("node3") };
        assert!(!can(3, &[good(), silent], hangs));
        assert!(!can(3, &[good(), Answer { etcd: false, ..answer("node3") }], hangs), "no etcd");
        let full = changed("node3", |report| report.file_systems[0].fault = Some(StorageFault::Full));
        assert!(!can(3, &[good(), full], hangs));
        let late = changed("node3", |report| report.file_systems[0].write_age_seconds = 9);
        assert!(!can(3, &[good(), late], hangs), "shared storage that hangs");
        assert!(!can(5, &[good(), good()], hangs));
        assert!(can(5, &[good(), good(), good()], hangs));
    }

    #[test]
    fn postgres_is_released_only_if_a_standby_elsewhere_can_be_promoted() {
        let can = |synchronous, keys: Option<&PatroniKeys>, answers: &[Answer]| {
            let others = summary(3, "node1", synchronous, keys, answers);
            assert!(others.can_replace(Component::Etcd, StorageFault::ReadOnly));
            others.can_replace(Component::Patroni, StorageFault::ReadOnly)
        };
        let both = || [answer("node2"), answer("node3")];
        assert!(can(true, Some(&keys("node1")), &both()));
        let alone = PatroniKeys { synchronous: Vec::new(), ..keys("node1") };
        assert!(!can(true, Some(&alone), &both()), "no standby has every commit");
        assert!(can(false, Some(&alone), &both()), "any standby may be promoted");
        assert!(can(true, Some(&keys("node3")), &both()), "another node leads");
        assert!(!can(true, None, &both()), "etcd does not answer");
        let gone =
            |leader: Option<&str>| PatroniKeys { leader: leader.map(String::from), ..PatroniKeys::default() };
        assert!(!can(true, Some(&gone(None)), &both()), "no leader, and no standby that can be promoted");
        assert!(!can(true, Some(&gone(Some("node3"))), &both()), "the leader has died");
        let mut leader = answer("node3");
        leader.patroni.iter_mut().for_each(|patroni| patroni.role = Some(Role::Leader));
        assert!(can(true, Some(&gone(Some("node3"))), &[answer("node2"), leader]));
        let cloned = |name: &str| {
            let mut answer = answer(name);
            let state = PostgresState::Other("creating replica".into());
            answer.patroni.iter_mut().for_each(|patroni| patroni.state = state.clone());
            answer
        };
        assert!(!can(true, Some(&keys("node1")), &[cloned("node2"), answer("node3")]));
        assert!(!can(false, Some(&keys("node1")), &[cloned("node2"), cloned("node3")]));
    }

    #[test]
    fn redis_is_released_only_if_another_has_its_data() {
        let can = |redis: &dyn Fn() -> Result<Replication>| {
            let answers = ["node2", "node3"].map(|name| Answer { redis: redis(), ..answer(name) });
            let others = summary(3, "node1", true, Some(&keys("node1")), &answers);
            others.can_replace(Component::Redis, StorageFault::Full)
        };
        let replica = Replication { role: Some(RedisRole::Replica), ..Replication::default() };
        let primary = Replication { role: Some(RedisRole::Primary), ..Replication::default() };
        assert!(can(&|| Ok(Replication { linked: true, ..replica.clone() })));
        assert!(!can(&|| Ok(replica.clone())), "it has no data yet");
        assert!(can(&|| Ok(primary.clone())));
        assert!(!can(&|| Err(anyhow::anyhow!("refused"))));
    }

    #[test]
    fn synchronous_standbys_are_those_in_patronis_key() {
        assert_eq!(standbys_of(br#"{"leader": "node1", "sync_standby": "node2,node3"}"#), ["node2", "node3"]);
        assert!(standbys_of(br#"{"leader": "node1", "sync_standby": null}"#).is_empty());
        assert!(standbys_of(b"").is_empty());
    }
}
