//! What stands before etcd, Patroni, Redis and Sentinel at every start: it opens when the plan does.

use super::apply::NodeContext;
use super::await_promotion::{self, PromotionWait};
use super::first_start::FirstStart;
use super::rejoin::{self, DuplicateGuard};
use super::run::{facts, toward_bootstrap};
use super::self_report;
use crate::disk::aside::{move_postgres_aside, move_redis_aside};
use crate::disk::{self, generation, postgres_wal};
use crate::failpoint::passed;
use crate::node_config::NodeConfig;
use crate::state;
use anyhow::{Context, Result, bail};
use hanode_core::plan::{self, Action, Observations, Plan, Step};
use hanode_core::render::sentinel;
use hanode_util::safe_path::SafeTree;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const ROUND: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Gate {
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
pub(crate) fn pass(root: &Path, gate: Gate) -> Result<()> {
    let config = NodeConfig::active(root)?;
    let pin = disk::pin(root)?.context("this disk has no identity yet; hanode-plan.service comes first")?;
    let machine = facts(root, &config, &pin.node)?;
    let node = NodeContext { root, config: &config, name: &pin.node, machine: &machine };
    if gate == Gate::Sentinel && has_its_own_file(&node)? {
        return resume_sentinel(&node);
    }
    let mut duplicates = DuplicateGuard::default();
    let mut promotion = PromotionWait::new(root);
    let mut first_start = FirstStart::default();
    loop {
        let (seen, plan) = decide(&node, gate)?;
        if gate == Gate::Etcd {
            toward_bootstrap(&node, &plan)?;
        }
        let mut step = gate.step(&plan).clone();
        if step.action.may_start() {
            match open(&node, gate, &plan, &seen, (&mut duplicates, &mut promotion))? {
                None => {
                    state::save_gate(root, gate.component(), &step)?;
                    tracing::info!("{}: {:?}: {}", gate.component(), step.action, step.reason);
                    return Ok(());
                }
                Some(blocked) => step = blocked,
            }
        }
        state::save_gate(root, gate.component(), &step)?;
        if gate == Gate::Patroni && seen.initialize == Some(false) && seen.own.data.postgres {
            postgres_wal::measure_end(root, &config.target)?;
        }
        if gate == Gate::Patroni {
            // What hinders this now is looked at again.
            first_start
                .before_patroni(root, &config, &seen)
                .unwrap_or_else(|error| tracing::info!("a first start that was cut: {error:#}"));
        }
        if gate == Gate::Redis && plan.redis.promote_another {
            await_promotion::promote_another(&node)?;
        }
        sleep(ROUND);
    }
}

/// A bootstrap that this boot is to begin needs no word of others any more; asking etcds without a quorum takes seconds.
fn decide(node: &NodeContext, gate: Gate) -> Result<(Observations, Plan)> {
    let plan = |seen: &Observations| plan::plan(&node.config.spec, node.name, seen);
    if gate == Gate::Etcd {
        let alone = self_report::local_observations(node.root, node.config, node.name)?;
        let decided = plan(&alone);
        if decided.etcd.step.action == Action::Bootstrap {
            return Ok((alone, decided));
        }
    }
    let seen = self_report::observe_and_mark_stale(node.root, node.config, node.name)?;
    let decided = plan(&seen);
    Ok((seen, decided))
}

/// Does what must be true before the service starts; returns what hinders it, to look again.
fn open(
    node: &NodeContext,
    gate: Gate,
    plan: &Plan,
    seen: &Observations,
    (duplicates, promotion): (&mut DuplicateGuard, &mut PromotionWait),
) -> Result<Option<Step>> {
    if gate == Gate::Redis {
        if !seen.own.data.sentinel {
            let reason = "this node's Sentinel comes first: data without its memory would be nobody's";
            return Ok(Some(Step::new(Action::Wait, reason)));
        }
        if let Some(blocked) = promotion.step(node, &plan.redis)? {
            return Ok(Some(blocked));
        }
        if let Some(blocked) = fetch_from_primary(node, plan, seen)? {
            return Ok(Some(blocked));
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
                Action::Join => match rejoin::etcd(node, plan, seen, duplicates)? {
                    Ok(plan) => plan,
                    Err(blocked) => return Ok(Some(blocked)),
                },
                _ => plan.clone(),
            };
            if plan.etcd.step.action != Action::Bootstrap && !seen.own.bootstrapping {
                // Part of a living cluster now, and asked for should that be lost.
                disk::mark_served(node.root)?;
            }
            node.apply_planned(&joined, "etcd")?;
            passed(node.root, "etcd-files");
        }
        Gate::Patroni => {
            generation::publish(node.root, node.config, node.name)?;
            postgres_wal::forget_end(node.root)?;
            passed(node.root, "remembered");
        }
        Gate::Redis => {
            node.apply_planned(plan, "redis")?;
            passed(node.root, "redis-files");
        }
        Gate::Sentinel => {
            forget_torn_memory(node)?;
            node.apply_planned(plan, "sentinel")?;
            passed(node.root, "sentinel-files");
        }
    }
    Ok(None)
}

