//! systemd over D-Bus: enables, starts, stops and lists units.

use anyhow::{Context, Result, ensure};
use hanode_util::user_error::UserError;
use serde::{Deserialize, Serialize};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use zbus::block_on;

/// PostgreSQL may have to write all its dirty buffers.
const STOP_TIMEOUT: Duration = Duration::from_secs(180);

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

/// A unit and its state: `active`, `activating`, `failed` …
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct UnitState {
    pub(crate) name: String,
    pub(crate) state: String,
}

/// The main process of a running unit.
pub(crate) fn main_process(unit: &str) -> Result<i32> {
    let mut systemctl = Command::new("systemctl");
    let shown = hanode_util::command::capture(systemctl.args(["show", "--value", "-p", "MainPID", unit]))?;
    shown.text_lossy().trim().parse().with_context(|| format!("the main process of {unit}"))
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
        // Otherwise every later systemctl warns that unit files changed on disk.
        block_on(self.manager.reload()).context("reloading systemd's unit files")
    }

    /// Queues the start and does not wait for it; the watcher checks the result.
    pub(crate) fn start(&self, unit: &str) -> Result<()> {
        block_on(self.manager.start_unit(unit, "replace")).with_context(|| format!("starting {unit}"))?;
        Ok(())
    }

    /// Stops the units, including a start in progress, and waits until none runs.
    pub(crate) fn stop(&self, units: &[&str]) -> Result<()> {
        for unit in units {
            block_on(self.manager.stop_unit(unit, "replace")).with_context(|| format!("stopping {unit}"))?;
        }
        let start = Instant::now();
        loop {
            let states = self.states(units)?;
            let Some(unit) = states.iter().find(|u| !matches!(u.state.as_str(), "inactive" | "failed"))
            else {
                return Ok(());
            };
            ensure!(start.elapsed() < STOP_TIMEOUT, "{} is {} and does not stop", unit.name, unit.state);
            sleep(Duration::from_millis(200));
        }
    }

    /// Reloads a unit and waits for the result.
    pub(crate) fn reload(&self, unit: &str) -> Result<()> {
        self.run("reload", unit)
    }

    /// Runs any verb of systemctl and waits for it.
    pub(crate) fn run(&self, verb: &str, unit: &str) -> Result<()> {
        let output = hanode_util::command::capture(Command::new("systemctl").args([verb, unit]))?;
        ensure!(
            output.status.success(),
            UserError::with_help(
                format!("systemctl {verb} {unit}: {}", output.stderr.trim()),
                format!("see `journalctl -u {unit}`"),
            )
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

    pub(crate) fn states(&self, units: &[&str]) -> Result<Vec<UnitState>> {
        let listed = block_on(self.manager.list_units_by_names(units)).context("listing units")?;
        Ok(listed.into_iter().map(|u| UnitState { name: u.0, state: u.3 }).collect())
    }
}
