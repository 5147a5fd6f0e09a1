//! The start gates of etcd, Patroni, Redis and Sentinel: `ExecStartPre` of their units, which returns once
//! the plan allows the start.

use super::apply::NodeContext;
use super::await_promotion::{self, PromotionWait};
use super::interrupted_init::InterruptedInit;
use super::rejoin::{self, DuplicateNameGuard};
use super::run::{advance_bootstrap, machine_facts};
use super::self_report;
use crate::disk::aside::{move_postgres_aside, move_redis_aside};
use crate::disk::{self, generation, postgres_wal};
use crate::failpoint;
use crate::node_config::NodeConfig;
use crate::state;
use anyhow::{Context, Result, bail};
use hanode_core::plan::{self, Action, Observations, Plan, Step};
use hanode_core::render::sentinel;
use hanode_util::safe_path::SafeTree;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const RETRY_INTERVAL: Duration = Duration::from_millis(500);

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

/// Returns once the service may start and its files for this start are written. Blocks until then.
pub(crate) fn pass(root: &Path, gate: Gate) -> Result<()> {
    let config = NodeConfig::active(root)?;
    let name = disk::pinned_node(root)?;
    let machine = machine_facts(root, &config, &name)?;
    let node = NodeContext { root, config: &config, name: &name, machine: &machine };
    if gate == Gate::Sentinel && sentinel_file_is_intact(&node)? {
        return resume_sentinel(&node);
    }
    let mut duplicates = DuplicateNameGuard::default();
    let mut promotion = PromotionWait::new(root);
    let mut interrupted_init = InterruptedInit::default();
    loop {
        let (seen, plan) = decide(&node, gate)?;
        if gate == Gate::Etcd {
            advance_bootstrap(&node, &plan)?;
        }
        let mut step = gate.step(&plan).clone();
        if step.action.may_start() {
            match prepare(&node, gate, &plan, &seen, (&mut duplicates, &mut promotion))? {
                None => {
                    state::save_gate_step(root, gate.component(), &step)?;
                    tracing::info!("{}: {:?}: {}", gate.component(), step.action, step.reason);
                    return Ok(());
                }
                Some(blocked) => step = blocked,
            }
        }
        state::save_gate_step(root, gate.component(), &step)?;
        if gate == Gate::Patroni && seen.initialize == Some(false) && seen.own.data.postgres {
            postgres_wal::measure_end(root, &config.target)?;
        }
        if gate == Gate::Patroni {
            // An error is retried in the next round.
            interrupted_init.before_patroni(root, &config, &seen).unwrap_or_else(|error| {
                tracing::info!("cannot clean up an interrupted initialization of PostgreSQL yet: {error:#}")
            });
        }
        if gate == Gate::Redis && plan.redis.promote_another {
            await_promotion::promote_another(&node)?;
        }
        sleep(RETRY_INTERVAL);
    }
}

/// A bootstrap that was agreed on needs no more observations, and queries of etcd without a quorum take
/// seconds.
fn decide(node: &NodeContext, gate: Gate) -> Result<(Observations, Plan)> {
    let plan = |seen: &Observations| plan::plan(&node.config.spec, node.name, seen);
    if gate == Gate::Etcd {
        let local = self_report::local_observations(node.root, node.config, node.name)?;
        let decided = plan(&local);
        if decided.etcd.step.action == Action::Bootstrap {
            return Ok((local, decided));
        }
    }
    let seen = self_report::observe_and_mark_stale(node.root, node.config, node.name)?;
    let decided = plan(&seen);
    Ok((seen, decided))
}

