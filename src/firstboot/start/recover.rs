//! `recover`: what no program may decide. This node's data becomes the cluster's, by the operator's word.
//!
//! The word is on the disk before anything else happens and stays until this node is in service again: a
//! recovery that was cut is completed by running it again.

use super::apply::NodeContext;
use super::run::facts;
use super::self_report;
use crate::disk;
use crate::node_config::NodeConfig;
use crate::units::{self, Systemd};
use anyhow::{Context, Result, bail, ensure};
use hanode_cluster::client::etcd::Etcd as Client;
use hanode_core::plan::{Action, EtcdRecovery, Observations, Plan, Recovery, Step, peer_url, recovery};
use hanode_core::render::sentinel;
use hanode_util::file_tree::{Ids, below};
use hanode_util::safe_path::SafeTree;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const TIMEOUT: Duration = Duration::from_secs(3);
/// For etcd alone to read its log, or to begin.
const ETCD_PATIENCE: Duration = Duration::from_secs(60);
const LOG: &str = "/run/hanode/recover-etcd.log";
const ROUND: Duration = Duration::from_millis(300);

/// Keys by which the lost nodes would keep this one from leading: who led, who was in step, how far they were.
const FORGOTTEN: [&str; 6] = ["leader", "sync", "status", "optime/leader", "failover", "failsafe"];

pub(crate) fn recover(root: &Path, from_this_node: bool, data_on_others_is_lost: bool) -> Result<()> {
    let config = NodeConfig::active(root)?;
    let name = disk::pin(root)?.context("this disk has no identity yet: boot it as a node first")?.node;
    let seen = self_report::observe(root, &config, &name)?;
    let recovery =
        recovery(&config.spec, &seen).map_err(|why| anyhow::anyhow!("{why}; nothing was changed"))?;
    println!("Recovering from {name} means:");
    recovery.costs.iter().for_each(|cost| println!("  - {cost}"));
    ensure!(
        from_this_node && data_on_others_is_lost,
        "this takes both --from-this-node and --yes-data-on-others-is-lost; nothing was changed"
    );
    let machine = facts(root, &config, &name)?;
    let node = NodeContext { root, config: &config, name: &name, machine: &machine };
    disk::update_state(root, |disk| (disk.recovery_source, disk.served) = (true, true))?;
    let systemd = Systemd::connect()?;
    let units = match recovery.etcd {
        EtcdRecovery::Keep => vec![config.target.unit("sentinel")?, config.target.unit("redis")?],
        EtcdRecovery::FromLog | EtcdRecovery::Empty => units::of_node(&config)?,
    };
    systemd.stop(&units)?;
    let plan = alone(&node)?;
    if recovery.etcd != EtcdRecovery::Keep {
        node.apply_planned(&plan, "etcd")?;
        let member = begin_etcd(&node, recovery.etcd)?;
        disk::update_state(root, |disk| disk.etcd_member = Some(member))?;
    }
    overrule_sentinels(&node, &plan, &recovery, &seen)?;
    units.iter().try_for_each(|unit| systemd.start(unit))?;
    println!(
        "{name} starts with its data. Blank nodes join it by themselves; `hanode status` shows how far they are."
    );
    Ok(())
}

/// The plan of a cluster of which this node is all there is.
fn alone(node: &NodeContext) -> Result<Plan> {
    let spec = &node.config.spec;
    let own = spec.node(node.name).context("node vanished from the spec")?;
    let mut plan = Plan::uniform(spec, Action::Bootstrap);
    let reason = "by the operator's word this node's data is the cluster's";
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    plan.etcd.step = Step::new(Action::Bootstrap, reason);
    plan.etcd.initial_cluster = vec![format!("{}={}", own.name, peer_url(own))];
    plan.etcd.token = format!("{}-recovered-{stamp}", spec.name);
    plan.redis.step = Step::new(Action::Resume, reason);
    plan.redis.primary = Some(own.address);
    Ok(plan)
}

