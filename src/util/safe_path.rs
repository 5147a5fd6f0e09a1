//! Reads and changes files, as root, below directories that other users own.
//!
//! A user who may write into a directory can replace any name in it by a link, at any moment. Therefore no path goes to
//! the kernel as a whole: each component is opened from the handle of the one before, and the last one is created,
//! renamed or removed by its name in an open directory. Owner and mode are set on open files only.
//!
//! A symbolic link in the middle of a path is followed only if root made it where nobody else can replace it. This way
//! works on every kernel; openat2(2) needs Linux 5.6.

mod recursive;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, geteuid, symlinkat, unlinkat};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// As in the kernel.
const MAX_LINKS: usize = 40;
const DIR_MODE: Mode = Mode::from_bits_truncate(0o755);
const PRIVATE: Mode = Mode::from_bits_truncate(0o600);
/// A handle for a walk: it opens neither devices nor FIFOs.
const WALK: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const LIST: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const READ: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);
const CREATE: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// User id and group id.
pub type Owner = (u32, u32);

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{} is a symbolic link that user id {owner} can change; only links of root are followed", at.display())]
    Link { at: PathBuf, owner: u32 },
    #[error("{} is not a plain file with one name; user id {owner} can change it", at.display())]
    NotPlain { at: PathBuf, owner: u32 },
    #[error("{} belongs to user id {owner}, who must not own it; remove it", at.display())]
    Owner { at: PathBuf, owner: u32 },
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::new(ErrorKind::PermissionDenied, refusal)
    }
}

/// A tree of files, such as `/`. All paths are absolute inside the tree, and so are the targets of links.
#[derive(Debug)]
pub struct SafeTree {
    top: OwnedFd,
    /// Users whose links are followed where nobody else can replace them.
    trusted: Vec<u32>,
}

/// An open directory of the tree.
struct Handle {
    fd: OwnedFd,
    at: PathBuf,
    /// Only trusted users can change an entry of it or of any directory above.
    is_trusted: bool,
    owner: u32,
    /// The same two of the directory above.
    is_above_trusted: bool,
    above_owner: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Missing {
    Create,
    Fail,
}

impl SafeTree {
    /// The tree below `root`; `root` itself is the caller's choice, and its own links are followed.
    pub fn open(root: &Path) -> Result<SafeTree> {
        SafeTree::trusting(root, vec![0, geteuid().as_raw()])
    }

    /// As [`Self::open`], with the users whose links are followed.
    pub fn trusting(root: &Path, trusted: Vec<u32>) -> Result<SafeTree> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let top = nix::fcntl::open(root, flags, Mode::empty()).map_err(|e| named(e, root))?;
        Ok(SafeTree { top, trusted })
    }

