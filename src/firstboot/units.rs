//! systemd over D-Bus: enabling, starting and looking at units.

use crate::node_config::NodeConfig;
use crate::state::UnitState;
use anyhow::{Context, Result, ensure};
use hanode_core::spec::VipMode;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use zbus::block_on;

pub(crate) const READY: &str = "hanode-ready.service";
pub(crate) const JOIN_SOCKET: &str = "hanode-join.socket";
/// PostgreSQL may have to write all it holds in memory.
const STOP_PATIENCE: Duration = Duration::from_secs(180);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    #[allow(clippy::type_complexity)]
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<zbus::OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<zbus::OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<zbus::OwnedObjectPath>;
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    #[allow(clippy::type_complexity)]
    fn list_units_by_names(
        &self,
        names: &[&str],
    ) -> zbus::Result<
        Vec<(
            String,
            String,
            String,
            String,
            String,
            String,
            zbus::OwnedObjectPath,
            u32,
            String,
            zbus::OwnedObjectPath,
        )>,
    >;
}

pub(crate) struct Systemd {
    manager: ManagerProxy<'static>,
}

impl Systemd {
    pub(crate) fn connect() -> Result<Self> {
        let manager = block_on(async { ManagerProxy::new(&zbus::Connection::system().await?).await });
        Ok(Systemd { manager: manager.context("no answer from systemd on the system bus")? })
    }

    pub(crate) fn enable(&self, units: &[&str]) -> Result<()> {
        block_on(self.manager.enable_unit_files(units, false, true)).context("enabling units")?;
        // Else every later systemctl warns that something changed on disk.
        block_on(self.manager.reload()).context("reloading systemd's unit files")
    }

    /// Queues the start; whether it comes up is for [`super::ready`] to see.
    pub(crate) fn start(&self, unit: &str) -> Result<()> {
        block_on(self.manager.start_unit(unit, "replace")).with_context(|| format!("starting {unit}"))?;
        Ok(())
    }

    /// Stops them, a start that is under way included, and waits until none runs.
    pub(crate) fn stop(&self, units: &[&str]) -> Result<()> {
        for unit in units {
            block_on(self.manager.stop_unit(unit, "replace")).with_context(|| format!("stopping {unit}"))?;
        }
        let began = Instant::now();
        loop {
            let states = self.states(units)?;
            let Some(unit) = states.iter().find(|u| !matches!(u.state.as_str(), "inactive" | "failed"))
            else {
                return Ok(());
            };
            ensure!(began.elapsed() < STOP_PATIENCE, "{} is {} and does not stop", unit.name, unit.state);
            sleep(Duration::from_millis(200));
        }
    }

    /// Has a unit take up its configuration, and waits for what comes of it.
    pub(crate) fn reload(&self, unit: &str) -> Result<()> {
        self.run("reload", unit)
    }

    /// Any verb of systemctl, to its end.
    pub(crate) fn run(&self, verb: &str, unit: &str) -> Result<()> {
        let output = hanode_util::command::capture(Command::new("systemctl").args([verb, unit]))?;
        ensure!(
            output.status.success(),
            "systemctl {verb} {unit}: {}; see `journalctl -u {unit}`",
            output.stderr.trim()
        );
        Ok(())
    }

    /// Restarts a unit whose definition has just changed.
    pub(crate) fn restart_redefined(&self, unit: &str) -> Result<()> {
        block_on(self.manager.reload()).context("reloading systemd's unit files")?;
        self.restart(unit)
    }

    /// Kills all processes of a unit; its `Restart=` decides whether systemd starts it again.
    pub(crate) fn kill(&self, unit: &str) -> Result<()> {
        let signal = nix::sys::signal::Signal::SIGKILL as i32;
        block_on(self.manager.kill_unit(unit, "all", signal)).with_context(|| format!("killing {unit}"))
    }

    pub(crate) fn restart(&self, unit: &str) -> Result<()> {
        block_on(self.manager.restart_unit(unit, "replace")).with_context(|| format!("restarting {unit}"))?;
        Ok(())
    }

    /// `active`, `activating`, `failed` … for each unit.
    pub(crate) fn states(&self, units: &[&str]) -> Result<Vec<UnitState>> {
        let listed = block_on(self.manager.list_units_by_names(units)).context("listing units")?;
        Ok(listed.into_iter().map(|u| UnitState { name: u.0, state: u.3 }).collect())
    }
}

/// What must run for the node to be well: its servers, and what guards them.
pub(crate) fn watched(config: &NodeConfig) -> Result<Vec<&str>> {
    let mut units = of_node(config)?;
    units.push(&config.target.firewall.unit);
    units.push(JOIN_SOCKET);
    Ok(units)
}

/// The units of a node, in an order that brings the slow ones under way first.
pub(crate) fn of_node(config: &NodeConfig) -> Result<Vec<&str>> {
    let vrrp = config.spec.network.vip_mode == VipMode::Vrrp;
    let components = ["etcd", "patroni", "sentinel", "redis", "haproxy", "keepalived"];
    components.iter().filter(|c| vrrp || **c != "keepalived").map(|c| config.target.unit(c)).collect()
}

/// Those that do not run, for a sentence each.
pub(crate) fn down(units: &[UnitState]) -> Vec<String> {
    let bad = units.iter().filter(|u| u.state != "active");
    bad.map(|u| format!("{} is {}", u.name, u.state)).collect()
}
