//! systemd over D-Bus: enabling, starting and looking at units.

use super::state::UnitState;
use anyhow::{Context, Result};
use zbus::block_on;

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
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<zbus::OwnedObjectPath>;
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

pub struct Systemd {
    manager: ManagerProxy<'static>,
}

impl Systemd {
    pub fn connect() -> Result<Self> {
        let manager = block_on(async { ManagerProxy::new(&zbus::Connection::system().await?).await });
        Ok(Systemd { manager: manager.context("no answer from systemd on the system bus")? })
    }

    pub fn enable(&self, units: &[&str]) -> Result<()> {
        block_on(self.manager.enable_unit_files(units, false, true)).context("enabling units")?;
        Ok(())
    }

    /// Queues the start; whether it comes up is for [`super::ready`] to see.
    pub fn start(&self, unit: &str) -> Result<()> {
        block_on(self.manager.start_unit(unit, "replace")).with_context(|| format!("starting {unit}"))?;
        Ok(())
    }

    /// Restarts a unit whose definition has just changed.
    pub fn restart_redefined(&self, unit: &str) -> Result<()> {
        block_on(self.manager.reload()).context("reloading systemd's unit files")?;
        block_on(self.manager.restart_unit(unit, "replace")).with_context(|| format!("restarting {unit}"))?;
        Ok(())
    }

    /// `active`, `activating`, `failed` … for each unit.
    pub fn states(&self, units: &[&str]) -> Result<Vec<UnitState>> {
        let listed = block_on(self.manager.list_units_by_names(units)).context("listing units")?;
        Ok(listed.into_iter().map(|u| UnitState { name: u.0, state: u.3 }).collect())
    }
}
