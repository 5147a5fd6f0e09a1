//! The base: a target's tree with every component installed and nothing of any cluster, made once and
//! cached by what it is made from.

use super::scratch::Scratch;
use super::survey::Facts;
use super::tool::{self, command, inside, isolated, run};
use super::{assets, disk, family::Family, progress::Steps, selinux, unpack};
use crate::target::Target;
use crate::tree::{self, Entry};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What one of them leaves behind that would be the same on every node, or is of the machine it was made on.
const LEFTOVERS: &[&str] = &[
    "etc/hostname",
    "etc/machine-id",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "etc/.pwd.lock",
    "etc/ssl/private/ssl-cert-snakeoil.key",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/cache/ldconfig/aux-cache",
    "var/cache/apt",
    "var/cache/dnf",
    "var/lib/apt/lists",
    "var/lib/cloud",
    "run",
    "tmp",
    "var/tmp",
];

pub struct Base {
    dir: PathBuf,
    pub facts: Facts,
}

impl Base {
    pub fn tar(&self) -> PathBuf {
        self.dir.join("base.tar")
    }

    pub fn raw(&self) -> PathBuf {
        self.dir.join("base.raw")
    }

    fn open(dir: PathBuf) -> Result<Base> {
        let at = dir.join("base.json");
        let text = std::fs::read(&at).with_context(|| format!("reading {}", at.display()))?;
        let facts = serde_json::from_slice(&text)
            .with_context(|| format!("{}: damaged; remove its directory", at.display()))?;
        Ok(Base { dir, facts })
    }
}

/// The base of a target: from the cache, or made now. Two callers at once make it once.
pub fn obtain(target: &Target, steps: &mut Steps) -> Result<Base> {
    let cache = cache_dir()?;
    let name = format!("{}-{}", target.name, &id(target)?[..16]);
    let dir = cache.join(&name);
    if dir.is_dir() {
        return Base::open(dir);
    }
    tool::need_root("making a base")?;
    let tools = ["curl", "gpg", "tar", "debugfs", "e2fsck", "sgdisk", "mkfs.vfat", "mmd", "mcopy"];
    tool::need(&[Family::of(target)?.tools(), &tools].concat())?;
    std::fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    let _lock = lock(&cache.join(format!("{name}.lock")), steps)?;
    if dir.is_dir() {
        return Base::open(dir);
    }
    let unfinished = format!(".{name}-");
    forget(&cache, &unfinished)?;
    let scratch = Scratch::within(&cache, &unfinished)?;
    make(target, &scratch, steps).with_context(|| format!("making the base of {}", target.name))?;
    let made = scratch.join("done");
    std::fs::rename(&made, &dir).with_context(|| format!("keeping {}", dir.display()))?;
    Base::open(dir)
}

fn cache_dir() -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = from("XDG_CACHE_HOME").or_else(|| Some(from("HOME")?.join(".cache")));
    Ok(cache
        .context("neither XDG_CACHE_HOME nor HOME is set: no place for the cached base")?
        .join("hanode/base"))
}

/// What a base is made from: the target's part in it, the files that go in, and this recipe itself.
fn id(target: &Target) -> Result<String> {
    let mut sum = Sha256::new();
    let data = (&target.name, &target.family, &target.base, &target.disk, &target.units, &target.paths);
    sum.update(serde_json::to_vec(&(data, &target.enabled, &target.masked))?);
    sum.update(serde_json::to_vec(&(&target.sources, &target.versions))?);
    sum.update(serde_json::to_vec(&tree::manifest(&before(target)))?);
    if let Some(policy) = &target.selinux {
        sum.update(selinux::settings(policy)?);
        sum.update(selinux::module(policy)?);
        sum.update(include_str!("selinux.rs"));
    }
    let family = match Family::of(target)? {
        Family::Debian => include_str!("debian.rs"),
        Family::El => concat!(include_str!("el.rs"), include_str!("enclosed.sh")),
    };
    let recipe = [include_str!("base.rs"), include_str!("disk.rs"), include_str!("survey.rs")];
    for source in recipe.into_iter().chain([family, include_str!("unpack.rs")]) {
        sum.update(source);
    }
    Ok(tree::hex(&sum.finalize()))
}

/// What must lie in the tree before the first package is configured.
fn before(target: &Target) -> Vec<Entry> {
    let mut entries = assets::entries("base", "");
    entries.extend(assets::entries("etc/systemd/system-preset", "/etc/systemd/system-preset"));
    for part in &target.base.parts {
        entries.extend(assets::entries(&format!("parts/{part}"), ""));
    }
    entries.extend(target.base.before.iter().map(|(path, text)| Entry::file(path, 0o644, text.as_bytes())));
    entries
}

