//! Promotes the replica of Redis that a Sentinel chose.
//!
//! A Sentinel itself would promote a tenth of a second after its choice, ready or not, so its user in Redis may not. A
//! watcher does it, in this order: the other replicas follow the candidate, and confirm no write of the old primary any
//! more; the candidate gets everything that they have; it becomes the primary. A watcher that is late delays the
//! promotion, and one that cannot do all of this does not promote: the Sentinel gives up after 20 s, and chooses again.
//!
//! The watcher next to the leading Sentinel acts at once, each other one if nothing happened for [`TAKEOVER_DELAY`]. If
//! several act at the same time, each waits for the same.

use super::failover_guard::{connect_redis, demote, pause, pause_writes};
use crate::node::NodeContext;
use anyhow::{Context, Result, bail, ensure};
use hanode_cluster::client::redis::RedisClient;
use hanode_cluster::client::replication::Replication;
use hanode_cluster::client::sentinel::PendingPromotion;
use hanode_core::spec::Node;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::{self, sleep, spawn};
use std::time::{Duration, Instant};

/// After the choice; a Sentinel gives up after 20 s, and then takes no notice of a promotion.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(12);
/// For a server that does not answer, though the Sentinel does not regard it as down: it may be slow, and still confirm.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(5);
/// For the candidate to get what another server has. That was sent to both; only a broken connection takes longer.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two questions to a Sentinel whether it waits for a promotion.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const TAKEOVER_DELAY: Duration = Duration::from_secs(2);

/// Promotes the candidate of this node's Sentinel, if that leads a failover. `chosen`: when it became known.
pub(super) fn promote(node: &NodeContext, leader: &Node, chosen: Instant) -> Result<()> {
    let Some(pending) = pending_promotion(node, leader)? else { return Ok(()) };
    let promotion = Promotion { node, leader, pending: &pending, deadline: chosen + PROMOTION_TIMEOUT };
    let redirected = promotion.redirect_others()?;
    promotion.wait_for_candidate(&redirected, promotion.deadline)?;
    let primary_is_included = promotion.wait_for_writes_of_primary()?;
    promotion.require_enough(redirected.len() + usize::from(primary_is_included))?;
    let mut candidate = connect_redis(node, pending.candidate)?;
    promotion.require_pending()?;
    if candidate.replication()?.is_primary() {
        // By another watcher, which also demotes the old primary.
        return Ok(());
    }
    candidate.promote()?;
    tracing::info!("{} is promoted, as the Sentinel of {} chose", pending.candidate, leader.name);
    demote(node, pending.candidate, pending.primary)
}

fn pending_promotion(node: &NodeContext, leader: &Node) -> Result<Option<PendingPromotion>> {
    node.sentinel(leader, SENTINEL_TIMEOUT)?.pending_promotion()
}

/// Watches the Sentinels of all nodes, each in a thread of its own, since one that hangs must not delay the others.
pub(super) fn watch_sentinels(node: &Arc<NodeContext>) {
    for leader in node.spec().nodes.clone() {
        let node = node.clone();
        spawn(move || {
            let mut chosen = None;
            loop {
                if let Err(error) = take_over(&node, &leader, &mut chosen) {
                    tracing::debug!("Sentinel of {}: {error:#}", leader.name);
                }
                sleep(POLL_INTERVAL);
            }
        });
    }
}

/// Promotes for this Sentinel whenever it has waited for some time. Returns only with an error. `chosen`: since when it
/// has been known to wait.
fn take_over(node: &NodeContext, leader: &Node, chosen: &mut Option<Instant>) -> Result<()> {
    let mut sentinel = node.sentinel(leader, SENTINEL_TIMEOUT)?;
    loop {
        *chosen = match sentinel.pending_promotion()? {
            Some(_) => chosen.or(Some(Instant::now())),
            None => None,
        };
        let due = |at: &Instant| (TAKEOVER_DELAY..PROMOTION_TIMEOUT).contains(&at.elapsed());
        if let Some(chosen) = chosen.filter(due) {
            promote(node, leader, chosen)
                .unwrap_or_else(|error| tracing::info!("promotion of Redis: {error:#}"));
        }
        sleep(POLL_INTERVAL);
    }
}

struct Promotion<'a> {
    node: &'a NodeContext,
    leader: &'a Node,
    pending: &'a PendingPromotion,
    deadline: Instant,
}

