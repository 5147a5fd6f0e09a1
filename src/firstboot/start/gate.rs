//! The start gates of etcd, Patroni, Redis and Sentinel: `ExecStartPre` of their units, which returns once
//! [`hanode_core::gate`] lets the service start.

use super::effects::Executor;
use super::init_facts::init_facts;
use super::membership::join_facts;
use super::redis_peers::redis_peers;
use super::self_report;
use crate::node::NodeContext;
use crate::watch::storage::{StartCheck, free_space, is_stopped};
use anyhow::Result;
use hanode_core::gate::{
    self, Decision, EtcdGate, InitFacts, InitGuard, JoinFacts, PatroniGate, RedisGate, Round, SentinelGate,
    Service,
};
use hanode_core::plan::{self, Action, Observations, Plan, Reason, Step};
use hanode_core::render::sentinel;
use std::thread::sleep;
use std::time::{Duration, Instant};

const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Returns once the service may start and its files for this start are written. Blocks until then.
pub(crate) fn pass(node: &NodeContext, service: Service) -> Result<()> {
    let mut storage = StartCheck::default();
    let redis_has_run = node.gate_steps().get(&Service::Redis).is_some_and(|step| step.action.may_start());
    loop {
        while let Some(fault) = storage.blocked(node.root(), service.component()) {
            if service == Service::Patroni
                && let Err(error) = free_space(node)
            {
                tracing::warn!("{error:#}");
            }
            node.save_gate_step(service, &Step::new(Action::Wait, Reason::StorageFault { fault }))?;
            sleep(RETRY_INTERVAL);
        }
        pass_plan(node, service, redis_has_run)?;
        // The watcher may have stopped the server in the meantime.
        if !is_stopped(node.root(), service.component()) {
            return Ok(());
        }
    }
}

/// `redis_has_run`: in this boot, before this gate.
fn pass_plan(node: &NodeContext, service: Service, redis_has_run: bool) -> Result<()> {
    // Until the machine has its address, no server could use it.
    node.machine()?;
    let executor = Executor::new(node, service);
    if service == Service::Sentinel
        && let Some(primary) = sentinel::intact_primary(&node.disk.sentinel_conf()?)
    {
        executor.carry_out(&SentinelGate::resume(node.spec(), primary))?;
        return Ok(());
    }
    let mut gate = Gate::new(service, redis_has_run);
    loop {
        if gate.round(node, &executor)? {
            return Ok(());
        }
        sleep(RETRY_INTERVAL);
    }
}

/// The gate of one service with its timers.
struct Gate {
    service: Service,
    start: Instant,
    etcd: EtcdGate,
    patroni: PatroniGate,
    redis: RedisGate,
}

impl Gate {
    fn new(service: Service, redis_has_run: bool) -> Gate {
        Gate {
            service,
            start: Instant::now(),
            etcd: EtcdGate::default(),
            patroni: PatroniGate::default(),
            redis: RedisGate::new(redis_has_run),
        }
    }

    /// Returns whether the service may start now.
    fn round(&mut self, node: &NodeContext, executor: &Executor) -> Result<bool> {
        let (seen, plan) = self.observe(node)?;
        let (seen, plan, now) = (&seen, &plan, self.start.elapsed());
        let decision = self.decide(node, &Round { spec: node.spec(), own: node.own(), seen, plan, now })?;
        executor.carry_out(&decision)
    }

    fn observe(&self, node: &NodeContext) -> Result<(Observations, Plan)> {
        let plan = |seen: &Observations| plan::plan(node.spec(), node.own(), seen);
        if self.service == Service::Etcd {
            let local = self_report::local_observations(node)?;
            let decided = plan(&local);
            if gate::is_decided_locally(&decided) {
                return Ok((local, decided));
            }
        }
        let seen = self_report::observe_and_mark_stale(node)?;
        let decided = plan(&seen);
        Ok((seen, decided))
    }

    fn decide(&mut self, node: &NodeContext, round: &Round) -> Result<Decision> {
        let stale = node.disk.read_state()?.stale;
        Ok(match self.service {
            Service::Etcd => {
                let changes = EtcdGate::changes_members(round);
                let facts = if changes { join_facts(node)? } else { JoinFacts::default() };
                self.etcd.decide(round, &facts)
            }
            Service::Patroni => self.patroni.decide(round, stale, &known_init_facts(node, round)),
            Service::Redis => self.redis.decide(round, stale, &redis_peers(node, &RedisGate::queries(round))),
            Service::Sentinel => SentinelGate::decide(round),
        })
    }
}

/// An error is retried in the next round.
fn known_init_facts(node: &NodeContext, round: &Round) -> InitFacts {
    if !InitGuard::concerns(round.seen) {
        return InitFacts::default();
    }
    init_facts(node).unwrap_or_else(|error| {
        tracing::info!("cannot clean up an interrupted initialization of PostgreSQL yet: {error:#}");
        InitFacts::default()
    })
}
