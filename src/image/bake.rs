//! Bakes a cluster into an existing tree: a mounted image, or `/` inside a virtual machine.

use super::dry_run::render_all_nodes;
use super::inventory::{self, Inventory};
use super::manifest::{self, ImageManifest};
use super::overlay::{self, BakeTarget, ClusterPayload};
use super::{base, locales, packages, selinux, sysprep};
use anyhow::{Context, Result, bail};
use hanode_admin::embedded;
use hanode_core::target::{SourceKind, Target};
use hanode_util::command;
use hanode_util::file_tree::{self, Ids};
use hanode_util::user_error::UserError;
use std::path::Path;
use std::time::SystemTime;

/// Exists on the disk of every node.
const IDENTITY_FILE: &str = "/var/lib/hanode/identity.json";

/// Bakes into the tree at `root`, removes the machine-specific files, and returns the paths that changed.
pub fn bake(
    root: &Path,
    target: &str,
    payload: Option<&ClusterPayload>,
    program: &[u8],
) -> Result<Vec<String>> {
    command::require_root("baking into a tree")?;
    let (text, mut target) = embedded::target(target)?;
    inventory::check_os(root, &target)?;
    if file_tree::below(root, IDENTITY_FILE).exists() {
        bail!(UserError::with_help(
            format!(
                "{} is the disk of a node ({IDENTITY_FILE} exists): a bake would remove its identity and keys",
                root.display()
            ),
            "use a machine that has never been a node"
        ));
    }
    if let Some(payload) = payload {
        target.pin(&payload.spec.versions)?;
        render_all_nodes(payload, &target)?;
    }
    check_fetched_versions(root, &target)?;
    packages::install_missing(root, &target)?;
    locales::generate(root, &target)?;
    if let Some(policy) = &mut target.selinux {
        payload.map_or(Ok(()), |payload| selinux::set_ports(policy, payload.spec))?;
        selinux::install_policy(policy, root)?;
    }
    let inventory = Inventory::read(
        root,
        &target,
        String::new(),
        packages_changed_at(root)?,
        &overlay::paths_to_label(&target)?,
    )?;
    let bake_target = BakeTarget { target_text: &text, target: &target, inventory: &inventory, program };
    let entries = overlay::entries(&bake_target, payload)?;
    let changed = file_tree::write(root, &entries, Some(&Ids::read(root)?))?;
    base::enable_units(&target, root)?;
    sysprep::generalize(root)?;
    if let Some(policy) = &target.selinux {
        // Everything that a bake changes: entries, links of units, removed files, and the policy store.
        let mut written = vec!["/etc".to_string(), "/var/lib/selinux".into()];
        written.extend(entries.into_iter().map(|entry| entry.path));
        selinux::label(policy, root, &written)?;
    }
    Ok(changed)
}

/// A bake does not fetch: the components without a package must already have the versions of the target.
fn check_fetched_versions(root: &Path, target: &Target) -> Result<()> {
    let Ok(text) = std::fs::read(file_tree::below(root, manifest::PATH)) else { return Ok(()) };
    let manifest: ImageManifest = serde_json::from_slice(&text).with_context(|| {
        format!("{} in {} has the format of another hanode version", manifest::PATH, root.display())
    })?;
    for (name, _) in target.sources.iter().filter(|(_, source)| source.kind == SourceKind::File) {
        if let (Some(installed), Some(wanted)) = (manifest.components.get(name), target.versions.get(name))
            && installed != wanted
        {
            bail!(UserError::with_help(
                format!("{} has {name} {installed}, not {wanted}", root.display()),
                "start from an image of `hanode build DIR --base`, which has the versions of DIR/cluster.toml"
            ));
        }
    }
    Ok(())
}

/// The time of the last change to the packages, in seconds since the Unix epoch; a second bake gives the same.
fn packages_changed_at(root: &Path) -> Result<u64> {
    let databases = ["var/lib/dpkg/status", "var/lib/rpm/Packages", "var/lib/rpm/rpmdb.sqlite"];
    let found = databases.iter().find_map(|name| root.join(name).metadata().ok());
    let time = found.context("the tree has no package database")?.modified()?;
    Ok(time.duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}
