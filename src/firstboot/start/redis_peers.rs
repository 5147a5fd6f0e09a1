//! What Redis' gate needs to know about the Redis of the peers, and the failover that it starts.

use crate::node::NodeContext;
use anyhow::Result;
use hanode_cluster::client::sentinel::{MonitoredPrimary, MonitoredReplica};
use hanode_core::gate::RedisPeer;
use hanode_core::spec::Node;
use std::time::Duration;

const REDIS_TIMEOUT: Duration = Duration::from_secs(1);

/// The Redis of those peers that answer.
pub(super) fn redis_peers(node: &NodeContext, peers: &[&Node]) -> Vec<RedisPeer> {
    let own = node.own().address;
    let query = |peer: &&Node| {
        let replication = node.redis(peer.address, REDIS_TIMEOUT).and_then(|mut r| r.replication()).ok()?;
        Some(RedisPeer {
            node: peer.name.clone(),
            address: peer.address,
            is_primary: replication.is_primary(),
            was_linked_here: replication.was_linked_to(own),
        })
    };
    peers.iter().filter_map(query).collect()
}

/// Starts a failover at the first Sentinel that answers; the caller checks the result in its next round.
pub(super) fn promote_another(node: &NodeContext) -> Result<()> {
    for peer in node.peers() {
        let Ok(mut sentinel) = node.sentinel(peer, REDIS_TIMEOUT) else { continue };
        if knows_most_advanced_replica(&sentinel.primary()?, &sentinel.replicas()?) {
            let start = sentinel.start_failover()?;
            tracing::info!("failover by the Sentinel of {}: {start:?}", peer.name);
        }
        return Ok(());
    }
    Ok(())
}

/// Whether this Sentinel knows which replica has the last confirmed write: it promotes by replication offsets
/// that are up to ten seconds old, so all of them must be newer than the crash of the primary.
fn knows_most_advanced_replica(primary: &MonitoredPrimary, replicas: &[MonitoredReplica]) -> bool {
    let Some(down) = primary.down else { return false };
    let mut live = replicas.iter().filter(|replica| !replica.down).peekable();
    live.peek().is_some() && live.all(|replica| replica.offset_age.is_some_and(|age| age < down))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failover_starts_once_the_offsets_are_newer_than_the_crash() {
        let primary = |down: Option<u64>| MonitoredPrimary {
            address: "192.168.18.21".parse().unwrap(),
            epoch: 1,
            down: down.map(Duration::from_millis),
            settings: None,
        };
        let refreshed = |ago| MonitoredReplica { down: false, offset_age: Some(Duration::from_millis(ago)) };
        let down = primary(Some(3000));
        assert!(knows_most_advanced_replica(&down, &[refreshed(700), refreshed(900)]));
        assert!(
            !knows_most_advanced_replica(&down, &[refreshed(700), refreshed(8000)]),
            "from before the crash"
        );
        assert!(!knows_most_advanced_replica(&primary(None), &[refreshed(700)]), "not noticed yet");
        let lost = MonitoredReplica { down: true, ..refreshed(60000) };
        assert!(knows_most_advanced_replica(&down, &[refreshed(700), lost.clone()]));
        assert!(!knows_most_advanced_replica(&down, &[lost]), "no replica to promote");
    }
}