    /// Content of a file. Below a directory of another user it must be a plain file with one name.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let (dir, name) = self.parent(path.as_ref(), Missing::Fail)?;
        let mut content = Vec::new();
        dir.plain_file(&name)?.read_to_end(&mut content)?;
        Ok(content)
    }

    /// Whether there is an entry of this name; a link counts as one.
    pub fn exists(&self, path: impl AsRef<Path>) -> Result<bool> {
        let found = self.parent(path.as_ref(), Missing::Fail).and_then(|(dir, name)| dir.stat(&name));
        match found {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A handle of a directory, to lock it.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> Result<File> {
        let dir = self.walk(path.as_ref(), Missing::Fail)?;
        Ok(dir.list()?.into())
    }

    /// Creates the directory and those above it where they are missing.
    pub fn create_dir_all(&self, path: impl AsRef<Path>) -> Result<()> {
        self.walk(path.as_ref(), Missing::Create).map(drop)
    }

    /// Creates the directory, or sets mode and owner of the existing one. Returns whether it is new.
    pub fn dir(&self, path: impl AsRef<Path>, mode: u32, owner: Option<Owner>) -> Result<bool> {
        let path = path.as_ref();
        let is_new = !self.exists(path)?;
        let dir = self.walk(path, Missing::Create)?;
        let is_expected = self.trusted.contains(&dir.owner)
            || dir.owner == dir.above_owner
            || owner.is_some_and(|(uid, _)| uid == dir.owner);
        if !dir.is_above_trusted && !is_expected {
            return Err(Refusal::Owner { at: dir.at, owner: dir.owner }.into());
        }
        set_mode_and_owner(&dir.list()?, mode, owner).map_err(|e| named(e, &dir.at))?;
        Ok(is_new)
    }

    /// Writes a file whose content, mode or owner differ, durably and all at once: a new file replaces the old one,
    /// whatever that is. Returns whether it differed.
    pub fn file(
        &self,
        path: impl AsRef<Path>,
        content: &[u8],
        mode: u32,
        owner: Option<Owner>,
    ) -> Result<bool> {
        let (dir, name) = self.parent(path.as_ref(), Missing::Create)?;
        if dir.has(&name, content, mode, owner) {
            return Ok(false);
        }
        dir.replace(&name, content, mode, owner)?;
        Ok(true)
    }

    /// Writes a file durably and all at once, as [`Self::file`] does.
    pub fn replace(
        &self,
        path: impl AsRef<Path>,
        content: &[u8],
        mode: u32,
        owner: Option<Owner>,
    ) -> Result<()> {
        let (dir, name) = self.parent(path.as_ref(), Missing::Create)?;
        dir.replace(&name, content, mode, owner)
    }

    /// A new, empty file for its owner only, in place of what has this name.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<File> {
        let (dir, name) = self.parent(path.as_ref(), Missing::Create)?;
        dir.create(&name)
    }

    /// Makes a symbolic link in place of what has this name. Returns whether it differed.
    pub fn link(&self, path: impl AsRef<Path>, target: &str) -> Result<bool> {
        let (dir, name) = self.parent(path.as_ref(), Missing::Create)?;
        if readlinkat(&dir.fd, name.as_os_str()).is_ok_and(|old| old == target) {
            return Ok(false);
        }
        let temporary = temporary(&name);
        dir.unlink(&temporary)?;
        symlinkat(target, &dir.fd, temporary.as_os_str()).map_err(|e| dir.named(e, &temporary))?;
        dir.rename(&temporary, &name)?;
        Ok(true)
    }

    /// Renames an entry inside its directory; a link is renamed, not followed.
    pub fn rename(&self, path: impl AsRef<Path>, name: impl AsRef<OsStr>) -> Result<()> {
        let (dir, old) = self.parent(path.as_ref(), Missing::Fail)?;
        dir.rename(&old, name.as_ref())
    }

    /// Removes a file or a link. A missing one is an error.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(path.as_ref(), Missing::Fail)?;
        unlinkat(&dir.fd, name.as_os_str(), UnlinkatFlags::NoRemoveDir).map_err(|e| dir.named(e, &name))
    }

    /// Removes a directory with all it holds, or a file or a link. A missing one is an error.
    pub fn remove_dir_all(&self, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(path.as_ref(), Missing::Fail)?;
        dir.stat(&name)?;
        recursive::remove_all(&dir.fd, &name).map_err(|e| dir.named(e, &name))
    }

    /// Changes the owner of a directory, and of everything in it that has the same owner: links themselves, not their
    /// targets. The directory comes last, so that the next run completes an interrupted one. Returns the old user id if it
    /// differed.
    pub fn change_owner(&self, path: impl AsRef<Path>, owner: Owner) -> Result<Option<u32>> {
        let dir = self.walk(path.as_ref(), Missing::Fail)?;
        let found = fstat(&dir.fd)?;
        let old = (found.st_uid, found.st_gid);
        if old == owner {
            return Ok(None);
        }
        recursive::change_owner(&dir.fd, old, owner).map_err(|e| named(e, &dir.at))?;
        Ok(Some(old.0))
    }

    /// The directory in which a path ends, and the name there.
    fn parent(&self, path: &Path, missing: Missing) -> Result<(Handle, OsString)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{}: no file name", path.display())));
        };
        Ok((self.walk(parent, missing)?, name.to_os_string()))
    }

    fn walk(&self, path: &Path, missing: Missing) -> Result<Handle> {
        let mut above: Vec<Handle> = vec![];
        let mut here = self.handle(self.top.try_clone()?, PathBuf::from("/"), None)?;
        let mut rest = components(path);
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                here = above.pop().unwrap_or(here);
                continue;
            }
            let fd = here.step(&name, missing)?;
            let found = fstat(&fd).map_err(|e| here.named(e, &name))?;
            if kind(&found) != SFlag::S_IFLNK {
                let next = self.handle(fd, here.at.join(&name), Some(&here))?;
                above.push(std::mem::replace(&mut here, next));
                continue;
            }
            if !(here.is_trusted && self.trusted.contains(&found.st_uid)) {
                let owner = if here.is_trusted { found.st_uid } else { here.owner };
                return Err(Refusal::Link { at: here.at.join(&name), owner }.into());
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(here.named(Errno::ELOOP, &name));
            }
            let target = PathBuf::from(readlinkat(&fd, "").map_err(|e| here.named(e, &name))?);
            if target.is_absolute() {
                above.truncate(1);
                here = above.pop().unwrap_or(here);
            }
            let mut steps = components(&target);
            steps.append(&mut rest);
            rest = steps;
        }
        Ok(here)
    }

    fn handle(&self, fd: OwnedFd, at: PathBuf, above: Option<&Handle>) -> Result<Handle> {
        let found = fstat(&fd).map_err(|e| named(e, &at))?;
        if kind(&found) != SFlag::S_IFDIR {
            return Err(named(Errno::ENOTDIR, &at));
        }
        let is_own = self.trusted.contains(&found.st_uid) && found.st_mode & 0o022 == 0;
        let is_above_trusted = above.is_none_or(|above| above.is_trusted);
        Ok(Handle {
            fd,
            at,
            is_trusted: is_above_trusted && is_own,
            owner: found.st_uid,
            is_above_trusted,
            above_owner: above.map_or(found.st_uid, |above| above.owner),
        })
    }
}

