//! Where bases are kept, each under the name of what it is made from.
//!
//! Each has a lock file: whoever makes a base holds it alone, whoever reads one shares it, and the file's time says when
//! that was last.

use super::base;
use super::inventory::Facts;
use super::progress::Steps;
use anyhow::{Context, Result};
use hanode_core::target::Target;
use hanode_util::command;
use hanode_util::scratch::Scratch;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A base that nobody read for so long goes when another one of its target is made. Not at once: another cluster's
/// versions, or another release of hanode, make another base of the same target.
const UNREAD: Duration = Duration::from_secs(30 * 24 * 3600);

pub(crate) struct Base {
    dir: PathBuf,
    pub(crate) facts: Facts,
    /// As long as it is held nobody takes the base away.
    _read: File,
}

impl Base {
    pub(crate) fn tar(&self) -> PathBuf {
        self.dir.join("base.tar")
    }

    pub(crate) fn raw(&self) -> PathBuf {
        self.dir.join("base.raw")
    }
}

/// The base of a target: from the cache, or made now; `fresh`: made now in any case, of what its sources have today.
/// Two callers at once make it once.
pub(crate) fn obtain(target: &Target, fresh: bool, steps: &mut Steps) -> Result<Base> {
    let id = base::id(target)?;
    let shelf = Shelf { cache: place()?, target: &target.name, id: &id[..16] };
    if fresh || !shelf.cache.join(shelf.name()).exists() {
        // Before a lock is left behind by somebody who may not make one.
        command::require_root("making a base")?;
    }
    let (dir, read) = shelf.obtain(fresh, steps, |scratch, steps| {
        base::make(target, &id, scratch, steps).with_context(|| format!("making the base of {}", target.name))
    })?;
    let at = dir.join("base.json");
    let text = std::fs::read(&at).with_context(|| format!("reading {}", at.display()))?;
    let facts = serde_json::from_slice(&text)
        .with_context(|| format!("{}: damaged; `hanode build --fresh` makes it anew", at.display()))?;
    Ok(Base { dir, facts, _read: read })
}

fn place() -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = from("XDG_CACHE_HOME").or_else(|| Some(from("HOME")?.join(".cache")));
    Ok(cache
        .context("neither XDG_CACHE_HOME nor HOME is set: no place for the cached base")?
        .join("hanode/base"))
}

/// The place of one base.
struct Shelf<'a> {
    cache: PathBuf,
    target: &'a str,
    id: &'a str,
}

impl Shelf<'_> {
    fn name(&self) -> String {
        format!("{}-{}", self.target, self.id)
    }

    /// The directory, and the lock that keeps it there.
    fn obtain(
        &self,
        mut fresh: bool,
        steps: &mut Steps,
        make: impl FnOnce(&Scratch, &mut Steps) -> Result<PathBuf>,
    ) -> Result<(PathBuf, File)> {
        std::fs::create_dir_all(&self.cache).with_context(|| format!("making {}", self.cache.display()))?;
        let dir = self.cache.join(self.name());
        let mut make = Some(make);
        loop {
            let read = self.hold(File::try_lock_shared, steps)?;
            if dir.is_dir() && !fresh {
                read.set_modified(SystemTime::now())?;
                return Ok((dir, read));
            }
            drop(read);
            let _alone = self.hold(File::try_lock, steps)?;
            if let Some(make) = make.take_if(|_| fresh || !dir.is_dir()) {
                let scratch = Scratch::within(&self.cache, &format!(".{}-", self.name()))?;
                let made = make(&scratch, steps)?;
                if dir.is_dir() {
                    std::fs::rename(&dir, scratch.join("older"))?;
                }
                std::fs::rename(made, &dir).with_context(|| format!("keeping {}", dir.display()))?;
                self.drop_unread()?;
            }
            fresh = false;
        }
    }

    fn hold(&self, attempt: fn(&File) -> Result<(), TryLockError>, steps: &mut Steps) -> Result<File> {
        let at = lock_file(&self.cache, &self.name());
        let file = File::options().create(true).append(true).open(&at);
        let file = file.with_context(|| format!("making {}", at.display()))?;
        let mut told = false;
        loop {
            match attempt(&file) {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if !told => {
                    steps.begin("waiting for another build of the same base");
                    told = true;
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => {
                    return Err(e).with_context(|| format!("locking {}", at.display()));
                }
            }
            hanode_util::interrupt::check()?;
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Takes away the target's bases that nobody reads any more.
    fn drop_unread(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.cache)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = name.strip_prefix(self.target).and_then(|rest| rest.strip_prefix('-'));
            let is_base = id.is_some_and(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()));
            if !is_base || id == Some(self.id) {
                continue;
            }
            let Ok(lock) = File::open(lock_file(&self.cache, &name)) else { continue };
            if lock.try_lock().is_ok() && lock.metadata()?.modified()?.elapsed().unwrap_or_default() > UNREAD
            {
                let at = entry.path();
                std::fs::remove_dir_all(&at).with_context(|| format!("removing {}", at.display()))?;
            }
        }
        Ok(())
    }
}

