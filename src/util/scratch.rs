//! Temporary directories that are removed after use, and output files that are published atomically.
//!
//! The owner holds a lock on its directory. A directory that a killed process left is removed when the next one is
//! created in the same place.

use crate::user_error::UserError;
use anyhow::{Context, Result, bail};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A directory of mode 0700 that is removed when the value is dropped.
pub struct Scratch {
    dir: tempfile::TempDir,
    _lock: File,
}

impl Scratch {
    /// In the directory of `out`, so that a rename can publish the result.
    pub fn beside(out: &Path) -> Result<Self> {
        Self::within(parent(out), ".hanode-scratch-")
    }

    /// In `dir`, with a name that starts with `prefix`.
    pub fn within(dir: &Path, prefix: &str) -> Result<Self> {
        let create = || {
            // Lock `dir`: a directory that is created but not locked yet would look abandoned.
            let parent = File::open(dir)?;
            parent.lock()?;
            sweep(dir, prefix);
            let permissions = Permissions::from_mode(0o700);
            let created = tempfile::Builder::new().prefix(prefix).permissions(permissions).tempdir_in(dir);
            let created = created.map_err(without_path)?;
            let lock = File::open(created.path())?;
            lock.lock()?;
            std::io::Result::Ok(Scratch { dir: created, _lock: lock })
        };
        create().with_context(|| format!("{}: cannot write here", dir.display()))
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let at = self.join(name);
        std::fs::write(&at, content).with_context(|| format!("writing {}", at.display()))?;
        Ok(at)
    }
}

/// The error without the random name of the directory, which means nothing to the user.
fn without_path(error: std::io::Error) -> std::io::Error {
    let text = error.to_string();
    let cause = text.split(" at path ").next().unwrap_or_default();
    std::io::Error::new(error.kind(), cause)
}

/// Removes directories of killed processes. A failure only wastes disk space.
fn sweep(dir: &Path, prefix: &str) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let abandoned = || File::open(entry.path()).is_ok_and(|dir| dir.try_lock().is_ok());
        let is_scratch = entry.file_name().to_string_lossy().starts_with(prefix)
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_scratch && abandoned() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn parent(out: &Path) -> &Path {
    match out.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Fails early if `out` cannot be written, before minutes of work.
pub fn check_output(out: &Path) -> Result<()> {
    let dir = parent(out);
    if !dir.is_dir() {
        let place = dir.display().to_string();
        bail!(UserError::new("no such directory", place, "create it first"));
    }
    if out.is_dir() {
        bail!(UserError::new("is a directory", out.display().to_string(), "name a file"));
    }
    Scratch::beside(out).map(drop)
}

/// Moves a finished file to `out`: mode 0600, synced, atomic.
pub fn publish(finished: &Path, out: &Path) -> Result<()> {
    std::fs::set_permissions(finished, Permissions::from_mode(0o600))?;
    File::open(finished)?.sync_all().with_context(|| format!("writing {}", out.display()))?;
    std::fs::rename(finished, out).with_context(|| format!("writing {}", out.display()))?;
    File::open(parent(out))?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_is_private_and_removed() {
        let home = tempfile::tempdir().unwrap();
        let scratch = Scratch::beside(&home.path().join("out")).unwrap();
        let at = scratch.path().to_path_buf();
        assert_eq!(at.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop(scratch);
        assert!(!at.exists());
    }

    #[test]
    fn only_directories_of_killed_processes_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let living = Scratch::beside(&out).unwrap();
        let (dead, other) = (home.path().join(".hanode-scratch-dead"), home.path().join(".hanode-other"));
        std::fs::create_dir_all(dead.join("deep")).unwrap();
        std::fs::create_dir(&other).unwrap();
        let next = Scratch::beside(&out).unwrap();
        assert!(!dead.exists() && other.exists());
        assert!(living.path().exists() && next.path().exists());
    }

    #[test]
    fn a_published_file_is_private() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let scratch = Scratch::beside(&out).unwrap();
        publish(&scratch.write("made", "all").unwrap(), &out).unwrap();
        assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&out).unwrap(), b"all");
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = check_output(Path::new("/no/such/place/node.raw")).unwrap_err().to_string();
        assert!(error.contains("/no/such/place"), "{error}");
    }
}
