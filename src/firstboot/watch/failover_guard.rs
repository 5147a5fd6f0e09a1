//! Prevents lost writes in a Redis failover while the old primary still runs.
//!
//! Sentinel promotes a replica and reconfigures the old primary only seconds later. Meanwhile the old primary
//! accepts writes and the other replicas confirm them (`WAIT`), until all of them resync from the new primary
//! and discard those writes. So each node subscribes to its own Sentinel. If that leads the failover, this
//! node pauses writes on the old primary, has the other replicas follow the candidate *before* its promotion
//! so that none can confirm writes, and makes the old primary a replica as soon as there is a new one.

use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_cluster::client::redis::RedisClient;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::{sleep, spawn};
use std::time::Duration;

/// Short, since Sentinel promotes the candidate a tenth of a second after it selected it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Less than Sentinel's down-after-milliseconds, since old servers pause Sentinel's messages too. The pause
/// expires.
const WRITE_PAUSE_MS: &str = "4000";

const CHANNELS: [&str; 7] = [
    "+try-failover",
    "+selected-slave",
    "+promoted-slave",
    "+switch-master",
    "-failover-abort-not-elected",
    "-failover-abort-no-good-slave",
    "-failover-abort-slave-timeout",
];

/// What to do on an event of Sentinel.
#[derive(Debug, PartialEq)]
enum FailoverAction {
    /// A failover starts: pause writes on the primary.
    PauseWrites { primary: IpAddr },
    /// The failover was aborted: resume writes.
    ResumeWrites { primary: IpAddr },
    /// This replica is selected: the others follow it.
    FollowCandidate { candidate: IpAddr, primary: IpAddr },
    /// The candidate is promoted: the old primary follows it.
    Demote { new: IpAddr, old: IpAddr },
    /// The Sentinels agree on the new primary: this node follows it if it is the old one.
    DemoteSelf { new: IpAddr, old: IpAddr },
}

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
    let mut sentinel = node.sentinel(node.own().address, REQUEST_TIMEOUT)?;
    sentinel.subscribe(&CHANNELS)?;
    loop {
        let Some((channel, text)) = sentinel.next_message()? else { continue };
        let Some(action) = parse_event(&node.spec().redis.master_name, &channel, &text) else { continue };
        tracing::info!("Sentinel: {channel} {text}");
        let node = node.clone();
        // A thread per event, since a server that does not answer must not delay the next event.
        spawn(move || execute(&node, &action));
    }
}

/// `None` for an event of another primary or in another format.
fn parse_event(name: &str, channel: &str, text: &str) -> Option<FailoverAction> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = |place: usize| words.get(place)?.parse::<IpAddr>().ok();
    match (channel, words.as_slice()) {
        ("+try-failover", ["master", n, ..]) if *n == name => {
            Some(FailoverAction::PauseWrites { primary: at(2)? })
        }
        (c, ["master", n, ..]) if c.starts_with("-failover-abort") && *n == name => {
            Some(FailoverAction::ResumeWrites { primary: at(2)? })
        }
        ("+selected-slave", ["slave", _, _, _, "@", n, ..]) if *n == name => {
            Some(FailoverAction::FollowCandidate { candidate: at(2)?, primary: at(6)? })
        }
        ("+promoted-slave", ["slave", _, _, _, "@", n, ..]) if *n == name => {
            Some(FailoverAction::Demote { new: at(2)?, old: at(6)? })
        }
        ("+switch-master", [n, ..]) if *n == name => {
            Some(FailoverAction::DemoteSelf { old: at(1)?, new: at(3)? })
        }
        _ => None,
    }
}

fn execute(node: &Arc<NodeContext>, action: &FailoverAction) {
    let done = match *action {
        FailoverAction::PauseWrites { primary } => pause_writes(node, primary),
        FailoverAction::ResumeWrites { primary } => resume_writes(node, primary),
        FailoverAction::FollowCandidate { candidate, primary } => {
            follow_candidate(node, candidate, primary);
            Ok(())
        }
        FailoverAction::Demote { new, old } => demote(node, new, old),
        // This event may be late, so a node only demotes its own Redis on it.
        FailoverAction::DemoteSelf { new, old } if old == node.own().address => demote(node, new, old),
        FailoverAction::DemoteSelf { .. } => Ok(()),
    };
    if let Err(error) = done {
        tracing::info!("{action:?}: {error:#}");
    }
}

