//! Redis' primary steps down before it stops: a failover that is asked for costs less than one that the Sentinels
//! must first miss it for, and with [`super::failover_guard`] on the other nodes it loses no write.

use super::failover_guard::redis;
use crate::disk;
use crate::node_config::NodeConfig;
use anyhow::{Context, Result, bail};
use hanode_cluster::client::redis::{Redis, Value};
use hanode_cluster::health::Access;
use hanode_core::spec::Node;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(1);
/// A failover takes a second or two; a machine that shuts down with all others must not wait for one in vain.
const PATIENCE: Duration = Duration::from_secs(8);
const AGAIN: Duration = Duration::from_millis(100);

/// Returns once another is primary, or when none can be; only a primary that replicas follow has anything to do.
pub(crate) fn step_down(root: &Path) -> Result<()> {
    let access = NodeConfig::active(root)?.access()?;
    let name = disk::pin(root)?.context("this disk has no identity yet")?.node;
    let own = access.spec.node(&name).context("node vanished from the spec")?;
    // A recovery stops this Redis because its data is the one to be kept.
    if disk::read_state(root)?.recovery_source || !leads(&access, own)? {
        return Ok(());
    }
    // A promotion that a minority knows of would overrule the majority when that comes back.
    let agreed: Vec<&Node> = access.spec.peers(&name).filter(|peer| names(&access, peer, own)).collect();
    if agreed.len() < access.spec.majority() {
        bail!("{} other Sentinels are at hand; it stops as primary", agreed.len());
    }
    let Some(peer) = agreed.into_iter().find(|peer| asked(&access, peer)) else {
        bail!("no Sentinel has a replica for it; it stops as primary");
    };
    tracing::info!("{}'s Sentinel has another Redis promoted, since this one stops", peer.name);
    let begun = Instant::now();
    while leads(&access, own)? {
        if begun.elapsed() > PATIENCE {
            bail!("nobody was promoted within {PATIENCE:?}; it stops as primary");
        }
        sleep(AGAIN);
    }
    Ok(())
}

/// Whether this Redis is a primary with a replica that has what it has.
fn leads(access: &Access, own: &Node) -> Result<bool> {
    let said = redis(access, own.address)?.info("replication")?;
    let replicas = said.iter().filter(|(key, _)| key.starts_with("slave"));
    let mut replicas = replicas.filter(|(_, value)| value.contains("state=online"));
    Ok(said.get("role").is_some_and(|role| role == "master") && replicas.next().is_some())
}

/// Whether this peer's Sentinel takes `own` for the primary.
fn names(access: &Access, peer: &Node, own: &Node) -> bool {
    let named = sentinel(access, peer).and_then(|mut sentinel| {
        sentinel.query(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &access.spec.redis.master_name])
    });
    matches!(named, Ok(Value::List(primary)) if primary.first() == Some(&Value::Text(own.address.to_string())))
}

/// Whether this peer's Sentinel has begun a failover or is at one.
fn asked(access: &Access, peer: &Node) -> bool {
    let begun = sentinel(access, peer)
        .and_then(|mut sentinel| sentinel.command(&["SENTINEL", "FAILOVER", &access.spec.redis.master_name]));
    match begun {
        Ok(Value::Error(why)) => why.starts_with("INPROG"),
        other => other.is_ok(),
    }
}

fn sentinel(access: &Access, peer: &Node) -> Result<Redis> {
    let (port, password) = (access.spec.redis.sentinel_port, &access.secrets.sentinel);
    Redis::connect(access.redis.as_ref(), peer.address, port, password, TIMEOUT)
}
