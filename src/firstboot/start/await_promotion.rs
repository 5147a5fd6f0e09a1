//! After a crash of the machine with Redis' primary: a replica must be promoted before this Redis starts
//! again.
//!
//! Its own disk lacks the writes since the last fsync (up to a second), which replicas may have confirmed for
//! `WAIT`. If it became primary again before the Sentinels noticed, the replicas would discard those writes
//! to resync from it.

use crate::node::NodeContext;
use anyhow::{Result, bail};
use hanode_cluster::client::redis::Value;
use hanode_core::plan::{Action, RedisStep, Step};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const REDIS_TIMEOUT: Duration = Duration::from_secs(1);
/// A failover takes the Sentinels some seconds; if they cannot, this node's data is better than no service.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(45);

/// Fields of one server, reported by Redis (`INFO replication`) or a Sentinel.
type RedisFields = BTreeMap<String, String>;

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
            let Ok(info) = replication(node, peer.address) else { continue };
            let reason = if info.get("role").is_some_and(|role| role == "master") {
                format!("{} is already primary; waiting for the Sentinels to report it", peer.name)
            } else if !self.has_run && was_linked_to(&info, own) {
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
    replication(node, address).is_ok_and(|info| info.get("role").is_some_and(|role| role == "master"))
}

/// Whether this replica was linked to the primary at this address since the replica started.
fn was_linked_to(replica: &RedisFields, primary: IpAddr) -> bool {
    let is = |key: &str, value: &str| replica.get(key).is_some_and(|v| v == value);
    // -1 if it was never linked; older servers report the seconds since 1970.
    let down_seconds = replica.get("master_link_down_since_seconds").and_then(|s| s.parse::<i64>().ok());
    let linked =
        is("master_link_status", "up") || down_seconds.is_some_and(|s| (0..1_000_000_000).contains(&s));
    is("role", "slave") && is("master_host", &primary.to_string()) && linked
}

fn replication(node: &NodeContext, address: IpAddr) -> Result<RedisFields> {
    node.redis(address, REDIS_TIMEOUT)?.info("replication")
}

/// Starts a failover at the first Sentinel that answers; the caller checks the result in its next round.
pub(super) fn promote_another(node: &NodeContext) -> Result<()> {
    let name = &node.spec().redis.master_name;
    for peer in node.peers() {
        let Ok(mut sentinel) = node.sentinel(peer.address, REDIS_TIMEOUT) else { continue };
        let primary = fields(&sentinel.query(&["SENTINEL", "MASTER", name])?)?;
        let Value::List(replicas) = sentinel.query(&["SENTINEL", "REPLICAS", name])? else {
            bail!("SENTINEL REPLICAS {name}: the reply is not a list");
        };
        let replicas = replicas.iter().map(fields).collect::<Result<Vec<_>>>()?;
        if knows_most_advanced_replica(&primary, &replicas) {
            let answer = sentinel.command(&["SENTINEL", "FAILOVER", name])?;
            tracing::info!("SENTINEL FAILOVER on {}: {answer:?}", peer.name);
        }
        return Ok(());
    }
    Ok(())
}

/// Whether this Sentinel knows which replica has the last confirmed write: it promotes by replication offsets
/// that are up to ten seconds old, so all of them must be newer than the crash of the primary.
fn knows_most_advanced_replica(primary: &RedisFields, replicas: &[RedisFields]) -> bool {
    let number = |of: &RedisFields, key: &str| of.get(key).and_then(|v| v.parse::<u64>().ok());
    let flagged = |of: &RedisFields| of.get("flags").is_some_and(|f| f.contains("s_down"));
    let Some(down_ms) = number(primary, "s-down-time").filter(|_| flagged(primary)) else { return false };
    let mut live = replicas.iter().filter(|r| !flagged(r)).peekable();
    live.peek().is_some() && live.all(|r| number(r, "info-refresh").is_some_and(|ago| ago < down_ms))
}

fn fields(answer: &Value) -> Result<RedisFields> {
    let Value::List(items) = answer else { bail!("the reply of Sentinel is not a list") };
    let text = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        _ => String::new(),
    };
    Ok(items.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> RedisFields {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn a_replica_counts_only_if_it_was_linked_since_its_start() {
        let own: IpAddr = "192.168.18.21".parse().unwrap();
        let linked = |status, down| {
            was_linked_to(
                &of(&[
                    ("role", "slave"),
                    ("master_host", "192.168.18.21"),
                    ("master_link_status", status),
                    ("master_link_down_since_seconds", down),
                ]),
                own,
            )
        };
        assert!(linked("up", ""), "not noticed yet");
        assert!(linked("down", "4"));
        assert!(!linked("down", "-1"), "it has just started too: a power cut of all nodes");
        assert!(!linked("down", "1790000000"), "-1 in older servers");
        let another =
            of(&[("role", "slave"), ("master_host", "192.168.18.22"), ("master_link_status", "up")]);
        assert!(!was_linked_to(&another, own));
        assert!(!was_linked_to(&of(&[("role", "master")]), own));
    }

    #[test]
    fn a_failover_starts_once_the_offsets_are_newer_than_the_crash() {
        let down = of(&[("flags", "s_down,o_down,master"), ("s-down-time", "3000")]);
        let refreshed = |ago| of(&[("flags", "slave"), ("info-refresh", ago)]);
        assert!(knows_most_advanced_replica(&down, &[refreshed("700"), refreshed("900")]));
        assert!(
            !knows_most_advanced_replica(&down, &[refreshed("700"), refreshed("8000")]),
            "from before the crash"
        );
        assert!(
            !knows_most_advanced_replica(&of(&[("flags", "master")]), &[refreshed("700")]),
            "not noticed yet"
        );
        let lost = of(&[("flags", "s_down,slave"), ("info-refresh", "60000")]);
        assert!(knows_most_advanced_replica(&down, &[refreshed("700"), lost.clone()]));
        assert!(!knows_most_advanced_replica(&down, &[lost]), "no replica to promote");
    }
}
