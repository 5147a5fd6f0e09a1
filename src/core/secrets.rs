//! The cluster's passwords: one for each role, in `secrets.toml` of the cluster directory and in the bundle.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use crate::spec::{RedisUser, Role};
use hanode_util::user_error::{UserError, unreadable};

/// One password for each role.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    pub postgres_admin: String,
    pub postgres_dbadmin: String,
    /// Of the applications' role; a directory of an older hanode has none until `hanode certs issue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_app: Option<String>,
    pub replicator: String,
    pub rewind: String,
    pub redis: String,
    /// Of hanode's own user of Redis, of the replicas' and of the Sentinels'. A cluster of an older hanode has none of
    /// them, and then only the user of applications, who may do everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_admin: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_replica: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_sentinel: Option<String>,
    pub sentinel: String,
    pub stats: String,
    pub patroni_rest: String,
    pub vrrp: String,
    /// Encrypts backups; a directory of an older hanode has none until `hanode certs issue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_key: Option<String>,
    /// The access key of an s3:// repository, and its secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3_secret: Option<String>,
    /// Of the roles in the spec, by name; last, since it is a table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roles: BTreeMap<String, String>,
    /// Of the users of Redis in the spec, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub redis_users: BTreeMap<String, String>,
}

/// Omits the passwords: debug output may reach a log.
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

/// Secrets that a cluster without backups, with another kind of repository, or of an older hanode does not have.
pub(crate) const OPTIONAL: [&str; 7] =
    ["postgres_app", "redis_admin", "redis_replica", "redis_sentinel", "backup_key", "s3_key", "s3_secret"];

/// Tables of passwords that the spec's roles and users have.
const TABLES: [&str; 2] = ["roles", "redis_users"];

/// Object storages choose these themselves.
const ACCESS_KEYS: [&str; 2] = ["s3_key", "s3_secret"];

const HEADER: &str = "\
# The passwords of this cluster, one for each role. They give access to all of its data.
# They cannot be changed after bootstrap: running nodes refuse a bundle with other passwords. For a new cluster you
# may set your own, then run: hanode certs issue DIR
# Without backup_key no backup can be read: keep a copy of this file elsewhere. An s3:// repository needs s3_key and
# s3_secret, which may change at any time; so may the passwords of the roles that cluster.toml adds, in [roles],
# and of the users of Redis that it adds, in [redis_users].

";

impl Secrets {
    /// One secret for each role, each from `random(length)`.
    pub fn generate(mut random: impl FnMut(usize) -> String) -> Self {
        let mut secret = || random(43);
        Secrets {
            postgres_admin: secret(),
            postgres_dbadmin: secret(),
            postgres_app: Some(secret()),
            replicator: secret(),
            rewind: secret(),
            redis: secret(),
            redis_admin: Some(secret()),
            redis_replica: Some(secret()),
            redis_sentinel: Some(secret()),
            sentinel: secret(),
            stats: secret(),
            patroni_rest: secret(),
            // VRRP allows at most eight characters.
            vrrp: random(8),
            backup_key: Some(random(43)),
            s3_key: None,
            s3_secret: None,
            roles: BTreeMap::new(),
            redis_users: BTreeMap::new(),
        }
    }

    /// Adds the passwords that an older hanode did not generate, and those of new roles and users; returns their names.
    pub fn complete(
        &mut self,
        roles: &[Role],
        redis_users: &[RedisUser],
        mut random: impl FnMut(usize) -> String,
    ) -> Vec<String> {
        let mut later = vec![("postgres_app", &mut self.postgres_app)];
        // A running cluster cannot take them node after node, so the operator begins: see docs/applications.md.
        if self.redis_admin.is_some() {
            later.push(("redis_replica", &mut self.redis_replica));
            later.push(("redis_sentinel", &mut self.redis_sentinel));
        }
        let mut added = Vec::new();
        for (name, secret) in later {
            if secret.is_none() {
                *secret = Some(random(43));
                added.push(name.to_string());
            }
        }
        let roles = roles.iter().filter(|role| role.has_password() && role.name != Role::APP);
        let users = redis_users.iter().map(|user| &user.name);
        for (table, passwords, names) in [
            ("roles", &mut self.roles, roles.map(|role| &role.name).collect::<Vec<_>>()),
            ("redis_users", &mut self.redis_users, users.collect()),
        ] {
            for name in names.into_iter().filter(|name| !passwords.contains_key(*name)).collect::<Vec<_>>() {
                passwords.insert(name.clone(), random(43));
                added.push(format!("{table}.{name}"));
            }
        }
        added
    }

    /// The password of a user of Redis in the spec.
    pub(crate) fn of_redis_user(&self, name: &str) -> Result<&str> {
        let password = self.redis_users.get(name).map(String::as_str);
        password.with_context(|| format!("the secrets have no password of the user {name} of Redis"))
    }

