//! The node on which this program runs: its configuration, identity, disk, machine and clients.

use crate::disk::Disk;
use crate::failpoint;
use crate::host::clock::uptime_ms;
use crate::host::machine::Machine;
use crate::node_config::NodeConfig;
use anyhow::{Context, Result, bail};
use hanode_cluster::access::Access;
use hanode_cluster::client::etcd::EtcdClient;
use hanode_cluster::client::redis::RedisClient;
use hanode_cluster::client::sentinel::SentinelClient;
use hanode_core::bundle::Bundle;
use hanode_core::machine::MachineFacts;
use hanode_core::peer::NodeReport;
use hanode_core::spec::{Node, Spec};
use hanode_core::target::Target;
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

/// The node's address may appear some time after network-online.target.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(120);
const RETRY_INTERVAL: Duration = Duration::from_millis(300);
/// For a request to etcd about its members, or about Patroni's keys.
const ETCD_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct NodeContext {
    root: PathBuf,
    pub(crate) config: NodeConfig,
    /// This node's entry in the spec.
    own: Node,
    pub(crate) disk: Disk,
    access: Access,
    machine: OnceLock<MachineFacts>,
}

impl NodeContext {
    /// The node to which this disk is pinned, with the configuration of this boot.
    pub(crate) fn open(root: &Path) -> Result<NodeContext> {
        let config = NodeConfig::active(root)?;
        let name = Disk::new(root, &config.target)?.pinned_node()?;
        NodeContext::new(root, config, &name)
    }

    /// The node of this name.
    pub(crate) fn new(root: &Path, config: NodeConfig, name: &str) -> Result<NodeContext> {
        let own = config.spec.node(name).cloned();
        Ok(NodeContext {
            root: root.into(),
            own: own.with_context(|| format!("this disk is pinned to {name}, which is not in the spec"))?,
            disk: Disk::new(root, &config.target)?,
            access: config.access()?,
            config,
            machine: OnceLock::new(),
        })
    }

    /// The same node with the configuration in /etc/hanode, whether it is active or not.
    pub(crate) fn with_pending_config(&self) -> Result<NodeContext> {
        NodeContext::new(&self.root, NodeConfig::pending(&self.root)?, self.name())
    }

    /// Changes the bundle before it is activated.
    pub(crate) fn change_bundle(&mut self, change: impl FnOnce(&mut Bundle) -> Result<()>) -> Result<()> {
        change(&mut self.config.bundle)?;
        self.access = self.config.access()?;
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path of the tree.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        below(&self.root, path)
    }

    pub(crate) fn tree(&self) -> Result<SafeTree> {
        Ok(SafeTree::open(&self.root)?)
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.config.spec
    }

    pub(crate) fn target(&self) -> &Target {
        &self.config.target
    }

    pub(crate) fn own(&self) -> &Node {
        &self.own
    }

    pub(crate) fn name(&self) -> &str {
        &self.own.name
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Node> {
        self.config.spec.peers(&self.own.name)
    }

    /// Whether every other node answers with a report of this kind.
    pub(crate) fn all_peers(&self, timeout: Duration, is: impl Fn(&NodeReport) -> bool) -> bool {
        self.peers().all(|peer| self.access().report(peer, timeout).is_ok_and(|report| is(&report)))
    }

    /// Spec and credentials to query the whole cluster from this node.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// The machine's facts; waits until an interface has the node's address.
    pub(crate) fn machine(&self) -> Result<&MachineFacts> {
        if let Some(facts) = self.machine.get() {
            return Ok(facts);
        }
        let start = uptime_ms();
        let data = self.at(self.target().path("postgres_data")?);
        let interface = self.spec().keepalived.interface.as_deref();
        let facts = loop {
            match Machine::read()?.facts(self.own.address, interface, &data) {
                Err(_) if uptime_ms() - start <= ADDRESS_TIMEOUT.as_millis() as u64 => sleep(RETRY_INTERVAL),
                result => break result?,
            }
        };
        Ok(self.machine.get_or_init(|| facts))
    }

    pub(crate) fn fail_point(&self, point: &str) {
        failpoint::hit(&self.root, point);
    }

    /// The etcd of one node.
    pub(crate) fn etcd(&self, server: &Node, timeout: Duration) -> Result<EtcdClient> {
        self.access.etcd(server, timeout)
    }

    /// The etcd of the first peer that has a quorum.
    pub(crate) fn etcd_with_quorum(&self) -> Result<EtcdClient> {
        let mut errors = Vec::new();
        for peer in self.peers() {
            let etcd = self.etcd(peer, ETCD_TIMEOUT)?;
            match etcd.members() {
                Ok(_) => return Ok(etcd),
                Err(error) => errors.push(format!("{}: {error:#}", peer.name)),
            }
        }
        bail!("no peer's etcd has a quorum any more ({})", errors.join("; "))
    }

    pub(crate) fn redis(&self, address: IpAddr, timeout: Duration) -> Result<RedisClient> {
        self.access.redis(address, timeout)
    }

    pub(crate) fn sentinel(&self, server: &Node, timeout: Duration) -> Result<SentinelClient> {
        self.access.sentinel(server, timeout)
    }
}
