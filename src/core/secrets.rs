//! The cluster's passwords: one per role, in `secrets.toml` of the cluster directory and in the bundle.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;

use hanode_util::user_error::UserError;

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    pub postgres_admin: String,
    pub postgres_dbadmin: String,
    pub replicator: String,
    pub rewind: String,
    pub redis: String,
    pub sentinel: String,
    pub stats: String,
    pub patroni_rest: String,
    pub vrrp: String,
}

/// Passwords never reach a log: not even by way of a debug print.
impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

pub(crate) const ROLES: [&str; 9] = [
    "postgres_admin",
    "postgres_dbadmin",
    "replicator",
    "rewind",
    "redis",
    "sentinel",
    "stats",
    "patroni_rest",
    "vrrp",
];

const HEAD: &str = "\
# The passwords of this cluster, one per role. Whoever reads this file owns its data.
# A cluster keeps those that it began with: nodes that run refuse a bundle with others. For a new cluster you may
# write your own, then: hanode certs issue DIR.

";

impl Secrets {
    /// One secret per role, each from `random(length)`.
    pub fn generate(mut random: impl FnMut(usize) -> String) -> Self {
        let mut secret = || random(43);
        Secrets {
            postgres_admin: secret(),
            postgres_dbadmin: secret(),
            replicator: secret(),
            rewind: secret(),
            redis: secret(),
            sentinel: secret(),
            stats: secret(),
            patroni_rest: secret(),
            // VRRP carries eight characters and no more.
            vrrp: random(8),
        }
    }

    pub fn to_toml(&self) -> String {
        format!("{HEAD}{}", toml::to_string(self).unwrap_or_default())
    }

    /// Reads `text`; no error repeats a secret.
    pub fn parse(text: &str) -> Result<Secrets> {
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |s| text[..s.start].matches('\n').count() + 1);
            anyhow::anyhow!("line {line}: {}", error.message())
        })?;
        let mut wrong: Vec<String> = ROLES
            .into_iter()
            .filter_map(|role| match table.get(role) {
                None => Some(format!("{role} is missing")),
                Some(value) if value.as_str().is_some_and(acceptable) => None,
                Some(_) => Some(format!(
                    "{role} must be 8 to 128 letters, digits, - . _ or ~, a letter or digit first"
                )),
            })
            .collect();
        let unknown = table.keys().filter(|key| !ROLES.contains(&key.as_str()));
        wrong.extend(unknown.map(|key| format!("unknown key {}", key.escape_debug())));
        if !wrong.is_empty() {
            bail!(wrong.join("; "));
        }
        table.try_into().context("secrets have an unexpected form")
    }

    /// Reads a file that nobody but its owner may read.
    pub fn load(path: &Path) -> Result<Secrets> {
        use std::os::unix::fs::PermissionsExt;
        let place = path.display().to_string();
        let mode = std::fs::metadata(path).with_context(|| format!("reading {place}"))?.permissions().mode();
        ensure!(
            mode & 0o077 == 0,
            UserError::new(
                format!("the secrets are open to other users (mode {:04o})", mode & 0o7777),
                &place,
                format!("chmod 600 {place}, and think of them as known to whoever could log in")
            )
        );
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {place}"))?;
        Secrets::parse(&text).map_err(|error| {
            UserError::new(error.to_string(), &place, "mend it, or restore the file from a backup").into()
        })
    }
}

fn acceptable(secret: &str) -> bool {
    (8..=128).contains(&secret.len())
        && secret.starts_with(|c: char| c.is_ascii_alphanumeric())
        && secret.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every secret differs, from call to call too.
    fn generated() -> Secrets {
        static CALLS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let next = || CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Secrets::generate(|length| format!("s{:0width$}", next(), width = length - 1))
    }

    #[test]
    fn generated_secrets_differ_and_survive_the_file() {
        let (one, two) = (generated(), generated());
        let values = |s: &Secrets| {
            let table = toml::Table::try_from(s).expect("a table");
            table.into_iter().map(|(_, v)| v.as_str().expect("a text").to_string()).collect::<Vec<_>>()
        };
        let all: BTreeSet<String> = values(&one).into_iter().chain(values(&two)).collect();
        assert_eq!(all.len(), 2 * ROLES.len(), "a secret was used twice");
        assert_eq!(one.vrrp.len(), 8);
        assert_eq!(Secrets::parse(&one.to_toml()).expect("own output"), one);
        assert_eq!(format!("{one:?}"), "Secrets(…)");
    }

    #[test]
    fn every_fault_is_told_and_no_secret() {
        let text = generated().to_toml().replace("redis = \"", "redis = \"hush hush ").replace("vrrp", "vrp");
        let told = Secrets::parse(&text).expect_err("faults").to_string();
        for what in ["redis must be", "vrrp is missing", "unknown key vrp"] {
            assert!(told.contains(what), "{told}");
        }
        assert!(!told.contains("hush"));
        let told = Secrets::parse("redis = \"hush hush").expect_err("a syntax error").to_string();
        assert!(told.starts_with("line 1: ") && !told.contains("hush"), "{told}");
    }
}
