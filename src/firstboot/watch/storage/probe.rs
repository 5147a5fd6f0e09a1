//! One probe of a file system: a small write that reaches the storage, the same block read back, and the space left.

use anyhow::{Context, Result};
use hanode_core::peer::StorageFault;
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statvfs::statvfs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
/// Less has no room for a segment of PostgreSQL's log.
const MIN_FREE_BYTES: u64 = 16 << 20;

/// The result of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Written(Duration),
    Failed(StorageFault),
}

/// A file whose only block each probe overwrites: such a write needs neither space nor the file system's journal, so it
/// does not wait for what other processes write.
#[derive(Debug, Clone)]
pub(crate) struct ProbeFile(PathBuf);

impl ProbeFile {
    /// The file is in a directory of root.
    pub(crate) fn new(root: &Path, path: &str) -> Result<ProbeFile> {
        let at = below(root, path);
        if !std::fs::metadata(&at).is_ok_and(|file| file.is_file() && file.len() == BLOCK as u64) {
            let tree = SafeTree::open(root)?;
            if let Some(directory) = Path::new(path).parent() {
                tree.create_dir_all(directory)?;
            }
            tree.replace(path, &[0; BLOCK], 0o600, None).with_context(|| format!("creating {path}"))?;
        }
        Ok(ProbeFile(at))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Blocks while the storage hangs.
    pub(crate) fn probe(&self) -> Outcome {
        match self.write_and_read() {
            Ok(took) => match has_space(&self.0) {
                Ok(true) => Outcome::Written(took),
                Ok(false) => Outcome::Failed(StorageFault::Full),
                Err(_) => Outcome::Failed(StorageFault::Errors),
            },
            Err(error) => Outcome::Failed(fault_of(&error)),
        }
    }

    /// Opens the file each time: an open file would keep the file system from being mounted read-only or unmounted.
    fn write_and_read(&self) -> io::Result<Duration> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW);
        let start = Instant::now();
        let file = options.open(&self.0)?;
        file.write_all_at(&[0; BLOCK], 0)?;
        file.sync_data()?;
        // Otherwise the block would come from memory.
        posix_fadvise(&file, 0, BLOCK as i64, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        file.read_exact_at(&mut [0; BLOCK], 0)?;
        Ok(start.elapsed())
    }
}

fn fault_of(error: &io::Error) -> StorageFault {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EROFS) => StorageFault::ReadOnly,
        Some(Errno::ENOSPC | Errno::EDQUOT) => StorageFault::Full,
        _ => StorageFault::Errors,
    }
}

/// Whether an ordinary user has space and inodes left.
fn has_space(at: &Path) -> nix::Result<bool> {
    let stat = statvfs(at)?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    Ok(free >= MIN_FREE_BYTES && (stat.files() == 0 || stat.files_free() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_writes_its_file_and_names_what_fails() {
        let root = tempfile::tempdir().expect("a directory");
        let file = ProbeFile::new(root.path(), "/var/cache/hanode/probe").expect("a probe");
        assert!(matches!(file.probe(), Outcome::Written(_)));
        assert_eq!(std::fs::metadata(file.path()).expect("the file").len(), BLOCK as u64);

        std::fs::write(file.path(), b"torn").expect("writing");
        ProbeFile::new(root.path(), "/var/cache/hanode/probe").expect("it is made again");
        assert!(matches!(file.probe(), Outcome::Written(_)));

        std::fs::remove_file(file.path()).expect("removing");
        assert_eq!(file.probe(), Outcome::Failed(StorageFault::Errors));
        std::os::unix::fs::symlink("/etc/hostname", file.path()).expect("a link");
        assert_eq!(file.probe(), Outcome::Failed(StorageFault::Errors), "a link is not followed");
    }

    #[test]
    fn errors_are_distinguished() {
        let fault = |errno: Errno| fault_of(&io::Error::from_raw_os_error(errno as i32));
        assert_eq!(fault(Errno::EROFS), StorageFault::ReadOnly);
        assert_eq!(fault(Errno::ENOSPC), StorageFault::Full);
        assert_eq!(fault(Errno::EIO), StorageFault::Errors);
    }
}
