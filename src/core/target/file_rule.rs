//! The rules of `image/files.toml`: where each file of a node comes from, and what a change of it causes.

use crate::state::Component;
use anyhow::Context;
use serde::{Deserialize, Serialize};

/// One file of a node's configuration: its template, path, owner, and the reaction to a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    #[serde(default)]
    pub(crate) kind: RuleKind,
    /// For a file: its template in `image/templates`.
    #[serde(default)]
    pub(crate) template: Option<String>,
    /// For a link: its target, with the same placeholders as `path`.
    #[serde(default)]
    pub(crate) to: Option<String>,
    /// The path on the node; `{paths.NAME}` is replaced.
    pub path: String,
    #[serde(default = "root")]
    pub(crate) owner: String,
    #[serde(default = "root")]
    pub(crate) group: String,
    /// Octal digits.
    #[serde(default = "world_readable", with = "octal")]
    pub(crate) mode: u32,
    /// The condition for the file.
    #[serde(default)]
    pub(crate) when: Option<When>,
    /// The service whose step determines the content; its start gate writes the file.
    #[serde(default)]
    pub plan: Option<PlannedService>,
    /// The component's validator, which runs before the file is installed; `{file}` is a file with the new content.
    #[serde(default)]
    pub check: Vec<String>,
    /// What a running node does after a change.
    #[serde(default)]
    pub on_change: OnChange,
    /// The component to reload or restart.
    #[serde(default)]
    pub component: Option<Component>,
}

/// The condition for a file of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum When {
    Vrrp,
    External,
    PostgresTls,
    RedisTls,
    /// The spec has `[backup]`.
    Backup,
    /// There is a revocation list to serve.
    Crl,
    /// The cluster CA's revocation list has entries.
    Revoked,
    /// The join port is not the one of the image's socket unit.
    OwnJoinPort,
    Nftables,
    Ufw,
    Firewalld,
}

/// A service with a step in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlannedService {
    Etcd,
    Postgres,
    Redis,
}

impl FileRule {
    pub(crate) fn template(&self) -> anyhow::Result<&str> {
        self.template.as_deref().context("the file has no `template`")
    }

    pub(crate) fn link(&self) -> anyhow::Result<&str> {
        self.to.as_deref().context("the link has no `to`")
    }
}

/// Members of the bundle that a server reads only at start or reload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadRule {
    pub component: Component,
    /// Paths on the node; a path that ends in `/` includes all files below it.
    pub(crate) files: Vec<String>,
    pub on_change: OnChange,
}

impl ReloadRule {
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
    /// An HTTP response that HAProxy sends unchanged: the template's header lines, then the service CA's CRL.
    Crl,
}

/// What to do with a running service after a change.
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

fn world_readable() -> u32 {
    0o644
}

/// A mode as octal digits in a string: TOML would read a number with a leading zero as an error.
mod octal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{mode:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777);
        mode.ok_or_else(|| {
            Error::custom(format!("{text:?} is not a mode; write octal digits such as \"0644\""))
        })
    }
}
