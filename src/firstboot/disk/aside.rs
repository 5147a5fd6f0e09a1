//! Moves data of the services aside: it is kept, but out of the way.

use super::{ASIDE, redis_log};
use anyhow::{Context, Result};
use hanode_core::target::Target;
use hanode_util::safe_path::SafeTree;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The whole data directory, if there is one.
pub(crate) fn move_postgres_aside(root: &Path, target: &Target) -> Result<()> {
    move_aside(root, target.path("postgres_data")?)
}

/// The files in the data directory: the directory itself also has the live configuration.
pub(crate) fn move_redis_aside(root: &Path, target: &Target) -> Result<()> {
    let data = target.path("redis_data")?;
    redis_log::DATA_FILES.iter().try_for_each(|part| move_aside(root, &format!("{data}/{part}")))
}

/// Renames to `NAME.aside-TIME`; does nothing if the path does not exist.
fn move_aside(root: &Path, path: &str) -> Result<()> {
    let tree = SafeTree::open(root)?;
    if !tree.exists(path)? {
        return Ok(());
    }
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).context("a path without a name")?;
    let aside = format!("{name}{ASIDE}{stamp}");
    tracing::warn!("{path} does not belong to this cluster: moved aside to {aside}");
    tree.rename(path, &aside).with_context(|| format!("moving {path} aside"))
}
