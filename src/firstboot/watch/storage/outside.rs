//! What concerns the other nodes while this node's storage has a fault: whether they can take over, and releasing
//! Patroni's lock and the virtual IP. In its own thread, since servers may not answer.

use crate::node::NodeContext;
use crate::watch::haproxy_socket;
use anyhow::{Context, Result, bail, ensure};
use hanode_cluster::client::etcd::EtcdClient;
use hanode_cluster::discovery::{leader_key, storage_key};
use hanode_core::peer::{FileSystem, NodeReport, StorageFault};
use hanode_core::spec::Node;
use hanode_core::state::Phase;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{scope, sleep, spawn};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(500);
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two writes to etcd.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(5);
/// Older answers do not count.
const MAX_AGE: Duration = Duration::from_secs(4);
/// A peer whose own writes take longer may have the same fault, only later.
const MAX_PEER_WRITE_AGE_SECONDS: u64 = 3;
/// The server in HAProxy's configuration that is disabled meanwhile: then HAProxy's health check fails.
const HAPROXY_SERVER: &str = "storage/usable";

/// What the other nodes could take over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Others {
    nodes: usize,
    /// Their etcd has a quorum.
    pub(super) has_quorum: bool,
    /// Nodes whose etcd and storage work.
    able: usize,
    /// Those of them on which every service is healthy.
    in_service: usize,
}

impl Others {
    /// Without this node they must have a quorum. A slow node still serves, so all services of the others must be
    /// healthy.
    pub(super) fn can_take_over(&self, fault: StorageFault) -> bool {
        let quorum = self.nodes / 2 + 1;
        self.has_quorum && if fault == StorageFault::Slow { self.in_service } else { self.able } >= quorum
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Roles {
    Kept,
    Released {
        /// No process of PostgreSQL can answer a client any more.
        postgres_is_stopped: bool,
    },
}

pub(super) struct Outside {
    node: Arc<NodeContext>,
    haproxy_socket: PathBuf,
    wanted: Mutex<(Roles, bool)>,
    /// The file systems, if one has a fault.
    faults: Mutex<Option<Vec<FileSystem>>>,
    others: Mutex<Option<(Instant, Others)>>,
    log: Sender<String>,
}

impl Outside {
    pub(super) fn start(node: &Arc<NodeContext>, log: Sender<String>) -> Result<Arc<Outside>> {
        let outside = Arc::new(Outside {
            node: node.clone(),
            haproxy_socket: node.at(node.target().path("haproxy_socket")?),
            wanted: Mutex::new((Roles::Kept, false)),
            faults: Mutex::new(None),
            others: Mutex::new(None),
            log,
        });
        let thread = outside.clone();
        spawn(move || thread.run());
        Ok(outside)
    }

    /// Whether to query the other nodes.
    pub(super) fn query(&self, wanted: bool) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).1 = wanted;
    }

    /// The last answers, unless they are too old.
    pub(super) fn others(&self) -> Option<Others> {
        let others = *self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.filter(|(at, _)| at.elapsed() < MAX_AGE).map(|(_, others)| others)
    }

    /// Names the disks with a fault in etcd; `None` once there is none.
    pub(super) fn publish(&self, faults: Option<Vec<FileSystem>>) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    pub(super) fn release(&self, postgres_is_stopped: bool) {
        self.set(Roles::Released { postgres_is_stopped });
    }

    pub(super) fn restore(&self) {
        self.set(Roles::Kept);
    }

