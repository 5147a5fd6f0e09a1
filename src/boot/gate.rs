//! What stands before etcd, Patroni, Redis and Sentinel at every start: it opens when the plan does.

use super::apply::Node;
use super::failpoint::passed;
use super::rejoin::{self, Twins};
use super::run::{facts, set_aside, towards_genesis};
use super::succession::{self, Succession};
use super::{age, disk, given::Given, observe, state, wal};
use crate::plan::{self, Action, Observations, Plan, Step};
use crate::render::sentinel;
use crate::tree::below;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const ROUND: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Gate {
    Etcd,
    Patroni,
    Redis,
    Sentinel,
}

impl Gate {
    fn component(self) -> &'static str {
        match self {
            Gate::Etcd => "etcd",
            Gate::Patroni => "patroni",
            Gate::Redis => "redis",
            Gate::Sentinel => "sentinel",
        }
    }

    fn step(self, plan: &Plan) -> &Step {
        match self {
            Gate::Etcd => &plan.etcd.step,
            Gate::Patroni => &plan.postgres,
            Gate::Redis | Gate::Sentinel => &plan.redis.step,
        }
    }
}

/// Returns once the service may start, its files laid down for this start. Blocks while it may not.
pub fn pass(root: &Path, gate: Gate) -> Result<()> {
    let given = Given::load(root)?;
    let pin = disk::pin(root)?.context("this disk has no identity yet; hanode-plan.service comes first")?;
    let machine = facts(root, &given, &pin.node)?;
    let node = Node { root, given: &given, name: &pin.node, machine: &machine };
    if gate == Gate::Sentinel && has_its_own_file(&node)? {
        return resume_sentinel(&node);
    }
    let mut twins = Twins::default();
    let mut succession = Succession::at_start(root);
    loop {
        let (seen, plan) = decide(&node, gate)?;
        if gate == Gate::Etcd {
            towards_genesis(&node, &plan)?;
        }
        let mut step = gate.step(&plan).clone();
        if step.action.opens() {
            match open(&node, gate, &plan, &seen, (&mut twins, &mut succession))? {
                None => {
                    state::save_gate(root, gate.component(), &step)?;
                    tracing::info!("{}: {:?}: {}", gate.component(), step.action, step.reason);
                    return Ok(());
                }
                Some(hindrance) => step = hindrance,
            }
        }
        state::save_gate(root, gate.component(), &step)?;
        if gate == Gate::Patroni && seen.initialize == Some(false) && seen.own.data.postgres {
            wal::measure(root, &given.target)?;
        }
        if gate == Gate::Redis && plan.redis.promote_another {
            succession::promote_another(&node)?;
        }
        sleep(ROUND);
    }
}

/// A genesis that this boot is to begin needs no word of others any more; asking etcds without a quorum takes seconds.
fn decide(node: &Node, gate: Gate) -> Result<(Observations, Plan)> {
    let plan = |seen: &Observations| plan::plan(&node.given.spec, node.name, seen);
    if gate == Gate::Etcd {
        let alone = observe::unasked(node.root, node.given, node.name)?;
        let decided = plan(&alone);
        if decided.etcd.step.action == Action::Begin {
            return Ok((alone, decided));
        }
    }
    let seen = observe::look(node.root, node.given, node.name)?;
    let decided = plan(&seen);
    Ok((seen, decided))
}

/// Does what must be true before the service starts; returns what hinders it, to look again.
fn open(
    node: &Node,
    gate: Gate,
    plan: &Plan,
    seen: &Observations,
    (twins, succession): (&mut Twins, &mut Succession),
) -> Result<Option<Step>> {
    if gate == Gate::Redis {
        if !seen.own.data.sentinel {
            let reason = "this node's Sentinel comes first: data without its memory would be nobody's";
            return Ok(Some(Step::new(Action::Wait, reason)));
        }
        if let Some(hindrance) = succession.awaited(node, &plan.redis)? {
            return Ok(Some(hindrance));
        }
    }
    if gate != Gate::Etcd {
        disk::mark_served(node.root)?;
        passed(node.root, "served");
        set_stale_aside(node, gate)?;
    }
    match gate {
        Gate::Etcd => {
            let joined = match plan.etcd.step.action {
                Action::Join => match rejoin::etcd(node, plan, seen, twins)? {
                    Ok(plan) => plan,
                    Err(hindrance) => return Ok(Some(hindrance)),
                },
                _ => plan.clone(),
            };
            if plan.etcd.step.action != Action::Begin && !seen.own.began {
                // Part of a living cluster now, and asked for should that be lost.
                disk::mark_served(node.root)?;
            }
            node.apply_planned(&joined, "etcd")?;
            passed(node.root, "etcd-files");
        }
        Gate::Patroni => {
            age::remember(node.root, node.given, node.name)?;
            wal::forget(node.root)?;
            passed(node.root, "remembered");
        }
        Gate::Redis => {
            set_unreadable_aside(node, plan)?;
            node.apply_planned(plan, "redis")?;
            passed(node.root, "redis-files");
        }
        Gate::Sentinel => {
            node.apply_planned(plan, "sentinel")?;
            passed(node.root, "sentinel-files");
        }
    }
    Ok(None)
}

