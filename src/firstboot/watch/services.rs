//! Watches the node's services, reports when all are healthy, and keeps `state.json` current.

use super::dynamic_config::DynamicConfigSync;
use super::reclone::Reclone;
use super::served_certs::ServedCertsCheck;
use super::sync_standby::SyncStandbyCheck;
use super::{
    apply_bundle, declared_sql, failover_guard, findings, haproxy_watchdog, metrics, promotion, read_port,
    requests, stale_sessions, storage, suspend,
};
use crate::backup;
use crate::disk::space;
use crate::host::systemd::{Systemd, UnitState};
use crate::node::NodeContext;
use crate::restore;
use crate::selinux_denials;
use crate::start::effects::Executor;
use crate::start::generation::{CountResult, GenerationCounter};
use crate::start::init_facts::init_facts;
use crate::start::{self_report, source_address};
use crate::state::{self, NodeState};
use crate::units::{self, down};
use anyhow::Result;
use hanode_cluster::health::local;
use hanode_core::gate::{self, InitFacts, InitGuard, Round, Service};
use hanode_core::plan::{self, Action, Observations, Plan};
use hanode_core::state::{Component, Phase, Problem, ProblemKind};
use hanode_util::user_error::UserError;
use std::sync::Arc;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// Adds routes, which the watcher may not.
const SOURCE_ADDRESS: &str = "hanode-source-address.service";
/// Between two rounds while a service is unhealthy.
const STARTING_INTERVAL: Duration = Duration::from_millis(500);
/// Between two rounds in the first [`SETTLING_TIME`] in service: peers start too, and a leader has to name a
/// standby.
const SETTLING_INTERVAL: Duration = Duration::from_secs(1);
const SETTLING_TIME: Duration = Duration::from_secs(20);
/// Between two rounds after that, and between two updates of the metrics.
const STEADY_INTERVAL: Duration = Duration::from_secs(5);
/// For a restarted etcd to reach its gate: until then the gate's step is that of the start before.
const ETCD_RESTART_TIME: Duration = Duration::from_secs(30);

/// Returns only with an error; systemd stops it.
pub(crate) fn watch(node: NodeContext) -> Result<()> {
    let node = Arc::new(node);
    start_threads(&node)?;
    backup::watch::start_timer(&node)
        .unwrap_or_else(|error| tracing::error!("the schedule of the backups is not started: {error:#}"));
    let mut watcher = Watcher {
        node: &node,
        units: units::watched(&node.config)?,
        systemd: Systemd::connect()?,
        dynamic_config: DynamicConfigSync::default(),
        generation: GenerationCounter::new(),
        served_certs: ServedCertsCheck::default(),
        sync_standby: SyncStandbyCheck::default(),
        reclone: Reclone::default(),
        init: InitGuard::default(),
        start: Instant::now(),
        etcd_restart: None,
        last_metrics: None,
        healthy_since: None,
    };
    loop {
        sleep(watcher.round()?);
    }
}

/// Starts the watches that must react faster than a round.
fn start_threads(node: &Arc<NodeContext>) -> Result<()> {
    let (spec, target) = (node.spec(), node.target());
    // Patroni renews its lease at least once in each loop.
    let tolerated = Duration::from_secs(u64::from(spec.patroni.ttl - spec.patroni.loop_wait) / 2);
    storage::start(node, tolerated)?;
    let etcd = target.unit(Component::Etcd)?.to_string();
    spawn(move || suspend::watch(&etcd, tolerated));
    let shared = node.clone();
    spawn(move || failover_guard::listen(&shared));
    promotion::watch_sentinels(node);
    let shared = node.clone();
    spawn(move || findings::watch(&shared));
    let shared = node.clone();
    spawn(move || backup::watch::watch(&shared));
    let shared = node.clone();
    spawn(move || restore::watch(&shared));
    let shared = node.clone();
    spawn(move || declared_sql::watch(&shared));
    let shared = node.clone();
    spawn(move || requests::watch(&shared));
    space::start(&node.disk);
    selinux_denials::start(node.root());
    let socket = node.at(target.path("haproxy_socket")?);
    let (shared, read_socket) = (node.clone(), socket.clone());
    spawn(move || read_port::watch(&shared, &read_socket));
    let (unit, port) = (target.unit(Component::Haproxy)?.to_string(), spec.haproxy.stats_port);
    let (shared, haproxy) = (node.clone(), unit.clone());
    spawn(move || stale_sessions::watch(&shared, &haproxy, &socket));
    spawn(move || haproxy_watchdog::watch(&unit, port));
    Ok(())
}

