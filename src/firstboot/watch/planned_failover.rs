//! A failover before Redis' primary stops: faster than one after the Sentinels miss it, and with
//! [`super::failover_guard`] on the other nodes it loses no write.

use super::failover_guard::connect_redis;
use crate::node::NodeContext;
use anyhow::{Result, bail};
use hanode_cluster::client::redis::{RedisClient, Value};
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
    let info = connect_redis(node, node.own().address)?.info("replication")?;
    let replicas = info.iter().filter(|(key, _)| key.starts_with("slave"));
    let mut replicas = replicas.filter(|(_, value)| value.contains("state=online"));
    Ok(info.get("role").is_some_and(|role| role == "master") && replicas.next().is_some())
}

/// Whether this peer's Sentinel regards this node as the primary.
fn sentinel_agrees(node: &NodeContext, peer: &Node) -> bool {
    let named = sentinel(node, peer).and_then(|mut sentinel| {
        sentinel.query(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &node.spec().redis.master_name])
    });
    matches!(named, Ok(Value::List(primary)) if primary.first() == Some(&Value::Text(node.own().address.to_string())))
}

/// Whether this peer's Sentinel started a failover, or one is in progress.
fn start_failover(node: &NodeContext, peer: &Node) -> bool {
    let start = sentinel(node, peer)
        .and_then(|mut sentinel| sentinel.command(&["SENTINEL", "FAILOVER", &node.spec().redis.master_name]));
    match start {
        Ok(Value::Error(why)) => why.starts_with("INPROG"),
        other => other.is_ok(),
    }
}

fn sentinel(node: &NodeContext, peer: &Node) -> Result<RedisClient> {
    node.sentinel(peer.address, REQUEST_TIMEOUT)
}
