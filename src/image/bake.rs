//! The bake into a tree that somebody else made: a mounted image, or `/` inside a virtual machine.

use super::dry_run::rehearse;
use super::inventory::{self, Facts};
use super::manifest::{self, Record};
use super::overlay::{self, BakeTarget, ClusterPayload};
use super::{base, packages, selinux, sysprep};
use anyhow::{Context, Result, bail, ensure};
use hanode_admin::embedded;
use hanode_core::target::{SourceKind, Target};
use hanode_util::command;
use hanode_util::file_tree::{self, Ids};
use std::path::Path;
use std::time::SystemTime;

/// A node's disk knows by this file whose it is.
const PIN: &str = "/var/lib/hanode/identity.json";

/// Bakes into the tree at `root` and takes out what no copy of it may have; returns the paths that changed.
pub fn bake(
    root: &Path,
    target: &str,
    baked: Option<&ClusterPayload>,
    program: &[u8],
) -> Result<Vec<String>> {
    command::require_root("baking into a tree")?;
    let (text, mut target) = embedded::target(target)?;
    inventory::check_os(root, &target)?;
    if file_tree::below(root, PIN).exists() {
        bail!(
            "{} is the disk of a cluster's node ({PIN}): a bake would take its identity and keys; use a machine that never was one",
            root.display()
        );
    }
    if let Some(baked) = baked {
        target.pin(&baked.spec.versions)?;
        rehearse(baked, &target)?;
    }
    fetched_as_asked(root, &target)?;
    packages::ensure(root, &target)?;
    if let Some(policy) = &mut target.selinux {
        baked.map_or(Ok(()), |baked| selinux::take_ports(policy, baked.spec))?;
        selinux::settle(policy, root)?;
    }
    let facts = Facts::of_base(root, &target, String::new(), installed_at(root)?)?;
    let ground = BakeTarget { target_text: &text, target: &target, facts: &facts, program };
    let entries = overlay::entries(&ground, baked)?;
    let changed = file_tree::write(root, &entries, Some(&Ids::read(root)?))?;
    base::units(&target, root)?;
    sysprep::forget(root)?;
    if let Some(policy) = &target.selinux {
        // All that a bake writes: entries, links of units, what was forgotten, and the policy itself.
        let mut written = vec!["/etc".to_string(), "/var/lib/selinux".into()];
        written.extend(entries.into_iter().map(|entry| entry.path));
        selinux::label(policy, root, &written)?;
    }
    Ok(changed)
}

/// What comes in no package has the version that the tree was built with: a bake brings no other.
fn fetched_as_asked(root: &Path, target: &Target) -> Result<()> {
    let Ok(text) = std::fs::read(file_tree::below(root, manifest::PATH)) else { return Ok(()) };
    let record: Record = serde_json::from_slice(&text)
        .with_context(|| format!("{} in {}: not of this version", manifest::PATH, root.display()))?;
    for (name, _) in target.sources.iter().filter(|(_, source)| source.kind == SourceKind::File) {
        if let (Some(has), Some(asked)) = (record.components.get(name), target.versions.get(name)) {
            ensure!(
                has == asked,
                "{} holds {name} {has}, and {asked} is asked for: begin with an image of `hanode build DIR --base`, which \
                 takes the versions of its cluster.toml",
                root.display()
            );
        }
    }
    Ok(())
}

/// When the tree's packages last changed: a second bake says the same as the first.
fn installed_at(root: &Path) -> Result<u64> {
    let databases = ["var/lib/dpkg/status", "var/lib/rpm/Packages", "var/lib/rpm/rpmdb.sqlite"];
    let found = databases.iter().find_map(|name| root.join(name).metadata().ok());
    let time = found.context("the tree has no package database")?.modified()?;
    Ok(time.duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}
