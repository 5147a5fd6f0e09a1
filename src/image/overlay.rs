//! What a bake adds to a tree: hanode itself, its units, its settings and, with a cluster, spec and bundle.

use super::ext4;
use super::glibc;
use super::inventory::Facts;
use super::manifest::{Cluster, Record};
use super::parameters;
use anyhow::{Context, Result, bail};
use hanode_admin::embedded;
use hanode_core::bundle;
use hanode_core::spec::Spec;
use hanode_core::target::Target;
use hanode_util::file_tree::{self, Entry};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const HOME: &str = "/usr/lib/hanode";
/// Where an operator lays a newer bundle or spec.
const OPERATORS: &str = "/etc/hanode";
const UNITS: &str = "/usr/lib/systemd/system";
const ADMIN_UNITS: &str = "/etc/systemd/system";

/// The cluster that is baked in.
pub struct ClusterPayload<'a> {
    /// `cluster.toml` as the operator wrote it.
    pub spec_text: &'a str,
    pub spec: &'a Spec,
    /// `bundle.tar.gz`, and which edition it is.
    pub bundle: &'a [u8],
    pub generation: u64,
}

/// What it is baked into, and with which program.
pub(crate) struct BakeTarget<'a> {
    pub(crate) target_text: &'a str,
    pub(crate) target: &'a Target,
    pub(crate) facts: &'a Facts,
    /// The bytes of `hanode-firstboot`.
    pub(crate) program: &'a [u8],
}

/// The program for the image: beside this program as cargo leaves it, in ../lib/hanode as `make install` does, or
/// where `HANODE_FIRSTBOOT` says.
pub fn program() -> Result<Vec<u8>> {
    let beside = std::env::current_exe()?.with_file_name("hanode-firstboot");
    let installed =
        beside.parent().and_then(Path::parent).map(|prefix| prefix.join("lib/hanode/hanode-firstboot"));
    let at = match (std::env::var_os("HANODE_FIRSTBOOT"), installed) {
        (Some(named), _) => PathBuf::from(named),
        (None, Some(installed)) if !beside.is_file() => installed,
        _ => beside,
    };
    std::fs::read(&at).with_context(|| {
        format!("{}: the image's program is not here; build it, or name it in HANODE_FIRSTBOOT", at.display())
    })
}

/// Everything a bake puts into the tree, in the order it is written. Pure: the same input, the same entries.
pub(crate) fn entries(ground: &BakeTarget, baked: Option<&ClusterPayload>) -> Result<Vec<Entry>> {
    glibc::check(ground.program, &ground.facts.packages)?;
    if let Some(baked) = baked {
        let version = ground.facts.components.get("postgres").map(String::as_str).unwrap_or_default();
        parameters::check(baked.spec, &ground.facts.parameters, version)?;
    }
    let cluster = baked.map(|baked| (baked.spec_text, baked.bundle));
    let mut entries = payload(ground.target, ground.target_text, ground.program, cluster)?;
    for entry in &mut entries {
        entry.label = label(ground, &entry.path);
    }
    entries.push(record(ground, baked, &entries)?);
    Ok(entries)
}

/// Every path a bake may write, and the directories above it: what the tree's policy is queried about.
pub(crate) fn paths(target: &Target) -> Result<Vec<Entry>> {
    let mut entries = payload(target, "", b"", Some(("", b"")))?;
    entries.push(Entry::file(super::manifest::PATH, 0o644, ""));
    let dirs: BTreeSet<String> =
        entries.iter().flat_map(|entry| ext4::above(&entry.path)).map(str::to_string).collect();
    entries.retain(|entry| !dirs.contains(&entry.path));
    entries.extend(dirs.into_iter().map(|dir| Entry::dir(dir, 0o755)));
    Ok(entries)
}

/// The entries without their labels. `cluster`: the texts of its spec and bundle.
fn payload(
    target: &Target,
    target_text: &str,
    program: &[u8],
    cluster: Option<(&str, &[u8])>,
) -> Result<Vec<Entry>> {
    let at = |name: &str| format!("{HOME}/{name}");
    let mut entries = embedded::entries("etc", "/etc");
    entries.extend(units(target)?);
    entries.push(Entry::dir(HOME, 0o755));
    entries.push(Entry::dir(OPERATORS, 0o700));
    entries.push(Entry::file(at("hanode-firstboot"), 0o755, program));
    entries.push(Entry::link("/usr/bin/hanode", "../lib/hanode/hanode-firstboot"));
    entries.push(Entry::file(at("target.toml"), 0o644, target_text));
    entries.extend(embedded::entries("templates", &at("templates")));
    if let Some((spec, bundle)) = cluster {
        entries.push(Entry::file(at("spec.toml"), 0o644, spec));
        entries.push(Entry::file(bundle::BAKED, 0o600, bundle));
    }
    Ok(entries)
}

