//! The node's configuration as the join port uses it. It is read again when one of its files changes: `hanode apply` needs
//! no restart, and a node without a plan serves its configuration as soon as it has one.

use super::places::Client;
use crate::disk;
use crate::node::NodeContext;
use crate::node_config::NodeConfig;
use anyhow::Result;
use hanode_cluster::peer::JoinPort;
use hanode_core::pki::read;
use hanode_core::spec::Spec;
use hanode_util::file_tree::below;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// For a configuration that cannot be used: nothing but a file may have been missing.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Config {
    root: PathBuf,
    last: RwLock<Option<Read>>,
}

/// A configuration that was read from these versions of its files.
struct Read {
    versions: Vec<Option<Version>>,
    at: Instant,
    current: Option<Arc<Current>>,
}

pub(super) struct Current {
    pub(super) node: NodeContext,
    pub(super) port: JoinPort,
}

impl Current {
    fn open(root: &Path) -> Result<Current> {
        let node = NodeContext::open(root)?;
        let crl = node.config.cluster_crl()?;
        let revoked = (!read::crl(crl)?.entries.is_empty()).then_some(crl);
        let port = JoinPort::new(&node.access().cluster, revoked)?;
        Ok(Current { node, port })
    }
}

impl Config {
    pub(super) fn new(root: &Path) -> Config {
        let config = Config { root: root.into(), last: RwLock::default() };
        config.current();
        config
    }

    /// By the configuration that was last read: cheap, for each connection.
    pub(super) fn classify(&self, address: IpAddr) -> Client {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        let current = last.as_ref().and_then(|read| read.current.as_ref());
        current.map_or(Client::Stranger, |current| classify(current.node.spec(), address))
    }

    /// The current configuration; `None` while there is none that can be used.
    pub(super) fn current(&self) -> Option<Arc<Current>> {
        // Before the files are read: a change in between is found by the next call.
        let versions = versions(&self.root);
        if let Some(read) = &*self.last.read().unwrap_or_else(PoisonError::into_inner)
            && read.versions == versions
            && (read.current.is_some() || read.at.elapsed() < RETRY_INTERVAL)
        {
            return read.current.clone();
        }
        let opened = Current::open(&self.root);
        let current =
            opened.inspect_err(|error| tracing::warn!("no report yet: {error:#}")).ok().map(Arc::new);
        let read = Read { versions, at: Instant::now(), current: current.clone() };
        *self.last.write().unwrap_or_else(PoisonError::into_inner) = Some(read);
        current
    }
}

fn classify(spec: &Spec, address: IpAddr) -> Client {
    if spec.nodes.iter().any(|node| node.address == address) {
        Client::Node
    } else if spec.network.operators.iter().flatten().any(|net| net.contains(&address)) {
        Client::Operator
    } else {
        Client::Stranger
    }
}

/// One version of a file, which is replaced, not edited.
#[derive(PartialEq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// Of the files that determine the configuration.
fn versions(root: &Path) -> Vec<Option<Version>> {
    let files = NodeConfig::active_files(root).into_iter().chain([disk::IDENTITY]);
    files.map(|path| version(&below(root, path))).collect()
}

fn version(path: &Path) -> Option<Version> {
    let file = path.metadata().ok()?;
    let changed = (file.ctime(), file.ctime_nsec());
    Some(Version { device: file.dev(), inode: file.ino(), size: file.size(), changed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::spec::{STARTER, parse};

    #[test]
    fn nodes_and_named_operators_are_no_strangers() {
        let mut spec = parse(STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let client = |spec: &Spec, peer: &str| classify(spec, peer.parse().unwrap());
        assert_eq!(client(&spec, "192.168.18.21"), Client::Node);
        assert_eq!(
            client(&spec, "192.168.18.5"),
            Client::Stranger,
            "the subnet is the default, which names nobody"
        );
        spec.network.operators = Some(vec!["192.168.18.0/29".parse().unwrap()]);
        assert_eq!(client(&spec, "192.168.18.5"), Client::Operator);
        assert_eq!(client(&spec, "192.168.18.8"), Client::Stranger);
        assert_eq!(client(&spec, "192.168.18.21"), Client::Node);
    }
}
