//! When Redis' primary went down with its machine: a replica must take over before it may be back.
//!
//! Its own disk lacks what the last second's sync did not reach, and `WAIT` has confirmed from a replica. Were it
//! primary again before the Sentinels noticed, the replicas would throw that away to be its copies.

use super::apply::NodeContext;
use crate::state;
use anyhow::{Result, bail};
use hanode_cluster::client::redis::{Redis, Value};
use hanode_core::plan::{Action, RedisStep, Step};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(1);
/// The Sentinels need some seconds; when they cannot, the own data is better than no service.
const PATIENCE: Duration = Duration::from_secs(45);

/// What Redis or a Sentinel says of one server.
type Fields = BTreeMap<String, String>;

pub(super) struct AwaitPromotion {
    /// Whether Redis has run since this machine started: then its page cache has all that it acknowledged.
    ran: bool,
    /// The first hindrance.
    since: Option<Instant>,
}

impl AwaitPromotion {
    pub(super) fn at_start(root: &Path) -> AwaitPromotion {
        let ran = state::gates(root).get("redis").is_some_and(|step| step.action.may_start());
        AwaitPromotion { ran, since: None }
    }

    /// The successor that must come first, or has come already, where the Sentinels still name this node.
    pub(super) fn awaited(&mut self, node: &NodeContext, redis: &RedisStep) -> Result<Option<Step>> {
        let own = node.config.spec.node(node.name).map(|n| n.address);
        let again = redis.step.action == Action::Resume && redis.primary == own;
        let Some(own) = own.filter(|_| again) else { return Ok(None) };
        for peer in node.config.spec.peers(node.name) {
            let Ok(said) = ask(node, peer.address, |redis| redis.info("replication")) else { continue };
            let reason = if said.get("role").is_some_and(|role| role == "master") {
                format!("{} is primary already, the Sentinels are about to say so", peer.name)
            } else if !self.ran && followed(&said, own) {
                format!("{} followed this node until it went down, and is promoted first", peer.name)
            } else {
                continue;
            };
            if self.since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                tracing::warn!("this has not come to pass, going on without: {reason}");
                return Ok(None);
            }
            if !self.ran {
                promote_another(node)?;
            }
            return Ok(Some(Step::new(Action::Wait, reason)));
        }
        Ok(None)
    }
}

/// Whether Redis at this address is a primary and says so.
pub(super) fn leads(node: &NodeContext, address: IpAddr) -> bool {
    let said = ask(node, address, |redis| redis.info("replication"));
    said.is_ok_and(|said| said.get("role").is_some_and(|role| role == "master"))
}

/// Whether a replica was linked to the primary of this address during its present life.
fn followed(replica: &Fields, primary: IpAddr) -> bool {
    let is = |key: &str, value: &str| replica.get(key).is_some_and(|v| v == value);
    // Never linked is -1, or with older servers the seconds since 1970.
    let lost = replica.get("master_link_down_since_seconds").and_then(|s| s.parse::<i64>().ok());
    let linked = is("master_link_status", "up") || lost.is_some_and(|s| (0..1_000_000_000).contains(&s));
    is("role", "slave") && is("master_host", &primary.to_string()) && linked
}

fn ask<T>(node: &NodeContext, address: IpAddr, what: impl Fn(&mut Redis) -> Result<T>) -> Result<T> {
    let (port, password) = (node.config.spec.redis.port, &node.config.bundle.secrets.redis);
    let credentials = node.config.redis_credentials()?;
    what(&mut Redis::connect(credentials.as_ref(), address, port, password, TIMEOUT)?)
}

/// Asks one Sentinel, and only one, to promote a replica; the caller looks again at what came of it.
pub(super) fn promote_another(node: &NodeContext) -> Result<()> {
    let spec = &node.config.spec;
    let credentials = node.config.redis_credentials()?;
    for peer in spec.peers(node.name) {
        let password = &node.config.bundle.secrets.sentinel;
        let Ok(mut sentinel) =
            Redis::connect(credentials.as_ref(), peer.address, spec.redis.sentinel_port, password, TIMEOUT)
        else {
            continue;
        };
        let name = &spec.redis.master_name;
        let primary = fields(&sentinel.query(&["SENTINEL", "MASTER", name])?)?;
        let Value::List(replicas) = sentinel.query(&["SENTINEL", "REPLICAS", name])? else {
            bail!("Sentinel's list of replicas is none");
        };
        let replicas = replicas.iter().map(fields).collect::<Result<Vec<_>>>()?;
        if knows_who_is_ahead(&primary, &replicas) {
            let answer = sentinel.command(&["SENTINEL", "FAILOVER", name])?;
            tracing::info!("asked {} to promote a replica: {answer:?}", peer.name);
        }
        return Ok(());
    }
    Ok(())
}

/// Sentinel promotes the replica that it believes furthest, from what it heard up to ten seconds ago. Only what
/// it heard since the primary is down tells which of them has the last confirmed write.
fn knows_who_is_ahead(primary: &Fields, replicas: &[Fields]) -> bool {
    let number = |of: &Fields, key: &str| of.get(key).and_then(|v| v.parse::<u64>().ok());
    let flagged = |of: &Fields| of.get("flags").is_some_and(|f| f.contains("s_down"));
    let Some(down_ms) = number(primary, "s-down-time").filter(|_| flagged(primary)) else { return false };
    let mut live = replicas.iter().filter(|r| !flagged(r)).peekable();
    live.peek().is_some() && live.all(|r| number(r, "info-refresh").is_some_and(|ago| ago < down_ms))
}

fn fields(answer: &Value) -> Result<Fields> {
    let Value::List(items) = answer else { bail!("Sentinel's answer is no list") };
    let text = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        _ => String::new(),
    };
    Ok(items.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn only_a_replica_that_was_linked_in_its_present_life_can_be_ahead() {
        let own: IpAddr = "192.168.18.21".parse().unwrap();
        let said = |status, down| {
            followed(
                &of(&[
                    ("role", "slave"),
                    ("master_host", "192.168.18.21"),
                    ("master_link_status", status),
                    ("master_link_down_since_seconds", down),
                ]),
                own,
            )
        };
        assert!(said("up", ""), "it has not noticed yet");
        assert!(said("down", "4"));
        assert!(!said("down", "-1"), "it too has just started: after a power cut of all nodes");
        assert!(!said("down", "1790000000"), "as older servers say that");
        let another =
            of(&[("role", "slave"), ("master_host", "192.168.18.22"), ("master_link_status", "up")]);
        assert!(!followed(&another, own));
        assert!(!followed(&of(&[("role", "master")]), own));
    }

    #[test]
    fn a_sentinel_is_asked_once_it_has_heard_the_replicas_after_the_primary() {
        let down = of(&[("flags", "s_down,o_down,master"), ("s-down-time", "3000")]);
        let heard = |ago| of(&[("flags", "slave"), ("info-refresh", ago)]);
        assert!(knows_who_is_ahead(&down, &[heard("700"), heard("900")]));
        assert!(!knows_who_is_ahead(&down, &[heard("700"), heard("8000")]), "as it was before");
        assert!(!knows_who_is_ahead(&of(&[("flags", "master")]), &[heard("700")]), "not noticed yet");
        let lost = of(&[("flags", "s_down,slave"), ("info-refresh", "60000")]);
        assert!(knows_who_is_ahead(&down, &[heard("700"), lost.clone()]));
        assert!(!knows_who_is_ahead(&down, &[lost]), "nobody to promote");
    }
}