/// Held until dropped.
fn lock(at: &Path, steps: &mut Steps) -> Result<File> {
    let file = File::create(at).with_context(|| format!("making {}", at.display()))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if !told => {
                steps.begin("waiting for another build that makes the same base");
                told = true;
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => {
                return Err(e).with_context(|| format!("locking {}", at.display()));
            }
        }
        crate::interrupt::check()?;
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Removes what a killed build left; the lock is held, so nobody works there.
fn forget(cache: &Path, prefix: &str) -> Result<()> {
    for entry in std::fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn make(target: &Target, scratch: &Scratch, steps: &mut Steps) -> Result<()> {
    let built_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let id = id(target)?;
    let root = scratch.join("root");
    steps.begin(format!("installing {} (once; minutes)", target.name));
    let note = |text: &str| steps.note(text);
    let fetched = unpack::fetch(target, scratch, &note)?;
    Family::of(target)?.install(target, &before(target), built_at, scratch, &note)?;
    unpack::all(target, &fetched, &root)?;
    // That of systemd 247 and earlier sets modes by way of /proc.
    run(&mut isolated(&root, "systemd-sysusers"))?;
    disk::kernel_links(&root)?;
    steps.begin("settling units, removing what is of this machine");
    units(target, &root)?;
    clean(&root)?;
    if let Some(policy) = &target.selinux {
        steps.begin("setting up SELinux");
        selinux::settle(policy, &root)?;
    }
    let facts = Facts::of_base(&root, target, id.clone(), built_at)?;
    if let Some(policy) = &target.selinux {
        selinux::label(policy, &root, &["/".into()])?;
    }
    let done = scratch.join("done");
    std::fs::create_dir(&done)?;
    std::fs::write(done.join("base.json"), serde_json::to_vec(&facts)?)?;
    steps.begin("writing base.raw");
    disk::write(&root, &target.disk, &id, &done.join("base.raw"), scratch)?;
    if target.selinux.is_some() {
        selinux::label_lost_and_found(&done.join("base.raw"), disk::ROOT_OFFSET)?;
    }
    steps.begin("writing base.tar");
    archive(&root, &done.join("base.tar"))?;
    steps.done();
    Ok(())
}

/// Enables and masks what the target says, and makes sure that no server starts by itself.
pub fn units(target: &Target, root: &Path) -> Result<()> {
    let systemctl = |verb: &str, units: &[&String]| match units {
        [] => Ok(()),
        units => run(inside(root, "systemctl").arg(verb).args(units)).map(drop),
    };
    let servers: Vec<_> = target.units.values().collect();
    systemctl("disable", &servers)?;
    systemctl("mask", &target.masked.iter().collect::<Vec<_>>())?;
    systemctl("enable", &target.enabled.iter().collect::<Vec<_>>())
}

fn clean(root: &Path) -> Result<()> {
    for path in LEFTOVERS {
        remove(&root.join(path)).with_context(|| format!("removing {path}"))?;
    }
    for (dir, prefix) in [("etc/ssh", "ssh_host_"), ("var/lib/dpkg", "status-old"), ("var/cache/debconf", "")]
    {
        for entry in std::fs::read_dir(root.join(dir)).into_iter().flatten() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix) && (!prefix.is_empty() || name.ends_with("-old")) {
                remove(&entry.path())?;
            }
        }
    }
    for log in walkdir::WalkDir::new(root.join("var/log")) {
        let log = log?;
        if log.file_type().is_file() {
            std::fs::remove_file(log.path())?;
        }
    }
    dangling_links(&root.join("etc/ssl/certs"))?;
    // Empty, not missing: the first boot gives the machine an id and does not apply presets afresh.
    tree::replace(&root.join("etc/machine-id"), b"", 0o444, None)
}

/// A directory stays, without its content; everything else goes.
fn remove(at: &Path) -> Result<()> {
    if at.is_dir() && !at.is_symlink() {
        for entry in std::fs::read_dir(at)? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                std::fs::remove_dir_all(path)?;
            } else {
                std::fs::remove_file(path)?;
            }
        }
    } else if at.is_symlink() || at.exists() {
        std::fs::remove_file(at)?;
    }
    Ok(())
}

/// The certificate directory has links by hash to what was removed.
fn dangling_links(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry?.path();
        if path.is_symlink() && !path.exists() && path.read_link()?.is_relative() {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn archive(root: &Path, out: &Path) -> Result<()> {
    let mut tar = command("tar");
    tar.args(["--format=pax", "--pax-option=delete=atime,delete=ctime", "--xattrs", "--xattrs-include=*"]);
    tar.args(["--numeric-owner", "--sort=name", "-C"]).arg(root).arg("-cf").arg(out).arg(".");
    run(&mut tar)?;
    Ok(())
}
