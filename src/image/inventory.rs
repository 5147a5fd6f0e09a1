//! The software installed in a tree: distribution, packages, and the version of each component.

use super::{distro::Distro, parameters, selinux};
use anyhow::{Context, Result, bail};
use hanode_core::selinux::SelinuxState;
use hanode_core::target::{SourceKind, Target};
use hanode_util::file_tree::{Entry, Ids};
use hanode_util::user_error::UserError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Inventory {
    pub(crate) schema: u32,
    /// The id of the base; empty for a tree that hanode did not build.
    pub(crate) base: String,
    /// Seconds since the Unix epoch.
    pub(crate) built_at: u64,
    pub(crate) os: String,
    passwd: String,
    group: String,
    /// The version of each component, from its package.
    pub(crate) components: BTreeMap<String, String>,
    /// The version of every installed package.
    pub(crate) packages: BTreeMap<String, String>,
    /// The parameters that PostgreSQL knows.
    pub(crate) parameters: Vec<String>,
    /// The files in PostgreSQL's library directory.
    pub(crate) libraries: Vec<String>,
    /// The SELinux contexts of the paths that a bake writes and of their parent directories, by the tree's policy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    /// Mode and policy of SELinux, by the tree's configuration; `None` for a target without a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) selinux: Option<String>,
}

impl Inventory {
    /// `baked`: the entries that a bake writes. The SELinux policy of the tree, if the target has one, must be complete.
    pub(crate) fn read(
        root: &Path,
        target: &Target,
        base: String,
        built_at: u64,
        baked: &[Entry],
    ) -> Result<Inventory> {
        let os = check_os(root, target)?;
        let packages = target.family.packages(root)?.into_iter().collect();
        let components = components(root, target, &packages)?;
        let (passwd, group) = (read_file(root, "etc/passwd")?, read_file(root, "etc/group")?);
        let parameters = parameters::known(root, target)?;
        let libraries = parameters::libraries(root, target)?;
        let labels = match &target.selinux {
            Some(policy) => selinux::contexts(policy, root, baked)?,
            None => BTreeMap::new(),
        };
        let selinux = match &target.selinux {
            Some(_) => Some(SelinuxState::configured(&read_file(root, "etc/selinux/config")?).to_string()),
            None => None,
        };
        Ok(Inventory {
            schema: 1,
            base,
            built_at,
            os,
            passwd,
            group,
            components,
            packages,
            parameters,
            libraries,
            labels,
            selinux,
        })
    }

    pub(crate) fn ids(&self) -> Ids {
        Ids::parse(&self.passwd, &self.group)
    }
}

/// The tree's `PRETTY_NAME`; fails if the tree is not the distribution of the target.
pub(crate) fn check_os(root: &Path, target: &Target) -> Result<String> {
    let text = read_file(root, "etc/os-release")?;
    let value = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_string()
    };
    let (id, version) = (value("ID"), value("VERSION_ID"));
    let wanted = &target.os_release;
    if (&id, &version) != (&wanted.id, &wanted.version_id) {
        bail!(
            "{} has {id} {version}, but target {} is for {} {}",
            root.display(),
            target.name,
            wanted.id,
            wanted.version_id
        );
    }
    Ok(value("PRETTY_NAME"))
}

/// The version of each component: of the package that contains its unit (for PostgreSQL, its server program), or
/// the fetched version if no package contains it.
fn components(
    root: &Path,
    target: &Target,
    packages: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    let mut owned: Vec<_> =
        target.units.iter().map(|(name, unit)| (name.key(), format!("/lib/systemd/system/{unit}"))).collect();
    if let Some(bin) = target.paths.get("postgres_bin") {
        owned.push(("postgres", format!("{bin}/postgres")));
    }
    let family = target.family;
    let mut components = BTreeMap::new();
    for (component, file) in owned {
        let fetched = target.sources.get(component).is_some_and(|source| source.kind == SourceKind::File);
        if let Some(version) = target.versions.get(component).filter(|_| fetched) {
            let unit = format!("usr{file}");
            if !root.join(&unit).exists() {
                bail!(UserError::with_help(
                    format!(
                        "{component} is not installed (no /{unit}) and {} has no package of it",
                        target.name
                    ),
                    "start from an image of `hanode build --base`"
                ));
            }
            components.insert(component.to_string(), version.clone());
            continue;
        }
        // The package may list the file under /usr/lib although /lib is a link to it.
        let package = family.owner(root, &file).or_else(|_| family.owner(root, &format!("/usr{file}")));
        let package = package.map_err(|error| {
            UserError::with_help(
                format!("{component} is not installed: no package contains {file}: {error:#}"),
                format!("install these packages first: {}", target.base.packages.join(" ")),
            )
        })?;
        let version = packages
            .get(&package)
            .with_context(|| format!("the package database has no version of {package:?}"))?;
        components.insert(component.to_string(), version.clone());
    }
    Ok(components)
}

fn read_file(root: &Path, name: &str) -> Result<String> {
    let at = root.join(name);
    std::fs::read_to_string(&at).with_context(|| format!("reading {}", at.display()))
}
