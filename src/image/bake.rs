//! The bake into a tree that somebody else made: a mounted image, or `/` inside a virtual machine.

use super::overlay::{self, Baked, Ground};
use super::rehearse::rehearse;
use super::survey::{self, Facts};
use super::{assets, base, clone, packages, selinux, tool};
use crate::tree::{self, Ids};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::SystemTime;

/// A node's disk knows by this file whose it is.
const PIN: &str = "/var/lib/hanode/identity.json";

/// Bakes into the tree at `root` and takes out what no copy of it may have; returns the paths that changed.
pub fn bake(root: &Path, target: &str, baked: Option<&Baked>, program: &[u8]) -> Result<Vec<String>> {
    tool::need_root("baking into a tree")?;
    let (text, mut target) = assets::target(target)?;
    survey::check_os(root, &target)?;
    if tree::below(root, PIN).exists() {
        bail!(
            "{} is the disk of a cluster's node ({PIN}): a bake would take its identity and keys; use a machine that never was one",
            root.display()
        );
    }
    baked.map_or(Ok(()), |baked| rehearse(baked, &target))?;
    packages::ensure(root, &target)?;
    let facts = Facts::of_base(root, &target, String::new(), installed_at(root)?)?;
    let ground = Ground { target_text: &text, target: &target, facts: &facts, program };
    let entries = overlay::entries(&ground, baked)?;
    let changed = tree::write(root, &entries, Some(&Ids::read(root)?))?;
    base::units(&target, root)?;
    if let Some(policy) = &mut target.selinux {
        baked.map_or(Ok(()), |baked| selinux::take_ports(policy, baked.spec))?;
        selinux::settle(policy, root)?;
        selinux::label(policy, root, &entries.into_iter().map(|e| e.path).collect::<Vec<_>>())?;
    }
    clone::forget(root)?;
    Ok(changed)
}

/// When the tree's packages last changed: a second bake says the same as the first.
fn installed_at(root: &Path) -> Result<u64> {
    let databases = ["var/lib/dpkg/status", "var/lib/rpm/Packages", "var/lib/rpm/rpmdb.sqlite"];
    let found = databases.iter().find_map(|name| root.join(name).metadata().ok());
    let time = found.context("the tree has no package database")?.modified()?;
    Ok(time.duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}
