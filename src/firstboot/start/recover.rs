//! `hanode recover`: the operator chooses this node's data as the cluster's.
//!
//! The choice is saved on the disk first, and stays there until this node is in service again: an interrupted
//! recovery is completed by another run.

use super::self_report;
use crate::disk;
use crate::host::systemd::Systemd;
use crate::node::NodeContext;
use crate::units;
use anyhow::{Context, Result, bail, ensure};
use hanode_cluster::client::etcd::EtcdClient;
use hanode_cluster::discovery::restore_prefix;
use hanode_core::plan::{Action, EtcdRecovery, Plan, Reason, Recovery, Step, peer_url, recovery};
use hanode_core::render::sentinel;
use hanode_core::state::Component;
use hanode_util::file_tree::Ids;
use hanode_util::terminal;
use hanode_util::user_error::UserError;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const ETCD_REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// For a single etcd to read its log, to start and to stop.
const ETCD_START_TIMEOUT: Duration = Duration::from_secs(60);
const LOG: &str = "/run/hanode/recover-etcd.log";
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Patroni's keys about the leader, the synchronous standby and positions: with them this node could not
/// become leader.
const DROPPED_KEYS: [&str; 6] = ["leader", "sync", "status", "optime/leader", "failover", "failsafe"];

pub(crate) fn recover(node: &NodeContext, from_this_node: bool, accept_data_loss: bool) -> Result<()> {
    let (name, target) = (node.name(), node.target());
    let seen = self_report::observe(node)?;
    let recovery =
        recovery(node.spec(), &seen).map_err(|why| anyhow::anyhow!("nothing was changed: {why}"))?;
    println!("Recovering from {name} means:");
    recovery.costs.iter().for_each(|cost| println!("  - {}", terminal::line(cost)));
    ensure!(
        from_this_node && accept_data_loss,
        UserError::with_help(
            "nothing was changed: a recovery needs your consent",
            "run `hanode recover --from-this-node --accept-data-loss`",
        )
    );
    node.machine()?;
    node.disk.update_state(|disk| {
        (disk.recovery_source, disk.served) = (true, true);
        // From here on the cluster's data is this node's.
        disk.restore_choice = None;
    })?;
    let systemd = Systemd::connect()?;
    let units = match recovery.etcd {
        EtcdRecovery::Keep => vec![target.unit(Component::Sentinel)?, target.unit(Component::Redis)?],
        EtcdRecovery::FromLog | EtcdRecovery::Empty => units::of_node(&node.config)?,
    };
    systemd.stop(&units)?;
    let plan = single_node_plan(node);
    if recovery.etcd != EtcdRecovery::Keep {
        node.apply_planned(&plan, Component::Etcd)?;
        let member = rebuild_etcd(node, recovery.etcd)?;
        node.disk.update_state(|disk| disk.etcd_member = Some(member))?;
    }
    override_sentinels(node, &plan, &recovery)?;
    units.iter().try_for_each(|unit| systemd.start(unit))?;
    println!(
        "{name} starts with its data. Blank nodes join automatically; `hanode status` shows their progress."
    );
    Ok(())
}

/// The plan of a cluster with this node only.
fn single_node_plan(node: &NodeContext) -> Plan {
    let (spec, own) = (node.spec(), node.own());
    let mut plan = Plan::uniform(spec, Action::Bootstrap);
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    plan.etcd.step = Step::new(Action::Bootstrap, Reason::Recovering);
    plan.etcd.initial_cluster = vec![format!("{}={}", own.name, peer_url(own))];
    plan.etcd.token = format!("{}-recovered-{stamp}", spec.name);
    plan.redis.step = Step::new(Action::Resume, Reason::Recovering);
    plan.redis.primary = Some(own.address);
    plan
}

/// Creates a new etcd cluster of one with the keys of the log on this disk that are still valid; returns the
/// member's id. The log itself is not reused: `--force-new-cluster` drops uncommitted entries from the log
/// but not from the data, so members that join later would permanently differ from this one.
fn rebuild_etcd(node: &NodeContext, how: EtcdRecovery) -> Result<String> {
    let keys = if how == EtcdRecovery::FromLog { keys_from_log(node)? } else { Vec::new() };
    // A directory without a log is incomplete.
    node.disk.clear_etcd()?;
    let (mut running, etcd, member) = run_single_etcd(node, false)?;
    for (key, value) in keys {
        etcd.put(&key, &value)?;
    }
    running.stop()?;
    Ok(member)
}

