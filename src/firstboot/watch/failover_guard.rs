//! Redis' handover: closes what a failover leaves open while the old primary still lives.
//!
//! Sentinel promotes a replica and tells the old primary seconds later. Meanwhile that one goes on accepting writes,
//! and the other replicas go on confirming them (`WAIT`), until all of them become the new one's copies and throw
//! those writes away. So each node listens to its own Sentinel, and where that leads the failover: the old primary
//! holds writes back; the other replicas follow the chosen one *before* it is promoted, so that nobody is left to
//! confirm; and the old primary follows as soon as there is a new one.

use anyhow::{Context, Result};
use hanode_cluster::client::redis::Redis;
use hanode_cluster::health::Access;
use hanode_core::spec::Node;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::{sleep, spawn};
use std::time::Duration;

/// Between Sentinel's choice and its word to the chosen one lies a tenth of a second.
const TIMEOUT: Duration = Duration::from_secs(1);
const ANEW: Duration = Duration::from_secs(1);
/// Less than Sentinel's down-after: a pause holds back its own messages too. It ends by itself.
const PAUSE_MS: &str = "4000";

const CHANNELS: [&str; 7] = [
    "+try-failover",
    "+selected-slave",
    "+promoted-slave",
    "+switch-master",
    "-failover-abort-not-elected",
    "-failover-abort-no-good-slave",
    "-failover-abort-slave-timeout",
];

/// What a Sentinel's message says is to be done.
#[derive(Debug, PartialEq)]
enum Act {
    /// A failover begins: the primary holds writes back.
    Hold { primary: IpAddr },
    /// It came to nothing.
    Release { primary: IpAddr },
    /// This replica will be promoted: the others follow it.
    Gather { chosen: IpAddr, primary: IpAddr },
    /// It is promoted: the old primary follows it.
    Depose { new: IpAddr, old: IpAddr },
    /// The Sentinels have agreed on it: so does this node, if it is the old one.
    Yield { new: IpAddr, old: IpAddr },
}

/// Listens for good, on a thread of its own; a Sentinel that is not there yet or any more is waited for.
pub(super) fn listen(access: Access, node: &str) {
    let Some(own) = access.spec.node(node).cloned() else { return };
    let access = Arc::new(access);
    loop {
        if let Err(error) = hear(&access, &own) {
            tracing::debug!("listening to Sentinel: {error:#}");
        }
        sleep(ANEW);
    }
}

fn hear(access: &Arc<Access>, own: &Node) -> Result<()> {
    let (port, password) = (access.spec.redis.sentinel_port, &access.secrets.sentinel);
    let mut sentinel = Redis::connect(access.redis.as_ref(), own.address, port, password, TIMEOUT)?;
    sentinel.subscribe(&CHANNELS)?;
    loop {
        let Some((channel, text)) = sentinel.next_message()? else { continue };
        let Some(act) = understand(&access.spec.redis.master_name, &channel, &text) else { continue };
        tracing::info!("Sentinel: {channel} {text}");
        let (access, own) = (access.clone(), own.address);
        // The next message does not wait for a server that does not answer.
        spawn(move || perform(&access, own, &act));
    }
}

/// `None` for what is of another primary, or not of this shape.
fn understand(name: &str, channel: &str, text: &str) -> Option<Act> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = |place: usize| words.get(place)?.parse::<IpAddr>().ok();
    match (channel, words.as_slice()) {
        ("+try-failover", ["master", n, ..]) if *n == name => Some(Act::Hold { primary: at(2)? }),
        (c, ["master", n, ..]) if c.starts_with("-failover-abort") && *n == name => {
            Some(Act::Release { primary: at(2)? })
        }
        ("+selected-slave", ["slave", _, _, _, "@", n, ..]) if *n == name => {
            Some(Act::Gather { chosen: at(2)?, primary: at(6)? })
        }
        ("+promoted-slave", ["slave", _, _, _, "@", n, ..]) if *n == name => {
            Some(Act::Depose { new: at(2)?, old: at(6)? })
        }
        ("+switch-master", [n, ..]) if *n == name => Some(Act::Yield { old: at(1)?, new: at(3)? }),
        _ => None,
    }
}