impl Promotion<'_> {
    /// Right before a server changes its role or its primary: the Sentinel may have given up, another watcher may have
    /// promoted the candidate, or another failover may have followed.
    fn require_pending(&self) -> Result<()> {
        let (leader, candidate) = (self.leader, self.pending.candidate);
        if pending_promotion(self.node, leader)?.is_none_or(|now| now.candidate != candidate) {
            bail!("the Sentinel of {} no longer waits for the promotion of {candidate}", leader.name);
        }
        ensure!(Instant::now() < self.deadline, "it is too late to promote {candidate}");
        Ok(())
    }

    /// Makes the other servers follow the candidate, except the primary; returns what they had then.
    fn redirect_others(&self) -> Result<Vec<Replication>> {
        let others = self.node.spec().nodes.iter().map(|node| node.address);
        let others = others.filter(|address| *address != self.pending.candidate);
        thread::scope(|scope| {
            let threads: Vec<_> =
                others.map(|other| scope.spawn(move || self.redirect_patiently(other))).collect();
            let results = threads.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread panicked"),
            });
            results.filter_map(Result::transpose).collect()
        })
    }

    /// `None` if the server is down or the primary.
    fn redirect_patiently(&self, other: IpAddr) -> Result<Option<Replication>> {
        let is_old_primary = other == self.pending.primary;
        let is_down =
            if is_old_primary { self.pending.primary_is_down } else { self.pending.down.contains(&other) };
        let limit = Instant::now() + if is_down { Duration::ZERO } else { REPLICA_TIMEOUT };
        loop {
            let found =
                connect_redis(self.node, other).and_then(|mut redis| Ok((redis.replication()?, redis)));
            let done = match found {
                Ok((before, _)) if is_old_primary && before.is_primary() => return Ok(None),
                Ok((before, redis)) => self.redirect(redis, before)?,
                Err(error) => Err(error),
            };
            match done {
                Ok(data) => {
                    tracing::info!(
                        "{other} follows {}, which is about to be promoted",
                        self.pending.candidate
                    );
                    return Ok(Some(data));
                }
                Err(error) if is_down => {
                    tracing::info!("{other} does not follow {}: {error:#}", self.pending.candidate);
                    return Ok(None);
                }
                // It may still confirm writes.
                Err(error) if Instant::now() >= limit => return Err(error),
                Err(_) => sleep(RETRY_INTERVAL),
            }
        }
    }

    /// The outer error is final: the candidate would make the server discard what only that has. The inner one is an
    /// answer that did not come.
    fn redirect(&self, mut redis: RedisClient, before: Replication) -> Result<Result<Replication>> {
        let (candidate, port) = (self.pending.candidate, self.node.spec().redis.port);
        if before.follows(candidate) {
            return Ok(Ok(before));
        }
        if before.is_primary() {
            // Promoted for a Sentinel that had given up. Its replicas are redirected like all others.
            let paused = match pause(&mut redis).and_then(|()| redis.replication()) {
                Ok(paused) => paused,
                Err(error) => return Ok(Err(error)),
            };
            self.wait_for_candidate(std::slice::from_ref(&paused), Instant::now() + CATCH_UP_TIMEOUT)?;
            self.require_pending()?;
            return Ok(redis.follow(candidate, port).map(|()| paused));
        }
        self.wait_for_candidate(&[before], Instant::now() + CATCH_UP_TIMEOUT)?;
        self.require_pending()?;
        Ok(redis.redirect(candidate, port))
    }

    /// A write that a majority confirmed is on one of any majority: the candidate has it if it has the data of so many.
    /// With fewer, the new primary would accept no writes anyway (`min-replicas-to-write`).
    fn require_enough(&self, others: usize) -> Result<()> {
        let spec = self.node.spec();
        let required = spec.majority().min(spec.redis.min_replicas as usize + 1);
        ensure!(
            others + 1 >= required,
            "{} is not promoted: only {others} other Redis answer, and one that does not may have confirmed writes",
            self.pending.candidate
        );
        Ok(())
    }

    /// In a failover that an operator started, the candidate gets all writes of the primary, which accepts no more; returns
    /// whether it did. A primary that the Sentinel regards as down promises this only for confirmed writes.
    fn wait_for_writes_of_primary(&self) -> Result<bool> {
        if self.pending.primary_is_down {
            return Ok(false);
        }
        let primary = pause_writes(self.node, self.pending.primary)
            .and_then(|()| connect_redis(self.node, self.pending.primary)?.replication());
        match primary {
            Ok(primary) if primary.is_primary() => {
                self.wait_for_candidate(&[primary], Instant::now() + CATCH_UP_TIMEOUT).map(|()| true)
            }
            Ok(_) => Ok(false),
            Err(error) => {
                tracing::info!("unconfirmed writes of Redis may be lost: {error:#}");
                Ok(false)
            }
        }
    }

    fn wait_for_candidate(&self, others: &[Replication], limit: Instant) -> Result<()> {
        let candidate = self.pending.candidate;
        let mut redis = connect_redis(self.node, candidate)?;
        loop {
            let has = redis.replication().with_context(|| format!("Redis of {candidate}"))?;
            if has.is_primary() || others.iter().all(|other| has.has_all_of(other)) {
                return Ok(());
            }
            if Instant::now() >= limit.min(self.deadline) {
                bail!("{candidate} lacks data that another Redis has, and does not get it");
            }
            sleep(RETRY_INTERVAL);
        }
    }
}
