//! The files that a bake adds to a tree: hanode-firstboot, its units and settings, and the spec and bundle of a cluster.

use super::ext4;
use super::glibc;
use super::inventory::Inventory;
use super::manifest::{ClusterInfo, ImageManifest};
use super::parameters;
use anyhow::{Context, Result, bail};
use hanode_admin::embedded;
use hanode_core::bundle;
use hanode_core::spec::Spec;
use hanode_core::state::Component;
use hanode_core::target::Target;
use hanode_util::file_tree::{self, Entry};
use hanode_util::user_error::UserError;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const HANODE_DIR: &str = "/usr/lib/hanode";
/// Where an operator puts a newer bundle or spec.
const OPERATOR_DIR: &str = "/etc/hanode";
const UNIT_DIR: &str = "/usr/lib/systemd/system";
const ADMIN_UNIT_DIR: &str = "/etc/systemd/system";

/// The cluster to bake into an image.
pub struct ClusterPayload<'a> {
    /// `cluster.toml` as the operator wrote it.
    pub spec_text: &'a str,
    pub spec: &'a Spec,
    /// The bytes of `bundle.tar.gz`.
    pub bundle: &'a [u8],
    pub bundle_generation: u64,
}

/// The tree to bake into, and the program to install in it.
pub(crate) struct BakeTarget<'a> {
    pub(crate) target_text: &'a str,
    pub(crate) target: &'a Target,
    pub(crate) inventory: &'a Inventory,
    /// The bytes of `hanode-firstboot`.
    pub(crate) program: &'a [u8],
}

/// The bytes of hanode-firstboot: the file named by `HANODE_FIRSTBOOT`, else the one in this program's directory
/// (`make build`), else the one in ../lib/hanode (`make install`).
pub fn program() -> Result<Vec<u8>> {
    let beside = std::env::current_exe()?.with_file_name("hanode-firstboot");
    let installed =
        beside.parent().and_then(Path::parent).map(|prefix| prefix.join("lib/hanode/hanode-firstboot"));
    let at = match (std::env::var_os("HANODE_FIRSTBOOT"), installed) {
        (Some(named), _) => PathBuf::from(named),
        (None, Some(installed)) if !beside.is_file() => installed,
        _ => beside,
    };
    std::fs::read(&at).map_err(|error| {
        let what = format!("reading the program for the image: {}: {error}", at.display());
        let help = "run `make build`, or set HANODE_FIRSTBOOT to the path of hanode-firstboot";
        UserError::with_help(what, help).into()
    })
}

/// All files that a bake writes, in this order. Pure: the same input gives the same entries.
pub(crate) fn entries(bake_target: &BakeTarget, payload: Option<&ClusterPayload>) -> Result<Vec<Entry>> {
    glibc::check(bake_target.program, &bake_target.inventory.packages)?;
    if let Some(payload) = payload {
        let version =
            bake_target.inventory.components.get("postgres").map(String::as_str).unwrap_or_default();
        parameters::check(payload.spec, &bake_target.inventory.parameters, version)?;
        parameters::check_libraries(payload.spec, &bake_target.inventory.libraries)?;
    }
    let cluster = payload.map(|payload| (payload.spec_text, payload.bundle));
    let (target, text) = (bake_target.target, bake_target.target_text);
    let mut entries = unlabelled_entries(target, text, bake_target.program, cluster)?;
    for entry in &mut entries {
        entry.label = label(bake_target, &entry.path);
    }
    entries.push(manifest(bake_target, payload, &entries)?);
    Ok(entries)
}

/// Entries without content for every path that a bake may write and for the parent directories, for queries of the
/// tree's SELinux policy.
pub(crate) fn paths_to_label(target: &Target) -> Result<Vec<Entry>> {
    let mut entries = unlabelled_entries(target, "", b"", Some(("", b"")))?;
    entries.push(Entry::file(super::manifest::PATH, 0o644, ""));
    let parents: BTreeSet<String> =
        entries.iter().flat_map(|entry| ext4::parents(&entry.path)).map(str::to_string).collect();
    entries.retain(|entry| !parents.contains(&entry.path));
    entries.extend(parents.into_iter().map(|dir| Entry::dir(dir, 0o755)));
    Ok(entries)
}

/// `cluster`: the text of the spec and the bytes of the bundle.
fn unlabelled_entries(
    target: &Target,
    target_text: &str,
    program: &[u8],
    cluster: Option<(&str, &[u8])>,
) -> Result<Vec<Entry>> {
    let at = |name: &str| format!("{HANODE_DIR}/{name}");
    let mut entries = embedded::entries("etc", "/etc");
    entries.extend(units(target)?);
    entries.push(Entry::dir(HANODE_DIR, 0o755));
    entries.push(Entry::dir(OPERATOR_DIR, 0o700));
    entries.push(Entry::file(at("hanode-firstboot"), 0o755, program));
    entries.push(Entry::link("/usr/bin/hanode", "../lib/hanode/hanode-firstboot"));
    entries.push(Entry::file(at("target.toml"), 0o644, target_text));
    entries.extend(embedded::entries("templates", &at("templates")));
    if let Some((spec, bundle)) = cluster {
        entries.push(Entry::file(at("spec.toml"), 0o644, spec));
        entries.push(Entry::file(bundle::BAKED_PATH, 0o600, bundle));
    }
    Ok(entries)
}

fn manifest(bake_target: &BakeTarget, payload: Option<&ClusterPayload>, entries: &[Entry]) -> Result<Entry> {
    let cluster = payload.map(|payload| ClusterInfo {
        name: payload.spec.name.clone(),
        spec_hash: payload.spec.hash(),
        bundle_generation: payload.bundle_generation,
    });
    let manifest =
        ImageManifest::new(bake_target.target, bake_target.inventory, cluster, file_tree::manifest(entries))?;
    let mut text = serde_json::to_vec_pretty(&manifest)?;
    text.push(b'\n');
    let entry = Entry::file(super::manifest::PATH, 0o644, text);
    let label = label(bake_target, &entry.path);
    Ok(entry.labelled(label))
}