    /// The password of a role of the spec.
    pub fn of_role(&self, name: &str) -> Result<&str> {
        if name == Role::APP {
            return self.app();
        }
        let password = self.roles.get(name).map(String::as_str);
        password.with_context(|| format!("the secrets have no password of the role {name}"))
    }

    /// The password of the applications' role.
    pub fn app(&self) -> Result<&str> {
        self.postgres_app.as_deref().context("the secrets have no postgres_app")
    }

    /// Why nodes with these secrets and nodes with `new` ones do not work together, if they do not. A key for backups
    /// and the password of the applications' role may be added; the access to the repository and the passwords of the
    /// spec's roles and users may change.
    pub fn conflict(&self, new: &Secrets) -> Option<&'static str> {
        if self.redis_admin.is_some() != new.redis_admin.is_some() {
            return Some("other users of Redis, which all nodes must get at the same time");
        }
        let added = |own: &Option<String>, new: &Option<String>| match own {
            Some(_) => new.clone(),
            None => None,
        };
        let with_own = Secrets {
            postgres_app: added(&self.postgres_app, &new.postgres_app),
            backup_key: self.backup_key.clone(),
            s3_key: self.s3_key.clone(),
            s3_secret: self.s3_secret.clone(),
            roles: self.roles.clone(),
            redis_users: self.redis_users.clone(),
            ..new.clone()
        };
        if *self != with_own {
            Some("other passwords, which would lock out the other nodes")
        } else if self.backup_key.is_some() && self.backup_key != new.backup_key {
            Some("another backup_key, with which the backups so far cannot be read")
        } else {
            None
        }
    }

    pub fn to_toml(&self) -> String {
        format!("{HEADER}{}", toml::to_string(self).unwrap_or_default())
    }

    /// Parses `text`; no error contains a secret.
    pub fn parse(text: &str) -> Result<Secrets> {
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |s| text[..s.start].matches('\n').count() + 1);
            anyhow::anyhow!("line {line}: {}", error.message())
        })?;
        let mut faults: Vec<String> = ROLES
            .into_iter()
            .filter_map(|role| match table.get(role) {
                None => Some(format!("{role} is missing")),
                Some(value) if value.as_str().is_some_and(is_valid) => None,
                Some(_) => Some(format!(
                    "{role} must be 8 to 128 letters, digits, - . _ or ~, starting with a letter or digit"
                )),
            })
            .collect();
        faults.extend(OPTIONAL.into_iter().filter_map(|key| {
            let value = table.get(key)?;
            let chosen = ACCESS_KEYS.contains(&key);
            let valid: fn(&str) -> bool = if chosen { is_access_key } else { is_valid };
            (!value.as_str().is_some_and(valid)).then(|| match chosen {
                true => format!("{key} must be 3 to 200 letters, digits, - . _ ~ / + or ="),
                false => format!(
                    "{key} must be 8 to 128 letters, digits, - . _ or ~, starting with a letter or digit"
                ),
            })
        }));
        for (name, passwords) in TABLES.into_iter().filter_map(|name| Some((name, table.get(name)?))) {
            let valid = |password: &toml::Value| password.as_str().is_some_and(is_valid);
            if passwords.as_table().is_none_or(|passwords| !passwords.values().all(valid)) {
                faults.push(format!(
                    "{name} must be a table of passwords with 8 to 128 letters, digits, - . _ or ~, starting with a letter \
                     or digit"
                ));
            }
        }
        let known = |key: &str| ROLES.contains(&key) || OPTIONAL.contains(&key) || TABLES.contains(&key);
        let unknown = table.keys().filter(|key| !known(key));
        faults.extend(unknown.map(|key| format!("unknown key {}", key.escape_debug())));
        if !faults.is_empty() {
            bail!(faults.join("; "));
        }
        table.try_into().context("the secrets have an unexpected structure")
    }

    /// Reads a file; fails if other users may read it.
    pub fn load(path: &Path) -> Result<Secrets> {
        use std::os::unix::fs::PermissionsExt;
        let place = path.display().to_string();
        let cannot_read = |error: std::io::Error| {
            let missing = error.kind() == ErrorKind::NotFound;
            let error = unreadable(path, error);
            if missing { UserError { help: "restore it from a backup".into(), ..error } } else { error }
        };
        let mode = std::fs::metadata(path).map_err(cannot_read)?.permissions().mode();
        ensure!(
            mode & 0o077 == 0,
            UserError::new(
                format!("other users may read the secrets (mode {:04o})", mode & 0o7777),
                &place,
                format!(
                    "run `chmod 600 {place}`, and consider the passwords known to every user of this machine"
                )
            )
        );
        let text = std::fs::read_to_string(path).map_err(cannot_read)?;
        Secrets::parse(&text).map_err(|error| {
            UserError::new(error.to_string(), &place, "fix it, or restore the file from a backup").into()
        })
    }
}

