//! After a crash of the machine with Redis' primary: a replica must be promoted before this Redis starts
//! again.
//!
//! Its own disk lacks the writes since the last fsync (up to a second), which replicas may have confirmed for
//! `WAIT`. If it became primary again before the Sentinels noticed, the replicas would discard those writes
//! to resync from it.

use crate::node::NodeContext;
use anyhow::Result;
use hanode_cluster::client::redis::Replication;
use hanode_cluster::client::sentinel::{MonitoredPrimary, MonitoredReplica};
use hanode_core::plan::{Action, RedisStep, Step};
use std::net::IpAddr;
use std::time::{Duration, Instant};

const REDIS_TIMEOUT: Duration = Duration::from_secs(1);
/// A failover takes the Sentinels some seconds; if they cannot, this node's data is better than no service.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(45);

pub(super) struct PromotionWait {
    /// Whether Redis has run since this machine started: then its page cache has every acknowledged write.
    has_run: bool,
    /// Start of the wait.
    since: Option<Instant>,
}

impl PromotionWait {
    pub(super) fn new(node: &NodeContext) -> PromotionWait {
        let has_run = node.gate_steps().get("redis").is_some_and(|step| step.action.may_start());
        PromotionWait { has_run, since: None }
    }

    /// The step that waits for another primary, where the Sentinels still name this node; `None` if Redis may
    /// start.
    pub(super) fn step(&mut self, node: &NodeContext, redis: &RedisStep) -> Result<Option<Step>> {
        let own = node.own().address;
        if redis.step.action != Action::Resume || redis.primary != Some(own) {
            return Ok(None);
        }
        for peer in node.peers() {
            let Ok(replication) = replication(node, peer.address) else { continue };
            let reason = if replication.is_primary() {
                format!("{} is already primary; waiting for the Sentinels to report it", peer.name)
            } else if !self.has_run && replication.was_linked_to(own) {
                format!(
                    "{} was a replica of this node until it crashed; waiting for its promotion",
                    peer.name
                )
            } else {
                continue;
            };
            if self.since.get_or_insert_with(Instant::now).elapsed() > PROMOTION_TIMEOUT {
                tracing::warn!("waited {} s, starting Redis now: {reason}", PROMOTION_TIMEOUT.as_secs());
                return Ok(None);
            }
            if !self.has_run {
                promote_another(node)?;
            }
            return Ok(Some(Step::new(Action::Wait, reason)));
        }
        Ok(None)
    }
}

/// Whether Redis at this address reports that it is a primary.
pub(super) fn is_redis_primary(node: &NodeContext, address: IpAddr) -> bool {
    replication(node, address).is_ok_and(|replication| replication.is_primary())
}

fn replication(node: &NodeContext, address: IpAddr) -> Result<Replication> {
    node.redis(address, REDIS_TIMEOUT)?.replication()
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