/// Does what the start of the service requires. Returns a step if the service must still wait.
fn prepare(
    node: &NodeContext,
    gate: Gate,
    plan: &Plan,
    seen: &Observations,
    (duplicates, promotion): (&mut DuplicateNameGuard, &mut PromotionWait),
) -> Result<Option<Step>> {
    if gate == Gate::Redis
        && let Some(blocked) = redis_wait(node, plan, seen, promotion)?
    {
        return Ok(Some(blocked));
    }
    if gate != Gate::Etcd {
        disk::mark_served(node.root)?;
        failpoint::hit(node.root, "marked-served");
        move_stale_data_aside(node, gate)?;
    }
    match gate {
        Gate::Etcd => {
            let joined = match plan.etcd.step.action {
                Action::Join => match rejoin::join_etcd(node, plan, seen, duplicates)? {
                    Ok(plan) => plan,
                    Err(blocked) => return Ok(Some(blocked)),
                },
                _ => plan.clone(),
            };
            if plan.etcd.step.action != Action::Bootstrap && !seen.own.bootstrapping {
                // A member of a running cluster: its data counts if that cluster is lost.
                disk::mark_served(node.root)?;
            }
            node.apply_planned(&joined, "etcd")?;
            failpoint::hit(node.root, "etcd-files-written");
        }
        Gate::Patroni => {
            generation::publish(node.root, node.config, node.name)?;
            postgres_wal::forget_end(node.root)?;
            failpoint::hit(node.root, "generation-published");
        }
        Gate::Redis => {
            node.apply_planned(plan, "redis")?;
            failpoint::hit(node.root, "redis-files-written");
        }
        Gate::Sentinel => {
            remove_torn_sentinel_file(node)?;
            node.apply_planned(plan, "sentinel")?;
            failpoint::hit(node.root, "sentinel-files-written");
        }
    }
    Ok(None)
}

/// The reason why Redis must not start yet, though the plan allows it.
fn redis_wait(
    node: &NodeContext,
    plan: &Plan,
    seen: &Observations,
    promotion: &mut PromotionWait,
) -> Result<Option<Step>> {
    if !seen.own.data.sentinel {
        let reason = "this node's Sentinel starts first: without its state the role of this Redis is unknown";
        return Ok(Some(Step::new(Action::Wait, reason)));
    }
    match promotion.step(node, &plan.redis)? {
        None => fetch_from_primary(node, plan, seen),
        blocked => Ok(blocked),
    }
}

/// Moves this service's data of a restored snapshot aside.
fn move_stale_data_aside(node: &NodeContext, gate: Gate) -> Result<()> {
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

/// A replica without readable data fetches everything from its primary, which must answer first: otherwise
/// Sentinels might promote the empty replica. Unreadable data is moved aside, since Redis would not start
/// with it.
fn fetch_from_primary(node: &NodeContext, plan: &Plan, seen: &Observations) -> Result<Option<Step>> {
    let own = node.config.spec.node(node.name).map(|n| n.address);
    let has_no_data = seen.own.redis_unreadable || plan.redis.step.action == Action::Join;
    let Some(primary) = plan.redis.primary.filter(|p| has_no_data && Some(*p) != own) else {
        return Ok(None);
    };
    if !await_promotion::is_redis_primary(node, primary) {
        let reason = format!("{primary} does not answer as primary yet");
        return Ok(Some(Step::new(Action::Wait, reason)));
    }
    if seen.own.redis_unreadable {
        move_redis_aside(node.root, &node.config.target)?;
    }
    Ok(None)
}

fn sentinel_file_is_intact(node: &NodeContext) -> Result<bool> {
    Ok(sentinel::is_intact(&disk::sentinel_conf(node.root, &node.config.target)?))
}

fn remove_torn_sentinel_file(node: &NodeContext) -> Result<()> {
    let (tree, path) = (SafeTree::open(node.root)?, disk::sentinel_conf_path(&node.config.target)?);
    if tree.exists(&path)? && !sentinel_file_is_intact(node)? {
        tracing::warn!("{path} is truncated; this Sentinel gets its state from the others");
        tree.remove_file(&path).with_context(|| format!("removing {path}"))?;
    }
    Ok(())
}

/// A Sentinel with an intact file starts at once: other nodes decide by its answers.
fn resume_sentinel(node: &NodeContext) -> Result<()> {
    let text = disk::sentinel_conf(node.root, &node.config.target)?;
    let Some(primary) = sentinel::monitored(&text) else { bail!("sentinel.conf has no primary") };
    let mut plan = Plan::waiting(&node.config.spec);
    plan.redis.step = Step::new(Action::Resume, "this Sentinel's own file is intact");
    plan.redis.primary = Some(primary);
    state::save_gate_step(node.root, "sentinel", &plan.redis.step)?;
    node.apply_planned(&plan, "sentinel")
}