impl Handle {
    /// Opens an entry without following it.
    fn step(&self, name: &OsStr, missing: Missing) -> Result<OwnedFd> {
        let open = || openat(&self.fd, name, WALK, Mode::empty());
        let opened = match open() {
            Err(Errno::ENOENT) if missing == Missing::Create => match mkdirat(&self.fd, name, DIR_MODE) {
                Ok(()) | Err(Errno::EEXIST) => open(),
                Err(error) => Err(error),
            },
            other => other,
        };
        opened.map_err(|e| self.named(e, name))
    }

    /// The directory, open for everything.
    fn list(&self) -> Result<OwnedFd> {
        openat(&self.fd, ".", LIST, Mode::empty()).map_err(|e| named(e, &self.at))
    }

    fn stat(&self, name: &OsStr) -> Result<FileStat> {
        fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| self.named(e, name))
    }

    fn plain_file(&self, name: &OsStr) -> Result<File> {
        // FIFOs and devices are refused before they are opened; the handle is checked again.
        let check = |found: &FileStat| match kind(found) == SFlag::S_IFREG
            && (self.is_trusted || found.st_nlink == 1)
        {
            true => Ok(()),
            false => Err(Error::from(Refusal::NotPlain { at: self.at.join(name), owner: self.owner })),
        };
        check(&self.stat(name)?)?;
        let fd = openat(&self.fd, name, READ, Mode::empty()).map_err(|e| self.named(e, name))?;
        check(&fstat(&fd)?)?;
        Ok(fd.into())
    }

    /// Whether this name is a plain file with exactly this content, mode and owner.
    fn has(&self, name: &OsStr, content: &[u8], mode: u32, owner: Option<Owner>) -> bool {
        let same = || {
            let mut file = self.plain_file(name)?;
            let found = fstat(&file)?;
            let is_same = found.st_nlink == 1
                && found.st_mode & 0o7777 == mode
                && owner.is_none_or(|owner| owner == (found.st_uid, found.st_gid))
                && u64::try_from(found.st_size).is_ok_and(|size| size == content.len() as u64);
            let mut old = Vec::new();
            if is_same {
                file.read_to_end(&mut old)?;
            }
            Result::Ok(is_same && old == content)
        };
        same().unwrap_or(false)
    }

    /// A temporary file in the same directory, so that SELinux labels inherit, then a rename.
    fn replace(&self, name: &OsStr, content: &[u8], mode: u32, owner: Option<Owner>) -> Result<()> {
        let temporary = temporary(name);
        let mut file = self.create(&temporary)?;
        let written = (|| {
            file.write_all(content)?;
            set_mode_and_owner(&file, mode, owner)?;
            file.sync_all()?;
            self.rename(&temporary, name)
        })();
        if written.is_err() {
            let _ = self.unlink(&temporary);
            return written;
        }
        File::from(self.list()?).sync_all()
    }

    /// Not readable by others, not even for a moment.
    fn create(&self, name: &OsStr) -> Result<File> {
        self.unlink(name)?;
        let fd = openat(&self.fd, name, CREATE, PRIVATE).map_err(|e| self.named(e, name))?;
        Ok(fd.into())
    }

    fn unlink(&self, name: &OsStr) -> Result<()> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(self.named(error, name)),
        }
    }

    fn rename(&self, old: &OsStr, new: &OsStr) -> Result<()> {
        renameat(&self.fd, old, &self.fd, new).map_err(|e| self.named(e, new))
    }

    fn named(&self, error: Errno, name: &OsStr) -> Error {
        named(error, &self.at.join(name))
    }
}

fn set_mode_and_owner(file: impl std::os::fd::AsFd, mode: u32, owner: Option<Owner>) -> nix::Result<()> {
    if let Some((uid, gid)) = owner {
        fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    fchmod(&file, Mode::from_bits_truncate(mode))
}

fn components(path: &Path) -> VecDeque<OsString> {
    let wanted = |part: &Component| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(wanted).map(|part| part.as_os_str().to_os_string()).collect()
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

fn temporary(name: &OsStr) -> OsString {
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(".hanode-new");
    temporary
}

fn named(error: Errno, at: &Path) -> Error {
    let error = Error::from(error);
    Error::new(error.kind(), format!("{}: {error}", at.display()))
}

#[cfg(test)]
mod tests;
