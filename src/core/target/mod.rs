//! A target: the distribution of an image, as data from `image/targets/*.toml`.

mod file_rule;
mod source;
#[cfg(test)]
pub(crate) mod testing;

pub use file_rule::{FileRule, OnChange, PlannedService, ReloadRule};
pub(crate) use file_rule::{RuleKind, When};
pub use source::{KnownIssue, Source, SourceKind, SourceOverride};

use crate::state::Component;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One target file together with `files.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub(crate) schema: u32,
    pub name: String,
    /// Selects how the base tree is built.
    pub family: Family,
    /// `ID` and `VERSION_ID` in the tree's os-release.
    pub os_release: OsRelease,
    /// A limitation that every build prints.
    #[serde(default)]
    pub caveat: Option<String>,
    pub base: Base,
    pub disk: DiskLayout,
    /// The sources of packages and files, by name; `--source NAME=URL` overrides the URL.
    #[serde(rename = "source")]
    pub sources: BTreeMap<String, Source>,
    /// Component to version: the full version if the target pins it, else the leading numbers of the archive's version.
    /// A spec's `[versions]` overrides them.
    pub versions: BTreeMap<String, String>,
    /// Versions that are known to lose data or to be vulnerable.
    #[serde(default, rename = "known_issue")]
    pub(crate) known_issues: Vec<KnownIssue>,
    /// Differences in configuration; templates test these instead of version numbers.
    pub(crate) features: BTreeMap<String, bool>,
    pub paths: BTreeMap<String, String>,
    /// The systemd units of all servers.
    pub units: BTreeMap<Component, String>,
    pub firewall: Firewall,
    /// Component to the user of its server.
    pub users: BTreeMap<String, String>,
    #[serde(default)]
    pub selinux: Option<Selinux>,
    /// Units that are masked in every image, such as automatic upgrades.
    #[serde(default)]
    pub masked: Vec<String>,
    /// Units that are enabled in every image: network, time client, SSH.
    #[serde(default)]
    pub enabled: Vec<String>,
    /// Which services a node reloads when members of its bundle change, in this order.
    pub reload: Vec<ReloadRule>,
    /// The files of a node's configuration.
    #[serde(rename = "file")]
    pub files: Vec<FileRule>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OsRelease {
    pub id: String,
    pub version_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Debian family: the suite to bootstrap.
    #[serde(default)]
    pub suite: Option<String>,
    /// Debian family: create /bin, /lib and /sbin as links before the first package.
    #[serde(default)]
    pub merge_usr: bool,
    /// EL family, module streams: `redis:6` is enabled, `!postgresql` disabled.
    #[serde(default)]
    pub modules: Vec<String>,
    /// The packages to install; `{versions.NAME}` is replaced.
    pub packages: Vec<String>,
    /// Locales besides C.UTF-8, such as `en_US.UTF-8`.
    #[serde(default)]
    pub locales: Vec<String>,
    /// Folders of `image/parts` to copy into the tree before the first package is configured.
    #[serde(default)]
    pub parts: Vec<String>,
    /// Paths to exclude from the tree (dpkg `path-exclude` patterns); a pattern that starts with `!` includes.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Path to content of files to create before the first package is configured.
    #[serde(default)]
    pub before: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskLayout {
    /// Size of the virtual disk; the root file system grows at first boot.
    pub size_mib: u64,
    /// ext4 features to disable: mke2fs would enable them, but the tree's kernel or an older e2fsck does not support
    /// them.
    pub ext4_without: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selinux {
    /// The policy's name.
    pub store: String,
    /// The mode that the distribution's /etc/selinux/config sets.
    pub mode: String,
    /// Files of `image/selinux`: the input of `semanage import`, and hanode's policy modules.
    pub settings: String,
    pub modules: Vec<String>,
    /// The default ports in the settings; the spec's ports replace them.
    pub ports: BTreeMap<String, u16>,
    /// Path pattern (an absolute path, or one that ends in `/**`) to context; the longest match wins.
    pub(crate) contexts: BTreeMap<String, String>,
}

impl Selinux {
    /// What an image of this target runs with.
    pub fn summary(&self) -> String {
        format!("{}, policy {}, with hanode in a domain of its own (hanode_t)", self.mode, self.store)
    }

    /// The record in a tree of the settings in its policy.
    pub const SETTINGS: &str = "/usr/lib/hanode/selinux/settings";

    /// The context of the longest pattern that matches.
    pub fn context(&self, path: &str) -> Option<String> {
        let matches = |pattern: &str| match pattern.strip_suffix("/**") {
            Some(dir) => path == dir || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')),
            None => path == pattern,
        };
        let best = self.contexts.iter().filter(|(pattern, _)| matches(pattern));
        best.max_by_key(|(pattern, _)| pattern.trim_end_matches("/**").len())
            .map(|(_, context)| context.clone())
    }
}

/// The firewall of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firewall {
    /// Selects files by their `when`.
    pub(crate) kind: FirewallKind,
    /// The unit that loads the rules at boot, before the network is up, and reloads changed rules.
    pub unit: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FirewallKind {
    Nftables,
    Ufw,
    Firewalld,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Debian,
    El,
}

impl Target {
    pub fn parse(text: &str) -> anyhow::Result<Target> {
        let target: Target = toml::from_str(text)?;
        target.check()?;
        Ok(target)
    }

    /// Finds what a single value does not show, so that it fails when the file is read and not on a node.
    fn check(&self) -> anyhow::Result<()> {
        use Component::*;
        for component in [Etcd, Patroni, Redis, Sentinel, Haproxy, Keepalived] {
            self.unit(component)?;
        }
        self.files.iter().try_for_each(|rule| {
            self.check_file(rule).with_context(|| format!("[[file]] with path {:?}", rule.path))
        })
    }

    fn check_file(&self, rule: &FileRule) -> anyhow::Result<()> {
        self.expand(&rule.path)?;
        match rule.kind {
            RuleKind::File | RuleKind::Crl => drop(rule.template()?),
            RuleKind::Link => drop(self.expand(rule.link()?)?),
            RuleKind::Dir => {}
        }
        Ok(())
    }

    pub fn path(&self, name: &str) -> anyhow::Result<&str> {
        let path = self.paths.get(name).map(String::as_str);
        path.with_context(|| format!("target {}: [paths] has no {name:?}", self.name))
    }

    /// PostgreSQL's library directory (`pg_config --pkglibdir`), which is next to its programs in every packaging.
    pub fn postgres_libraries(&self) -> anyhow::Result<String> {
        let programs = self.path("postgres_bin")?;
        let (parent, _) = programs.rsplit_once('/').unwrap_or_default();
        Ok(format!("{parent}/lib"))
    }

    /// Replaces each `{paths.NAME}`.
    pub(crate) fn expand(&self, pattern: &str) -> anyhow::Result<String> {
        let mut path = String::new();
        let mut rest = pattern;
        while let Some((before, after)) = rest.split_once("{paths.") {
            let (name, tail) =
                after.split_once('}').with_context(|| format!("{pattern}: no closing brace"))?;
            path.push_str(before);
            path.push_str(self.path(name)?);
            rest = tail;
        }
        path.push_str(rest);
        anyhow::ensure!(path.starts_with('/'), "{path:?} is not an absolute path");
        Ok(path)
    }

    /// The unit of a component, e.g. `redis-server.service`.
    pub fn unit(&self, component: Component) -> anyhow::Result<&str> {
        if component == Component::Firewall {
            return Ok(&self.firewall.unit);
        }
        let unit = self.units.get(&component).map(String::as_str);
        unit.with_context(|| format!("target {}: [units] has no {}", self.name, component.key()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pattern_sets_the_label() {
        let contexts =
            [("/etc/**", "etc_t"), ("/etc/redis/**", "redis_conf_t"), ("/etc/hosts", "net_conf_t")];
        let contexts = contexts.map(|(p, c)| (p.to_string(), c.to_string())).into();
        let policy = Selinux { contexts, ..Selinux::default() };
        let of = |path| policy.context(path);
        assert_eq!(of("/etc/redis/redis.conf").as_deref(), Some("redis_conf_t"));
        assert_eq!(of("/etc/redis").as_deref(), Some("redis_conf_t"));
        assert_eq!(of("/etc/redis-other").as_deref(), Some("etc_t"));
        assert_eq!(of("/etc/hosts").as_deref(), Some("net_conf_t"));
        assert_eq!(of("/var/lib"), None);
    }

    /// The message for the target with this replacement.
    fn fault(from: &str, to: &str) -> String {
        let text = testing::text("debian-13");
        assert!(text.contains(from), "{from}");
        format!("{:#}", Target::parse(&text.replacen(from, to, 1)).expect_err(to))
    }

    #[test]
    fn a_typing_error_fails_when_the_file_is_read() {
        for (from, to, expected) in [
            ("family = \"debian\"", "family = \"debain\"", "expected `debian` or `el`"),
            ("kind = \"nftables\"", "kind = \"nftable\"", "expected one of `nftables`, `ufw`, `firewalld`"),
            ("when = \"vrrp\"", "when = \"vrpp\"", "expected one of `vrrp`, `external`, `postgres_tls`"),
            ("plan = \"redis\"", "plan = \"reddis\"", "expected one of `etcd`, `postgres`, `redis`"),
            ("component = \"patroni\"", "component = \"patrony\"", "unknown variant `patrony`"),
            (
                "on_change = \"restart\"",
                "on_change = \"restrat\"",
                "expected one of `nothing`, `reload`, `restart`",
            ),
            ("mode = \"0640\"", "mode = \"0690\"", "\"0690\" is not a mode"),
            ("\netcd = \"etcd.service\"", "\netdc = \"etcd.service\"", "unknown variant `etdc`"),
            ("keepalived = \"keepalived.service\"", "", "[units] has no keepalived"),
            ("{paths.etcd_env}", "{paths.etcd_evn}", "[paths] has no \"etcd_evn\""),
        ] {
            let message = fault(from, to);
            assert!(message.contains(expected), "{to}: {message}");
        }
        let message = fault("family = \"debian\"", "family = \"debain\"");
        assert!(message.contains("line ") && message.contains("family = \"debain\""), "{message}");
    }
}
