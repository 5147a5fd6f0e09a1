//! The cache of bases, each in a directory named by the target and the id.
//!
//! Each base has a lock file: exclusive while the base is built, shared while it is read. The modification time of the
//! lock file is the time of the last read.

use super::base;
use super::inventory::Inventory;
use super::progress::Steps;
use anyhow::{Context, Result};
use hanode_core::target::Target;
use hanode_util::command;
use hanode_util::scratch::Scratch;
use hanode_util::user_error::UserError;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A base that was not read for this long is removed when another base of its target is built. Not at once, because
/// other pinned versions or another release of hanode need another base of the same target.
const UNUSED_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

pub(crate) struct Base {
    dir: PathBuf,
    pub(crate) inventory: Inventory,
    /// Keeps the base from being removed.
    _read_lock: File,
}

impl Base {
    pub(crate) fn tar(&self) -> PathBuf {
        self.dir.join("base.tar")
    }

    pub(crate) fn raw(&self) -> PathBuf {
        self.dir.join("base.raw")
    }
}

/// The base of a target, from the cache or built now. With `fresh` it is always built, from the current packages of
/// its sources. Two concurrent callers build it once.
pub(crate) fn obtain(target: &Target, fresh: bool, steps: &mut Steps) -> Result<Base> {
    let id = base::id(target)?;
    let slot = CacheSlot { cache: cache_dir()?, target: &target.name, id: &id[..16] };
    if fresh || !slot.cache.join(slot.name()).exists() {
        // Before a lock file is created that an ordinary user cannot use.
        command::require_root("building a base")?;
    }
    let (dir, read_lock) = slot.obtain(fresh, steps, |scratch, steps| {
        base::build(target, &id, scratch, steps)
            .with_context(|| format!("building the base of {}", target.name))
    })?;
    let at = dir.join("base.json");
    let text = std::fs::read(&at).with_context(|| format!("reading {}", at.display()))?;
    let inventory = serde_json::from_slice(&text).map_err(|error| {
        let what = format!("the cached base is damaged: {error}");
        UserError::new(what, at.display().to_string(), "build it again with `hanode build --fresh`")
    })?;
    Ok(Base { dir, inventory, _read_lock: read_lock })
}

fn cache_dir() -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = from("XDG_CACHE_HOME").or_else(|| Some(from("HOME")?.join(".cache")));
    Ok(cache
        .context("no directory for the cache: neither XDG_CACHE_HOME nor HOME is set")?
        .join("hanode/base"))
}

/// The place of one base in the cache.
struct CacheSlot<'a> {
    cache: PathBuf,
    target: &'a str,
    id: &'a str,
}