fn is_valid(secret: &str) -> bool {
    (8..=128).contains(&secret.len())
        && secret.starts_with(|c: char| c.is_ascii_alphanumeric())
        && secret.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c))
}

fn is_access_key(secret: &str) -> bool {
    (3..=200).contains(&secret.len())
        && secret.chars().all(|c| c.is_ascii_alphanumeric() || "-._~/+=".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Secrets that all differ, also between calls.
    fn generated() -> Secrets {
        static CALLS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let next = || CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Secrets::generate(|length| format!("s{:0width$}", next(), width = length - 1))
    }

    #[test]
    fn generated_secrets_differ_and_round_trip() {
        let (one, two) = (generated(), generated());
        let values = |s: &Secrets| {
            let table = toml::Table::try_from(s).expect("a table");
            table.into_iter().map(|(_, v)| v.as_str().expect("a text").to_string()).collect::<Vec<_>>()
        };
        let all: BTreeSet<String> = values(&one).into_iter().chain(values(&two)).collect();
        assert_eq!(all.len(), 2 * (ROLES.len() + 5), "a secret is used twice");
        assert_eq!(one.vrrp.len(), 8);
        assert_eq!(Secrets::parse(&one.to_toml()).expect("own output"), one);
        assert_eq!(format!("{one:?}"), "Secrets(…)");
    }

    #[test]
    fn a_running_cluster_accepts_a_new_backup_key_once() {
        let with_key = generated();
        let without = Secrets { backup_key: None, ..with_key.clone() };
        let storage =
            Secrets { s3_key: Some("AKIA1".into()), s3_secret: Some("a/b+c=".into()), ..with_key.clone() };
        assert_eq!(without.conflict(&with_key), None);
        assert_eq!(with_key.conflict(&storage), None);
        assert_eq!(Secrets::parse(&storage.to_toml()).expect("own output"), storage);
        assert!(with_key.conflict(&without).is_some_and(|why| why.contains("backup_key")));
        let other = Secrets { redis: "another-password".into(), ..with_key.clone() };
        assert!(with_key.conflict(&other).is_some_and(|why| why.contains("passwords")));
    }

    #[test]
    fn a_running_cluster_accepts_the_password_of_the_applications_role_once() {
        let complete = generated();
        let mut older = Secrets { postgres_app: None, ..complete.clone() };
        assert_eq!(older.conflict(&complete), None);
        assert!(complete.conflict(&older).is_some());
        assert!(
            complete
                .conflict(&Secrets { postgres_app: Some("another-one".into()), ..complete.clone() })
                .is_some()
        );
        let role = |name: &str, certificate| Role {
            name: name.into(),
            login: true,
            certificate,
            memberships: vec![],
            connection_limit: None,
            replication: false,
            settings: Default::default(),
        };
        let roles = [role("app", false), role("reports", false), role("bot", true)];
        let added = older.complete(&roles, &[], |length| "x".repeat(length));
        assert_eq!(added, ["postgres_app", "roles.reports"]);
        assert_eq!(older.complete(&roles, &[], |_| unreachable!()), [""; 0]);
        assert_eq!(Secrets::parse(&older.to_toml()).expect("own output"), older);
        let bad =
            older.to_toml().replace(&format!("reports = \"{}\"", "x".repeat(43)), "reports = \"hush hush\"");
        let error = Secrets::parse(&bad).expect_err("a bad password").to_string();
        assert!(error.contains("roles must be") && !error.contains("hush"), "{error}");
        let without_users =
            Secrets { redis_admin: None, redis_replica: None, redis_sentinel: None, ..older.clone() };
        assert!(without_users.conflict(&older).is_some_and(|why| why.contains("users of Redis")));
        let mut partial = Secrets { redis_admin: Some("chosen-by-hand".into()), ..without_users };
        assert_eq!(
            partial.complete(&[], &[], |length| "y".repeat(length)),
            ["redis_replica", "redis_sentinel"]
        );
        // The leader changes these passwords in the database.
        assert_eq!(older.conflict(&Secrets { roles: BTreeMap::new(), ..older.clone() }), None);
    }

    #[test]
    fn all_faults_are_reported_without_secrets() {
        let text = generated().to_toml().replace("redis = \"", "redis = \"hush hush ").replace("vrrp", "vrp");
        let error = Secrets::parse(&text).expect_err("faults").to_string();
        for what in ["redis must be", "vrrp is missing", "unknown key vrp"] {
            assert!(error.contains(what), "{error}");
        }
        assert!(!error.contains("hush"));
        let error = Secrets::parse("redis = \"hush hush").expect_err("a syntax error").to_string();
        assert!(error.starts_with("line 1: ") && !error.contains("hush"), "{error}");
    }
}