/// All keys except those with a lease, [`DROPPED_KEYS`], those about backups, and those about a restore, which is of no more
/// use. The archive may have WAL of a later timeline than this node's data, so the recovered cluster begins another one.
fn keys_from_log(node: &NodeContext) -> Result<Vec<(String, Vec<u8>)>> {
    let (mut running, etcd, _) = run_single_etcd(node, true)?;
    let scope = &node.spec().name;
    let dropped = DROPPED_KEYS.map(|key| format!("/service/{scope}/{key}"));
    let (backup, restore) = (format!("/hanode/{scope}/backup/"), restore_prefix(scope));
    let mut keys = etcd.list_without_lease("/")?;
    keys.retain(|(key, _)| !dropped.contains(key) && !key.starts_with(&backup) && !key.starts_with(&restore));
    running.stop()?;
    Ok(keys)
}

/// A running etcd whose only member is this node, and that member's id.
fn run_single_etcd(node: &NodeContext, on_its_log: bool) -> Result<(EtcdProcess, EtcdClient, String)> {
    let mut running = EtcdProcess(start_etcd(node, on_its_log)?);
    let etcd = node.etcd(node.own(), ETCD_REQUEST_TIMEOUT)?;
    let start = Instant::now();
    let members = loop {
        if let Some(status) = running.0.try_wait()? {
            bail!("etcd exited with {status}; see {LOG}");
        }
        match etcd.members() {
            Ok(members) => break members,
            Err(error) if start.elapsed() > ETCD_START_TIMEOUT => {
                return Err(error).context("etcd does not start as a single member");
            }
            Err(_) => sleep(POLL_INTERVAL),
        }
    };
    ensure!(members.len() == 1, "etcd still lists {} members", members.len());
    Ok((running, etcd, members[0].id.clone()))
}

/// Starts etcd as its unit does; `on_its_log` adds `--force-new-cluster`.
fn start_etcd(node: &NodeContext, on_its_log: bool) -> Result<Child> {
    use std::os::unix::process::CommandExt;
    let target = node.target();
    let user = target.users.get("etcd").context("the target has no user for etcd")?;
    let ids = Ids::read(node.root())?;
    let env = std::fs::read_to_string(node.at(target.path("etcd_env")?))?;
    let lines = env.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once('='));
    let mut command = Command::new("etcd");
    command.envs(lines).env("ETCD_LOG_LEVEL", "warn").uid(ids.uid(user)?).gid(ids.gid(user)?);
    if on_its_log {
        command.arg("--force-new-cluster");
    }
    let log = node.tree()?.create(LOG)?;
    command.stdout(log.try_clone()?).stderr(log);
    command.current_dir("/").spawn().context("starting etcd")
}

/// Killed when dropped.
struct EtcdProcess(Child);

impl EtcdProcess {
    fn stop(&mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let start = Instant::now();
        while self.0.try_wait()?.is_none() {
            ensure!(start.elapsed() < ETCD_START_TIMEOUT, "etcd does not stop");
            sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes a state for this node's Sentinel in which this node is primary, in a newer epoch than any other
/// Sentinel has.
fn override_sentinels(node: &NodeContext, plan: &Plan, recovery: &Recovery) -> Result<()> {
    let (spec, own) = (node.spec(), node.own());
    let old = node.disk.sentinel_conf()?;
    let epoch = recovery.epoch.max(sentinel::epoch(&old) + 1);
    let id = sentinel::id(&old).map_or_else(disk::sentinel_id, |id| Ok(id.to_string()))?;
    let text = sentinel::override_primary(&id, &spec.redis.master_name, own.address, spec.redis.port, epoch);
    node.tree()?.replace(node.disk.sentinel_conf_path(), text.as_bytes(), 0o600, None)?;
    node.apply_planned(plan, Component::Sentinel)
}
