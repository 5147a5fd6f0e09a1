//! The plan unit (hanode-plan.service): from a booted machine to a node whose services may start.

use super::effects::Executor;
use super::{duplicate_address, firewall, reload, self_report, source_address};
use crate::disk::{Disk, Pin, volume};
use crate::failpoint;
use crate::host::clock::{CpuTime, uptime_ms};
use crate::host::console;
use crate::host::machine::{Machine, set_hostname};
use crate::host::systemd::Systemd;
use crate::identity::metadata::Metadata;
use crate::identity::{self, metadata, platform};
use crate::node::NodeContext;
use crate::node_config::NodeConfig;
use crate::selinux;
use crate::state::{self, NodeState};
use crate::units::{self, JOIN_SOCKET, WATCH_UNIT};
use anyhow::{Result, ensure};
use hanode_core::gate::{self, Round, Service};
use hanode_core::peer;
use hanode_core::pki::{
    self,
    read::{certificate, date},
};
use hanode_core::plan::{self, Action, Plan, Step};
use hanode_core::restore::RestoreRequest;
use hanode_core::state::Phase;
use hanode_util::user_error::UserError;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For the time client to set a clock that is before the certificates' start.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(600);
/// For the platform's metadata service to answer.
const METADATA_TIMEOUT: Duration = Duration::from_secs(60);
/// A cloud may attach a volume some time after it started the machine.
const VOLUME_TIMEOUT: Duration = Duration::from_secs(120);
const RETRY_INTERVAL: Duration = Duration::from_millis(300);

/// Runs until the services are started. Reports an error on the console, in the journal and in `state.json`.
pub(crate) fn run(root: &Path) -> Result<()> {
    report_error(root, |state| boot_sequence(root, state))
}

/// Mounts the data volume, in a unit before the plan unit: a mount inside a sandbox is not visible to other
/// units.
pub(crate) fn mount_data(root: &Path) -> Result<()> {
    report_error(root, |_| {
        let config = NodeConfig::pending(root)?;
        volume::mount(root, &config.spec, &config.target, VOLUME_TIMEOUT)
    })
}

fn report_error(root: &Path, work: impl FnOnce(&mut NodeState) -> Result<()>) -> Result<()> {
    let mut state = NodeState::new(root);
    let result = work(&mut state);
    if let Err(error) = &result {
        let (what, place) = (format!("{error:#}"), state.phase.name().to_string());
        let remedy = state::help(error).unwrap_or_else(|| "correct this".into());
        let help = format!("{remedy}, then `systemctl restart hanode-plan` (or reboot)");
        state.error = Some(UserError { what: what.clone(), place, help: help.clone() });
        state.enter(Phase::Failed, &format!("{what}; {help}"))?;
    }
    result
}

fn boot_sequence(root: &Path, state: &mut NodeState) -> Result<()> {
    state.enter(Phase::Identity, "identifying this machine")?;
    let config = NodeConfig::pending(root)?;
    config.activate(root)?;
    let node = identify(root, config, state)?;
    wait_for_clock(&node, state)?;
    selinux::check_ports(root, node.target().selinux.as_ref(), node.spec())?;
    duplicate_address::restore_address(root);
    let duplicate = duplicate_address::start_probe(&node)?;
    // Peers then do not answer, which is the reason that the node reports.
    source_address::correct(&node).unwrap_or_else(|error| tracing::warn!("{error:#}"));
    state.enter(Phase::Applying, "writing static configuration")?;
    let written = node.apply().and_then(|_| firewall::enforce(node.target()));
    if let Err(error) = written {
        // The probe may have removed the address: restore it before this ends.
        return duplicate_address::yield_address(&node, duplicate, state).and(Err(error));
    }
    // The drop-in with the port may have been written by an earlier, interrupted run.
    if node.spec().network.join_port != peer::PORT {
        Systemd::connect()?.restart_redefined(JOIN_SOCKET)?;
    }
    node.fail_point("static-files-written");
    let plan = wait_for_plan(&node, duplicate, state)?;
    state.enter(Phase::Starting, &format!("etcd: {}", plan.etcd.step.reason))?;
    reload::save_current(&node)?;
    state.cpu_ms = CpuTime::current();
    state.save()?;
    start_services(&node)
}

/// Which node this machine is: pinned on its disk from now on.
fn identify(root: &Path, config: NodeConfig, state: &mut NodeState) -> Result<NodeContext> {
    let (machine, disk) = (Machine::read()?, Disk::new(root, &config.target)?);
    let pinned = disk.pin()?;
    let mut metadata = metadata::read(root)?;
    // A pinned disk does not need the platform's answer.
    let timeout = if pinned.is_some() { Duration::from_secs(2) } else { METADATA_TIMEOUT };
    let platform_error = platform::complete(root, &mut metadata, timeout).err();
    if let Some(why) = &platform_error {
        tracing::warn!("{why:#}");
    }
    let found = identity::identify(&config.spec, &machine, metadata.as_ref(), pinned.as_ref());
    let found = found.map_err(|error| {
        let mut error = UserError::from(error);
        let Some(why) = platform_error else { return anyhow::Error::new(error) };
        if let Some(remedy) = state::help(&why) {
            error.help = format!("{remedy}, or {}", error.help);
        }
        anyhow::Error::new(error).context(format!("{why:#}"))
    })?;
    if let Some(warning) = &found.warning {
        tracing::warn!("{warning}");
    }
    disk.ensure_install_id()?;
    failpoint::hit(root, "install-id-written");
    disk.save_restore_key(restore_key(metadata.as_ref())?.as_ref())?;
    // A disk whose metadata moved with it to another machine is pinned to that machine.
    let confirmed = metadata
        .as_ref()
        .is_some_and(|m| m.node.as_ref().is_some_and(|n| n.eq_ignore_ascii_case(&found.node)));
    let pin = Pin {
        schema: 1,
        node: found.node.clone(),
        instance_id: metadata.and_then(|m| m.instance_id),
        machine_uuid: machine.uuid.clone(),
    };
    if pinned.is_none() || (confirmed && pinned.as_ref() != Some(&pin)) {
        disk.save_pin(&pin)?;
        failpoint::hit(root, "identity-pinned");
    }
    disk.update_state(|disk| disk.generation += 1)?;
    failpoint::hit(root, "generation-counted");
    state.node = Some(found.node.clone());
    state.identity_source = Some(found.source.into());
    let node = NodeContext::new(root, config, &found.node)?;
    if machine.hostname != node.own().hostname {
        set_hostname(&node.own().hostname)?;
    }
    Ok(node)
}

