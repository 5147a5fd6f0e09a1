//! Builds a base: a tree of the target with every component installed and no cluster.

use super::inventory::Inventory;
use super::{disk, distro::Distro, el, locales, overlay, progress::Steps, selinux, sysprep, unpack};
use anyhow::Result;
use hanode_admin::embedded;
use hanode_core::target::{Family, Target};
use hanode_util::command::{self, command, in_chroot, in_isolated_chroot, run};
use hanode_util::file_tree::{self, Entry};
use hanode_util::scratch::Scratch;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Version of the code that builds a base. Increase it when that code builds another tree or another base.json from the
/// same inputs: cached bases of older versions are then not used again.
const RECIPE_VERSION: u32 = 4;

/// The id of a base: a hash of the recipe version, of the target's settings for bases, and of the files of `image/` in it.
pub(crate) fn id(target: &Target) -> Result<String> {
    let mut sum = Sha256::new();
    sum.update(RECIPE_VERSION.to_be_bytes());
    let data = (&target.name, &target.family, &target.base, &target.disk, &target.units, &target.paths);
    sum.update(serde_json::to_vec(&(data, &target.enabled, &target.masked))?);
    sum.update(serde_json::to_vec(&(&target.sources, &target.versions))?);
    sum.update(serde_json::to_vec(&file_tree::manifest(&early_files(target)))?);
    if let Some(policy) = &target.selinux {
        sum.update(selinux::settings(policy)?);
        for (_, module) in selinux::modules(policy)? {
            sum.update(module);
        }
        // The inventory has the labels of these paths.
        sum.update(serde_json::to_vec(&file_tree::manifest(&overlay::paths_to_label(target)?))?);
    }
    if target.family == Family::El {
        sum.update(el::ISOLATE_SH);
    }
    Ok(hex::encode(sum.finalize()))
}

/// The files that must be in the tree before the first package is configured.
fn early_files(target: &Target) -> Vec<Entry> {
    let mut entries = embedded::entries("base", "");
    entries.extend(embedded::entries("etc/systemd/system-preset", "/etc/systemd/system-preset"));
    for part in &target.base.parts {
        entries.extend(embedded::entries(&format!("parts/{part}"), ""));
    }
    entries.extend(target.base.before.iter().map(|(path, text)| Entry::file(path, 0o644, text.as_bytes())));
    entries
}

/// Builds a base in `scratch`; returns the directory for the cache.
pub(crate) fn build(target: &Target, id: &str, scratch: &Scratch, steps: &mut Steps) -> Result<PathBuf> {
    command::require_root("building a base")?;
    let tools = ["curl", "gpg", "tar", "debugfs", "e2fsck", "mke2fs", "sgdisk", "mkfs.vfat", "mmd", "mcopy"];
    command::require(&[target.family.tools(), &tools].concat())?;
    let built_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let root = scratch.join("root");
    steps.start(format!("installing packages of {} (first build only, takes minutes)", target.name));
    let note = |text: &str| steps.note(text);
    let fetched = unpack::fetch_all(target, scratch, &note)?;
    target.family.install(target, &early_files(target), built_at, scratch, &note)?;
    unpack::unpack_all(target, &fetched, &root)?;
    locales::generate(&root, target)?;
    // systemd-sysusers of systemd 247 and earlier needs /proc to set modes.
    run(&mut in_isolated_chroot(&root, "systemd-sysusers"))?;
    disk::kernel_links(&root)?;
    steps.start("enabling units, removing machine-specific files");
    enable_units(target, &root)?;
    sysprep::generalize(&root)?;
    for dir in ["run", "tmp", "var/tmp"] {
        sysprep::empty_dir(&root.join(dir))?;
    }
    if let Some(policy) = &target.selinux {
        steps.start("installing the SELinux policy");
        selinux::install_policy(policy, &root)?;
    }
    let inventory = Inventory::read(&root, target, id.into(), built_at, &overlay::paths_to_label(target)?)?;
    if let Some(policy) = &target.selinux {
        selinux::label(policy, &root, &["/".into()])?;
    }
    let done = scratch.join("done");
    std::fs::create_dir(&done)?;
    std::fs::write(done.join("base.json"), serde_json::to_vec(&inventory)?)?;
    steps.start("writing base.raw");
    disk::write(&root, &target.disk, id, &done.join("base.raw"), scratch)?;
    if target.selinux.is_some() {
        selinux::label_lost_and_found(&done.join("base.raw"), disk::ROOT_OFFSET)?;
    }
    steps.start("writing base.tar");
    archive(&root, &done.join("base.tar"))?;
    steps.finish();
    Ok(done)
}

/// Enables and masks the units that the target names, and disables the servers, which the plan starts.
pub(crate) fn enable_units(target: &Target, root: &Path) -> Result<()> {
    let systemctl = |verb: &str, units: &[&String]| match units {
        [] => Ok(()),
        units => run(in_chroot(root, "systemctl").arg(verb).args(units)).map(drop),
    };
    let servers: Vec<_> = target.units.values().collect();
    systemctl("disable", &servers)?;
    systemctl("mask", &target.masked.iter().collect::<Vec<_>>())?;
    systemctl("enable", &target.enabled.iter().collect::<Vec<_>>())
}

fn archive(root: &Path, out: &Path) -> Result<()> {
    let mut tar = command("tar");
    tar.args(["--format=pax", "--pax-option=delete=atime,delete=ctime", "--xattrs", "--xattrs-include=*"]);
    tar.args(["--numeric-owner", "--sort=name", "-C"]).arg(root).arg("-cf").arg(out).arg(".");
    run(&mut tar)?;
    Ok(())
}
