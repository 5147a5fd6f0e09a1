//! The generation of this disk: a counter on the disk and in etcd that grows by one at each boot and each
//! 30 s in service. A disk with a lower generation than etcd has is an older snapshot of itself, and counts
//! as lost.

use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_cluster::discovery::generation_key;
use std::time::{Duration, Instant};

const ETCD_TIMEOUT: Duration = Duration::from_secs(5);
/// A snapshot is recognised if it is older than two intervals: the boot of a restored disk counts too.
const INTERVAL: Duration = Duration::from_secs(30);

pub(crate) struct GenerationCounter {
    last_count: Instant,
}

#[derive(Debug, PartialEq)]
pub(crate) enum CountResult {
    Increased,
    /// etcd has a higher generation: the machine was reverted to a snapshot while it ran.
    BehindEtcd,
}

impl GenerationCounter {
    pub(crate) fn new() -> GenerationCounter {
        GenerationCounter { last_count: Instant::now() }
    }

    /// Called while this node is in service, at any rate; `None` until the interval is over.
    pub(crate) fn count(&mut self, node: &NodeContext) -> Result<Option<CountResult>> {
        if self.last_count.elapsed() < INTERVAL {
            return Ok(None);
        }
        self.last_count = Instant::now();
        let known = node.etcd(node.own(), ETCD_TIMEOUT)?.get(&key(node))?;
        let known = known.map(|text| parse(&text)).transpose()?;
        let disk = node.disk.read_state()?;
        if known.is_some_and(|known| known > disk.generation) {
            return Ok(Some(CountResult::BehindEtcd));
        }
        // The disk first: a higher generation in etcd means that the disk was reverted.
        node.disk.update_state(|disk| disk.generation += 1)?;
        publish(node)?;
        Ok(Some(CountResult::Increased))
    }
}

/// A value that is no number must not count as none: this disk could be the older one.
fn parse(text: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(text)?;
    text.parse().with_context(|| format!("the generation of this node in etcd is {text:?}"))
}

/// Writes this disk's generation to etcd, through the first node that answers.
pub(crate) fn publish(node: &NodeContext) -> Result<()> {
    let generation = node.disk.read_state()?.generation.to_string();
    let mut last_error = None;
    for server in &node.spec().nodes {
        match node.etcd(server, ETCD_TIMEOUT)?.put(&key(node), generation.as_bytes()) {
            Ok(()) => return Ok(()),
            Err(error) => last_error = Some(error),
        }
    }
    Err(last_error.context("the spec has no nodes")?)
}

fn key(node: &NodeContext) -> String {
    generation_key(&node.spec().name, node.name())
}