pub(super) fn connect_redis(node: &NodeContext, address: IpAddr) -> Result<RedisClient> {
    node.redis(address, REQUEST_TIMEOUT).with_context(|| format!("Redis of {address}"))
}

/// Fails on Redis before 6.2, which can only pause all clients including Sentinels: there only writes that
/// `WAIT` confirmed are safe.
fn pause_writes(node: &NodeContext, primary: IpAddr) -> Result<()> {
    connect_redis(node, primary)?.query(&["CLIENT", "PAUSE", WRITE_PAUSE_MS, "WRITE"]).map(drop)
}

fn resume_writes(node: &NodeContext, primary: IpAddr) -> Result<()> {
    connect_redis(node, primary)?.query(&["CLIENT", "UNPAUSE"]).map(drop)
}

/// A thread per server, since one that hangs must not delay the others.
fn follow_candidate(node: &Arc<NodeContext>, candidate: IpAddr, primary: IpAddr) {
    let replicas = node.spec().nodes.iter().map(|n| n.address).filter(|a| *a != candidate && *a != primary);
    for replica in replicas {
        let node = node.clone();
        spawn(move || match follow(&node, replica, "slave", candidate) {
            Ok(true) => tracing::info!("{replica} follows {candidate}, which is about to be promoted"),
            Ok(false) => {}
            Err(error) => tracing::info!("{replica} does not follow {candidate} yet: {error:#}"),
        });
    }
}

/// Makes the old primary a replica and disconnects its clients, which then connect to the new one.
fn demote(node: &NodeContext, new: IpAddr, old: IpAddr) -> Result<()> {
    if follow(node, old, "master", new)? {
        tracing::info!("{old} was primary and now follows {new}");
        let mut redis = connect_redis(node, old)?;
        redis.query(&["CLIENT", "KILL", "TYPE", "normal"])?;
        redis.command(&["CLIENT", "UNPAUSE"])?;
    }
    Ok(())
}

/// Makes `server` a replica of `of` if it has this role; returns whether it had.
fn follow(node: &NodeContext, server: IpAddr, role: &str, of: IpAddr) -> Result<bool> {
    let mut redis = connect_redis(node, server)?;
    if redis.info("replication")?.get("role").is_none_or(|r| r != role) {
        return Ok(false);
    }
    let (host, port) = (of.to_string(), node.spec().redis.port.to_string());
    redis.query(&["REPLICAOF", &host, &port]).map(|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_sentinel_are_parsed() {
        let of = |channel, text| parse_event("redis-cluster", channel, text);
        let ip = |last: u8| IpAddr::from([192, 168, 18, last]);
        let master = "master redis-cluster 192.168.18.22 6378";
        assert_eq!(of("+try-failover", master), Some(FailoverAction::PauseWrites { primary: ip(22) }));
        assert_eq!(
            of("-failover-abort-no-good-slave", master),
            Some(FailoverAction::ResumeWrites { primary: ip(22) })
        );
        let slave = "slave 192.168.18.21:6378 192.168.18.21 6378 @ redis-cluster 192.168.18.22 6378";
        assert_eq!(
            of("+selected-slave", slave),
            Some(FailoverAction::FollowCandidate { candidate: ip(21), primary: ip(22) })
        );
        assert_eq!(of("+promoted-slave", slave), Some(FailoverAction::Demote { new: ip(21), old: ip(22) }));
        let switch = "redis-cluster 192.168.18.22 6378 192.168.18.21 6378";
        assert_eq!(
            of("+switch-master", switch),
            Some(FailoverAction::DemoteSelf { new: ip(21), old: ip(22) })
        );
        assert_eq!(parse_event("other", "+switch-master", switch), None);
        assert_eq!(of("+selected-slave", "slave @ redis-cluster"), None);
        assert_eq!(of("+try-failover", "master redis-cluster nonsense 1"), None);
    }
}
