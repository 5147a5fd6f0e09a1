//! Where a target's packages and programs come from, which version of each it takes, and what an operator
//! may say against either: another address, another version.

use super::Target;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One place that something comes from; `{versions.NAME}` is replaced in every text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub kind: SourceKind,
    #[serde(default)]
    pub url: String,
    /// Left out unless `--source` names it.
    #[serde(default)]
    pub(crate) optional: bool,
    /// apt: e.g. `focal`, `focal-updates`.
    #[serde(default)]
    pub suites: Vec<String>,
    /// apt: e.g. `main`, `universe`.
    #[serde(default)]
    pub components: Vec<String>,
    /// apt, dnf: whose signature counts. A file of `image/keys`, an address, or `tree:PATH` for one that comes
    /// with the root file system. Without it apt trusts what the machine that builds trusts.
    #[serde(default)]
    pub key: Option<String>,
    /// The primary keys that may be in `key`, and no other.
    #[serde(default)]
    pub fingerprints: Vec<String>,
    /// file, root: version to the content's SHA-256.
    #[serde(default)]
    pub(crate) sha256: BTreeMap<String, String>,
    /// file: the directory it is unpacked into.
    #[serde(default)]
    pub unpack: Option<String>,
    /// file: which members of an archive are taken; all when empty.
    #[serde(default)]
    pub members: Vec<String>,
    /// file: how many leading directories its members lose.
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
    /// One file, known by its SHA-256: a wheel, or a tar archive.
    File,
    /// A root file system to begin with: a tar archive, also as `docker save` writes them.
    Root,
}

/// A version that is worse than it looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownIssue {
    pub(crate) component: String,
    /// Each stands for itself and for what is packaged from it.
    pub(crate) versions: Vec<String>,
    pub what: String,
}

/// `--source NAME=URL[,sha256=HEX|,key=FILE]`: the same thing from elsewhere. Checksums and keys stay as the
/// target has them, unless another one is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) sha256: Option<String>,
    pub(crate) key: Option<PathBuf>,
}

impl std::str::FromStr for Override {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let usage = "a source is NAME=URL, NAME=URL,sha256=HEX or NAME=URL,key=FILE";
        let (name, rest) = text.split_once('=').context(usage)?;
        let mut parts = rest.split(',');
        let url = parts.next().unwrap_or_default().to_string();
        ensure!(!name.is_empty() && url.contains(':'), usage);
        let mut made = Override { name: name.into(), url, sha256: None, key: None };
        for part in parts {
            match part.split_once('=') {
                Some(("sha256", sum)) if is_sha256(sum) => made.sha256 = Some(sum.to_lowercase()),
                Some(("key", file)) => made.key = Some(std::path::absolute(file)?),
                _ => bail!("{part:?}: {usage}"),
            }
        }
        Ok(made)
    }
}