fn lock_file(cache: &Path, name: &str) -> PathBuf {
    cache.join(format!("{name}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// What `obtain` finds or makes, by the content of a file in it.
    fn kept(cache: &Path, id: &str, fresh: bool, made: Result<&str>) -> Result<String> {
        let shelf = Shelf { cache: cache.into(), target: "debian-13", id };
        let (dir, _read) = shelf.obtain(fresh, &mut Steps::new(), |scratch, _| {
            let done = scratch.join("done");
            fs::create_dir(&done)?;
            fs::write(done.join("base"), made?)?;
            Ok(done)
        })?;
        Ok(fs::read_to_string(dir.join("base"))?)
    }

    const ONE: &str = "0123456789abcdef";
    const OTHER: &str = "fedcba9876543210";

    #[test]
    fn a_base_is_made_once_and_anew_when_asked() {
        let cache = tempfile::tempdir().unwrap();
        let obtain = |fresh, made| kept(cache.path(), ONE, fresh, made);
        assert_eq!(obtain(false, Ok("of monday")).unwrap(), "of monday");
        assert_eq!(obtain(false, Ok("of tuesday")).unwrap(), "of monday");
        assert!(obtain(true, Err(anyhow::anyhow!("no network"))).is_err());
        assert_eq!(
            obtain(false, Ok("of tuesday")).unwrap(),
            "of monday",
            "what is there stays until it is replaced"
        );
        assert_eq!(obtain(true, Ok("of tuesday")).unwrap(), "of tuesday");
        let names = fs::read_dir(cache.path()).unwrap().count();
        assert_eq!(names, 2, "the base and its lock");
    }

    #[test]
    fn another_one_goes_once_nobody_reads_it() {
        let cache = tempfile::tempdir().unwrap();
        let obtain = |id, fresh| kept(cache.path(), id, fresh, Ok("made")).unwrap();
        let there = |name: &str| cache.path().join(name).is_dir();
        obtain(OTHER, false);
        fs::create_dir(cache.path().join(format!("debian-1-{OTHER}"))).unwrap();
        let other = format!("debian-13-{OTHER}");
        obtain(ONE, false);
        assert!(there(&other), "read a moment ago");

        let lock = File::options().append(true).open(lock_file(cache.path(), &other)).unwrap();
        lock.set_modified(SystemTime::now() - 2 * UNREAD).unwrap();
        lock.try_lock_shared().unwrap();
        obtain(ONE, true);
        assert!(there(&other), "somebody reads it");
        drop(lock);
        obtain(ONE, false);
        assert!(there(&other), "nothing was made");
        obtain(ONE, true);
        assert!(!there(&other) && there(&format!("debian-1-{OTHER}")) && there(&format!("debian-13-{ONE}")));
    }
}
