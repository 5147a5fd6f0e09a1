//! What is installed in a tree: which distribution, which packages, which version of each component.

use super::{distro::Family, overlay, parameters, selinux};
use anyhow::{Context, Result, bail, ensure};
use hanode_core::target::{SourceKind, Target};
use hanode_util::file_tree::Ids;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) schema: u32,
    /// What the base was made from; empty for a tree that somebody else made.
    pub(crate) base: String,
    /// Seconds since 1970.
    pub(crate) built_at: u64,
    pub(crate) os: String,
    passwd: String,
    group: String,
    /// Component to the version of the package it comes from.
    pub(crate) components: BTreeMap<String, String>,
    /// Every installed package.
    pub(crate) packages: BTreeMap<String, String>,
    /// What PostgreSQL's configuration may name.
    pub(crate) parameters: Vec<String>,
    /// SELinux contexts of the paths that a bake writes and of the directories above them, from the tree's policy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
}

impl Facts {
    /// Of a tree whose SELinux policy, where the target has one, is complete.
    pub(crate) fn of_base(root: &Path, target: &Target, base: String, built_at: u64) -> Result<Facts> {
        let os = check_os(root, target)?;
        let packages = Family::of(target)?.packages(root)?.into_iter().collect();
        let components = components(root, target, &packages)?;
        let (passwd, group) = (read(root, "etc/passwd")?, read(root, "etc/group")?);
        let parameters = parameters::known(root, target)?;
        let labels = match &target.selinux {
            Some(policy) => selinux::contexts(policy, root, &overlay::paths(target)?)?,
            None => BTreeMap::new(),
        };
        Ok(Facts { schema: 1, base, built_at, os, passwd, group, components, packages, parameters, labels })
    }

    pub(crate) fn ids(&self) -> Ids {
        Ids::parse(&self.passwd, &self.group)
    }
}

/// The tree's name for itself; an error unless it is what the target is for.
pub(crate) fn check_os(root: &Path, target: &Target) -> Result<String> {
    let text = read(root, "etc/os-release")?;
    let value = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_string()
    };
    let (id, version) = (value("ID"), value("VERSION_ID"));
    let wanted = &target.os_release;
    if (&id, &version) != (&wanted.id, &wanted.version_id) {
        bail!(
            "{} holds {id} {version}; target {} is for {} {}",
            root.display(),
            target.name,
            wanted.id,
            wanted.version_id
        );
    }
    Ok(value("PRETTY_NAME"))
}

/// A component's package is the one that brings its unit; PostgreSQL's, the one that brings its server. What
/// came without a package has the version that was fetched.
fn components(
    root: &Path,
    target: &Target,
    packages: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    let mut owned: Vec<_> = target
        .units
        .iter()
        .map(|(name, unit)| (name.as_str(), format!("/lib/systemd/system/{unit}")))
        .collect();
    if let Some(bin) = target.paths.get("postgres_bin") {
        owned.push(("postgres", format!("{bin}/postgres")));
    }
    let family = Family::of(target)?;
    let mut components = BTreeMap::new();
    for (component, file) in owned {
        let fetched = target.sources.get(component).is_some_and(|source| source.kind == SourceKind::File);
        if let Some(version) = target.versions.get(component).filter(|_| fetched) {
            let unit = format!("usr{file}");
            ensure!(
                root.join(&unit).exists(),
                "{component} is not installed (/{unit}), and comes in no package of {}: begin with an image of `hanode build --base`",
                target.name
            );
            components.insert(component.to_string(), version.clone());
            continue;
        }
        // The package's list may name the directory that /lib is a link to.
        let package = family.owner(root, &file).or_else(|_| family.owner(root, &format!("/usr{file}")));
        let package = package.with_context(|| {
            format!(
                "{component} is not installed ({file}); install first: {}",
                target.base.packages.join(" ")
            )
        })?;
        let version =
            packages.get(&package).with_context(|| format!("package {package:?} has no version"))?;
        components.insert(component.to_string(), version.clone());
    }
    Ok(components)
}

fn read(root: &Path, name: &str) -> Result<String> {
    let at = root.join(name);
    std::fs::read_to_string(&at).with_context(|| format!("reading {}", at.display()))
}
