//! The base: a target's tree with every component installed and nothing of any cluster.

use super::inventory::Facts;
use super::{disk, distro::Family, el, overlay, progress::Steps, selinux, sysprep, unpack};
use anyhow::Result;
use hanode_admin::embedded;
use hanode_core::target::Target;
use hanode_util::command::{self, command, in_chroot, in_isolated_chroot, run};
use hanode_util::file_tree::{self, Entry};
use hanode_util::scratch::Scratch;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Version of the code that makes a base. Increase it with every change of that code after which the same inputs give
/// another tree: cached bases of an older version are not used again.
const RECIPE_VERSION: u32 = 2;

/// The identity of a base: the recipe's version, the target's part in it and every file of `image/` that goes in.
pub(crate) fn id(target: &Target) -> Result<String> {
    let mut sum = Sha256::new();
    sum.update(RECIPE_VERSION.to_be_bytes());
    let data = (&target.name, &target.family, &target.base, &target.disk, &target.units, &target.paths);
    sum.update(serde_json::to_vec(&(data, &target.enabled, &target.masked))?);
    sum.update(serde_json::to_vec(&(&target.sources, &target.versions))?);
    sum.update(serde_json::to_vec(&file_tree::manifest(&before(target)))?);
    if let Some(policy) = &target.selinux {
        sum.update(selinux::settings(policy)?);
        sum.update(selinux::module(policy)?);
        // The policy is queried about them while the tree is there.
        sum.update(serde_json::to_vec(&file_tree::manifest(&overlay::paths(target)?))?);
    }
    if let Family::El = Family::of(target)? {
        sum.update(el::ENCLOSED);
    }
    Ok(hex::encode(sum.finalize()))
}

/// What must lie in the tree before the first package is configured.
fn before(target: &Target) -> Vec<Entry> {
    let mut entries = embedded::entries("base", "");
    entries.extend(embedded::entries("etc/systemd/system-preset", "/etc/systemd/system-preset"));
    for part in &target.base.parts {
        entries.extend(embedded::entries(&format!("parts/{part}"), ""));
    }
    entries.extend(target.base.before.iter().map(|(path, text)| Entry::file(path, 0o644, text.as_bytes())));
    entries
}

/// Makes it in `scratch`; returns the directory that is to be kept.
pub(crate) fn make(target: &Target, id: &str, scratch: &Scratch, steps: &mut Steps) -> Result<PathBuf> {
    command::require_root("making a base")?;
    let tools = ["curl", "gpg", "tar", "debugfs", "e2fsck", "mke2fs", "sgdisk", "mkfs.vfat", "mmd", "mcopy"];
    command::require(&[Family::of(target)?.tools(), &tools].concat())?;
    let built_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let root = scratch.join("root");
    steps.begin(format!("installing {} (once; minutes)", target.name));
    let note = |text: &str| steps.note(text);
    let fetched = unpack::fetch(target, scratch, &note)?;
    Family::of(target)?.install(target, &before(target), built_at, scratch, &note)?;
    unpack::all(target, &fetched, &root)?;
    // That of systemd 247 and earlier sets modes by way of /proc.
    run(&mut in_isolated_chroot(&root, "systemd-sysusers"))?;
    disk::kernel_links(&root)?;
    steps.begin("settling units, removing what is of this machine");
    units(target, &root)?;
    sysprep::forget(&root)?;
    for dir in ["run", "tmp", "var/tmp"] {
        sysprep::empty(&root.join(dir))?;
    }
    if let Some(policy) = &target.selinux {
        steps.begin("setting up SELinux");
        selinux::settle(policy, &root)?;
    }
    let facts = Facts::of_base(&root, target, id.into(), built_at)?;
    if let Some(policy) = &target.selinux {
        selinux::label(policy, &root, &["/".into()])?;
    }
    let done = scratch.join("done");
    std::fs::create_dir(&done)?;
    std::fs::write(done.join("base.json"), serde_json::to_vec(&facts)?)?;
    steps.begin("writing base.raw");
    disk::write(&root, &target.disk, id, &done.join("base.raw"), scratch)?;
    if target.selinux.is_some() {
        selinux::label_lost_and_found(&done.join("base.raw"), disk::ROOT_OFFSET)?;
    }
    steps.begin("writing base.tar");
    archive(&root, &done.join("base.tar"))?;
    steps.done();
    Ok(done)
}

/// Enables and masks what the target says, and makes sure that no server starts by itself.
pub(crate) fn units(target: &Target, root: &Path) -> Result<()> {
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
