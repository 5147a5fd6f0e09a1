//! A failover before Redis' primary stops: faster than one after the Sentinels miss it, and with
//! [`super::failover_guard`] on the other nodes it loses no write.

use super::failover_guard::connect_redis;
use crate::node::NodeContext;
use anyhow::{Result, bail};
use hanode_cluster::client::sentinel::FailoverStart;
use hanode_core::spec::Node;
use std::thread::sleep;
use std::time::{Duration, Instant};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// A failover takes a second or two; a machine that shuts down together with all others must not wait longer.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(8);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Returns once another Redis is primary; does nothing if this one is not a primary with replicas.
pub(crate) fn fail_over(node: &NodeContext) -> Result<()> {
    // `hanode recover` stops this Redis to keep its data.
    if node.disk.read_state()?.recovery_source || !is_primary_with_replicas(node)? {
        return Ok(());
    }
    // A promotion by a minority of Sentinels would override the majority when it returns.
    let agreed: Vec<&Node> = node.peers().filter(|peer| sentinel_agrees(node, peer)).collect();
    if agreed.len() < node.spec().majority() {
        bail!("only {} other Sentinels agree that this Redis is primary; it stops as primary", agreed.len());
    }
    let Some(peer) = agreed.into_iter().find(|peer| start_failover(node, peer)) else {
        bail!("no Sentinel started a failover; it stops as primary");
    };
    tracing::info!("the Sentinel of {} promotes another Redis, since this one stops", peer.name);
    let start = Instant::now();
    while is_primary_with_replicas(node)? {
        if start.elapsed() > FAILOVER_TIMEOUT {
            bail!("no replica was promoted within {FAILOVER_TIMEOUT:?}; it stops as primary");
        }
        sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// Whether this Redis is a primary with a replica in sync.
fn is_primary_with_replicas(node: &NodeContext) -> Result<bool> {
    let replication = connect_redis(node, node.own().address)?.replication()?;
    Ok(replication.is_primary() && replication.online_replicas > 0)
}

/// Whether this peer's Sentinel regards this node as the primary.
fn sentinel_agrees(node: &NodeContext, peer: &Node) -> bool {
    let primary = node.sentinel(peer, REQUEST_TIMEOUT).and_then(|mut s| s.primary_for_clients());
    match primary {
        Ok(primary) => primary == node.own().address,
        Err(error) => {
            tracing::info!("Sentinel of {}: {error:#}", peer.name);
            false
        }
    }
}

/// Whether this peer's Sentinel started a failover, or one is in progress.
fn start_failover(node: &NodeContext, peer: &Node) -> bool {
    let start = node.sentinel(peer, REQUEST_TIMEOUT).and_then(|mut s| s.start_failover());
    match start {
        Ok(FailoverStart::Started | FailoverStart::InProgress) => true,
        Ok(FailoverStart::Refused(why)) => {
            tracing::info!("the Sentinel of {} starts no failover: {why}", peer.name);
            false
        }
        Err(error) => {
            tracing::info!("Sentinel of {}: {error:#}", peer.name);
            false
        }
    }
}
