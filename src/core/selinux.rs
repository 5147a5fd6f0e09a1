//! SELinux on a node, for its report: mode, policy, and the denials that concern hanode or its servers (pure).

use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SelinuxMode {
    Enforcing,
    /// Denials are logged, but not enforced.
    Permissive,
    Disabled,
}

impl fmt::Display for SelinuxMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SelinuxMode::Enforcing => "enforcing",
            SelinuxMode::Permissive => "permissive",
            SelinuxMode::Disabled => "disabled",
        })
    }
}

/// The state of SELinux on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxState {
    pub mode: SelinuxMode,
    /// Name of the policy, such as `targeted`; empty if /etc/selinux/config names none.
    #[serde(default)]
    pub policy: String,
    /// The last hour's.
    #[serde(default)]
    pub denials: Vec<Denial>,
}

impl SelinuxState {
    /// Mode and policy that /etc/selinux/config sets for the next boot.
    pub fn configured(config: &str) -> SelinuxState {
        let value = |key: &str| {
            let line = config.lines().rev().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim().to_ascii_lowercase()
        };
        let mode = match value("SELINUX=").as_str() {
            "enforcing" => SelinuxMode::Enforcing,
            "permissive" => SelinuxMode::Permissive,
            _ => SelinuxMode::Disabled,
        };
        SelinuxState { mode, policy: value("SELINUXTYPE="), denials: Vec::new() }
    }
}

impl fmt::Display for SelinuxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.policy.as_str() {
            "" => write!(f, "{}", self.mode),
            policy => write!(f, "{}, policy {policy}", self.mode),
        }
    }
}

/// An access that the policy does not allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// The type of the process.
    pub source: String,
    /// The type of what it accesses.
    pub target: String,
    pub class: String,
    pub permissions: Vec<String>,
    /// Logged only: the mode, or this type, is permissive.
    #[serde(default)]
    pub permissive: bool,
    #[serde(default)]
    pub count: u32,
}

/// Types of hanode's and of the servers' policy modules start with one of these.
const MODULES: &[&str] =
    &["hanode_", "etcd_", "patroni_", "postgresql_", "redis_", "haproxy_", "keepalived_"];
/// Upper bounds on untrusted input.
const MAX_DENIALS: usize = 8;
const MAX_PERMISSIONS: usize = 16;
const MAX_NAME: usize = 64;

impl Denial {
    /// Parses an AVC or USER_AVC record of the kernel's audit; `None` for any other message.
    pub fn parse(message: &str) -> Option<Denial> {
        let (_, rest) = message.split_once("avc:")?;
        let (verdict, rest) = rest.split_once('{')?;
        if verdict.trim() != "denied" {
            return None;
        }
        let (permissions, rest) = rest.split_once('}')?;
        // Quoted values, such as the name of the process, precede the contexts.
        let value = |key: &str| rest.rsplit_once(key)?.1.split([' ', '\'', '"']).next();
        let context_type = |key: &str| value(key)?.split(':').nth(2).map(String::from);
        Some(Denial {
            source: context_type(" scontext=")?,
            target: context_type(" tcontext=")?,
            class: value(" tclass=")?.into(),
            permissions: permissions.split_whitespace().map(String::from).collect(),
            permissive: value(" permissive=") == Some("1"),
            count: 1,
        })
    }

    /// Whether it concerns hanode or one of the servers.
    pub fn is_relevant(&self) -> bool {
        let ours = |name: &str| MODULES.iter().any(|module| name.starts_with(module));
        ours(&self.source) || ours(&self.target)
    }

    fn is_same_access(&self, other: &Denial) -> bool {
        (&self.source, &self.target, &self.class, &self.permissions, self.permissive)
            == (&other.source, &other.target, &other.class, &other.permissions, other.permissive)
    }