    fn set(&self, roles: Roles) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).0 = roles;
    }

    fn run(&self) {
        // A watcher that ended before may have left HAProxy's server disabled.
        let (mut haproxy_is_usable, mut lock_is_released) = (false, false);
        // Likewise the faults in etcd.
        let (mut published, mut published_at) = (Some(Vec::new()), None::<Instant>);
        loop {
            let (roles, query) = *self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            match roles {
                Roles::Kept => {
                    lock_is_released = false;
                    haproxy_is_usable = haproxy_is_usable || self.set_haproxy("ready").is_ok();
                }
                Roles::Released { postgres_is_stopped } => {
                    haproxy_is_usable = false;
                    // First: HAProxy may hang, too.
                    if postgres_is_stopped && !lock_is_released {
                        lock_is_released = self.release_lock().is_ok();
                    }
                    // Again and again: a reload of HAProxy enables the server.
                    if let Err(error) = self.set_haproxy("maint") {
                        tracing::debug!("HAProxy: {error:#}");
                    }
                }
            }
            let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let is_due = published_at.is_none_or(|at| at.elapsed() > PUBLISH_INTERVAL);
            if faults != published && is_due {
                published_at = Some(Instant::now());
                if self.write_faults(faults.as_deref()).is_ok() {
                    published = faults;
                }
            }
            if query {
                let others = self.query_others();
                *self.others.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), others));
            }
            sleep(INTERVAL);
        }
    }

    fn set_haproxy(&self, state: &str) -> Result<()> {
        let answer = haproxy_socket::command(
            &self.haproxy_socket,
            &format!("set server {HAPROXY_SERVER} state {state}"),
        )?;
        ensure!(answer.trim().is_empty(), "{}", answer.trim());
        Ok(())
    }

    /// Patroni would keep PostgreSQL's leader lock until its lease expires. Releasing it is safe, since no process of
    /// this node's PostgreSQL can acknowledge a commit any more.
    fn release_lock(&self) -> Result<()> {
        let key = leader_key(&self.node.spec().name);
        for peer in self.node.peers() {
            let released = self.etcd(peer).and_then(|etcd| match etcd.get_with_revision(&key)? {
                Some((leader, revision)) if leader == self.node.name().as_bytes() => {
                    etcd.delete_if(&key, &revision)
                }
                _ => Ok(false),
            });
            if let Ok(was_held) = released {
                if was_held {
                    let _ = self.log.send("released PostgreSQL's leader lock".into());
                }
                return Ok(());
            }
        }
        bail!("no etcd answers")
    }

    fn write_faults(&self, faults: Option<&[FileSystem]>) -> Result<()> {
        let key = storage_key(&self.node.spec().name, self.node.name());
        let text = serde_json::to_vec(&faults)?;
        let write =
            |etcd: EtcdClient| if faults.is_some() { etcd.put(&key, &text) } else { etcd.delete(&key) };
        let mut peers = self.node.peers();
        ensure!(peers.any(|peer| self.etcd(peer).and_then(write).is_ok()), "no etcd answers");
        Ok(())
    }

    fn etcd(&self, peer: &Node) -> Result<EtcdClient> {
        self.node.etcd(peer, QUERY_TIMEOUT)
    }

    fn query_others(&self) -> Others {
        let query = |peer: &Node| {
            let report = self.node.access().report(peer, QUERY_TIMEOUT);
            let etcd = self.etcd(peer).and_then(|etcd| etcd.members().context("no quorum"));
            (report, etcd.is_ok())
        };
        let answers: Vec<_> = scope(|threads| {
            let threads: Vec<_> = self.node.peers().map(|peer| threads.spawn(move || query(peer))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        summary(self.node.spec().nodes.len(), &answers)
    }
}

/// `answers`: of each other node its report, and whether its etcd has a quorum.
fn summary(nodes: usize, answers: &[(Result<NodeReport>, bool)]) -> Others {
    let able =
        |(report, etcd): &&(Result<NodeReport>, bool)| *etcd && report.as_ref().is_ok_and(storage_works);
    let in_service = |(report, _): &&(Result<NodeReport>, bool)| {
        report.as_ref().is_ok_and(|report| report.phase == Phase::InService)
    };
    Others {
        nodes,
        has_quorum: answers.iter().any(|(_, etcd)| *etcd),
        able: answers.iter().filter(able).count(),
        in_service: answers.iter().filter(able).filter(in_service).count(),
    }
}

fn storage_works(report: &NodeReport) -> bool {
    report.file_systems.iter().all(|f| f.fault.is_none() && f.write_age_seconds <= MAX_PEER_WRITE_AGE_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::spec;

    fn answer(phase: Phase, fault: Option<StorageFault>, age: u64, etcd: bool) -> (Result<NodeReport>, bool) {
        let spec = spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let file_system = FileSystem { fault, write_age_seconds: age, ..FileSystem::default() };
        let report = NodeReport {
            phase,
            file_systems: vec![file_system],
            ..NodeReport::blank(&spec, "node2", 1, "id")
        };
        (Ok(report), etcd)
    }

    #[test]
    fn roles_are_released_only_if_the_others_have_a_quorum_and_working_storage() {
        let can = |answers: &[(Result<NodeReport>, bool)], fault| summary(3, answers).can_take_over(fault);
        let good = || answer(Phase::InService, None, 1, true);
        let hangs = StorageFault::Hangs;
        assert!(can(&[good(), good()], hangs));
        assert!(can(&[good(), answer(Phase::Starting, None, 0, true)], hangs), "its standby lost the leader");
        assert!(
            !can(&[good(), answer(Phase::Starting, None, 0, true)], StorageFault::Slow),
            "it still serves"
        );
        assert!(can(&[good(), good()], StorageFault::Slow));
        assert!(!can(&[good()], hangs), "one is unreachable");
        assert!(!can(&[good(), (Err(anyhow::anyhow!("timeout")), true)], hangs));
        assert!(!can(&[good(), answer(Phase::InService, None, 1, false)], hangs), "its etcd does not answer");
        assert!(!can(&[good(), answer(Phase::InService, Some(StorageFault::Full), 1, true)], hangs));
        assert!(!can(&[good(), answer(Phase::InService, None, 9, true)], hangs), "shared storage that hangs");
        assert!(!summary(5, &[good(), good()]).can_take_over(hangs));
        assert!(summary(5, &[good(), good(), good()]).can_take_over(hangs));
    }
}
