//! SELinux, baked: the policy's settings and hanode's own module go into the tree's policy store and every file is
//! labelled, so that no boot has to.

use anyhow::{Context, Result, ensure};
use hanode_admin::embedded;
use hanode_core::spec::Spec;
use hanode_core::target::Selinux;
use hanode_util::command::{command, in_chroot, run};
use hanode_util::file_tree::{self, Entry, Kind, below};
use std::collections::BTreeMap;
use std::path::Path;

/// What was put into the store, for people and for a later bake.
const HOME: &str = "/usr/lib/hanode/selinux";
const SETTINGS: &str = Selinux::SETTINGS;
/// Above the distribution's own modules.
const PRIORITY: &str = "400";

/// Ports are part of the policy, and so of a base. A spec that names others than the target's gets a base of its
/// own, as with versions: at boot a policy could be changed too, but only by making it anew, which takes a policy
/// compiler, half a minute and a service that may load policies.
pub fn take_ports(policy: &mut Selinux, spec: &Spec) -> Result<()> {
    for (name, port) in &mut policy.ports {
        *port = match name.as_str() {
            "redis" => spec.redis.port,
            "sentinel" => spec.redis.sentinel_port,
            "postgres" => spec.postgres.port,
            other => anyhow::bail!("[selinux.ports] {other}: no such port in a spec"),
        };
    }
    Ok(())
}

/// What `semanage import` reads.
pub(crate) fn settings(policy: &Selinux) -> Result<String> {
    let text = embedded::text(embedded::file(&format!("selinux/{}", policy.settings))?)?;
    let filled = policy.ports.iter().fold(text.to_string(), |text, (name, port)| {
        text.replace(&format!("{{ports.{name}}}"), &port.to_string())
    });
    ensure!(
        !filled.contains("{ports."),
        "image/selinux/{}: a port is not in [selinux.ports]",
        policy.settings
    );
    Ok(filled)
}

/// The module, in the policy's own intermediate language: it takes no compiler.
pub(crate) fn module(policy: &Selinux) -> Result<&'static str> {
    embedded::text(embedded::file(&format!("selinux/{}", policy.module))?)
}

/// Puts settings and module into the tree's policy store, as far as they are not there yet.
pub fn settle(policy: &Selinux, root: &Path) -> Result<()> {
    let store = format!("/var/lib/selinux/{}", policy.store);
    ensure!(below(root, &store).is_dir(), "the tree has no SELinux policy {:?} ({store})", policy.store);
    let settings = settings(policy)?;
    let known = std::fs::read_to_string(below(root, SETTINGS)).unwrap_or_default();
    let missing = |line: &&str| !line.starts_with('#') && !known.lines().any(|l| l == *line);
    let missing: Vec<&str> = settings.lines().filter(missing).collect();
    let at = |name: &str| format!("{HOME}/{name}");
    std::fs::create_dir_all(below(root, HOME))?;
    file_tree::replace(
        &below(root, &at("add")),
        format!("{}\n", missing.join("\n")).as_bytes(),
        0o644,
        None,
    )?;
    if !missing.is_empty() {
        run(in_chroot(root, "semanage").args(["import", "-N", "-S", &policy.store, "-f", &at("add")]))
            .context("the policy's settings")?;
    }
    std::fs::remove_file(below(root, &at("add")))?;
    let cil = at(&policy.module);
    file_tree::replace(&below(root, &cil), module(policy)?.as_bytes(), 0o644, None)?;
    run(in_chroot(root, "semodule").args(["-n", "-s", &policy.store, "-X", PRIORITY, "-i", &cil]))
        .context("hanode's policy module")?;
    file_tree::replace(&below(root, SETTINGS), settings.as_bytes(), 0o644, None)
}

