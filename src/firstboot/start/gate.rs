//! The start gates of etcd, Patroni, Redis and Sentinel: `ExecStartPre` of their units, which returns once
//! the plan allows the start.

use super::await_promotion::{self, PromotionWait};
use super::interrupted_init::InterruptedInit;
use super::rejoin::{self, DuplicateNameGuard};
use super::run::advance_bootstrap;
use super::{generation, self_report};
use crate::node::NodeContext;
use anyhow::{Result, bail};
use hanode_core::plan::{self, Action, Observations, Plan, Step};
use hanode_core::render::sentinel;
use hanode_core::state::Component;
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
    fn component(self) -> Component {
        match self {
            Gate::Etcd => Component::Etcd,
            Gate::Patroni => Component::Patroni,
            Gate::Redis => Component::Redis,
            Gate::Sentinel => Component::Sentinel,
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
pub(crate) fn pass(node: &NodeContext, gate: Gate) -> Result<()> {
    // Until the machine has its address, no server could use it.
    node.machine()?;
    if gate == Gate::Sentinel && sentinel_file_is_intact(node)? {
        return resume_sentinel(node);
    }
    let mut duplicates = DuplicateNameGuard::default();
    let mut promotion = PromotionWait::new(node);
    let mut interrupted_init = InterruptedInit::default();
    loop {
        let (seen, plan) = decide(node, gate)?;
        if gate == Gate::Etcd {
            advance_bootstrap(node, &plan)?;
        }
        let mut step = gate.step(&plan).clone();
        if step.action.may_start() {
            match prepare(node, gate, &plan, &seen, (&mut duplicates, &mut promotion))? {
                None => {
                    node.save_gate_step(gate.component().key(), &step)?;
                    tracing::info!("{}: {:?}: {}", gate.component().key(), step.action, step.reason);
                    return Ok(());
                }
                Some(blocked) => step = blocked,
            }
        }
        node.save_gate_step(gate.component().key(), &step)?;
        if gate == Gate::Patroni && seen.initialize == Some(false) && seen.own.data.postgres {
            node.disk.measure_postgres_end()?;
        }
        if gate == Gate::Patroni {
            // An error is retried in the next round.
            interrupted_init.before_patroni(node, &seen).unwrap_or_else(|error| {
                tracing::info!("cannot clean up an interrupted initialization of PostgreSQL yet: {error:#}")
            });
        }
        if gate == Gate::Redis && plan.redis.promote_another {
            await_promotion::promote_another(node)?;
        }
        sleep(RETRY_INTERVAL);
    }
}

/// A bootstrap that was agreed on needs no more observations, and queries of etcd without a quorum take
/// seconds.
fn decide(node: &NodeContext, gate: Gate) -> Result<(Observations, Plan)> {
    let plan = |seen: &Observations| plan::plan(node.spec(), node.name(), seen);
    if gate == Gate::Etcd {
        let local = self_report::local_observations(node)?;
        let decided = plan(&local);
        if decided.etcd.step.action == Action::Bootstrap {
            return Ok((local, decided));
        }
    }
    let seen = self_report::observe_and_mark_stale(node)?;
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
        node.disk.mark_served()?;
        node.fail_point("marked-served");
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
                node.disk.mark_served()?;
            }
            node.apply_planned(&joined, Component::Etcd)?;
            node.fail_point("etcd-files-written");
        }
        Gate::Patroni => {
            generation::publish(node)?;
            node.disk.forget_postgres_end()?;
            node.fail_point("generation-published");
        }
        Gate::Redis => {
            node.apply_planned(plan, Component::Redis)?;
            node.fail_point("redis-files-written");
        }
        Gate::Sentinel => {
            node.disk.remove_torn_sentinel_conf()?;
            node.apply_planned(plan, Component::Sentinel)?;
            node.fail_point("sentinel-files-written");
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
    let stale = node.disk.read_state()?.stale;
    match gate {
        Gate::Patroni if stale.postgres => {
            node.disk.move_postgres_aside()?;
            node.disk.unmark_stale(|stale| stale.postgres = false)
        }
        Gate::Redis if stale.redis => {
            node.disk.move_redis_aside()?;
            node.disk.unmark_stale(|stale| stale.redis = false)
        }
        _ => Ok(()),
    }
}

/// A replica without readable data fetches everything from its primary, which must answer first: otherwise
/// Sentinels might promote the empty replica. Unreadable data is moved aside, since Redis would not start
/// with it.
fn fetch_from_primary(node: &NodeContext, plan: &Plan, seen: &Observations) -> Result<Option<Step>> {
    let has_no_data = seen.own.redis_unreadable || plan.redis.step.action == Action::Join;
    let Some(primary) = plan.redis.primary.filter(|p| has_no_data && *p != node.own().address) else {
        return Ok(None);
    };
    if !await_promotion::is_redis_primary(node, primary) {
        let reason = format!("{primary} does not answer as primary yet");
        return Ok(Some(Step::new(Action::Wait, reason)));
    }
    if seen.own.redis_unreadable {
        node.disk.move_redis_aside()?;
    }
    Ok(None)
}

fn sentinel_file_is_intact(node: &NodeContext) -> Result<bool> {
    Ok(sentinel::is_intact(&node.disk.sentinel_conf()?))
}

/// A Sentinel with an intact file starts at once: other nodes decide by its answers.
fn resume_sentinel(node: &NodeContext) -> Result<()> {
    let text = node.disk.sentinel_conf()?;
    let Some(primary) = sentinel::monitored(&text) else { bail!("sentinel.conf has no primary") };
    let mut plan = Plan::waiting(node.spec());
    plan.redis.step = Step::new(Action::Resume, "this Sentinel's own file is intact");
    plan.redis.primary = Some(primary);
    node.save_gate_step("sentinel", &plan.redis.step)?;
    node.apply_planned(&plan, Component::Sentinel)
}
