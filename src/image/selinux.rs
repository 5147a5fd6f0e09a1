//! Installs the SELinux settings and hanode's modules into the tree's policy store and labels all files, so that no boot
//! has to do it.

use anyhow::{Context, Result, ensure};
use hanode_admin::embedded;
use hanode_core::spec::Spec;
use hanode_core::target::Selinux;
use hanode_util::command::{command, in_chroot, run};
use hanode_util::file_tree::{self, Entry, EntryKind, below};
use std::collections::BTreeMap;
use std::path::Path;

/// Copies of the installed settings and modules, for operators and for a later bake.
const HANODE_DIR: &str = "/usr/lib/hanode/selinux";
const SETTINGS: &str = Selinux::SETTINGS;
/// Above the distribution's modules.
const PRIORITY: &str = "400";

/// Replaces the target's ports by those of the spec. Ports are part of the policy and so of the base: a spec with other
/// ports gets another base. Changing them at boot would need a policy compiler, half a minute, and a service with the
/// right to load policies.
pub fn set_ports(policy: &mut Selinux, spec: &Spec) -> Result<()> {
    for (name, port) in &mut policy.ports {
        *port = match name.as_str() {
            "join" => spec.network.join_port,
            "redis" => spec.redis.port,
            "sentinel" => spec.redis.sentinel_port,
            "postgres" => spec.postgres.port,
            other => anyhow::bail!("[selinux.ports] {other}: a spec has no such port"),
        };
    }
    Ok(())
}

/// The input of `semanage import`.
pub(crate) fn settings(policy: &Selinux) -> Result<String> {
    let text = embedded::text(embedded::file(&format!("selinux/{}", policy.settings))?)?;
    let filled = policy.ports.iter().fold(text.to_string(), |text, (name, port)| {
        text.replace(&format!("{{ports.{name}}}"), &port.to_string())
    });
    ensure!(
        !filled.contains("{ports."),
        "image/selinux/{}: a port is missing in [selinux.ports]",
        policy.settings
    );
    Ok(filled)
}

/// The modules by their file names, in the policy's intermediate language (CIL), which needs no compiler.
pub(crate) fn modules(policy: &Selinux) -> Result<Vec<(&str, &'static str)>> {
    let text = |name: &str| embedded::text(embedded::file(&format!("selinux/{name}"))?);
    policy.modules.iter().map(|name| Ok((name.as_str(), text(name)?))).collect()
}

/// Installs the missing settings and the modules into the tree's policy store.
pub fn install_policy(policy: &Selinux, root: &Path) -> Result<()> {
    let store = format!("/var/lib/selinux/{}", policy.store);
    ensure!(below(root, &store).is_dir(), "the tree has no SELinux policy {:?} ({store})", policy.store);
    let settings = settings(policy)?;
    let installed = std::fs::read_to_string(below(root, SETTINGS)).unwrap_or_default();
    let missing = |line: &&str| !line.starts_with('#') && !installed.lines().any(|l| l == *line);
    let missing: Vec<&str> = settings.lines().filter(missing).collect();
    let at = |name: &str| format!("{HANODE_DIR}/{name}");
    std::fs::create_dir_all(below(root, HANODE_DIR))?;
    file_tree::replace(
        &below(root, &at("add")),
        format!("{}\n", missing.join("\n")).as_bytes(),
        0o644,
        None,
    )?;
    // The modules first: the settings name their types.
    let mut semodule = in_chroot(root, "semodule");
    semodule.args(["-n", "-s", &policy.store, "-X", PRIORITY]);
    for (name, text) in modules(policy)? {
        file_tree::replace(&below(root, &at(name)), text.as_bytes(), 0o644, None)?;
        semodule.args(["-i", &at(name)]);
    }
    run(&mut semodule).context("installing hanode's SELinux modules")?;
    if !missing.is_empty() {
        run(in_chroot(root, "semanage").args(["import", "-N", "-S", &policy.store, "-f", &at("add")]))
            .context("importing the SELinux settings")?;
    }
    std::fs::remove_file(below(root, &at("add")))?;
    file_tree::replace(&below(root, SETTINGS), settings.as_bytes(), 0o644, None)
}

