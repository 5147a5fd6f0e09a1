//! The firewall, in force before any server starts. Without it none does: a node that strangers can reach is not
//! what the spec describes.

use crate::boot::units::Systemd;
use crate::target::Target;
use anyhow::{Context, Result};

/// Loads the rules that lie on the disk, even where they seem to be in force: an earlier run may have been cut
/// between laying them down and this.
pub fn enforce(target: &Target) -> Result<()> {
    let unit = &target.firewall.unit;
    Systemd::connect()?.run("reload-or-restart", unit).context("no server starts without the firewall")
}