/// hanode's units, the links that enable them, and drop-ins for the servers' units.
fn units(target: &Target) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for file in embedded::files("units") {
        let (name, text) = (embedded::name(file), embedded::text(file)?);
        if !["service", "socket", "timer", "target"].iter().any(|kind| name.ends_with(&format!(".{kind}"))) {
            bail!("image/units/{name} is not a unit");
        }
        entries.push(Entry::file(format!("{UNIT_DIR}/{name}"), 0o644, text));
        entries.extend(links(&name, text));
    }
    for file in embedded::files("units/drop-ins") {
        let name = embedded::name(file);
        let component = name.strip_suffix(".conf").and_then(Component::find);
        let component =
            component.with_context(|| format!("image/units/drop-ins/{name}: no such component"))?;
        let unit = target.unit(component)?;
        entries.push(Entry::file(
            format!("{ADMIN_UNIT_DIR}/{unit}.d/50-hanode.conf"),
            0o644,
            file.contents(),
        ));
    }
    Ok(entries)
}

/// The links that `systemctl enable` would create for the `[Install]` section of a unit.
fn links(name: &str, text: &str) -> Vec<Entry> {
    let mut links = Vec::new();
    for line in text.lines() {
        for (key, folder) in [("WantedBy=", "wants"), ("RequiredBy=", "requires")] {
            let wanted_by = line.strip_prefix(key).unwrap_or_default().split_whitespace();
            links.extend(wanted_by.map(|unit| {
                Entry::link(format!("{ADMIN_UNIT_DIR}/{unit}.{folder}/{name}"), format!("{UNIT_DIR}/{name}"))
            }));
        }
    }
    links
}

/// From the tree's policy, else from the target's table.
fn label(bake_target: &BakeTarget, path: &str) -> Option<String> {
    let policy = bake_target.target.selinux.as_ref()?;
    bake_target.inventory.labels.get(path).cloned().or_else(|| policy.context(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_util::file_tree::EntryKind;

    fn bake_target<'a>(target: &'a Target, text: &'a str, inventory: &'a Inventory) -> BakeTarget<'a> {
        BakeTarget { target_text: text, target, inventory, program: b"program" }
    }

    fn inventory() -> Inventory {
        serde_json::from_value(serde_json::json!({
            "schema": 1, "base": "b", "built_at": 7, "os": "Debian", "passwd": "", "group": "",
            "components": {"etcd": "3.5.16"}, "packages": {"etcd-server": "3.5.16"}, "parameters": ["work_mem"], "libraries": [],
        }))
        .unwrap()
    }

    #[test]
    fn an_image_without_a_cluster_has_no_spec_and_no_bundle() {
        let (text, target) = embedded::target("debian-13").unwrap();
        let inventory = inventory();
        let entries = entries(&bake_target(&target, &text, &inventory), None).unwrap();
        let paths: Vec<_> = entries.iter().map(|e| e.path.as_str()).collect();
        assert!(paths.contains(&"/usr/lib/hanode/target.toml"));
        assert!(paths.contains(&"/etc/systemd/system-preset/00-hanode.preset"));
        let operator_dir =
            entries.iter().find(|e| e.path == "/etc/hanode").expect("no directory for the operator's bundle");
        assert_eq!((&operator_dir.kind, operator_dir.mode), (&EntryKind::Dir, 0o700));
        assert!(!paths.contains(&"/usr/lib/hanode/spec.toml"));
        assert!(!paths.contains(&bundle::BAKED_PATH));
    }

    #[test]
    fn a_label_of_the_trees_policy_precedes_the_table() {
        let (text, target) = embedded::target("centos-8").unwrap();
        let table = target.selinux.as_ref().unwrap();
        let mut inventory = inventory();
        let path = "/etc/systemd/system/haproxy.service.d/50-hanode.conf";
        inventory.labels.insert(path.into(), "of the tree".into());
        let entries = entries(&bake_target(&target, &text, &inventory), None).unwrap();
        let queried = paths_to_label(&target).unwrap();
        for entry in &entries {
            let expected =
                if entry.path == path { Some("of the tree".into()) } else { table.context(&entry.path) };
            assert_eq!(entry.label, expected, "{}", entry.path);
            for path in ext4::parents(&entry.path).chain([entry.path.as_str()]) {
                assert!(queried.iter().any(|e| e.path == path), "{path} is not queried");
            }
        }
    }

    #[test]
    fn a_preset_disables_every_server() {
        let (_, target) = embedded::target("debian-13").unwrap();
        let preset = embedded::entries("etc/systemd/system-preset", "");
        let EntryKind::File(text) = &preset[0].kind else { panic!("the preset is not a file") };
        let text = String::from_utf8_lossy(text);
        for unit in target.units.values() {
            assert!(text.lines().any(|l| l == format!("disable {unit}")), "no preset for {unit}");
        }
    }

    #[test]
    fn a_unit_is_linked_as_its_install_section_says() {
        let text = "[Unit]\n[Install]\nWantedBy=multi-user.target x.target\nRequiredBy=y.target\n";
        let links: Vec<_> = links("a.service", text).into_iter().map(|e| e.path).collect();
        assert_eq!(
            links,
            [
                "/etc/systemd/system/multi-user.target.wants/a.service",
                "/etc/systemd/system/x.target.wants/a.service",
                "/etc/systemd/system/y.target.requires/a.service",
            ]
        );
    }
}