/// Labels these paths and everything below them by the tree's policy. Must be the last change to a tree: files written
/// later have no label.
pub fn label(policy: &Selinux, root: &Path, paths: &[String]) -> Result<()> {
    run(in_chroot(root, "setfiles").args(["-F", &file_contexts(policy)]).args(paths))
        .context("labelling the tree")
        .map(drop)
}

/// The SELinux context of each path by the tree's policy, from the distribution's `matchpathcon`. It depends on the
/// kind of the entry: a policy may give a file another label than a directory. The paths need not exist.
pub fn contexts(policy: &Selinux, root: &Path, entries: &[Entry]) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for class in ["file", "dir", "lnk_file"] {
        let paths: Vec<_> =
            entries.iter().filter(|e| object_class(e) == class).map(|e| e.path.as_str()).collect();
        if paths.is_empty() {
            continue;
        }
        let mut matchpathcon = in_chroot(root, "matchpathcon");
        matchpathcon.args(["-N", "-n", "-m", class, "-f", &file_contexts(policy)]).args(&paths);
        let output = run(&mut matchpathcon).context("querying the labels of the files that a bake writes")?;
        let lines: Vec<_> = output.text()?.lines().collect();
        ensure!(lines.len() == paths.len(), "matchpathcon: {} labels for {} paths", lines.len(), paths.len());
        let labelled = paths.iter().zip(lines).filter(|(_, context)| *context != "<<none>>");
        labels.extend(labelled.map(|(path, context)| (path.to_string(), context.to_string())));
    }
    Ok(labels)
}

/// The policy's name for this kind of file.
fn object_class(entry: &Entry) -> &'static str {
    match entry.kind {
        EntryKind::File(_) => "file",
        EntryKind::Dir => "dir",
        EntryKind::Link(_) => "lnk_file",
    }
}

fn file_contexts(policy: &Selinux) -> String {
    format!("/etc/selinux/{}/contexts/files/file_contexts", policy.store)
}

/// Labels the directory that mke2fs creates.
pub(crate) fn label_lost_and_found(image: &Path, offset: u64) -> Result<()> {
    let set = "ea_set /lost+found security.selinux system_u:object_r:lost_found_t:s0";
    let device = format!("{}?offset={offset}", image.display());
    let output = run(command("debugfs").args(["-w", "-R", set]).arg(device))?;
    let error = output.stderr.lines().find(|line| !line.starts_with("debugfs 1."));
    ensure!(error.is_none(), "labelling /lost+found: {}", output.stderr);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_found_is_labelled() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk");
        std::fs::File::create(&image).unwrap().set_len(18 << 20).unwrap();
        let mut mke2fs = command("mke2fs");
        run(mke2fs.args(["-q", "-t", "ext4", "-F", "-E", "offset=1048576"]).arg(&image).arg("16m")).unwrap();
        label_lost_and_found(&image, 1 << 20).unwrap();
        let device = format!("{}?offset=1048576", image.display());
        let output = run(command("debugfs").args(["-R", "ea_list /lost+found"]).arg(device)).unwrap();
        let output = output.text().unwrap();
        assert!(output.contains("security.selinux") && output.contains("lost_found_t"), "{output}");
        assert!(label_lost_and_found(&image, 0).is_err(), "no file system at this offset");
    }

    #[test]
    fn the_settings_have_the_ports_of_the_spec() {
        let mut policy = embedded::target("centos-8").unwrap().1.selinux.unwrap();
        let mut spec = hanode_core::spec::parse(hanode_core::spec::STARTER).unwrap();
        let text = |policy: &Selinux| settings(policy).unwrap();
        assert!(text(&policy).contains("\nport -a -t redis_port_t -p tcp 6378\n"));
        spec.redis.port = 16378;
        set_ports(&mut policy, &spec).unwrap();
        assert!(text(&policy).contains("\nport -a -t redis_port_t -p tcp 16378\n"));
        policy.ports.remove("redis");
        assert!(settings(&policy).is_err());
    }
}
