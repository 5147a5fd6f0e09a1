//! SELinux labels of what was just written, where the kernel enforces a policy.

use crate::tree::below;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// The policy in the image knows every path that is rendered, so its own tool decides.
pub fn restore(root: &Path, paths: &[String]) -> Result<()> {
    if paths.is_empty() || !below(root, "/sys/fs/selinux/enforce").exists() {
        return Ok(());
    }
    let output = Command::new("restorecon").arg("-F").args(paths).output().context("running restorecon")?;
    if !output.status.success() {
        bail!("restorecon: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
