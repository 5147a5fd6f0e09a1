//! The plan unit: from a machine that could be any node to one whose services may start.

use super::apply::NodeContext;
use super::{firewall, self_report};
use crate::disk::aside::{move_postgres_aside, move_redis_aside};
use crate::disk::{self, volume};
use crate::failpoint::passed;
use crate::identity::machine::Machine;
use crate::identity::{self, Pin, duplicate_address, metadata, platform};
use crate::node_config::NodeConfig;
use crate::selinux;
use crate::state::{self, Phase, State};
use crate::units::{self, JOIN_SOCKET, READY, Systemd};
use crate::watch::reload;
use anyhow::{Context, Result, ensure};
use hanode_core::machine::MachineFacts;
use hanode_core::peer;
use hanode_core::pki::{
    self,
    read::{certificate, date},
};
use hanode_core::plan::{self, Action, Plan};
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use hanode_util::user_error::UserError;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// How long a clock before the certificates may take to be set right.
const CLOCK_PATIENCE: Duration = Duration::from_secs(600);
/// The node's address may come a moment after the network is called online.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(120);
/// How long a metadata service may be away or busy.
const PLATFORM_PATIENCE: Duration = Duration::from_secs(60);
/// A cloud may attach a volume some time after it started the machine.
const VOLUME_PATIENCE: Duration = Duration::from_secs(120);
const ROUND: Duration = Duration::from_millis(300);

/// Runs to the start of the services. An error is on the console, in the journal and in `state.json`.
pub(crate) fn run(root: &Path) -> Result<()> {
    told(root, sequence)
}

/// Before that, and apart from it because nothing mounts for all from a sandbox: the data volume.
pub(crate) fn storage(root: &Path) -> Result<()> {
    told(root, |root, _| {
        let config = NodeConfig::pending(root)?;
        volume::mount(root, &config.spec, &config.target, VOLUME_PATIENCE)
    })
}

fn told(root: &Path, work: impl FnOnce(&Path, &mut State) -> Result<()>) -> Result<()> {
    let mut state = State::anew(root);
    let done = work(root, &mut state);
    if let Err(error) = &done {
        let (what, place) = (format!("{error:#}"), state.phase.name().to_string());
        let fix = "correct this, then `systemctl restart hanode-plan` (or reboot)".to_string();
        state.error = Some(UserError { what: what.clone(), place, help: fix.clone() });
        state.enter(root, Phase::Failed, &format!("{what}; {fix}"))?;
    }
    done
}

fn sequence(root: &Path, state: &mut State) -> Result<()> {
    state.enter(root, Phase::Identity, "finding out which node this machine is")?;
    let config = NodeConfig::pending(root)?;
    config.activate(root)?;
    let name = identify(root, &config, state)?;
    wait_for_the_clock(root, &config, state)?;
    selinux::ports(root, config.target.selinux.as_ref(), &config.spec)?;
    duplicate_address::restore_address(root);
    let machine = facts(root, &config, &name)?;
    let node = NodeContext { root, config: &config, name: &name, machine: &machine };
    let duplicate = duplicate_address::ask(&node)?;
    state.enter(root, Phase::Applying, "laying down what no plan changes")?;
    let laid = node.apply().and_then(|_| firewall::enforce(&config.target));
    if let Err(error) = laid {
        // Whoever took the address off gives it back before this ends.
        return duplicate_address::yield_address(&node, duplicate, state).and(Err(error));
    }
    // Its port lies in a drop-in that was perhaps laid down by a run that did not come this far.
    if config.spec.network.join_port != peer::PORT {
        Systemd::connect()?.restart_redefined(JOIN_SOCKET)?;
    }
    passed(root, "applied");
    let plan = wait_for_the_plan(&node, duplicate, state)?;
    state.enter(root, Phase::Starting, &format!("etcd: {}", plan.etcd.step.reason))?;
    reload::remember(&node)?;
    state.cpu_ms = state::CpuTime::so_far();
    state::save(root, state)?;
    start(root, &config)
}