/// What a restored snapshot brought of this service is kept, but out of its way.
fn set_stale_aside(node: &NodeContext, gate: Gate) -> Result<()> {
    let stale = disk::read_state(node.root)?.stale;
    match gate {
        Gate::Patroni if stale.postgres => {
            move_postgres_aside(node.root, &node.config.target)?;
            disk::unmark_stale(node.root, |stale| stale.postgres = false)
        }
        Gate::Redis if stale.redis => {
            move_redis_aside(node.root, &node.config.target)?;
            disk::unmark_stale(node.root, |stale| stale.redis = false)
        }
        _ => Ok(()),
    }
}

/// A replica without data it can read fetches all from its primary, so that must be there: else Sentinels might
/// promote the empty one. Data that cannot be read would keep it down for good; it is kept, but out of the way.
fn fetch_from_primary(node: &NodeContext, plan: &Plan, seen: &Observations) -> Result<Option<Step>> {
    let own = node.config.spec.node(node.name).map(|n| n.address);
    let lacks = seen.own.redis_unreadable || plan.redis.step.action == Action::Join;
    let Some(primary) = plan.redis.primary.filter(|p| lacks && Some(*p) != own) else { return Ok(None) };
    if !await_promotion::is_redis_primary(node, primary) {
        let reason = format!("{primary} is to be followed, and does not answer as primary yet");
        return Ok(Some(Step::new(Action::Wait, reason)));
    }
    if seen.own.redis_unreadable {
        move_redis_aside(node.root, &node.config.target)?;
    }
    Ok(None)
}

fn has_its_own_file(node: &NodeContext) -> Result<bool> {
    Ok(sentinel::intact(&disk::sentinel_conf(node.root, &node.config.target)?))
}

fn forget_torn_memory(node: &NodeContext) -> Result<()> {
    let (tree, path) = (SafeTree::open(node.root)?, disk::sentinel_conf_path(&node.config.target)?);
    if tree.exists(&path)? && !has_its_own_file(node)? {
        tracing::warn!("{path} is torn; this Sentinel learns from the others");
        tree.remove_file(&path).with_context(|| format!("removing {path}"))?;
    }
    Ok(())
}

/// A Sentinel that remembers starts before anything is decided: others decide by what it remembers.
fn resume_sentinel(node: &NodeContext) -> Result<()> {
    let text = disk::sentinel_conf(node.root, &node.config.target)?;
    let Some(primary) = sentinel::monitored(&text) else { bail!("sentinel.conf names no primary") };
    let mut plan = Plan::waiting(&node.config.spec);
    plan.redis.step = Step::new(Action::Resume, "this Sentinel's own file is intact");
    plan.redis.primary = Some(primary);
    state::save_gate(node.root, "sentinel", &plan.redis.step)?;
    node.apply_planned(&plan, "sentinel")
}