struct Watcher<'a> {
    node: &'a NodeContext,
    units: Vec<&'a str>,
    systemd: Systemd,
    dynamic_config: DynamicConfigSync,
    generation: GenerationCounter,
    served_certs: ServedCertsCheck,
    sync_standby: SyncStandbyCheck,
    reclone: Reclone,
    init: InitGuard,
    start: Instant,
    /// The last time that this watcher restarted etcd.
    etcd_restart: Option<Instant>,
    last_metrics: Option<Instant>,
    healthy_since: Option<Instant>,
}

impl Watcher<'_> {
    /// Checks everything once; returns the time until the next round.
    fn round(&mut self) -> Result<Duration> {
        let units = self.systemd.states(&self.units)?;
        // First: while the servers are stopped, the others only repeat that.
        let mut problems = storage::problems(self.node.root());
        problems.extend(down(&units));
        problems.extend(local::problems(self.node.access(), self.node.own()));
        problems.extend(self.served_certs.problems(self.node));
        self.check_standby(&mut problems);
        // The gates are not evaluated again while services run, so a lost etcd needs a new plan here.
        let planned = match problems.iter().any(|p| p.concerns(Component::Etcd)) {
            true => Some(self.plan()?),
            false => None,
        };
        self.rejoin_etcd(planned.as_ref())?;
        self.sync_standby.check(self.node);
        if !source_address::wrong_sources(self.node).is_empty() {
            self.systemd.start(SOURCE_ADDRESS)?;
        }
        // A write would keep this loop from reporting while the disk hangs.
        if problems.is_empty() && storage::answers(self.node.root()) {
            self.record_service()?;
        }
        let postgres_is_down = problems.iter().any(|p| p.concerns(Component::Postgres));
        if postgres_is_down && planned.is_none() {
            // It may be down because of a setting that a new spec corrects.
            self.dynamic_config.correct(self.node);
        }
        report(self.node, units, problems, planned.as_ref().map(|(_, plan)| plan))?;
        let healthy = NodeState::load(self.node.root()).phase == Phase::InService;
        let metrics_are_due = self.last_metrics.is_none_or(|at| at.elapsed() >= STEADY_INTERVAL);
        if healthy != self.healthy_since.is_some() || metrics_are_due {
            self.check_init(postgres_is_down);
            metrics::save(self.node)?;
            self.last_metrics = Some(Instant::now());
        }
        apply_bundle::release_held_back(self.node, &self.systemd)?;
        self.healthy_since = if healthy { self.healthy_since.or(Some(Instant::now())) } else { None };
        Ok(interval(self.healthy_since.map(|since| since.elapsed())))
    }

    /// Replaces PostgreSQL's problem by its reason, if this is a standby that cannot stream.
    fn check_standby(&mut self, problems: &mut [Problem]) {
        if problems.iter().any(|p| p.kind == ProblemKind::StorageFault) {
            // It may stream again once the storage works; nothing can be cloned now.
            return;
        }
        let Some(problem) = problems.iter_mut().find(|p| p.concerns(Component::Postgres)) else {
            return self.reclone.reset();
        };
        if let Some(reason) = self.reclone.check(self.node) {
            *problem = Problem::check_failed(Component::Postgres, reason);
        }
    }

    fn plan(&self) -> Result<(Observations, Plan)> {
        let seen = self_report::observe(self.node)?;
        let plan = plan::plan(self.node.spec(), self.node.own(), &seen);
        Ok((seen, plan))
    }

    fn rejoin_etcd(&mut self, planned: Option<&(Observations, Plan)>) -> Result<()> {
        let at_its_gate = self.etcd_restart.is_some_and(|at| at.elapsed() <= ETCD_RESTART_TIME);
        if !at_its_gate && planned.is_some_and(|(seen, plan)| etcd_was_replaced(self.node, seen, plan)) {
            self.etcd_restart = Some(Instant::now());
            tracing::warn!("etcd's quorum does not accept the log on this disk any more: etcd joins again");
            self.systemd.restart(self.node.target().unit(Component::Etcd)?)?;
        }
        Ok(())
    }

    /// What is recorded about a node in service: on its disk, in Patroni's settings, and its generation.
    fn record_service(&mut self) -> Result<()> {
        self.node.disk.mark_in_service(&local::etcd_member(self.node.access(), self.node.own())?)?;
        self.dynamic_config.sync(self.node);
        match self.generation.count(self.node) {
            Ok(Some(CountResult::BehindEtcd)) => {
                tracing::warn!("this machine was reverted to a snapshot: its services join again");
                units::of_node(&self.node.config)?.iter().try_for_each(|unit| self.systemd.restart(unit))
            }
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!("the generation of this disk cannot be counted now: {error:#}");
                Ok(())
            }
        }
    }

    /// This node's Patroni may wait for the initialization by a node that failed; or its data is registered now.
    fn check_init(&mut self, postgres_is_down: bool) {
        let unmarked = self.unmark_registered_init();
        let deleted = if postgres_is_down { self.delete_abandoned_init() } else { Ok(()) };
        unmarked.and(deleted).unwrap_or_else(|error| {
            tracing::info!("cannot clean up an interrupted initialization of PostgreSQL yet: {error:#}")
        });
    }

    fn unmark_registered_init(&self) -> Result<()> {
        if self.node.disk.read_state()?.postgres_init.is_none() {
            return Ok(());
        }
        let seen = self_report::observe(self.node)?;
        let effects: Vec<_> = gate::registered(&seen).into_iter().collect();
        Executor::new(self.node, Service::Patroni).perform_all(&effects, Action::Wait).map(drop)
    }

    fn delete_abandoned_init(&mut self) -> Result<()> {
        let (node, (seen, plan)) = (self.node, self.plan()?);
        let facts = if InitGuard::concerns(&seen) { init_facts(node)? } else { InitFacts::default() };
        let now = self.start.elapsed();
        let round = Round { spec: node.spec(), own: node.own(), seen: &seen, plan: &plan, now };
        let effects = self.init.abandoned(&round, &facts);
        Executor::new(node, Service::Patroni).perform_all(&effects, Action::Wait).map(drop)
    }
}

