//! The firewall, in force before any server starts. Without it none does: a node that strangers can reach is not
//! what the spec describes.

use crate::units::Systemd;
use anyhow::{Context, Result};
use hanode_core::target::Target;

/// Loads the rules that lie on the disk, even where they seem to be in force: an earlier run may have been cut
/// between laying them down and this.
pub(super) fn enforce(target: &Target) -> Result<()> {
    let unit = &target.firewall.unit;
    Systemd::connect()?.run("reload-or-restart", unit).context("no server starts without the firewall")
}
