//! The sources of a target's packages and programs, their versions, and an operator's overrides of both.

use super::Target;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One source of packages or files; `{versions.NAME}` is replaced in every string.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub kind: SourceKind,
    /// apt: empty for the default mirrors of mmdebstrap, with the suites and components that mmdebstrap chooses.
    #[serde(default)]
    pub url: String,
    /// Omitted unless `--source` names it.
    #[serde(default)]
    pub(crate) optional: bool,
    /// apt: e.g. `focal`, `focal-updates`.
    #[serde(default)]
    pub suites: Vec<String>,
    /// apt: e.g. `main`, `universe`.
    #[serde(default)]
    pub components: Vec<String>,
    /// apt, dnf: the signing key. A file of `image/keys`, a URL, or `tree:PATH` for a key in the root file system.
    /// Without a key, apt uses the trusted keys of the build machine.
    #[serde(default)]
    pub key: Option<String>,
    /// Fingerprints of the only primary keys that `key` may contain.
    #[serde(default)]
    pub fingerprints: Vec<String>,
    /// file, root: version to SHA-256 of the content.
    #[serde(default)]
    pub(crate) sha256: BTreeMap<String, String>,
    /// file: the directory to unpack into.
    #[serde(default)]
    pub unpack: Option<String>,
    /// file: the members of the archive to unpack; empty: all.
    #[serde(default)]
    pub members: Vec<String>,
    /// file: the number of leading directories to strip from members.
    #[serde(default)]
    pub strip: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A repository of Debian packages.
    Apt,
    /// A repository of RPM packages.
    Dnf,
    /// One file with a SHA-256: a wheel or a tar archive.
    File,
    /// A root file system as a tar archive, or an archive of `docker save`.
    Root,
}

/// Versions of a component with a known issue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownIssue {
    pub(crate) component: String,
    /// Upstream versions; each includes the package versions built from it.
    pub(crate) versions: Vec<String>,
    pub what: String,
}

/// `--source NAME=URL[,sha256=HEX|,key=FILE]`: another URL for a source. The target's checksum or key applies unless
/// the override has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOverride {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) sha256: Option<String>,
    pub(crate) key: Option<PathBuf>,
}

impl std::str::FromStr for SourceOverride {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let usage = "a source is NAME=URL, NAME=URL,sha256=HEX or NAME=URL,key=FILE";
        let (name, rest) = text.split_once('=').context(usage)?;
        let mut parts = rest.split(',');
        let url = parts.next().unwrap_or_default().to_string();
        ensure!(!name.is_empty() && url.contains(':'), usage);
        let mut parsed = SourceOverride { name: name.into(), url, sha256: None, key: None };
        for part in parts {
            match part.split_once('=') {
                Some(("sha256", sum)) if is_sha256(sum) => parsed.sha256 = Some(sum.to_lowercase()),
                Some(("key", file)) => parsed.key = Some(std::path::absolute(file)?),
                _ => bail!("{part:?}: {usage}"),
            }
        }
        Ok(parsed)
    }
}

