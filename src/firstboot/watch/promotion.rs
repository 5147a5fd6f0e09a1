//! Promotes the replica of Redis that a Sentinel chose.
//!
//! A Sentinel itself would promote a tenth of a second after its choice, ready or not, so its user in Redis may not. A
//! watcher does it, in this order: the other replicas follow the candidate, and confirm no write of the old primary any
//! more; the candidate gets everything that they have; it becomes the primary. However late a watcher is, no confirmed
//! write is lost, since the promotion waits for it. The watcher next to the leading Sentinel acts at once, each other one
//! if nothing happened for [`TAKEOVER_DELAY`]. Two of them at the same time do no harm: each waits for the same.

use super::failover_guard::{connect_redis, demote, pause_writes};
use crate::node::NodeContext;
use anyhow::{Context, Result, bail};
use hanode_cluster::client::redis::RedisClient;
use hanode_cluster::client::replication::Replication;
use hanode_cluster::client::sentinel::PendingPromotion;
use hanode_core::spec::Node;
use hanode_core::state::RedisRole;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::{self, sleep, spawn};
use std::time::{Duration, Instant};

/// Well below the 20 s after which a Sentinel gives up.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(10);
/// For a replica that does not answer, though the Sentinel does not regard it as down: it may be slow, and still confirm.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(5);
/// For the candidate to get what the others have. The old primary has sent it; only a broken connection takes longer.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two questions to a Sentinel whether it waits for a promotion.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const TAKEOVER_DELAY: Duration = Duration::from_secs(2);

/// Promotes the candidate of this node's Sentinel, if that leads a failover.
pub(super) fn promote(node: &NodeContext, leader: &Node) -> Result<()> {
    let Some(pending) = pending_promotion(node, leader)? else { return Ok(()) };
    let deadline = Instant::now() + PROMOTION_TIMEOUT;
    let promotion = Promotion { node, pending: &pending, deadline };
    promotion.wait_for_writes_of_primary();
    let followers = promotion.redirect_replicas()?;
    promotion.wait_for_candidate(&followers, promotion.deadline)?;
    // The Sentinel may have given up, or another one may lead by now.
    if pending_promotion(node, leader)?.is_none_or(|now| now.candidate != pending.candidate) {
        bail!("the Sentinel of {} no longer waits for the promotion of {}", leader.name, pending.candidate);
    }
    connect_redis(node, pending.candidate)?.promote()?;
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
            loop {
                if let Err(error) = take_over(&node, &leader) {
                    tracing::debug!("Sentinel of {}: {error:#}", leader.name);
                }
                sleep(POLL_INTERVAL);
            }
        });
    }
}

/// Promotes for this Sentinel whenever it has waited for some time. Returns only with an error.
fn take_over(node: &NodeContext, leader: &Node) -> Result<()> {
    let mut sentinel = node.sentinel(leader, SENTINEL_TIMEOUT)?;
    let mut since = None;
    loop {
        since = match sentinel.pending_promotion()? {
            Some(_) => since.or(Some(Instant::now())),
            None => None,
        };
        if since.is_some_and(|since| since.elapsed() >= TAKEOVER_DELAY) {
            promote(node, leader).unwrap_or_else(|error| tracing::info!("promotion of Redis: {error:#}"));
        }
        sleep(POLL_INTERVAL);
    }
}

struct Promotion<'a> {
    node: &'a NodeContext,
    pending: &'a PendingPromotion,
    deadline: Instant,
}

impl Promotion<'_> {
    /// In a failover that an operator started, the candidate gets all writes of the primary, which accepts no more. A
    /// primary that the Sentinels regard as down promises this only for confirmed writes.
    fn wait_for_writes_of_primary(&self) {
        if self.pending.primary_is_down {
            return;
        }
        let primary = pause_writes(self.node, self.pending.primary)
            .and_then(|()| connect_redis(self.node, self.pending.primary)?.replication());
        let limit = Instant::now() + CATCH_UP_TIMEOUT;
        let caught_up = primary.and_then(|primary| self.wait_for_candidate(&[primary], limit));
        caught_up
            .unwrap_or_else(|error| tracing::info!("unconfirmed writes of Redis may be lost: {error:#}"));
    }

    /// Makes the other replicas follow the candidate; returns what they had then. A replica that does not answer for
    /// some time is left out: the failure of two nodes at once may lose a write.
    fn redirect_replicas(&self) -> Result<Vec<Replication>> {
        let PendingPromotion { primary, candidate, .. } = *self.pending;
        let replicas = self.node.spec().nodes.iter().map(|node| node.address);
        let replicas = replicas.filter(|address| *address != candidate && *address != primary);
        thread::scope(|scope| {
            let threads: Vec<_> =
                replicas.map(|replica| scope.spawn(move || self.redirect_patiently(replica))).collect();
            let results = threads.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread panicked"),
            });
            results.filter_map(Result::transpose).collect()
        })
    }

    /// `None` if it does not answer for some time, or is no replica.
    fn redirect_patiently(&self, replica: IpAddr) -> Result<Option<Replication>> {
        let patience = if self.pending.down.contains(&replica) { Duration::ZERO } else { REPLICA_TIMEOUT };
        let limit = Instant::now() + patience;
        loop {
            let error = match self.check_replica(replica) {
                Ok(None) => return Ok(None),
                Ok(Some((mut redis, before))) => {
                    // With less than this the candidate would make it discard the rest.
                    self.wait_for_candidate(&[before], Instant::now() + CATCH_UP_TIMEOUT)?;
                    match redis.follow(self.pending.candidate, self.node.spec().redis.port) {
                        Ok(data) => return Ok(Some(data)),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            if Instant::now() >= limit {
                tracing::info!("{replica} does not follow {}: {error:#}", self.pending.candidate);
                return Ok(None);
            }
            sleep(RETRY_INTERVAL);
        }
    }

    /// What a replica has; `None` if this server is none.
    fn check_replica(&self, address: IpAddr) -> Result<Option<(RedisClient, Replication)>> {
        let mut redis = connect_redis(self.node, address)?;
        let data = redis.replication()?;
        Ok((data.role == Some(RedisRole::Replica)).then_some((redis, data)))
    }

    fn wait_for_candidate(&self, others: &[Replication], limit: Instant) -> Result<()> {
        let candidate = self.pending.candidate;
        let mut redis = connect_redis(self.node, candidate)?;
        loop {
            let has = redis.replication().with_context(|| format!("Redis of {candidate}"))?;
            if has.is_primary() || !others.iter().any(|other| has.is_behind(other)) {
                return Ok(());
            }
            if Instant::now() >= limit.min(self.deadline) {
                bail!("{candidate} lacks data that another Redis has, and does not get it");
            }
            sleep(RETRY_INTERVAL);
        }
    }
}