/// Labels what is at these paths and below, as the tree's own policy says. The last that is done to a tree: a file
/// written later has no label.
pub fn label(policy: &Selinux, root: &Path, paths: &[String]) -> Result<()> {
    run(in_chroot(root, "setfiles").args(["-F", &file_contexts(policy)]).args(paths))
        .context("labelling the tree")
        .map(drop)
}

/// The context of each entry, by its path, as the tree's own policy has it: from the distribution's own tool, and by
/// what the entry is, since a policy may label a file other than a directory of the same name. No entry need be there.
pub fn contexts(policy: &Selinux, root: &Path, entries: &[Entry]) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for kind in ["file", "dir", "lnk_file"] {
        let paths: Vec<_> =
            entries.iter().filter(|e| object_class(e) == kind).map(|e| e.path.as_str()).collect();
        if paths.is_empty() {
            continue;
        }
        let mut matchpathcon = in_chroot(root, "matchpathcon");
        matchpathcon.args(["-N", "-n", "-m", kind, "-f", &file_contexts(policy)]).args(&paths);
        let output = run(&mut matchpathcon).context("labels of what a bake writes")?;
        let lines: Vec<_> = output.text()?.lines().collect();
        ensure!(lines.len() == paths.len(), "matchpathcon: {} labels for {} paths", lines.len(), paths.len());
        // A path that the policy leaves alone has no context.
        let labelled = paths.iter().zip(lines).filter(|(_, context)| *context != "<<none>>");
        found.extend(labelled.map(|(path, context)| (path.to_string(), context.to_string())));
    }
    Ok(found)
}

/// What the policy calls such a file.
fn object_class(entry: &Entry) -> &'static str {
    match entry.kind {
        Kind::File(_) => "file",
        Kind::Dir => "dir",
        Kind::Link(_) => "lnk_file",
    }
}

fn file_contexts(policy: &Selinux) -> String {
    format!("/etc/selinux/{}/contexts/files/file_contexts", policy.store)
}

/// mke2fs makes this one directory by itself.
pub(crate) fn label_lost_and_found(image: &Path, offset: u64) -> Result<()> {
    let set = "ea_set /lost+found security.selinux system_u:object_r:lost_found_t:s0";
    let device = format!("{}?offset={offset}", image.display());
    let said = run(command("debugfs").args(["-w", "-R", set]).arg(device))?;
    let complaint = said.stderr.lines().find(|line| !line.starts_with("debugfs 1."));
    ensure!(complaint.is_none(), "labelling /lost+found: {}", said.stderr);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_that_mke2fs_makes_has_its_label() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk");
        std::fs::File::create(&image).unwrap().set_len(18 << 20).unwrap();
        let mut mke2fs = command("mke2fs");
        run(mke2fs.args(["-q", "-t", "ext4", "-F", "-E", "offset=1048576"]).arg(&image).arg("16m")).unwrap();
        label_lost_and_found(&image, 1 << 20).unwrap();
        let device = format!("{}?offset=1048576", image.display());
        let said = run(command("debugfs").args(["-R", "ea_list /lost+found"]).arg(device)).unwrap();
        let said = said.text().unwrap();
        assert!(said.contains("security.selinux") && said.contains("lost_found_t"), "{said}");
        assert!(label_lost_and_found(&image, 0).is_err(), "no file system there");
    }

    #[test]
    fn the_settings_name_the_specs_ports() {
        let mut policy = embedded::target("centos-8").unwrap().1.selinux.unwrap();
        let mut spec = hanode_core::spec::parse(hanode_core::spec::STARTER).unwrap();
        let told = |policy: &Selinux| settings(policy).unwrap();
        assert!(told(&policy).contains("\nport -a -t redis_port_t -p tcp 6378\n"));
        spec.redis.port = 16378;
        take_ports(&mut policy, &spec).unwrap();
        assert!(told(&policy).contains("\nport -a -t redis_port_t -p tcp 16378\n"));
        policy.ports.remove("redis");
        assert!(settings(&policy).is_err());
    }
}
