//! The mount table.

use anyhow::{Context, Result};
use std::path::Path;

/// Whether this path is a mount point.
pub(crate) fn mounted(at: &Path) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    let escaped = at.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(&escaped)))
}