/// Until the next round, by how long the node has been healthy.
fn interval(healthy: Option<Duration>) -> Duration {
    match healthy {
        None => STARTING_INTERVAL,
        Some(healthy) if healthy < SETTLING_TIME => SETTLING_INTERVAL,
        Some(_) => STEADY_INTERVAL,
    }
}

fn etcd_was_replaced(node: &NodeContext, seen: &Observations, plan: &Plan) -> bool {
    gate::must_rejoin(node.gate_steps().get(&Service::Etcd).map(|step| step.action), seen, plan)
}

fn report(
    node: &NodeContext,
    units: Vec<UnitState>,
    problems: Vec<Problem>,
    plan: Option<&Plan>,
) -> Result<()> {
    let mut state = NodeState::load(node.root());
    state.units = units;
    for (service, step) in node.gate_steps() {
        let name = if service == Service::Patroni { "postgres" } else { service.component().key() };
        state.plan.insert(name.into(), step);
    }
    let refused = plan.map(state::plan_steps).unwrap_or_default();
    state.plan.extend(refused.into_iter().filter(|(_, step)| step.action == Action::Refuse));
    let healthy = problems.is_empty();
    state.error =
        (!healthy && (state.phase == Phase::InService || state.error.is_some())).then(|| UserError {
            what: Problem::list(&problems),
            place: "the node's services".into(),
            help: "see `hanode status` and the journal of the units named".into(),
        });
    state.waiting_for.clear();
    state.problems = problems;
    if healthy {
        return state.enter(Phase::InService, "every service is healthy");
    }
    if let Some(refused) = state.plan.values().find(|step| step.action == Action::Refuse) {
        let reason = refused.reason.clone();
        state.error = Some(UserError {
            what: reason.clone(),
            place: "joining the peers".into(),
            help: "this node continues automatically once the cause is gone".into(),
        });
        return state.enter(Phase::Refused, &reason);
    }
    let had_started = matches!(state.phase, Phase::InService | Phase::Refused);
    let phase = if had_started { Phase::Starting } else { state.phase };
    let message = Problem::list(&state.problems);
    state.enter(phase, &message)
}
