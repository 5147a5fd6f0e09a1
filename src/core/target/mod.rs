//! A target: a distribution an image is built for, as data from `image/targets/*.toml`.

mod source;
#[cfg(test)]
pub(crate) mod testing;

pub use source::{KnownIssue, Override, Source, SourceKind};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub(crate) schema: u32,
    pub name: String,
    /// Which way of making a base tree applies: `debian`, `el`.
    pub family: String,
    /// `ID` and `VERSION_ID` of the tree's os-release.
    pub os_release: OsRelease,
    /// What an operator must know before trusting an image of it; told at each build.
    #[serde(default)]
    pub caveat: Option<String>,
    pub base: Base,
    pub disk: Disk,
    /// Where everything comes from, by name; `--source NAME=URL` gives another address.
    #[serde(rename = "source")]
    pub sources: BTreeMap<String, Source>,
    /// Component to its version: the whole one where the target chooses it, else the leading numbers of what
    /// the archive has. A spec's `[versions]` may name others.
    pub versions: BTreeMap<String, String>,
    /// Versions that are known to lose data or to let strangers in.
    #[serde(default, rename = "known_issue")]
    pub(crate) known_issues: Vec<KnownIssue>,
    /// Which differences in configuration apply; templates ask for these, not for version numbers.
    pub(crate) features: BTreeMap<String, bool>,
    pub paths: BTreeMap<String, String>,
    /// Component to systemd unit: etcd, patroni, redis, sentinel, haproxy, keepalived.
    pub units: BTreeMap<String, String>,
    pub firewall: Firewall,
    /// Component to the user its server runs as.
    pub users: BTreeMap<String, String>,
    #[serde(default)]
    pub selinux: Option<Selinux>,
    /// Units that must never run in an image (automatic upgrades and the like).
    #[serde(default)]
    pub masked: Vec<String>,
    /// Units that are enabled in every image (network, time client, SSH).
    #[serde(default)]
    pub enabled: Vec<String>,
    /// How a running node takes up what is new in its bundle, in this order.
    pub reload: Vec<Reload>,
    /// What a node's configuration consists of.
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
    /// Debian family: the tree shall have /bin, /lib and /sbin as links from the start.
    #[serde(default)]
    pub merge_usr: bool,
    /// EL family, module streams: `redis:6` is enabled, `!postgresql` disabled.
    #[serde(default)]
    pub modules: Vec<String>,
    /// What is installed; `{versions.NAME}` is replaced.
    pub packages: Vec<String>,
    /// Folders of `image/parts` that lie in the tree before the first package is configured.
    #[serde(default)]
    pub parts: Vec<String>,
    /// Paths that are left out of the tree (dpkg `path-exclude` patterns); one that begins with `!` is kept.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Files that must lie in the tree before the first package is configured.
    #[serde(default)]
    pub before: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Size of the disk as the machine sees it; the root file system grows at first boot.
    pub size_mib: u64,
    /// Features of ext4 that the tree's mke2fs would take, and that its kernel or a neighbour's e2fsck lacks.
    pub ext4_without: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selinux {
    /// The policy's name.
    pub store: String,
    /// Files of `image/selinux`: what `semanage import` is given, and hanode's own module.
    pub settings: String,
    pub module: String,
    /// Ports that the settings name; a spec's own replace them.
    pub ports: BTreeMap<String, u16>,
    /// Path pattern (an absolute path, or one that ends in `/**`) to context; the longest match wins.
    pub(crate) contexts: BTreeMap<String, String>,
}

impl Selinux {
    /// Where a tree says what its policy was given.
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

/// What keeps strangers from a node's ports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firewall {
    /// Which files apply, by their `when`: `nftables`, `ufw`, `firewalld`.
    pub(crate) kind: String,
    /// Loads them at boot, before there is a network; a reload takes up new ones.
    pub unit: String,
}

impl Firewall {
    /// What its files name as their component.
    pub(crate) const COMPONENT: &str = "firewall";
}

/// One file of a node's configuration: from which template, whereto, whose, and how a change is taken up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    #[serde(default)]
    pub(crate) kind: RuleKind,
    /// A file: which one of `image/templates` it is made from.
    #[serde(default)]
    pub(crate) template: Option<String>,
    /// A link: whereto, with the same placeholders as `path`.
    #[serde(default)]
    pub(crate) to: Option<String>,
    /// Where it goes; `{paths.NAME}` is replaced.
    pub path: String,
    #[serde(default = "root")]
    pub(crate) owner: String,
    #[serde(default = "root")]
    pub(crate) group: String,
    #[serde(default = "world_readable")]
    pub(crate) mode: String,
    /// Rendered only where this holds: `vrrp`, `external`, `postgres_tls`, `redis_tls`, `crl`, `own_join_port`,
    /// or which firewall the target has.
    #[serde(default)]
    pub when: Option<String>,
    /// The service whose plan the content depends on (`etcd`, `redis`): its gate writes the file.
    #[serde(default)]
    pub plan: Option<String>,
    /// The component's own checker, run before the file is laid down; `{file}` is the content's place.
    #[serde(default)]
    pub check: Vec<String>,
    /// How a running node takes up a change.
    #[serde(default)]
    pub on_change: OnChange,
    /// The component that takes it up.
    #[serde(default)]
    pub component: Option<String>,
}

/// Members of the bundle that a component's server reads only when told to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    pub component: String,
    /// Paths on the node; one that ends in `/` stands for all below it.
    pub(crate) files: Vec<String>,
    pub on_change: OnChange,
}

impl Reload {
    pub fn covers(&self, path: &str) -> bool {
        self.files.iter().any(|f| if f.ends_with('/') { path.starts_with(f.as_str()) } else { path == f })
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RuleKind {
    #[default]
    File,
    Dir,
    Link,
    /// A file that HAProxy sends as it is: the template's header lines, then the service CA's CRL.
    Crl,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnChange {
    #[default]
    Nothing,
    Reload,
    Restart,
}

fn root() -> String {
    "root".into()
}

fn world_readable() -> String {
    "0644".into()
}

impl Target {
    pub fn parse(text: &str) -> anyhow::Result<Target> {
        Ok(toml::from_str(text)?)
    }

    pub fn path(&self, name: &str) -> anyhow::Result<&str> {
        let path = self.paths.get(name).map(String::as_str);
        path.ok_or_else(|| anyhow::anyhow!("target {} names no path {name}", self.name))
    }

    /// The rule that a file at this place comes from.
    pub fn rule_at(&self, path: &str) -> Option<&FileRule> {
        self.files.iter().find(|r| self.expand(&r.path) == path)
    }

    /// Replaces every `{paths.NAME}`.
    pub(crate) fn expand(&self, path: &str) -> String {
        let replaced = |text: String, (name, value): (&String, &String)| {
            text.replace(&format!("{{paths.{name}}}"), value)
        };
        self.paths.iter().fold(path.to_string(), replaced)
    }

    /// The unit of a component, e.g. `redis-server.service`.
    pub fn unit(&self, component: &str) -> anyhow::Result<&str> {
        if component == Firewall::COMPONENT {
            return Ok(&self.firewall.unit);
        }
        self.units
            .get(component)
            .map(String::as_str)
            .ok_or_else(|| anyhow::anyhow!("target {} names no unit for {component}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pattern_labels() {
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
}
