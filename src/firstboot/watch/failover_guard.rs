//! Prevents lost writes in a Redis failover while the old primary still runs.
//!
//! After a promotion, Sentinel reconfigures the old primary only seconds later. Until then that accepts writes,
//! and replicas that still follow it confirm them (`WAIT`); all of them discard those writes when they resync
//! from the new primary. So each node subscribes to its own Sentinel. If that leads the failover, this node
//! pauses writes on the old primary, promotes the candidate ([`promotion`]), and makes the old primary a replica
//! as soon as there is a new one.

use super::promotion;
use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_cluster::client::redis::RedisClient;
use hanode_cluster::client::sentinel::FailoverEvent;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Less than Sentinel's down-after-milliseconds, since old servers pause Sentinel's messages too. The pause
/// expires.
const WRITE_PAUSE_MS: &str = "4000";

/// Listens until the process ends; reconnects if Sentinel is not running.
pub(super) fn listen(node: &Arc<NodeContext>) {
    loop {
        if let Err(error) = receive(node) {
            tracing::debug!("subscription to Sentinel: {error:#}");
        }
        sleep(RECONNECT_DELAY);
    }
}

fn receive(node: &Arc<NodeContext>) -> Result<()> {
    let mut sentinel = node.sentinel(node.own(), REQUEST_TIMEOUT)?;
    sentinel.subscribe()?;
    loop {
        let Some((event, text)) = sentinel.next_event()? else { continue };
        tracing::info!("Sentinel: {text}");
        let node = node.clone();
        // A thread per event, since a server that does not answer must not delay the next event.
        spawn(move || react(&node, &event));
    }
}

fn react(node: &Arc<NodeContext>, event: &FailoverEvent) {
    let done = match *event {
        FailoverEvent::Starts { primary } => pause_writes(node, primary),
        FailoverEvent::Aborted { primary } => resume_writes(node, primary),
        FailoverEvent::Selected { .. } => promotion::promote(node, node.own(), Instant::now()),
        FailoverEvent::Promoted { new, old } => demote(node, new, old),
        // This event may be late, so a node only demotes its own Redis on it.
        FailoverEvent::Switched { new, old } if old == node.own().address => demote(node, new, old),
        FailoverEvent::Switched { .. } => Ok(()),
    };
    if let Err(error) = done {
        tracing::info!("{event:?}: {error:#}");
    }
}

pub(super) fn connect_redis(node: &NodeContext, address: IpAddr) -> Result<RedisClient> {
    node.redis(address, REQUEST_TIMEOUT).with_context(|| format!("Redis of {address}"))
}

/// Fails on Redis before 6.2, which can only pause all clients including Sentinels: there only writes that
/// `WAIT` confirmed are safe.
pub(super) fn pause_writes(node: &NodeContext, primary: IpAddr) -> Result<()> {
    pause(&mut connect_redis(node, primary)?)
}

pub(super) fn pause(redis: &mut RedisClient) -> Result<()> {
    redis.query(&["CLIENT", "PAUSE", WRITE_PAUSE_MS, "WRITE"]).map(drop)
}

fn resume_writes(node: &NodeContext, primary: IpAddr) -> Result<()> {
    connect_redis(node, primary)?.query(&["CLIENT", "UNPAUSE"]).map(drop)
}

/// Makes the old primary a replica and disconnects its clients, which then connect to the new one.
pub(super) fn demote(node: &NodeContext, new: IpAddr, old: IpAddr) -> Result<()> {
    let mut redis = connect_redis(node, old)?;
    if redis.replication()?.is_primary() {
        redis.follow(new, node.spec().redis.port)?;
        tracing::info!("{old} was primary and now follows {new}");
        redis.query(&["CLIENT", "KILL", "TYPE", "normal"])?;
        redis.command(&["CLIENT", "UNPAUSE"])?;
    }
    Ok(())
}
