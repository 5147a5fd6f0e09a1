//! Watches the node's services, says when all are well, and keeps `state.json` current for good.

use super::dynamic_config::Dynamic;
use super::sync_standby::Standby;
use super::{apply_bundle, failover_guard, haproxy_watchdog, metrics, stale_sessions, suspend};
use crate::disk;
use crate::disk::generation::{CountResult, GenerationCounter};
use crate::node_config::NodeConfig;
use crate::start::first_start::FirstStart;
use crate::start::self_report;
use crate::state::{self, Phase, UnitState};
use crate::units::{self, Systemd, down};
use anyhow::{Context, Result};
use hanode_cluster::health::local;
use hanode_core::plan::{self, Action, Plan};
use hanode_util::user_error::UserError;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const UNTIL_READY: Duration = Duration::from_millis(500);
/// Just in service: its neighbours are coming up too, and a leader has a standby to name.
const AT_FIRST: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(1));
const FROM_THEN_ON: Duration = Duration::from_secs(5);
/// For etcd to get as far as its gate's first word: until then that gate's last one, of the start before, still stands.
const AT_ITS_GATE: Duration = Duration::from_secs(30);

/// Never returns but by an error: systemd stops it.
pub(crate) fn watch(root: &Path) -> Result<()> {
    let config = NodeConfig::active(root)?;
    let node = disk::pin(root)?.context("hanode-plan.service has not pinned an identity")?.node;
    let units = units::watched(&config)?;
    let systemd = Systemd::connect()?;
    let access = config.access()?;
    // Patroni renews its lease at least once in each loop.
    let harmless =
        Duration::from_secs(u64::from(config.spec.patroni.ttl - config.spec.patroni.loop_wait) / 2);
    std::thread::spawn(move || suspend::watch(harmless));
    let (own, name) = (config.access()?, node.clone());
    std::thread::spawn(move || failover_guard::listen(own, &name));
    let (at, target) = (root.to_path_buf(), config.target.clone());
    std::thread::spawn(move || stale_sessions::look_after(&at, &target));
    let (unit, port) = (config.target.unit("haproxy")?.to_string(), config.spec.haproxy.stats_port);
    std::thread::spawn(move || haproxy_watchdog::watch(&unit, port));
    let mut measured: Option<Instant> = None;
    let mut asked_anew: Option<Instant> = None;
    let mut dynamic = Dynamic::default();
    let mut generation = GenerationCounter::new();
    let mut standby = Standby::default();
    let mut first_start = FirstStart::default();
    let mut well_since: Option<Instant> = None;
    loop {
        let units = systemd.states(&units)?;
        let mut problems = down(&units);
        problems.extend(local::problems(&access, &node));
        // Gates that were passed long ago decide no more, so what etcd's loss means is looked at here.
        let plan = match problems.iter().any(|p| p.starts_with("etcd: ")) {
            true => Some(plan::plan(&config.spec, &node, &self_report::observe(root, &config, &node)?)),
            false => None,
        };
        let undisturbed = asked_anew.is_none_or(|at| at.elapsed() > AT_ITS_GATE);
        if undisturbed && plan.as_ref().is_some_and(|plan| outlived(root, plan)) {
            asked_anew = Some(Instant::now());
            tracing::warn!("a quorum does not know etcd's log on this disk any more; etcd joins anew");
            systemd.restart(config.target.unit("etcd")?)?;
        }
        standby.look(&access, &node);
        if problems.is_empty() {
            disk::mark_in_service(root, &local::etcd_member(&access, &node)?)?;
            dynamic.look(root, &config, &node);
            match generation.count(root, &config, &node) {
                Ok(Some(CountResult::BehindEtcd)) => {
                    tracing::warn!("this machine was put back to an earlier moment; its services join anew");
                    units::of_node(&config)?.iter().try_for_each(|unit| systemd.restart(unit))?;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("this node's age is not counted now: {error:#}"),
            }
        }
        let without_postgres = problems.iter().any(|p| p.starts_with("PostgreSQL: "));
        report(root, units, problems, plan.as_ref())?;
        let well = state::load(root).phase == Phase::InService;
        if well != well_since.is_some() || measured.is_none_or(|at| at.elapsed() >= FROM_THEN_ON) {
            if without_postgres {
                // Its Patroni may wait for one whose machine is gone.
                let looked = self_report::observe(root, &config, &node)
                    .and_then(|seen| first_start.look(&config, &seen));
                looked.unwrap_or_else(|error| tracing::info!("a first start that was cut: {error:#}"));
            }
            metrics::keep(root, &config, &access, &node)?;
            measured = Some(Instant::now());
        }
        apply_bundle::go_on(root, &config, &node, &systemd)?;
        well_since = if well { well_since.or(Some(Instant::now())) } else { None };
        sleep(pause(well_since.map(|since| since.elapsed())));
    }
}

/// Until the next look, by how long all has been well.
fn pause(well: Option<Duration>) -> Duration {
    match well {
        None => UNTIL_READY,
        Some(well) if well < AT_FIRST.0 => AT_FIRST.1,
        Some(_) => FROM_THEN_ON,
    }
}

/// etcd went on with its own log, and now a quorum answers of which that log is no part: after a recovery
/// elsewhere, or a removal while it could not hear of it.
fn outlived(root: &Path, plan: &Plan) -> bool {
    let resumed = state::gates(root).get("etcd").is_some_and(|step| step.action == Action::Resume);
    resumed && plan.etcd.step.action == Action::Join
}

fn report(root: &Path, units: Vec<UnitState>, problems: Vec<String>, plan: Option<&Plan>) -> Result<()> {
    let mut state = state::load(root);
    state.units = units;
    for (gate, step) in state::gates(root) {
        let service = if gate == "patroni" { "postgres".to_string() } else { gate };
        state.plan.insert(service, step);
    }
    let refused = plan.map(state::steps).unwrap_or_default();
    state.plan.extend(refused.into_iter().filter(|(_, step)| step.action == Action::Refuse));
    let well = problems.is_empty();
    state.error = (!well && (state.phase == Phase::InService || state.error.is_some())).then(|| UserError {
        what: problems.join("; "),
        place: "the node's services".into(),
        help: "see `hanode status` and the journal of the units named".into(),
    });
    state.waiting_for = problems;
    if well {
        return state.enter(root, Phase::InService, "every service is healthy");
    }
    if let Some(refused) = state.plan.values().find(|step| step.action == Action::Refuse) {
        let reason = refused.reason.clone();
        state.error = Some(UserError {
            what: reason.clone(),
            place: "joining the peers".into(),
            help: "this node goes on by itself once the cause is gone".into(),
        });
        return state.enter(root, Phase::Refused, &reason);
    }
    let was = matches!(state.phase, Phase::InService | Phase::Refused);
    let phase = if was { Phase::Starting } else { state.phase };
    let sentence = state.waiting_for.join("; ");
    state.enter(root, phase, &sentence)
}