impl CacheSlot<'_> {
    fn name(&self) -> String {
        format!("{}-{}", self.target, self.id)
    }

    /// The directory, and the shared lock that keeps it from being removed.
    fn obtain(
        &self,
        mut fresh: bool,
        steps: &mut Steps,
        build: impl FnOnce(&Scratch, &mut Steps) -> Result<PathBuf>,
    ) -> Result<(PathBuf, File)> {
        std::fs::create_dir_all(&self.cache).with_context(|| format!("creating {}", self.cache.display()))?;
        let dir = self.cache.join(self.name());
        let mut build = Some(build);
        loop {
            let read_lock = self.lock(File::try_lock_shared, steps)?;
            if dir.is_dir() && !fresh {
                read_lock.set_modified(SystemTime::now())?;
                return Ok((dir, read_lock));
            }
            drop(read_lock);
            let _exclusive = self.lock(File::try_lock, steps)?;
            if let Some(build) = build.take_if(|_| fresh || !dir.is_dir()) {
                let scratch = Scratch::within(&self.cache, &format!(".{}-", self.name()))?;
                let built = build(&scratch, steps)?;
                if dir.is_dir() {
                    std::fs::rename(&dir, scratch.join("previous"))?;
                }
                std::fs::rename(built, &dir).with_context(|| format!("storing {}", dir.display()))?;
                self.remove_unused()?;
            }
            fresh = false;
        }
    }

    fn lock(&self, attempt: fn(&File) -> Result<(), TryLockError>, steps: &mut Steps) -> Result<File> {
        let at = lock_file(&self.cache, &self.name());
        let file = File::options().create(true).append(true).open(&at);
        let file = file.with_context(|| format!("creating {}", at.display()))?;
        let mut announced = false;
        loop {
            match attempt(&file) {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if !announced => {
                    steps.start("waiting for another build of the same base");
                    announced = true;
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

    /// Removes the target's bases that were not read for [`UNUSED_LIFETIME`].
    fn remove_unused(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.cache)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = name.strip_prefix(self.target).and_then(|rest| rest.strip_prefix('-'));
            let is_base = id.is_some_and(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()));
            if !is_base || id == Some(self.id) {
                continue;
            }
            let Ok(lock) = File::open(lock_file(&self.cache, &name)) else { continue };
            if lock.try_lock().is_ok()
                && lock.metadata()?.modified()?.elapsed().unwrap_or_default() > UNUSED_LIFETIME
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

    /// The content of a file in the base that `obtain` returns; `built` is what the build writes into it.
    fn obtained(cache: &Path, id: &str, fresh: bool, built: Result<&str>) -> Result<String> {
        let slot = CacheSlot { cache: cache.into(), target: "debian-13", id };
        let (dir, _read_lock) = slot.obtain(fresh, &mut Steps::new(), |scratch, _| {
            let done = scratch.join("done");
            fs::create_dir(&done)?;
            fs::write(done.join("base"), built?)?;
            Ok(done)
        })?;
        Ok(fs::read_to_string(dir.join("base"))?)
    }

    const ONE: &str = "0123456789abcdef";
    const OTHER: &str = "fedcba9876543210";

    #[test]
    fn a_base_is_built_once_and_again_with_fresh() {
        let cache = tempfile::tempdir().unwrap();
        let obtain = |fresh, built| obtained(cache.path(), ONE, fresh, built);
        assert_eq!(obtain(false, Ok("of Monday")).unwrap(), "of Monday");
        assert_eq!(obtain(false, Ok("of Tuesday")).unwrap(), "of Monday");
        assert!(obtain(true, Err(anyhow::anyhow!("no network"))).is_err());
        assert_eq!(
            obtain(false, Ok("of Tuesday")).unwrap(),
            "of Monday",
            "a failed build keeps the cached base"
        );
        assert_eq!(obtain(true, Ok("of Tuesday")).unwrap(), "of Tuesday");
        let names = fs::read_dir(cache.path()).unwrap().count();
        assert_eq!(names, 2, "the base and its lock");
    }

    #[test]
    fn another_base_of_the_target_is_removed_once_it_is_unused() {
        let cache = tempfile::tempdir().unwrap();
        let obtain = |id, fresh| obtained(cache.path(), id, fresh, Ok("built")).unwrap();
        let is_cached = |name: &str| cache.path().join(name).is_dir();
        obtain(OTHER, false);
        fs::create_dir(cache.path().join(format!("debian-1-{OTHER}"))).unwrap();
        let other = format!("debian-13-{OTHER}");
        obtain(ONE, false);
        assert!(is_cached(&other), "it was read a moment ago");

        let lock = File::options().append(true).open(lock_file(cache.path(), &other)).unwrap();
        lock.set_modified(SystemTime::now() - 2 * UNUSED_LIFETIME).unwrap();
        lock.try_lock_shared().unwrap();
        obtain(ONE, true);
        assert!(is_cached(&other), "it is being read");
        drop(lock);
        obtain(ONE, false);
        assert!(is_cached(&other), "nothing was built");
        obtain(ONE, true);
        assert!(
            !is_cached(&other)
                && is_cached(&format!("debian-1-{OTHER}"))
                && is_cached(&format!("debian-13-{ONE}"))
        );
    }
}
