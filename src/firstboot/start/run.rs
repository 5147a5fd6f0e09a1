//! The plan unit: from a machine that could be any node to one whose services may start.

use super::apply::Node;
use super::{firewall, self_report};
use crate::disk::{self, redis_log, volume};
use crate::failpoint::passed;
use crate::identity::machine::Machine;
use crate::identity::{self, Pin, duplicate_address, metadata, platform};
use crate::node_config::Given;
use crate::selinux;
use crate::state::{self, Phase, State, Trouble};
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
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
        let given = Given::offered(root)?;
        volume::mount(root, &given.spec, &given.target, VOLUME_PATIENCE)
    })
}

fn told(root: &Path, work: impl FnOnce(&Path, &mut State) -> Result<()>) -> Result<()> {
    let mut state = State::anew(root);
    let done = work(root, &mut state);
    if let Err(error) = &done {
        let (what, place) = (format!("{error:#}"), state.phase.name().to_string());
        let fix = "correct this, then `systemctl restart hanode-plan` (or reboot)".to_string();
        state.error = Some(Trouble { what: what.clone(), place, fix: fix.clone() });
        state.enter(root, Phase::Failed, &format!("{what}; {fix}"))?;
    }
    done
}

fn sequence(root: &Path, state: &mut State) -> Result<()> {
    state.enter(root, Phase::Identity, "finding out which node this machine is")?;
    let given = Given::offered(root)?;
    given.adopt(root)?;
    let name = identify(root, &given, state)?;
    wait_for_the_clock(root, &given, state)?;
    selinux::ports(root, given.target.selinux.as_ref(), &given.spec)?;
    duplicate_address::take_back(root);
    let machine = facts(root, &given, &name)?;
    let node = Node { root, given: &given, name: &name, machine: &machine };
    let twin = duplicate_address::ask(&node)?;
    state.enter(root, Phase::Applying, "laying down what no plan changes")?;
    let laid = node.apply().and_then(|_| firewall::enforce(&given.target));
    if let Err(error) = laid {
        // Whoever took the address off gives it back before this ends.
        return duplicate_address::give_way(&node, twin, state).and(Err(error));
    }
    // Its port lies in a drop-in that was perhaps laid down by a run that did not come this far.
    if given.spec.network.join_port != peer::PORT {
        Systemd::connect()?.restart_redefined(JOIN_SOCKET)?;
    }
    passed(root, "applied");
    let plan = wait_for_the_plan(&node, twin, state)?;
    state.enter(root, Phase::Starting, &format!("etcd: {}", plan.etcd.step.reason))?;
    reload::remember(&node)?;
    state.cpu_ms = state::CpuTime::so_far();
    state::save(root, state)?;
    start(root, &given)
}

fn identify(root: &Path, given: &Given, state: &mut State) -> Result<String> {
    let machine = Machine::read(root)?;
    let pinned = disk::pin(root)?;
    let mut metadata = metadata::read(root)?;
    // A disk that knows whose it is need not wait for a platform that does not answer.
    let patience = if pinned.is_some() { Duration::from_secs(2) } else { PLATFORM_PATIENCE };
    let unheard = platform::complete(root, &mut metadata, patience).err();
    if let Some(why) = &unheard {
        tracing::warn!("{why:#}");
    }
    let found = identity::identify(&given.spec, &machine, metadata.as_ref(), pinned.as_ref());
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
    disk::amend(root, |record| record.boots += 1)?;
    passed(root, "booted");
    state.node = Some(found.node.clone());
    state.identity_source = Some(found.source.into());
    let hostname = given.spec.node(&found.node).map(|n| n.hostname.clone());
    let hostname = hostname
        .with_context(|| format!("this disk is pinned to {}, which the spec does not know", found.node))?;
    if machine.hostname != hostname {
        nix::unistd::sethostname(&hostname).context("setting the host name")?;
    }
    Ok(found.node)
}

/// Certificates that are not valid yet mean a clock that is not right yet.
fn wait_for_the_clock(root: &Path, given: &Given, state: &mut State) -> Result<()> {
    let certificate = certificate(given.node_certificate()?)?;
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
        hanode_core::bundle::OVERRIDE
    );
    Ok(())
}

pub(crate) fn facts(root: &Path, given: &Given, name: &str) -> Result<MachineFacts> {
    let node = given.spec.node(name).context("node vanished from the spec")?;
    let began = state::uptime_ms();
    loop {
        let data = below(root, given.target.path("postgres_data")?);
        let interface = given.spec.keepalived.interface.as_deref();
        let facts = Machine::read(root)?.facts(root, node.address, interface, &data);
        if facts.is_ok() || Duration::from_millis(state::uptime_ms() - began) > ADDRESS_PATIENCE {
            return facts;
        }
        sleep(ROUND);
    }
}