impl Source {
    /// Whether it is a directory or a file of the machine that builds.
    pub fn is_local(&self) -> bool {
        ["file:", "copy:"].iter().any(|scheme| self.url.starts_with(scheme))
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Target {
    /// Takes other versions than its own (`[versions]` of a spec), and things from elsewhere.
    pub fn choose(&mut self, pins: &BTreeMap<String, String>, others: &[Override]) -> Result<()> {
        self.pin(pins)?;
        for other in others {
            self.redirect(other)?;
        }
        self.sources
            .retain(|name, source| !source.optional || others.iter().any(|other| other.name == *name));
        for (name, source) in &self.sources {
            if matches!(source.kind, SourceKind::File | SourceKind::Root) {
                self.checksum(name)?;
            }
        }
        Ok(())
    }

    /// Takes other versions than its own.
    pub fn pin(&mut self, pins: &BTreeMap<String, String>) -> Result<()> {
        for (component, version) in pins {
            ensure!(
                self.can_pin(component),
                "{} = {version:?} in [versions]: target {} takes what its archive has; it can pin: {}",
                component,
                self.name,
                listed(self.versions.keys().filter(|name| self.can_pin(name)))
            );
            self.versions.insert(component.clone(), version.clone());
        }
        Ok(())
    }

    /// Whether anything in this target follows the version of a component.
    pub fn can_pin(&self, component: &str) -> bool {
        if self.sources.get(component).is_some_and(|source| source.kind == SourceKind::File) {
            return true;
        }
        let placeholder = format!("{{versions.{component}}}");
        let texts = self.base.packages.iter().chain(self.sources.values().map(|source| &source.url));
        let mut texts = texts.filter(|text| text.contains(&placeholder));
        texts.next().is_some()
    }

    fn redirect(&mut self, other: &Override) -> Result<()> {
        let names = listed(self.sources.keys());
        let version = self.versions.get(&other.name).cloned().unwrap_or_default();
        let source = self.sources.get_mut(&other.name).with_context(|| {
            format!("target {} has no source {:?}; it has: {names}", self.name, other.name)
        })?;
        source.url = other.url.clone();
        let by_checksum = matches!(source.kind, SourceKind::File | SourceKind::Root);
        if let Some(sum) = &other.sha256 {
            ensure!(
                by_checksum,
                "source {} is a repository: it is known by its key, not by a checksum",
                other.name
            );
            source.sha256.insert(version, sum.clone());
        }
        if let Some(key) = &other.key {
            ensure!(
                !by_checksum,
                "source {} is one file: it is known by its checksum, not by a key",
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

    /// The checksum that a file of this name must have.
    pub fn checksum(&self, name: &str) -> Result<&str> {
        let version = self.versions.get(name).map(String::as_str).unwrap_or_default();
        let sums = self.sources.get(name).map(|source| &source.sha256);
        let sum = sums.and_then(|sums| sums.get(version)).map(String::as_str);
        sum.with_context(|| {
            let known = listed(sums.into_iter().flat_map(BTreeMap::keys));
            format!(
                "target {} knows the checksum of {name} {known}, not of {version:?}; give it as --source {name}=URL,sha256=HEX",
                self.name
            )
        })
    }

    /// What is known against a version of a component.
    pub fn known_issue(&self, component: &str, version: &str) -> Option<&KnownIssue> {
        let is = |known: &String| {
            let rest = version.strip_prefix(known.as_str());
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
        };
        self.known_issues.iter().find(|p| p.component == component && p.versions.iter().any(is))
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
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
        let sources: Vec<Override> = sources.iter().map(|text| text.parse().unwrap()).collect();
        target.choose(&pins, &sources).map(|()| target)
    }

    #[test]
    fn every_target_is_whole_as_it_is() {
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
    fn a_pin_goes_where_the_version_is_asked_for() {
        let target = chosen("ubuntu-20.04", &[("etcd", "3.5.0"), ("postgres", "12.7")], &[]).unwrap();
        assert!(target.checksum("etcd").unwrap().starts_with("864baa04"));
        assert!(
            target.versioned(&target.sources["etcd"].url).ends_with("/v3.5.0/etcd-v3.5.0-linux-amd64.tar.gz")
        );
        let packages: Vec<_> = target.base.packages.iter().map(|p| target.versioned(p)).collect();
        assert!(packages.contains(&"postgresql-12=12.7-*".to_string()), "{packages:?}");
    }

    #[test]
    fn what_cannot_be_pinned_is_told() {
        let said = |pins, sources| format!("{:#}", chosen("ubuntu-20.04", pins, sources).unwrap_err());
        let unknown = said(&[("etcd", "3.5.7")], &[]);
        assert!(unknown.contains("knows the checksum of etcd 3.5.0, 3.5.21, not of \"3.5.7\""), "{unknown}");
        let sum = "0".repeat(64);
        let given = format!("etcd=https://example.org/etcd.tar.gz,sha256={sum}");
        assert_eq!(
            chosen("ubuntu-20.04", &[("etcd", "3.5.7")], &[&given]).unwrap().checksum("etcd").unwrap(),
            sum
        );
        let debian = chosen("debian-13", &[("etcd", "3.5.0")], &[]).unwrap_err().to_string();
        assert!(
            debian.contains("target debian-13 takes what its archive has; it can pin: nothing"),
            "{debian}"
        );
    }

    #[test]
    fn a_source_moves_and_its_key_stays() {
        let moved = chosen("centos-8", &[], &["pgdg=http://mirror.example.org/pg/"]).unwrap();
        assert_eq!(moved.sources["pgdg"].url, "http://mirror.example.org/pg/");
        assert_eq!(moved.sources["pgdg"].fingerprints, target("centos-8").sources["pgdg"].fingerprints);
        let own = chosen("centos-8", &[], &["pgdg=http://mirror.example.org/pg/,key=/k.asc"]).unwrap();
        assert_eq!(own.sources["pgdg"].key.as_deref(), Some("/k.asc"));
        let said = |source| format!("{:#}", chosen("centos-8", &[], &[source]).unwrap_err());
        assert!(
            said("epel=http://x/").contains("no source \"epel\"; it has: appstream, baseos"),
            "{}",
            said("epel=http://x/")
        );
        assert!(said("etcd=http://x/,key=/k").contains("known by its checksum"));
        for bad in ["pgdg", "pgdg=nowhere", "=http://x/", "pgdg=http://x/,sha256=12", "pgdg=http://x/,mode=1"]
        {
            assert!(bad.parse::<Override>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_optional_source_is_there_only_when_named() {
        for name in ["ubuntu-20.04", "centos-8"] {
            assert!(!chosen(name, &[], &[]).unwrap().sources.contains_key("plv8"));
            let given = format!("plv8=https://example.org/plv8.tar.gz,sha256={}", "0".repeat(64));
            let target = chosen(name, &[], &[&given]).unwrap();
            assert_eq!(target.sources["plv8"].url, "https://example.org/plv8.tar.gz");
            let bare = chosen(name, &[], &["plv8=https://example.org/plv8.tar.gz"]).unwrap_err().to_string();
            assert!(bare.contains("give it as --source plv8=URL,sha256=HEX"), "{bare}");
        }
    }

    #[test]
    fn a_pitfall_holds_for_what_is_packaged_from_it_and_no_other() {
        let target = target("centos-8");
        let known = |version| target.known_issue("etcd", version).is_some();
        assert!(known("3.5.0") && known("3.5.2-1.el8"));
        assert!(!known("3.5.21") && !known("3.5.0.1") && !known("3.5"));
        assert!(target.known_issue("redis", "3.5.0").is_none());
    }
}
