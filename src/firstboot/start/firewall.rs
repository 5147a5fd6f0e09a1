//! The firewall: its rules are loaded before any server starts. Without them no server starts, since the spec
//! limits who may connect.

use crate::host::systemd::Systemd;
use anyhow::{Context, Result};
use hanode_core::target::Target;

/// Loads the rules from the disk, even if the unit is active: an earlier run may have been interrupted after
/// it wrote them.
pub(super) fn enforce(target: &Target) -> Result<()> {
    let unit = &target.firewall.unit;
    Systemd::connect()?.run("reload-or-restart", unit).context("no server starts without the firewall")
}