fn record(ground: &BakeTarget, baked: Option<&ClusterPayload>, entries: &[Entry]) -> Result<Entry> {
    let cluster = baked.map(|baked| Cluster {
        name: baked.spec.name.clone(),
        spec_hash: baked.spec.hash(),
        bundle_generation: baked.generation,
    });
    let record = Record::new(ground.target, ground.facts, cluster, file_tree::manifest(entries))?;
    let mut text = serde_json::to_vec_pretty(&record)?;
    text.push(b'\n');
    let entry = Entry::file(super::manifest::PATH, 0o644, text);
    let label = label(ground, &entry.path);
    Ok(entry.labelled(label))
}

/// hanode's units, their links, and the drop-ins of the servers' units.
fn units(target: &Target) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for file in embedded::files("units") {
        let (name, text) = (embedded::name(file), embedded::text(file)?);
        if !["service", "socket", "timer", "target"].iter().any(|kind| name.ends_with(&format!(".{kind}"))) {
            bail!("image/units/{name} is no unit");
        }
        entries.push(Entry::file(format!("{UNITS}/{name}"), 0o644, text));
        entries.extend(links(&name, text));
    }
    for file in embedded::files("units/drop-ins") {
        let name = embedded::name(file);
        let component = name.strip_suffix(".conf").with_context(|| format!("image/units/drop-ins/{name}"))?;
        let unit = target.unit(component)?;
        entries.push(Entry::file(format!("{ADMIN_UNITS}/{unit}.d/50-hanode.conf"), 0o644, file.contents()));
    }
    Ok(entries)
}

/// What `systemctl enable` would make of a unit's `[Install]` section.
fn links(name: &str, text: &str) -> Vec<Entry> {
    let mut links = Vec::new();
    for line in text.lines() {
        for (key, folder) in [("WantedBy=", "wants"), ("RequiredBy=", "requires")] {
            let wanting = line.strip_prefix(key).unwrap_or_default().split_whitespace();
            links.extend(wanting.map(|unit| {
                Entry::link(format!("{ADMIN_UNITS}/{unit}.{folder}/{name}"), format!("{UNITS}/{name}"))
            }));
        }
    }
    links
}

/// As the tree's own policy reported it; the target's table where no policy could be queried.
fn label(ground: &BakeTarget, path: &str) -> Option<String> {
    let policy = ground.target.selinux.as_ref()?;
    ground.facts.labels.get(path).cloned().or_else(|| policy.context(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_util::file_tree::Kind;

    fn ground<'a>(target: &'a Target, text: &'a str, facts: &'a Facts) -> BakeTarget<'a> {
        BakeTarget { target_text: text, target, facts, program: b"program" }
    }

    fn facts() -> Facts {
        serde_json::from_value(serde_json::json!({
            "schema": 1, "base": "b", "built_at": 7, "os": "Debian", "passwd": "", "group": "",
            "components": {"etcd": "3.5.16"}, "packages": {"etcd-server": "3.5.16"}, "parameters": ["work_mem"],
        }))
        .unwrap()
    }

    #[test]
    fn without_a_cluster_nothing_of_one_is_inside() {
        let (text, target) = embedded::target("debian-13").unwrap();
        let facts = facts();
        let entries = entries(&ground(&target, &text, &facts), None).unwrap();
        let paths: Vec<_> = entries.iter().map(|e| e.path.as_str()).collect();
        assert!(paths.contains(&"/usr/lib/hanode/target.toml"));
        assert!(paths.contains(&"/etc/systemd/system-preset/00-hanode.preset"));
        let place =
            entries.iter().find(|e| e.path == "/etc/hanode").expect("where an operator lays a bundle");
        assert_eq!((&place.kind, place.mode), (&Kind::Dir, 0o700));
        assert!(!paths.contains(&"/usr/lib/hanode/spec.toml"));
        assert!(!paths.contains(&bundle::BAKED));
    }

    #[test]
    fn a_label_is_the_one_that_the_trees_policy_reported() {
        let (text, target) = embedded::target("centos-8").unwrap();
        let mut facts = facts();
        let path = "/etc/systemd/system/haproxy.service.d/50-hanode.conf";
        facts.labels.insert(path.into(), "of the tree".into());
        let entries = entries(&ground(&target, &text, &facts), None).unwrap();
        let queried = paths(&target).unwrap();
        for entry in &entries {
            let label = entry.label.clone();
            let wanted =
                if entry.path == path { Some("of the tree".into()) } else { table(&target, &entry.path) };
            assert_eq!(label, wanted, "{}", entry.path);
            // With the directories above it.
            for path in ext4::above(&entry.path).chain([entry.path.as_str()]) {
                assert!(queried.iter().any(|e| e.path == path), "{path} is not queried");
            }
        }
    }

    fn table(target: &Target, path: &str) -> Option<String> {
        target.selinux.as_ref().and_then(|policy| policy.context(path))
    }

    #[test]
    fn every_server_has_a_preset_that_keeps_it_from_starting() {
        let (_, target) = embedded::target("debian-13").unwrap();
        let preset = embedded::entries("etc/systemd/system-preset", "");
        let Kind::File(text) = &preset[0].kind else { panic!("no preset") };
        let text = String::from_utf8_lossy(text);
        for unit in target.units.values() {
            assert!(text.lines().any(|l| l == format!("disable {unit}")), "no preset for {unit}");
        }
    }

    #[test]
    fn a_unit_is_linked_where_it_says() {
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