/// What the metadata request. A value that cannot be read must not begin a new cluster.
fn restore_key(metadata: Option<&Metadata>) -> Result<Option<RestoreRequest>> {
    let Some(value) = metadata.and_then(|metadata| metadata.restore.as_deref()) else { return Ok(None) };
    let parsed = value.parse::<RestoreRequest>().map_err(|error| {
        let what = format!("the metadata key {} is not valid: {error}", metadata::RESTORE_KEY);
        UserError::with_help(what, "correct it on every machine, in quotes where the metadata are YAML")
    })?;
    Ok(Some(parsed))
}

/// Waits until the clock has reached the start of the certificates.
fn wait_for_clock(node: &NodeContext, state: &mut NodeState) -> Result<()> {
    let certificate = certificate(node.config.node_certificate()?)?;
    let start = uptime_ms();
    while pki::now() < certificate.not_before {
        let waited = Duration::from_millis(uptime_ms() - start);
        let early = format!(
            "the system clock {} is before the certificates' start {}",
            date(pki::now()),
            date(certificate.not_before)
        );
        ensure!(
            waited < CLOCK_TIMEOUT,
            UserError::with_help(
                format!("{early}; time was not synchronised within {} s", CLOCK_TIMEOUT.as_secs()),
                "see `chronyc sources`",
            )
        );
        if state.waiting_for.is_empty() {
            state.waiting_for = vec!["the time client".into()];
            state.enter(Phase::Identity, &early)?;
            console::write(&format!("waiting for the time client: {early}"));
        }
        sleep(RETRY_INTERVAL);
    }
    state.waiting_for.clear();
    ensure!(
        pki::now() <= certificate.not_after,
        UserError::with_help(
            "the certificates in the bundle have expired",
            format!(
                "run `hanode certs renew` and copy the new bundle to {}",
                hanode_core::bundle::OVERRIDE_PATH
            ),
        )
    );
    Ok(())
}

/// Waits for peers without a limit: that is a phase, not a failure. The result of the duplicate address probe
/// is required before any service starts; the peers are queried in the meantime.
fn wait_for_plan(
    node: &NodeContext,
    duplicate: duplicate_address::DuplicateProbe,
    state: &mut NodeState,
) -> Result<Plan> {
    let (mut probe, start, executor) = (Some(duplicate), Instant::now(), Executor::new(node, Service::Etcd));
    loop {
        let seen = self_report::observe_and_mark_stale(node)?;
        let plan = plan::plan(node.spec(), node.own(), &seen);
        let may_start = plan.etcd.step.action.may_start();
        if let Some(probe) = probe.take_if(|probe| may_start || probe.is_finished()) {
            duplicate_address::yield_address(node, probe, state)?;
            continue;
        }
        let duplicate = plan.etcd.look_for_duplicate && duplicate_address::is_duplicate(node)?;
        let now = start.elapsed();
        let round = Round { spec: node.spec(), own: node.own(), seen: &seen, plan: &plan, now };
        let decision = gate::plan_unit(&round, duplicate);
        executor.perform_all(&decision.effects, decision.step.action)?;
        state.plan = state::plan_steps(&plan);
        state.waiting_for = seen.unreachable().into_iter().map(String::from).collect();
        if may_start {
            state.waiting_for.clear();
            state.error = None;
            state.enter(Phase::Planning, &plan.etcd.step.reason.to_string())?;
            return Ok(plan);
        }
        if plan.etcd.record.is_none() {
            show_wait(state, &decision.step)?;
            sleep(RETRY_INTERVAL);
        }
    }
}

fn show_wait(state: &mut NodeState, step: &Step) -> Result<()> {
    let (reason, refused) = (step.reason.to_string(), step.action == Action::Refuse);
    state.error = refused.then(|| UserError {
        what: reason.clone(),
        place: "joining the peers".into(),
        help: "this node continues automatically once the cause is gone".into(),
    });
    state.enter(if refused { Phase::Refused } else { Phase::WaitingForPeers }, &reason)
}

/// Starts every unit without waiting for it: the gates and systemd's ordering decide when each one runs.
fn start_services(node: &NodeContext) -> Result<()> {
    let units = units::of_node(&node.config)?;
    let systemd = Systemd::connect()?;
    systemd.enable(&units)?;
    node.fail_point("units-enabled");
    units.iter().try_for_each(|unit| systemd.start(unit))?;
    // After a failed plan unit was restarted, no dependency starts this one.
    systemd.start(WATCH_UNIT)
}
