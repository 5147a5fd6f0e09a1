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
    /// The file system answers, but the probe cannot be written for a reason that is not the storage's.
    Prevented,
}

/// A file whose only block each probe overwrites: such a write needs neither space nor the file system's journal, so it
/// does not wait for what other processes write.
#[derive(Debug, Clone)]
pub(crate) struct ProbeFile {
    root: PathBuf,
    path: &'static str,
    at: PathBuf,
}

impl ProbeFile {
    /// The file is in a directory of root.
    pub(crate) fn new(root: &Path, path: &'static str) -> Result<ProbeFile> {
        let file = ProbeFile { root: root.into(), path, at: below(root, path) };
        if !std::fs::metadata(&file.at).is_ok_and(|file| file.is_file() && file.len() == BLOCK as u64) {
            file.create().with_context(|| format!("creating {path}"))?;
        }
        Ok(file)
    }

    /// In place of what has its name; with the directories above it.
    fn create(&self) -> io::Result<()> {
        let tree = SafeTree::open(&self.root)?;
        if let Some(directory) = Path::new(self.path).parent() {
            tree.create_dir_all(directory)?;
        }
        tree.replace(self.path, &[0; BLOCK], 0o600, None)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// Blocks while the storage hangs.
    pub(crate) fn probe(&self) -> Outcome {
        let written = match self.write_and_read() {
            Err(error) if is_damaged(&error) => self.create().and_then(|()| self.write_and_read()),
            written => written,
        };
        match written.and_then(|took| Ok((took, has_space(&self.at)?))) {
            Ok((took, true)) => Outcome::Written(took),
            Ok((_, false)) => Outcome::Failed(StorageFault::Full),
            Err(error) => fault_of(&error).map_or(Outcome::Prevented, Outcome::Failed),
        }
    }

    /// Opens the file each time: an open file would keep the file system from being mounted read-only or unmounted.
    fn write_and_read(&self) -> io::Result<Duration> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW);
        let start = Instant::now();
        let file = options.open(&self.at)?;
        file.write_all_at(&[0; BLOCK], 0)?;
        file.sync_data()?;
        // Otherwise the block would come from memory.
        posix_fadvise(&file, 0, BLOCK as i64, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        file.read_exact_at(&mut [0; BLOCK], 0)?;
        Ok(start.elapsed())
    }
}

/// Whether the file is missing, truncated or something else: a clean-up of caches is no fault of the storage.
fn is_damaged(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP))
        || error.kind() == io::ErrorKind::UnexpectedEof
}

/// The storage's fault, if the error is the storage's and not, say, of memory or of permissions.
fn fault_of(error: &io::Error) -> Option<StorageFault> {
    let Some(errno) = error.raw_os_error() else {
        // An error with the name of the file has no number.
        return match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Some(StorageFault::ReadOnly),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(StorageFault::Full),
            _ => None,
        };
    };
    Some(match Errno::from_raw(errno) {
        Errno::EROFS => StorageFault::ReadOnly,
        Errno::ENOSPC | Errno::EDQUOT => StorageFault::Full,
        // EUCLEAN is also ext4's and XFS' error for a damaged file system, EBADMSG the one for a wrong checksum.
        Errno::EIO
        | Errno::ENXIO
        | Errno::ENODEV
        | Errno::ETIMEDOUT
        | Errno::ESTALE
        | Errno::EUCLEAN
        | Errno::EBADMSG
        | Errno::EREMOTEIO
        | Errno::ENOLINK => StorageFault::Errors,
        _ => return None,
    })
}

/// Whether an ordinary user has space and inodes left.
fn has_space(at: &Path) -> io::Result<bool> {
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
    }

    #[test]
    fn a_probe_that_is_removed_is_made_again() {
        let root = tempfile::tempdir().expect("a directory");
        let file = ProbeFile::new(root.path(), "/var/cache/hanode/probe").expect("a probe");
        let works = || matches!(file.probe(), Outcome::Written(_));
        std::fs::remove_file(file.path()).expect("removing");
        assert!(works(), "the file is missing");
        std::fs::remove_dir_all(root.path().join("var/cache")).expect("removing");
        assert!(works(), "its directory is missing");
        std::fs::write(file.path(), b"torn").expect("writing");
        assert!(works(), "it is truncated");
        let other = root.path().join("other");
        std::fs::write(&other, b"other").expect("writing");
        std::fs::remove_file(file.path()).expect("removing");
        std::os::unix::fs::symlink(&other, file.path()).expect("a link");
        assert!(works(), "a link is in its place");
        assert_eq!(std::fs::read(&other).expect("reading"), b"other", "the link is not followed");
        std::fs::remove_file(file.path()).expect("removing");
        std::fs::create_dir(file.path()).expect("a directory in its place");
        assert_eq!(file.probe(), Outcome::Prevented);
    }

    #[test]
    fn errors_are_distinguished() {
        let fault = |errno: Errno| fault_of(&io::Error::from_raw_os_error(errno as i32));
        assert_eq!(fault(Errno::EROFS), Some(StorageFault::ReadOnly));
        assert_eq!(fault(Errno::ENOSPC), Some(StorageFault::Full));
        for errno in [Errno::EIO, Errno::ENODEV, Errno::ETIMEDOUT, Errno::ESTALE, Errno::EUCLEAN] {
            assert_eq!(fault(errno), Some(StorageFault::Errors), "{errno}");
        }
        for errno in [Errno::ENOENT, Errno::ENOMEM, Errno::EMFILE, Errno::EACCES, Errno::EISDIR] {
            assert_eq!(fault(errno), None, "{errno}");
        }
    }
}
