//! A count that only grows, kept on this disk and in etcd: of generation, and of half minutes in service. A disk
//! whose count is behind etcd's is an older snapshot of itself, and counts as lost.

use crate::disk;
use crate::node_config::NodeConfig;
use anyhow::{Context, Result};
use hanode_cluster::client::etcd::Etcd;
use hanode_cluster::discovery::generation_key;
use std::path::Path;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(5);
/// A snapshot is known for one when it is older than two of these: a restored disk counts one boot of its own.
const STEP: Duration = Duration::from_secs(30);

pub(crate) struct Age {
    since: Instant,
}

/// What came of counting.
#[derive(Debug, PartialEq)]
pub(crate) enum Count {
    Grown,
    /// etcd has counted further: this machine was put back to an earlier moment while it ran.
    Behind,
}

impl Age {
    pub(crate) fn new() -> Age {
        Age { since: Instant::now() }
    }

    /// To be called while this node is in service, however often; `None` while there is nothing to count yet.
    pub(crate) fn grow(&mut self, root: &Path, config: &NodeConfig, node: &str) -> Result<Option<Count>> {
        if self.since.elapsed() < STEP {
            return Ok(None);
        }
        self.since = Instant::now();
        let spec = &config.spec;
        let own = spec.node(node).context("node vanished from the spec")?;
        let known = Etcd::new(&config.credentials()?, own.address, TIMEOUT)?
            .get(&generation_key(&spec.name, node))?;
        let known = known.and_then(|text| String::from_utf8(text).ok()?.parse::<u64>().ok());
        let record = disk::record(root)?;
        if known.is_some_and(|known| known > record.generation) {
            return Ok(Some(Count::Behind));
        }
        // The disk first: etcd is never ahead of the disk that it counts.
        disk::amend(root, |record| record.generation += 1)?;
        remember(root, config, node)?;
        Ok(Some(Count::Grown))
    }
}

/// Leaves the count in etcd, by whichever node answers.
pub(crate) fn remember(root: &Path, config: &NodeConfig, node: &str) -> Result<()> {
    let count = disk::record(root)?.generation.to_string();
    let key = generation_key(&config.spec.name, node);
    let credentials = config.credentials()?;
    let mut last = None;
    for n in &config.spec.nodes {
        match Etcd::new(&credentials, n.address, TIMEOUT)?.put(&key, count.as_bytes()) {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("the spec has no nodes")?)
}