fn identify(root: &Path, config: &NodeConfig, state: &mut State) -> Result<String> {
    let machine = Machine::read(root)?;
    let pinned = disk::pin(root)?;
    let mut metadata = metadata::read(root)?;
    // A disk that knows whose it is need not wait for a platform that does not answer.
    let patience = if pinned.is_some() { Duration::from_secs(2) } else { PLATFORM_PATIENCE };
    let unheard = platform::complete(root, &mut metadata, patience).err();
    if let Some(why) = &unheard {
        tracing::warn!("{why:#}");
    }
    let found = identity::identify(&config.spec, &machine, metadata.as_ref(), pinned.as_ref());
    let found = found.map_err(|error| match unheard {
        Some(why) => anyhow::Error::from(error).context(format!("{why:#}")),
        None => error.into(),
    })?;
    if let Some(warning) = &found.warning {
        tracing::warn!("{warning}");
    }
    disk::ensure_install_id(root)?;
    passed(root, "install-id");
    // A disk that moved, and its metadata with it, is at home where it is now.
    let confirmed = metadata.as_ref().is_some_and(|m| m.node.as_ref() == Some(&found.node));
    let pin = Pin {
        schema: 1,
        node: found.node.clone(),
        instance_id: metadata.and_then(|m| m.instance_id),
        machine_uuid: machine.uuid.clone(),
    };
    if pinned.is_none() || (confirmed && pinned.as_ref() != Some(&pin)) {
        disk::save_pin(root, &pin)?;
        passed(root, "pinned");
    }
    disk::update_state(root, |disk| disk.generation += 1)?;
    passed(root, "booted");
    state.node = Some(found.node.clone());
    state.identity_source = Some(found.source.into());
    let hostname = config.spec.node(&found.node).map(|n| n.hostname.clone());
    let hostname = hostname
        .with_context(|| format!("this disk is pinned to {}, which the spec does not know", found.node))?;
    if machine.hostname != hostname {
        nix::unistd::sethostname(&hostname).context("setting the host name")?;
    }
    Ok(found.node)
}

/// Certificates that are not valid yet mean a clock that is not right yet.
fn wait_for_the_clock(root: &Path, config: &NodeConfig, state: &mut State) -> Result<()> {
    let certificate = certificate(config.node_certificate()?)?;
    let began = state::uptime_ms();
    while pki::now() < certificate.not_before {
        let waited = Duration::from_millis(state::uptime_ms() - began);
        let early = format!(
            "the clock says {}, the certificates begin at {}",
            date(pki::now()),
            date(certificate.not_before)
        );
        ensure!(
            waited < CLOCK_PATIENCE,
            "{early}, and it was not set right in {} s; look at `chronyc sources`",
            CLOCK_PATIENCE.as_secs()
        );
        if state.waiting_for.is_empty() {
            state.waiting_for = vec!["the time client".into()];
            state.enter(root, Phase::Identity, &early)?;
            state::tell_console(&format!("waiting for the time client: {early}"));
        }
        sleep(ROUND);
    }
    state.waiting_for.clear();
    ensure!(
        pki::now() <= certificate.not_after,
        "the certificates in the bundle have expired; run `hanode certs renew`, then lay the new bundle at {}",
        hanode_core::bundle::OVERRIDE_PATH
    );
    Ok(())
}

pub(crate) fn facts(root: &Path, config: &NodeConfig, name: &str) -> Result<MachineFacts> {
    let node = config.spec.node(name).context("node vanished from the spec")?;
    let began = state::uptime_ms();
    loop {
        let data = below(root, config.target.path("postgres_data")?);
        let interface = config.spec.keepalived.interface.as_deref();
        let facts = Machine::read(root)?.facts(root, node.address, interface, &data);
        if facts.is_ok() || Duration::from_millis(state::uptime_ms() - began) > ADDRESS_PATIENCE {
            return facts;
        }
        sleep(ROUND);
    }
}