/// Waiting for peers is a state, not a failure, and has no limit. Nothing is let go before the question about a twin
/// is answered; meanwhile the peers are asked.
fn wait_for_the_plan(node: &Node, twin: duplicate_address::Asked, state: &mut State) -> Result<Plan> {
    let mut twin = Some(twin);
    loop {
        let seen = self_report::look(node.root, node.given, node.name)?;
        let plan = plan::plan(&node.given.spec, node.name, &seen);
        let opens = plan.etcd.step.action.opens();
        if let Some(asked) = twin.take_if(|twin| opens || twin.is_answered()) {
            duplicate_address::give_way(node, asked, state)?;
            continue;
        }
        towards_genesis(node, &plan)?;
        state.plan = state::steps(&plan);
        state.waiting_for = seen.silent().into_iter().map(String::from).collect();
        let step = &plan.etcd.step;
        if step.action.opens() {
            state.waiting_for.clear();
            state.error = None;
            state.enter(node.root, Phase::Planning, &step.reason)?;
            return Ok(plan);
        }
        if plan.etcd.record.is_some() {
            continue;
        }
        let twin = if plan.etcd.look_for_twin { duplicate_address::refusal(node)? } else { None };
        let step = twin.as_ref().unwrap_or(step);
        let refused = step.action == Action::Refuse;
        state.error = refused.then(|| Trouble {
            what: step.reason.clone(),
            place: "joining the peers".into(),
            fix: "this node goes on by itself once the cause is gone".into(),
        });
        state.enter(
            node.root,
            if refused { Phase::Refused } else { Phase::WaitingForPeers },
            &step.reason,
        )?;
        sleep(ROUND);
    }
}

/// Writes an agreed genesis down, or makes this boot the one that begins it: of the plan unit, and of etcd's
/// gate, where a quorum that let the plan unit pass was lost again.
pub(crate) fn towards_genesis(node: &Node, plan: &Plan) -> Result<()> {
    if let Some(genesis) = &plan.etcd.record {
        // A log of an earlier genesis, never in service, would else be taken for this one's.
        clear_etcd(node.root, node.given)?;
        disk::amend(node.root, |record| record.genesis = Some(genesis.clone()))?;
        passed(node.root, "genesis-recorded");
    }
    if plan.etcd.step.action == Action::Begin && !disk::began(node.root) {
        begin(node.root, node.given)?;
        passed(node.root, "began");
    }
    Ok(())
}

/// A log of etcd here is this genesis' own, and others may have its votes already: it stays. Of a half-written one
/// nothing does, and other data of unknown origin is kept aside.
fn begin(root: &Path, given: &Given) -> Result<()> {
    let data = disk::data(root, &given.target)?;
    let path = |name: &str| Ok::<_, anyhow::Error>(below(root, given.target.path(name)?));
    if !data.etcd {
        clear_etcd(root, given)?;
    }
    if data.postgres {
        set_aside(&path("postgres_data")?)?;
    }
    if data.redis {
        let redis = path("redis_data")?;
        redis_log::DATA.iter().try_for_each(|part| set_aside(&redis.join(part)))?;
    }
    let genesis = disk::record(root)?.genesis.context("a genesis begins without having been recorded")?;
    disk::mark_began(root, &genesis)
}

/// Of etcd nothing may stay, a half-written directory included.
pub(crate) fn clear_etcd(root: &Path, given: &Given) -> Result<()> {
    let dir = below(root, given.target.path("etcd_data")?);
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("clearing {}", dir.display()))
        }
        _ => disk::unmark_stale(root, |stale| stale.etcd = false),
    }
}

pub(crate) fn set_aside(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let name = dir.file_name().context("a path without a name")?;
    let aside = dir.with_file_name(format!("{}{}{stamp}", name.to_string_lossy(), disk::ASIDE));
    tracing::warn!("{} is not this cluster's; kept as {}", dir.display(), aside.display());
    std::fs::rename(dir, &aside).with_context(|| format!("moving {} aside", dir.display()))
}

/// Queues every unit; their gates and systemd's ordering do the rest.
fn start(root: &Path, given: &Given) -> Result<()> {
    let units = units::of_node(given)?;
    let systemd = Systemd::connect()?;
    systemd.enable(&units)?;
    passed(root, "enabled");
    units.iter().try_for_each(|unit| systemd.start(unit))?;
    // After a plan that failed and was made anew nobody else starts it.
    systemd.start(READY)
}