fn perform(access: &Arc<Access>, own: IpAddr, act: &Act) {
    let done = match *act {
        Act::Hold { primary } => hold(access, primary),
        Act::Release { primary } => release(access, primary),
        Act::Gather { chosen, primary } => {
            gather(access, chosen, primary);
            Ok(())
        }
        Act::Depose { new, old } => depose(access, new, old),
        // Two nodes of the same name cannot be: only its own Redis is a node's to depose by hearsay.
        Act::Yield { new, old } if old == own => depose(access, new, old),
        Act::Yield { .. } => Ok(()),
    };
    if let Err(error) = done {
        tracing::info!("{act:?}: {error:#}");
    }
}

pub(super) fn redis(access: &Access, address: IpAddr) -> Result<Redis> {
    Redis::connect(access.redis.as_ref(), address, access.spec.redis.port, &access.secrets.redis, TIMEOUT)
        .with_context(|| format!("Redis of {address}"))
}

/// Redis before 6.2 can only pause all clients, Sentinels included: there, only what `WAIT` confirmed is kept.
fn hold(access: &Access, primary: IpAddr) -> Result<()> {
    redis(access, primary)?.query(&["CLIENT", "PAUSE", PAUSE_MS, "WRITE"]).map(drop)
}

fn release(access: &Access, primary: IpAddr) -> Result<()> {
    redis(access, primary)?.query(&["CLIENT", "UNPAUSE"]).map(drop)
}

/// Each on a thread of its own: one that hangs must not hold up the others.
fn gather(access: &Arc<Access>, chosen: IpAddr, primary: IpAddr) {
    let others = access.spec.nodes.iter().map(|n| n.address).filter(|a| *a != chosen && *a != primary);
    for other in others {
        let access = access.clone();
        spawn(move || match follow(&access, other, "slave", chosen) {
            Ok(true) => tracing::info!("{other} follows {chosen}, which is about to be promoted"),
            Ok(false) => {}
            Err(error) => tracing::info!("{other} does not follow {chosen} yet: {error:#}"),
        });
    }
}

/// The old primary becomes a replica; whoever is connected to it connects anew, to the new one.
fn depose(access: &Access, new: IpAddr, old: IpAddr) -> Result<()> {
    if follow(access, old, "master", new)? {
        tracing::info!("{old} was primary and follows {new}");
        let mut redis = redis(access, old)?;
        redis.query(&["CLIENT", "KILL", "TYPE", "normal"])?;
        redis.command(&["CLIENT", "UNPAUSE"])?;
    }
    Ok(())
}

/// Has `server` follow another, if it has this role; `false` if not.
fn follow(access: &Access, server: IpAddr, role: &str, of: IpAddr) -> Result<bool> {
    let mut redis = redis(access, server)?;
    if redis.info("replication")?.get("role").is_none_or(|r| r != role) {
        return Ok(false);
    }
    let (host, port) = (of.to_string(), access.spec.redis.port.to_string());
    redis.query(&["REPLICAOF", &host, &port]).map(|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_as_sentinels_send_them() {
        let of = |channel, text| understand("redis-cluster", channel, text);
        let ip = |last: u8| IpAddr::from([192, 168, 18, last]);
        let master = "master redis-cluster 192.168.18.22 6378";
        assert_eq!(of("+try-failover", master), Some(Act::Hold { primary: ip(22) }));
        assert_eq!(of("-failover-abort-no-good-slave", master), Some(Act::Release { primary: ip(22) }));
        let slave = "slave 192.168.18.21:6378 192.168.18.21 6378 @ redis-cluster 192.168.18.22 6378";
        assert_eq!(of("+selected-slave", slave), Some(Act::Gather { chosen: ip(21), primary: ip(22) }));
        assert_eq!(of("+promoted-slave", slave), Some(Act::Depose { new: ip(21), old: ip(22) }));
        let switch = "redis-cluster 192.168.18.22 6378 192.168.18.21 6378";
        assert_eq!(of("+switch-master", switch), Some(Act::Yield { new: ip(21), old: ip(22) }));
        assert_eq!(understand("other", "+switch-master", switch), None);
        assert_eq!(of("+selected-slave", "slave @ redis-cluster"), None);
        assert_eq!(of("+try-failover", "master redis-cluster nonsense 1"), None);
    }
}
