//! What concerns the other nodes while this node's storage has a fault: querying them, and releasing Patroni's lock and
//! the virtual IP. In its own thread, since servers may not answer.

use super::others::{self, Others};
use crate::node::NodeContext;
use crate::watch::haproxy_socket;
use anyhow::{Result, bail, ensure};
use hanode_cluster::client::etcd::EtcdClient;
use hanode_cluster::discovery::{leader_key, storage_key};
use hanode_core::peer::FileSystem;
use hanode_core::spec::Node;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(500);
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two writes to etcd.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(5);
/// Older answers do not count.
const MAX_AGE: Duration = Duration::from_secs(4);
/// The server in HAProxy's configuration that is disabled meanwhile: then HAProxy's health check fails.
const HAPROXY_SERVER: &str = "storage/usable";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Wanted {
    /// This node is to hold no virtual IP.
    release_vip: bool,
    /// No process of PostgreSQL can answer a client any more.
    release_lock: bool,
    /// Whether to query the other nodes.
    query: bool,
}

pub(super) struct Outside {
    node: Arc<NodeContext>,
    haproxy_socket: PathBuf,
    wanted: Mutex<Wanted>,
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
            wanted: Mutex::default(),
            faults: Mutex::new(None),
            others: Mutex::new(None),
            log,
        });
        let thread = outside.clone();
        spawn(move || thread.run());
        Ok(outside)
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to query the other nodes.
    pub(super) fn query(&self, wanted: bool) {
        self.wanted().query = wanted;
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

    pub(super) fn release_vip(&self) {
        self.wanted().release_vip = true;
    }

    /// Once PostgreSQL is stopped.
    pub(super) fn release_lock(&self) {
        self.wanted().release_lock = true;
    }

    pub(super) fn restore(&self) {
        let mut wanted = self.wanted();
        (wanted.release_vip, wanted.release_lock) = (false, false);
    }

    fn run(&self) {
        // A watcher that ended before may have left HAProxy's server disabled.
        let (mut haproxy_is_usable, mut lock_is_released) = (false, false);
        // Likewise the faults in etcd.
        let (mut published, mut published_at) = (Some(Vec::new()), None::<Instant>);
        loop {
            let wanted = *self.wanted();
            // First: HAProxy may hang, too.
            lock_is_released = wanted.release_lock && (lock_is_released || self.delete_lock().is_ok());
            if wanted.release_vip {
                haproxy_is_usable = false;
                // Again and again: a reload of HAProxy enables the server.
                if let Err(error) = self.set_haproxy("maint") {
                    tracing::debug!("HAProxy: {error:#}");
                }
            } else {
                haproxy_is_usable = haproxy_is_usable || self.set_haproxy("ready").is_ok();
            }
            let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let is_due = published_at.is_none_or(|at| at.elapsed() > PUBLISH_INTERVAL);
            if faults != published && is_due {
                published_at = Some(Instant::now());
                if self.write_faults(faults.as_deref()).is_ok() {
                    published = faults;
                }
            }
            if wanted.query {
                let others = others::query(&self.node);
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
    fn delete_lock(&self) -> Result<()> {
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
}
