//! Working space that goes away again, and output files that appear whole or not at all.
//!
//! Each space is locked as long as its owner lives. What a killed one left is nobody's, and goes when the next one
//! is made in the same place.

use anyhow::{Context, Result, bail};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A directory only its owner may enter, gone when the value is.
pub struct Scratch {
    dir: tempfile::TempDir,
    _lock: File,
}

impl Scratch {
    /// Beside what will be made of it, so that a rename suffices.
    pub fn beside(out: &Path) -> Result<Self> {
        Self::within(parent(out), ".hanode-scratch-")
    }

    pub fn within(dir: &Path, prefix: &str) -> Result<Self> {
        let make = || {
            // One at a time: a space that is made but not locked yet would look like a dead one's.
            let place = File::open(dir)?;
            place.lock()?;
            sweep(dir, prefix);
            let permissions = Permissions::from_mode(0o700);
            let made = tempfile::Builder::new().prefix(prefix).permissions(permissions).tempdir_in(dir)?;
            let lock = File::open(made.path())?;
            lock.lock()?;
            std::io::Result::Ok(Scratch { dir: made, _lock: lock })
        };
        make().with_context(|| format!("{}: cannot write here", dir.display()))
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

/// Removes the spaces whose owners were killed. What cannot be removed harms nobody but the disk.
fn sweep(dir: &Path, prefix: &str) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let dead = || File::open(entry.path()).is_ok_and(|space| space.try_lock().is_ok());
        let is_space = entry.file_name().to_string_lossy().starts_with(prefix)
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_space && dead() {
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

/// Refuses early what would fail only after minutes of work.
pub fn check_output(out: &Path) -> Result<()> {
    let dir = parent(out);
    if !dir.is_dir() {
        bail!("{}: no such directory; make it first", dir.display());
    }
    if out.is_dir() {
        bail!("{} is a directory; name a file", out.display());
    }
    Scratch::beside(out).map(drop)
}

/// Puts a finished file of the scratch space in its place: for the owner alone, durable, all at once.
pub fn publish(made: &Path, out: &Path) -> Result<()> {
    std::fs::set_permissions(made, Permissions::from_mode(0o600))?;
    File::open(made)?.sync_all().with_context(|| format!("writing {}", out.display()))?;
    std::fs::rename(made, out).with_context(|| format!("putting {} in its place", out.display()))?;
    File::open(parent(out))?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_private_and_goes_away() {
        let home = tempfile::tempdir().unwrap();
        let scratch = Scratch::beside(&home.path().join("out")).unwrap();
        let at = scratch.path().to_path_buf();
        assert_eq!(at.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop(scratch);
        assert!(!at.exists());
    }

    #[test]
    fn what_a_killed_owner_left_goes_and_what_lives_stays() {
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
    fn a_published_file_is_for_its_owner_alone() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let scratch = Scratch::beside(&out).unwrap();
        publish(&scratch.write("made", "all").unwrap(), &out).unwrap();
        assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&out).unwrap(), b"all");
    }

    #[test]
    fn a_missing_directory_is_named() {
        let said = check_output(Path::new("/no/such/place/node.raw")).unwrap_err().to_string();
        assert!(said.contains("/no/such/place"), "{said}");
    }
}