impl Source {
    /// Whether it is a directory or a file on the build machine.
    pub fn is_local(&self) -> bool {
        ["file:", "copy:"].iter().any(|scheme| self.url.starts_with(scheme))
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Target {
    /// Applies a spec's `[versions]` and the operator's `--source` overrides.
    pub fn apply_overrides(
        &mut self,
        pins: &BTreeMap<String, String>,
        others: &[SourceOverride],
    ) -> Result<()> {
        self.pin(pins)?;
        for other in others {
            self.redirect(other)?;
        }
        self.sources
            .retain(|name, source| !source.optional || others.iter().any(|other| other.name == *name));
        self.all_mirrors_or_none()?;
        for (name, source) in &self.sources {
            if matches!(source.kind, SourceKind::File | SourceKind::Root) {
                self.checksum(name)?;
            }
        }
        Ok(())
    }

    /// mmdebstrap adds its default mirrors only if it gets no other, so a mirror of one suite needs those of all.
    fn all_mirrors_or_none(&self) -> Result<()> {
        let apt = self.sources.iter().filter(|(_, source)| source.kind == SourceKind::Apt);
        let (default, chosen): (Vec<_>, Vec<_>) = apt.partition(|(_, source)| source.url.is_empty());
        let Some((name, _)) = default.first() else { return Ok(()) };
        ensure!(
            chosen.is_empty(),
            "source {name} has no URL: the default mirrors apply to all apt sources of target {} or to none, and {} {} a URL; pass --source {name}=URL too",
            self.name,
            list(chosen.iter().map(|(name, _)| *name)),
            if chosen.len() == 1 { "has" } else { "have" },
        );
        Ok(())
    }

    /// Applies a spec's `[versions]`.
    pub fn pin(&mut self, pins: &BTreeMap<String, String>) -> Result<()> {
        for (component, version) in pins {
            ensure!(
                self.can_pin(component),
                "{} = {version:?} in [versions]: target {} uses the version of its archive; it can pin: {}",
                component,
                self.name,
                list(self.versions.keys().filter(|name| self.can_pin(name)))
            );
            self.versions.insert(component.clone(), version.clone());
        }
        Ok(())
    }

    /// Whether a package or a source of this target depends on the version of a component.
    pub fn can_pin(&self, component: &str) -> bool {
        if self.sources.get(component).is_some_and(|source| source.kind == SourceKind::File) {
            return true;
        }
        let placeholder = format!("{{versions.{component}}}");
        let texts = self.base.packages.iter().chain(self.sources.values().map(|source| &source.url));
        let mut texts = texts.filter(|text| text.contains(&placeholder));
        texts.next().is_some()
    }

    fn redirect(&mut self, other: &SourceOverride) -> Result<()> {
        let names = list(self.sources.keys());
        let version = self.versions.get(&other.name).cloned().unwrap_or_default();
        let source = self.sources.get_mut(&other.name).with_context(|| {
            format!("target {} has no source {:?}; it has: {names}", self.name, other.name)
        })?;
        source.url = other.url.clone();
        let by_checksum = matches!(source.kind, SourceKind::File | SourceKind::Root);
        if let Some(sum) = &other.sha256 {
            ensure!(
                by_checksum,
                "source {} is a repository, which is verified by a key, not by a checksum",
                other.name
            );
            source.sha256.insert(version, sum.clone());
        }
        if let Some(key) = &other.key {
            ensure!(
                !by_checksum,
                "source {} is one file, which is verified by a checksum, not by a key",
                other.name
            );
            source.key = Some(key.display().to_string());
            source.fingerprints.clear();
        }
        Ok(())
    }

    /// Replaces every `{versions.NAME}`.
    pub fn versioned(&self, text: &str) -> String {
        let replaced = |text: String, (name, version): (&String, &String)| {
            text.replace(&format!("{{versions.{name}}}"), version)
        };
        self.versions.iter().fold(text.to_string(), replaced)
    }

    /// The checksum for the file of this source.
    pub fn checksum(&self, name: &str) -> Result<&str> {
        let version = self.versions.get(name).map(String::as_str).unwrap_or_default();
        let sums = self.sources.get(name).map(|source| &source.sha256);
        let sum = sums.and_then(|sums| sums.get(version)).map(String::as_str);
        sum.with_context(|| {
            let known = list(sums.into_iter().flat_map(BTreeMap::keys));
            format!(
                "target {} has the checksum of {name} {known}, not of {version:?}; pass it as --source {name}=URL,sha256=HEX",
                self.name
            )
        })
    }

    /// The known issue of a component's version.
    pub fn known_issue(&self, component: &str, version: &str) -> Option<&KnownIssue> {
        let is = |known: &String| {
            let rest = version.strip_prefix(known.as_str());
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
        };
        self.known_issues.iter().find(|p| p.component == component && p.versions.iter().any(is))
    }
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::testing::{self, target};

    fn chosen(name: &str, pins: &[(&str, &str)], sources: &[&str]) -> Result<Target> {
        let mut target = target(name);
        let pins = pins.iter().map(|(c, v)| (c.to_string(), v.to_string())).collect();
        let sources: Vec<SourceOverride> = sources.iter().map(|text| text.parse().unwrap()).collect();
        target.apply_overrides(&pins, &sources).map(|()| target)
    }

    #[test]
    fn every_target_is_complete_without_overrides() {
        for name in testing::names() {
            chosen(&name, &[], &[]).unwrap();
            let target = target(&name);
            for (component, version) in &target.versions {
                assert!(
                    target.known_issue(component, version).is_none(),
                    "{name}: {component} {version} by default"
                );
            }
            for package in &target.base.packages {
                assert!(!target.versioned(package).contains('{'), "{name}: {package}");
            }
        }
    }

    #[test]
    fn a_pin_changes_sources_and_packages() {
        let target = chosen("ubuntu-20.04", &[("etcd", "3.5.0"), ("postgres", "12.7")], &[]).unwrap();
        assert!(target.checksum("etcd").unwrap().starts_with("864baa04"));
        assert!(
            target.versioned(&target.sources["etcd"].url).ends_with("/v3.5.0/etcd-v3.5.0-linux-amd64.tar.gz")
        );
        let packages: Vec<_> = target.base.packages.iter().map(|p| target.versioned(p)).collect();
        assert!(packages.contains(&"postgresql-12=12.7-*".to_string()), "{packages:?}");
    }

    #[test]
    fn a_pin_without_effect_or_checksum_is_an_error() {
        let error = |pins, sources| format!("{:#}", chosen("ubuntu-20.04", pins, sources).unwrap_err());
        let unknown = error(&[("etcd", "3.5.7")], &[]);
        assert!(unknown.contains("has the checksum of etcd 3.5.0, 3.5.21, not of \"3.5.7\""), "{unknown}");
        let sum = "0".repeat(64);
        let source = format!("etcd=https://example.org/etcd.tar.gz,sha256={sum}");
        assert_eq!(
            chosen("ubuntu-20.04", &[("etcd", "3.5.7")], &[&source]).unwrap().checksum("etcd").unwrap(),
            sum
        );
        let debian = chosen("debian-13", &[("etcd", "3.5.0")], &[]).unwrap_err().to_string();
        assert!(
            debian.contains("target debian-13 uses the version of its archive; it can pin: nothing"),
            "{debian}"
        );
    }

    #[test]
    fn an_override_of_the_url_keeps_the_key() {
        let moved = chosen("centos-8", &[], &["pgdg=http://mirror.example.org/pg/"]).unwrap();
        assert_eq!(moved.sources["pgdg"].url, "http://mirror.example.org/pg/");
        assert_eq!(moved.sources["pgdg"].fingerprints, target("centos-8").sources["pgdg"].fingerprints);
        let own = chosen("centos-8", &[], &["pgdg=http://mirror.example.org/pg/,key=/k.asc"]).unwrap();
        assert_eq!(own.sources["pgdg"].key.as_deref(), Some("/k.asc"));
        let error = |source| format!("{:#}", chosen("centos-8", &[], &[source]).unwrap_err());
        assert!(
            error("epel=http://x/").contains("no source \"epel\"; it has: appstream, baseos"),
            "{}",
            error("epel=http://x/")
        );
        assert!(error("etcd=http://x/,key=/k").contains("verified by a checksum"));
        for bad in ["pgdg", "pgdg=nowhere", "=http://x/", "pgdg=http://x/,sha256=12", "pgdg=http://x/,mode=1"]
        {
            assert!(bad.parse::<SourceOverride>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mirror_replaces_the_default_mirrors_of_every_suite() {
        let default = chosen("debian-13", &[], &[]).unwrap();
        assert!(default.sources.values().all(|source| source.url.is_empty()));
        let sources =
            ["debian=http://mirror.example.org/debian", "security=http://mirror.example.org/security"];
        let moved = chosen("debian-13", &[], &sources).unwrap();
        assert_eq!(moved.sources["security"].url, "http://mirror.example.org/security");
        let one = chosen("debian-13", &[], &sources[..1]).unwrap_err().to_string();
        assert!(one.contains("source security has no URL") && one.contains("debian has a URL"), "{one}");
        assert!(one.ends_with("pass --source security=URL too"), "{one}");
    }

    #[test]
    fn an_optional_source_exists_only_if_named() {
        for name in ["ubuntu-20.04", "centos-8"] {
            assert!(!chosen(name, &[], &[]).unwrap().sources.contains_key("plv8"));
            let source = format!("plv8=https://example.org/plv8.tar.gz,sha256={}", "0".repeat(64));
            let target = chosen(name, &[], &[&source]).unwrap();
            assert_eq!(target.sources["plv8"].url, "https://example.org/plv8.tar.gz");
            let bare = chosen(name, &[], &["plv8=https://example.org/plv8.tar.gz"]).unwrap_err().to_string();
            assert!(bare.contains("pass it as --source plv8=URL,sha256=HEX"), "{bare}");
        }
    }

    #[test]
    fn a_known_issue_applies_to_packages_of_its_version_only() {
        let target = target("centos-8");
        let known = |version| target.known_issue("etcd", version).is_some();
        assert!(known("3.5.0") && known("3.5.2-1.el8"));
        assert!(!known("3.5.21") && !known("3.5.0.1") && !known("3.5"));
        assert!(target.known_issue("redis", "3.5.0").is_none());
    }
}