/// What a restored snapshot brought of this service is kept, but out of its way.
fn set_stale_aside(node: &Node, gate: Gate) -> Result<()> {
    let stale = disk::record(node.root)?.stale;
    let dir = |name: &str| Ok::<_, anyhow::Error>(below(node.root, node.given.target.path(name)?));
    match gate {
        Gate::Patroni if stale.postgres => {
            set_aside(&dir("postgres_data")?)?;
            disk::unmark_stale(node.root, |stale| stale.postgres = false)
        }
        Gate::Redis if stale.redis => {
            let redis = dir("redis_data")?;
            ["appendonlydir", "dump.rdb"].iter().try_for_each(|part| set_aside(&redis.join(part)))?;
            disk::unmark_stale(node.root, |stale| stale.redis = false)
        }
        _ => Ok(()),
    }
}

/// A log that Redis cannot read (a disk was full) would keep a replica down for good, though others have all that
/// was confirmed. A primary's is left where it is: that is for somebody to decide.
fn set_unreadable_aside(node: &Node, plan: &Plan) -> Result<()> {
    let target = &node.given.target;
    let log = below(node.root, target.path("redis_log")?).join("redis.log");
    let own = node.given.spec.node(node.name).map(|n| n.address);
    let replica = plan.redis.primary.is_some() && plan.redis.primary != own;
    if !replica || !gave_up_reading(&std::fs::read(&log).unwrap_or_default()) {
        return Ok(());
    }
    let data = below(node.root, target.path("redis_data")?);
    ["appendonlydir", "appendonly.aof", "dump.rdb"].iter().try_for_each(|part| set_aside(&data.join(part)))
}

/// Whether these were Redis' last words; a start that got further adds others.
fn gave_up_reading(log: &[u8]) -> bool {
    let end = String::from_utf8_lossy(&log[log.len().saturating_sub(4096)..]).into_owned();
    end.lines().last().is_some_and(|line| line.contains("reading the append only file"))
}

fn sentinel_file(node: &Node) -> Result<std::path::PathBuf> {
    Ok(below(node.root, node.given.target.path("redis_live")?).join("sentinel.conf"))
}

/// Intact means: it knows itself and whom it watches.
fn has_its_own_file(node: &Node) -> Result<bool> {
    let text = std::fs::read_to_string(sentinel_file(node)?).unwrap_or_default();
    Ok(sentinel::monitored(&text).is_some() && text.lines().any(|l| l.starts_with("sentinel myid ")))
}

/// A Sentinel that remembers starts before anything is decided: others decide by what it remembers.
fn resume_sentinel(node: &Node) -> Result<()> {
    let text = std::fs::read_to_string(sentinel_file(node)?)?;
    let Some(primary) = sentinel::monitored(&text) else { bail!("sentinel.conf names no primary") };
    let mut plan = Plan::waiting(&node.given.spec);
    plan.redis.step = Step::new(Action::Resume, "this Sentinel's own file is intact");
    plan.redis.primary = Some(primary);
    state::save_gate(node.root, "sentinel", &plan.redis.step)?;
    node.apply_planned(&plan, "sentinel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_last_words_say_that_a_log_was_not_readable() {
        let bad =
            "1:S # Bad file format reading the append only file appendonly.aof.3.incr.aof: make a backup\n";
        assert!(gave_up_reading(bad.as_bytes()));
        assert!(!gave_up_reading(format!("{bad}2:S * Ready to accept connections tls\n").as_bytes()));
        assert!(!gave_up_reading(b""));
    }
}
