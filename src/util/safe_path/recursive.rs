//! Whole directories, by handles: links in them are not followed.

use super::{LIST, Owner, WALK, kind};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

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

/// Changes owner and group of a directory and all below it, where they are the old ones.
pub(super) fn change_owner(dir: &OwnedFd, old: Owner, new: Owner) -> nix::Result<()> {
    for name in entries(dir)? {
        let entry = match openat(dir, name.as_os_str(), WALK, Mode::empty()) {
            Err(Errno::ENOENT) => continue,
            other => other?,
        };
        match kind(&fstat(&entry)?) == SFlag::S_IFDIR {
            true => change_owner(&entry, old, new)?,
            false => replace_owner(&entry, old, new)?,
        }
    }
    replace_owner(dir, old, new)
}

/// Each of the two ids, if it is the old one.
fn replace_owner(entry: &OwnedFd, old: Owner, new: Owner) -> nix::Result<()> {
    let found = fstat(entry)?;
    let uid = (found.st_uid == old.0).then(|| Uid::from_raw(new.0));
    let gid = (found.st_gid == old.1).then(|| Gid::from_raw(new.1));
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    fchownat(entry, "", uid, gid, AtFlags::AT_EMPTY_PATH)
}

/// Names in an open directory.
fn entries(dir: &OwnedFd) -> nix::Result<Vec<OsString>> {
    let mut listing = Dir::openat(dir, ".", LIST, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_os_string());
        }
    }
    Ok(names)
}
