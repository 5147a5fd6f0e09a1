//! A failover before Redis' primary stops: faster than one after the Sentinels miss it, and with [`super::failover_guard`] on
//! the other nodes it loses no write.

use super::failover_guard::connect_redis;
use crate::disk;
use crate::node_config::NodeConfig;
use anyhow::{Context, Result, bail};
use hanode_cluster::client::redis::{RedisClient, Value};
use hanode_cluster::health::Access;
use hanode_core::spec::Node;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// A failover takes a second or two; a machine that shuts down together with all others must not wait longer.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(8);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Returns once another Redis is primary; does nothing if this one is not a primary with replicas.
pub(crate) fn fail_over(root: &Path) -> Result<()> {
    let access = NodeConfig::active(root)?.access()?;
    let name = disk::pinned_node(root)?;
    let own = access.spec.node(&name).with_context(|| format!("the spec has no node {name}"))?;
    // `hanode recover` stops this Redis to keep its data.
    if disk::read_state(root)?.recovery_source || !is_primary_with_replicas(&access, own)? {
        return Ok(());
    }
    // A promotion by a minority of Sentinels would override the majority when it returns.
    let agreed: Vec<&Node> =
        access.spec.peers(&name).filter(|peer| sentinel_agrees(&access, peer, own)).collect();
    if agreed.len() < access.spec.majority() {
        bail!("only {} other Sentinels agree that this Redis is primary; it stops as primary", agreed.len());
    }
    let Some(peer) = agreed.into_iter().find(|peer| start_failover(&access, peer)) else {
        bail!("no Sentinel started a failover; it stops as primary");
    };
    tracing::info!("the Sentinel of {} promotes another Redis, since this one stops", peer.name);
    let start = Instant::now();
    while is_primary_with_replicas(&access, own)? {
        if start.elapsed() > FAILOVER_TIMEOUT {
            bail!("no replica was promoted within {FAILOVER_TIMEOUT:?}; it stops as primary");
        }
        sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// Whether this Redis is a primary with a replica in sync.
fn is_primary_with_replicas(access: &Access, own: &Node) -> Result<bool> {
    let info = connect_redis(access, own.address)?.info("replication")?;
    let replicas = info.iter().filter(|(key, _)| key.starts_with("slave"));
    let mut replicas = replicas.filter(|(_, value)| value.contains("state=online"));
    Ok(info.get("role").is_some_and(|role| role == "master") && replicas.next().is_some())
}

/// Whether this peer's Sentinel regards `own` as the primary.
fn sentinel_agrees(access: &Access, peer: &Node, own: &Node) -> bool {
    let named = sentinel(access, peer).and_then(|mut sentinel| {
        sentinel.query(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &access.spec.redis.master_name])
    });
    matches!(named, Ok(Value::List(primary)) if primary.first() == Some(&Value::Text(own.address.to_string())))
}

/// Whether this peer's Sentinel started a failover, or one is in progress.
fn start_failover(access: &Access, peer: &Node) -> bool {
    let start = sentinel(access, peer)
        .and_then(|mut sentinel| sentinel.command(&["SENTINEL", "FAILOVER", &access.spec.redis.master_name]));
    match start {
        Ok(Value::Error(why)) => why.starts_with("INPROG"),
        other => other.is_ok(),
    }
}

fn sentinel(access: &Access, peer: &Node) -> Result<RedisClient> {
    let (port, password) = (access.spec.redis.sentinel_port, &access.secrets.sentinel);
    RedisClient::connect(access.redis.as_ref(), peer.address, port, password, REQUEST_TIMEOUT)
}