    fn is_plausible(&self) -> bool {
        let is_name = |text: &String| {
            (1..=MAX_NAME).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        [&self.source, &self.target, &self.class].into_iter().chain(&self.permissions).all(is_name)
            && (1..=MAX_PERMISSIONS).contains(&self.permissions.len())
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Denial { source, target, class, .. } = self;
        let verb = if self.permissive { "would deny" } else { "denies" };
        write!(f, "SELinux {verb} {source} {{ {} }} on {target}:{class}", self.permissions.join(" "))
    }
}

/// The relevant denials in messages of the audit, each access once with its count, the most frequent first.
pub fn denials<'a>(messages: impl IntoIterator<Item = &'a str>) -> Vec<Denial> {
    let mut found: Vec<Denial> = Vec::new();
    for denial in messages.into_iter().filter_map(Denial::parse).filter(Denial::is_relevant) {
        match found.iter_mut().find(|known| known.is_same_access(&denial)) {
            Some(known) => known.count = known.count.saturating_add(1),
            None => found.push(denial),
        }
    }
    found.sort_by_key(|denial| std::cmp::Reverse(denial.count));
    limit(&mut found);
    found
}

/// Removes what no policy can contain, and what exceeds the limit.
pub(crate) fn limit(denials: &mut Vec<Denial>) {
    denials.retain(Denial::is_plausible);
    denials.truncate(MAX_DENIALS);
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIND: &str = "AVC avc:  denied  { node_bind } for  pid=712 comm=\"keepalived\" saddr=192.168.18.21 \
        scontext=system_u:system_r:keepalived_t:s0 tcontext=system_u:object_r:node_t:s0 tclass=rawip_socket permissive=0";
    const MOUNT: &str = "audit: type=1400 audit(1700000000.123:45): avc:  denied  { create mounton } for  pid=1 \
        comm=\"(haproxy)\" name=\"log\" scontext=system_u:system_r:init_t:s0 \
        tcontext=system_u:object_r:haproxy_var_lib_t:s0 tclass=file permissive=1";
    const START: &str = "USER_AVC pid=1 uid=0 auid=4294967295 ses=4294967295 subj=system_u:system_r:init_t:s0 \
        msg='avc:  denied  { start } for auid=n/a uid=0 gid=0 path=\"/usr/lib/systemd/system/etcd.service\" cmdline=\"\" \
        scontext=system_u:system_r:hanode_t:s0 tcontext=system_u:object_r:systemd_unit_file_t:s0 tclass=service permissive=0\
        exe=\"/usr/lib/systemd/systemd\" sauid=0'";
    const OTHER: &str = "AVC avc:  denied  { read } for  pid=9 comm=\"sshd\" scontext=system_u:system_r:sshd_t:s0-s0:c0.c1023 \
        tcontext=system_u:object_r:var_run_t:s0 tclass=file permissive=0";

    #[test]
    fn relevant_denials_are_counted() {
        let messages = [MOUNT, BIND, OTHER, BIND, "AVC avc:  granted  { load_policy } for pid=1", "other"];
        let shown: Vec<_> = denials(messages).iter().map(|d| format!("{} {d}", d.count)).collect();
        assert_eq!(
            shown,
            [
                "2 SELinux denies keepalived_t { node_bind } on node_t:rawip_socket",
                "1 SELinux would deny init_t { create mounton } on haproxy_var_lib_t:file",
            ]
        );
    }

    #[test]
    fn a_denial_by_systemd_is_parsed() {
        let denial = Denial::parse(START).expect("a denial");
        assert_eq!(denial.to_string(), "SELinux denies hanode_t { start } on systemd_unit_file_t:service");
        assert!(denial.is_relevant());
    }

    #[test]
    fn a_name_of_a_process_does_not_forge_a_denial() {
        let forged = BIND.replace("\"keepalived\"", "\"x tclass=file\"");
        assert_eq!(Denial::parse(&forged), Denial::parse(BIND));
        let odd = BIND.replace("keepalived_t", "keepalived_t\u{1b}[31m");
        assert_eq!(denials([odd.as_str()]), []);
    }

    #[test]
    fn the_configuration_is_read() {
        let state = |text: &str| SelinuxState::configured(text).to_string();
        assert_eq!(
            state("# SELINUX=disabled\nSELINUX=Enforcing \nSELINUXTYPE=targeted\n"),
            "enforcing, policy targeted"
        );
        assert_eq!(state("SELINUX=permissive\n"), "permissive");
        assert_eq!(state(""), "disabled");
    }

    #[test]
    fn many_denials_are_limited() {
        let messages: Vec<_> = (0..100).map(|i| BIND.replace("node_t", &format!("node{i}_t"))).collect();
        assert_eq!(denials(messages.iter().map(String::as_str)).len(), MAX_DENIALS);
    }
}
