//! Removal of whole directories by handles.

use super::{LIST, entries};
use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;

/// Removes an entry and all below it; links are removed, not followed.
pub(super) fn remove_all(dir: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        // Linux names a directory by EISDIR, POSIX by EPERM.
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(error) => return Err(error),
    }
    let inner = openat(dir, name, LIST, Mode::empty())?;
    for entry in entries(&inner)? {
        remove_all(&inner, &entry)?;
    }
    unlinkat(dir, name, UnlinkatFlags::RemoveDir)
}