/// Waiting for peers is a state, not a failure, and has no limit. Nothing is let go before the question about a duplicate
/// is answered; meanwhile the peers are asked.
fn wait_for_the_plan(
    node: &NodeContext,
    duplicate: duplicate_address::Asked,
    state: &mut State,
) -> Result<Plan> {
    let mut duplicate = Some(duplicate);
    loop {
        let seen = self_report::observe_and_mark_stale(node.root, node.config, node.name)?;
        let plan = plan::plan(&node.config.spec, node.name, &seen);
        let opens = plan.etcd.step.action.may_start();
        if let Some(asked) = duplicate.take_if(|duplicate| opens || duplicate.is_answered()) {
            duplicate_address::yield_address(node, asked, state)?;
            continue;
        }
        toward_bootstrap(node, &plan)?;
        state.plan = state::steps(&plan);
        state.waiting_for = seen.unreachable().into_iter().map(String::from).collect();
        let step = &plan.etcd.step;
        if step.action.may_start() {
            state.waiting_for.clear();
            state.error = None;
            state.enter(node.root, Phase::Planning, &step.reason)?;
            return Ok(plan);
        }
        if plan.etcd.record.is_some() {
            continue;
        }
        let duplicate = if plan.etcd.look_for_duplicate { duplicate_address::refusal(node)? } else { None };
        let step = duplicate.as_ref().unwrap_or(step);
        let refused = step.action == Action::Refuse;
        state.error = refused.then(|| UserError {
            what: step.reason.clone(),
            place: "joining the peers".into(),
            help: "this node goes on by itself once the cause is gone".into(),
        });
        state.enter(
            node.root,
            if refused { Phase::Refused } else { Phase::WaitingForPeers },
            &step.reason,
        )?;
        sleep(ROUND);
    }
}

/// Writes an agreed bootstrap down, or makes this boot the one that begins it: of the plan unit, and of etcd's
/// gate, where a quorum that let the plan unit pass was lost again.
pub(crate) fn toward_bootstrap(node: &NodeContext, plan: &Plan) -> Result<()> {
    if let Some(bootstrap_id) = &plan.etcd.record {
        // A log of an earlier bootstrap, never in service, would else be taken for this one's.
        clear_etcd(node.root, node.config)?;
        disk::update_state(node.root, |disk| disk.bootstrap_id = Some(bootstrap_id.clone()))?;
        passed(node.root, "bootstrap-recorded");
    }
    if plan.etcd.step.action == Action::Bootstrap && !disk::bootstrapping(node.root) {
        begin(node.root, node.config)?;
        passed(node.root, "began");
    }
    Ok(())
}

/// A log of etcd here is this bootstrap' own, and others may have its votes already: it stays. Of a half-written one
/// nothing does, and other data of unknown origin is kept aside.
fn begin(root: &Path, config: &NodeConfig) -> Result<()> {
    let data = disk::valid_data(root, &config.target)?;
    if !data.etcd {
        clear_etcd(root, config)?;
    }
    if data.postgres {
        move_postgres_aside(root, &config.target)?;
    }
    if data.redis {
        move_redis_aside(root, &config.target)?;
    }
    let bootstrap =
        disk::read_state(root)?.bootstrap_id.context("a bootstrap begins without having been recorded")?;
    disk::mark_bootstrapping(root, &bootstrap)
}

/// Of etcd nothing may stay, a half-written directory included.
pub(crate) fn clear_etcd(root: &Path, config: &NodeConfig) -> Result<()> {
    let dir = config.target.path("etcd_data")?;
    match SafeTree::open(root)?.remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("clearing {dir}"))
        }
        _ => disk::unmark_stale(root, |stale| stale.etcd = false),
    }
}

/// Queues every unit; their gates and systemd's ordering do the rest.
fn start(root: &Path, config: &NodeConfig) -> Result<()> {
    let units = units::of_node(config)?;
    let systemd = Systemd::connect()?;
    systemd.enable(&units)?;
    passed(root, "enabled");
    units.iter().try_for_each(|unit| systemd.start(unit))?;
    // After a plan that failed and was made anew nobody else starts it.
    systemd.start(READY)
}
