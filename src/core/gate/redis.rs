//! Redis' gate.
//!
//! After a crash of the machine with Redis' primary, a replica must be promoted before this Redis starts again.
//! Its own disk lacks the writes since the last fsync (up to a second), which replicas may have confirmed for
//! `WAIT`. If it became primary again before the Sentinels noticed, the replicas would discard those writes
//! to resync from it.

use super::{Decision, Effect, Round};
use crate::peer::DiskData;
use crate::plan::{Action, Reason, Step};
use crate::spec::Node;
use std::net::IpAddr;
use std::time::Duration;

/// A failover takes the Sentinels some seconds; if they cannot, this node's data is better than no service.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(45);

#[derive(Debug, Clone)]
pub struct RedisGate {
    /// Whether Redis has run since this machine started: then its page cache has every acknowledged write.
    has_run: bool,
    /// Since when the promotion of another Redis is pending.
    pending_since: Option<Duration>,
}

/// The Redis of a peer that answered.
#[derive(Debug, Clone, PartialEq)]
pub struct RedisPeer {
    pub node: String,
    pub address: IpAddr,
    pub is_primary: bool,
    /// Whether it is a replica of this node, linked since it started.
    pub was_linked_here: bool,
}

impl RedisGate {
    pub fn new(has_run: bool) -> RedisGate {
        RedisGate { has_run, pending_since: None }
    }

    /// The peers whose Redis the decision needs.
    pub fn queries<'a>(round: &Round<'a>) -> Vec<&'a Node> {
        let primary = missing_data(round);
        let wanted = |peer: &&Node| is_primary(round) || primary == Some(peer.address);
        round.spec.peers(&round.own.name).filter(wanted).collect()
    }

    /// `stale`: data of a restored snapshot that is still on the disk. `peers`: those of [`Self::queries`] that answered.
    pub fn decide(&mut self, round: &Round, stale: DiskData, peers: &[RedisPeer]) -> Decision {
        let redis = &round.plan.redis;
        if !redis.step.action.may_start() {
            let promote = redis.promote_another.then_some(Effect::PromoteAnother);
            return Decision::new(&redis.step, promote.into_iter().collect());
        }
        if !round.seen.own.data.sentinel {
            return Decision::wait(Reason::SentinelFirst, vec![]);
        }
        let mut step = redis.step.clone();
        if let Some(pending) = self.pending_promotion(round, peers) {
            let waited = round.now.saturating_sub(*self.pending_since.get_or_insert(round.now));
            if waited <= PROMOTION_TIMEOUT {
                // A Redis that only restarted has lost nothing: no failover is needed for its data.
                let promote = (!self.has_run).then_some(Effect::PromoteAnother);
                return Decision::wait(pending, promote.into_iter().collect());
            }
            step = Step::new(step.action, Reason::NotPromoted { waited, pending: Box::new(pending) });
        }
        // Otherwise the Sentinels might promote the empty replica.
        if let Some(primary) = missing_data(round)
            && !peers.iter().any(|peer| peer.address == primary && peer.is_primary)
        {
            return Decision::wait(Reason::PrimaryUnreachable { primary }, vec![]);
        }
        let mut effects = Vec::new();
        // A replica with unreadable data fetches everything from its primary; Redis would not start with it.
        if round.seen.own.redis_unreadable {
            effects.push(Effect::MoveRedisAside);
        }
        effects.push(Effect::MarkServed);
        if stale.redis {
            effects.push(Effect::MoveRedisAside);
        }
        if loads_snapshot(round) {
            effects.push(Effect::RestoreRedis);
        }
        effects.push(Effect::WriteFiles(Box::new(round.plan.clone())));
        Decision::new(&step, effects)
    }

    /// Why another Redis becomes the primary first, where the Sentinels still name this node.
    fn pending_promotion(&self, round: &Round, peers: &[RedisPeer]) -> Option<Reason> {
        if !is_primary(round) {
            return None;
        }
        peers.iter().find_map(|peer| {
            if peer.is_primary {
                return Some(Reason::AlreadyPromoted { peer: peer.node.clone() });
            }
            let was_replica = !self.has_run && peer.was_linked_here;
            was_replica.then(|| Reason::PromotionPending { peer: peer.node.clone() })
        })
    }
}

/// Whether this is a start without data of the first primary of a cluster that is restored. Until the snapshot is complete
/// under its name, such a start is repeated.
fn loads_snapshot(round: &Round) -> bool {
    let redis = &round.plan.redis;
    let record = round.seen.etcd.as_ref().ok().and_then(|etcd| etcd.restore.as_ref());
    redis.step.action == Action::Bootstrap
        && redis.primary == Some(round.own.address)
        && record.is_some_and(|record| record.postgres.is_some())
}

fn is_primary(round: &Round) -> bool {
    round.plan.redis.primary == Some(round.own.address)
}

/// The primary of a replica without readable data, from which it fetches everything.
fn missing_data(round: &Round) -> Option<IpAddr> {
    let redis = &round.plan.redis;
    let lacks_data = round.seen.own.redis_unreadable || redis.step.action == Action::Join;
    redis.primary.filter(|_| lacks_data)
}