/// Begins etcd anew as a cluster of one, with what its log on this disk knew and what still holds; returns the member's
/// id. The log itself does not go on: the last thing that it applied before a power cut may not be in it as committed,
/// `--force-new-cluster` drops that from the log and not from the data, and members that join later would hold other
/// data than this one for good.
fn begin_etcd(node: &NodeContext, how: EtcdRecovery) -> Result<String> {
    let known = if how == EtcdRecovery::FromLog { what_it_knew(node)? } else { Vec::new() };
    // A directory without a log is a half-written one.
    crate::start::run::clear_etcd(node.root, node.config)?;
    let (mut running, etcd, member) = alone_in_etcd(node, false)?;
    for (key, value) in known {
        etcd.put(&key, &value)?;
    }
    running.end()?;
    Ok(member)
}

/// All keys but those that hang on a lease, and those that say who led.
fn what_it_knew(node: &NodeContext) -> Result<Vec<(String, Vec<u8>)>> {
    let (mut running, etcd, _) = alone_in_etcd(node, true)?;
    let scope = &node.config.spec.name;
    let forgotten = FORGOTTEN.map(|key| format!("/service/{scope}/{key}"));
    let mut known = etcd.list_without_lease("/")?;
    known.retain(|(key, _)| !forgotten.contains(key));
    running.end()?;
    Ok(known)
}

/// A running etcd whose only member is this node, and that member's id.
fn alone_in_etcd(node: &NodeContext, on_its_log: bool) -> Result<(Running, Client, String)> {
    let own = node.config.spec.node(node.name).context("node vanished from the spec")?;
    let mut running = Running(start_etcd(node, on_its_log)?);
    let etcd = Client::new(&node.config.credentials()?, own.address, TIMEOUT)?;
    let began = Instant::now();
    let members = loop {
        if let Some(status) = running.0.try_wait()? {
            bail!("etcd ended with {status}; what it said is in {LOG}");
        }
        match etcd.members() {
            Ok(members) => break members,
            Err(error) if began.elapsed() > ETCD_PATIENCE => {
                return Err(error).context("etcd does not come up alone");
            }
            Err(_) => sleep(ROUND),
        }
    };
    ensure!(members.len() == 1, "etcd still lists {} members", members.len());
    Ok((running, etcd, members[0].id.clone()))
}

/// As its unit would, with the flag that only this moment may use.
fn start_etcd(node: &NodeContext, on_its_log: bool) -> Result<Child> {
    use std::os::unix::process::CommandExt;
    let target = &node.config.target;
    let user = target.users.get("etcd").context("target names no user for etcd")?;
    let ids = Ids::read(node.root)?;
    let env = std::fs::read_to_string(below(node.root, target.path("etcd_env")?))?;
    let lines = env.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once('='));
    let mut command = Command::new("etcd");
    command.envs(lines).env("ETCD_LOG_LEVEL", "warn").uid(ids.uid(user)?).gid(ids.gid(user)?);
    if on_its_log {
        command.arg("--force-new-cluster");
    }
    let log = SafeTree::open(node.root)?.create(LOG)?;
    command.stdout(log.try_clone()?).stderr(log);
    command.current_dir("/").spawn().context("starting etcd")
}

/// Never left behind, however this ends.
struct Running(Child);

impl Running {
    fn end(&mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let began = Instant::now();
        while self.0.try_wait()?.is_none() {
            ensure!(began.elapsed() < ETCD_PATIENCE, "etcd does not end");
            sleep(ROUND);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This node's Sentinel names this node, in an epoch newer than any that others may still remember.
fn overrule_sentinels(
    node: &NodeContext,
    plan: &Plan,
    recovery: &Recovery,
    seen: &Observations,
) -> Result<()> {
    let spec = &node.config.spec;
    let target = &node.config.target;
    let old = disk::sentinel_conf(node.root, target)?;
    let epoch = recovery.epoch.max(sentinel::epoch(&old) + 1);
    let own = spec.node(&seen.own.node).context("node vanished from the spec")?;
    let id = sentinel::id(&old).map_or_else(disk::sentinel_id, |id| Ok(id.to_string()))?;
    let kept = sentinel::overruled(&id, &spec.redis.master_name, own.address, spec.redis.port, epoch);
    SafeTree::open(node.root)?.replace(disk::sentinel_conf_path(target)?, kept.as_bytes(), 0o600, None)?;
    node.apply_planned(plan, "sentinel")
}
