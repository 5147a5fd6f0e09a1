//! `[[role]]`, `[[database]]` and `[[hba]]`: what applications need in PostgreSQL.

use super::reader::{Reader, Section};
use super::suggest::printable;
use super::{Spec, rules};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A role in PostgreSQL. Its password is in `secrets.toml`, unless it logs in with a certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Role {
    pub name: String,
    pub login: bool,
    /// A client certificate of the service CA with the role's name replaces the password.
    pub certificate: bool,
    pub memberships: Vec<String>,
    /// Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<u32>,
    /// It may use replication slots, and so read all data.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replication: bool,
    pub settings: BTreeMap<String, String>,
}

impl Role {
    /// The role that every cluster has for applications, which owns the database of the same name.
    pub const APP: &str = "app";

    pub fn has_password(&self) -> bool {
        self.login && !self.certificate
    }
}

/// A database in PostgreSQL. Encoding and locale apply when it is created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Database {
    pub name: String,
    pub owner: String,
    pub extensions: Vec<String>,
    pub encoding: String,
    pub locale: String,
}

/// How a role logs in to a database; `all` stands for every one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hba {
    pub database: String,
    pub role: String,
    pub method: HbaMethod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HbaMethod {
    Password,
    Certificate,
    Both,
    Reject,
}

/// Roles that hanode creates and that the spec does not change. hanode's own, and words of `pg_hba.conf` and SQL.
const RESERVED_ROLES: [&str; 7] =
    ["admin", "dbadmin", "replicator", "rewind_user", "postgres", "public", "all"];
/// Membership gives what only superusers have: programs and files of the node.
const AS_SUPERUSER: [&str; 3] =
    ["pg_execute_server_program", "pg_read_server_files", "pg_write_server_files"];
const RESERVED_DATABASES: [&str; 6] =
    ["postgres", "template0", "template1", "sameuser", "samerole", "samegroup"];
const NAME_HELP: &str =
    "use up to 63 lower-case letters, digits and _, starting with a letter; pg_ is PostgreSQL's own prefix";

pub(super) fn roles(top: &Section) -> Vec<Role> {
    let read = |s: Section| {
        let role = Role {
            name: s.required("name", s.text("name"), String::new(), "give this role a name"),
            login: s.flag("login").unwrap_or(true),
            certificate: s.flag("certificate").unwrap_or(false),
            memberships: s.texts("memberships").unwrap_or_default(),
            connection_limit: s.number("connection_limit", 0..=262_143),
            replication: s.flag("replication").unwrap_or(false),
            settings: s.section("settings").settings(),
        };
        s.finish();
        role
    };
    top.sections("role").into_iter().map(read).collect()
}

pub(super) fn databases(top: &Section) -> Vec<Database> {
    let read = |s: Section| {
        let database = Database {
            name: s.required("name", s.text("name"), String::new(), "give this database a name"),
            owner: s.text("owner").unwrap_or_else(|| Role::APP.into()),
            extensions: s.texts("extensions").unwrap_or_default(),
            encoding: s.text("encoding").unwrap_or_else(|| "UTF8".into()),
            locale: s.text("locale").unwrap_or_else(|| "C.UTF-8".into()),
        };
        s.finish();
        database
    };
    top.sections("database").into_iter().map(read).collect()
}

pub(super) fn hba(top: &Section) -> Vec<Hba> {
    let methods = [
        ("password", HbaMethod::Password),
        ("certificate", HbaMethod::Certificate),
        ("both", HbaMethod::Both),
        ("reject", HbaMethod::Reject),
    ];
    let read = |s: Section| {
        let method = s.choice("method", &methods);
        let hba = Hba {
            database: s.text("database").unwrap_or_else(|| "all".into()),
            role: s.text("role").unwrap_or_else(|| "all".into()),
            method: s.required(
                "method",
                method,
                HbaMethod::Reject,
                "write how these roles log in, e.g. \"certificate\"",
            ),
        };
        s.finish();
        hba
    };
    top.sections("hba").into_iter().map(read).collect()
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.starts_with("pg_")
}

fn is_extension(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
}

pub(super) fn check(spec: &Spec, reader: &Reader) {
    check_roles(spec, reader);
    check_databases(spec, reader);
    for (i, line) in spec.hba.iter().enumerate() {
        for (key, name) in [("database", &line.database), ("role", &line.role)] {
            if !is_name(name) {
                let what = format!("\"{}\" is not a valid {key}", printable(name));
                reader.fault(&format!("hba.{i}.{key}"), what, NAME_HELP);
            }
        }
        if !spec.postgres.tls && matches!(line.method, HbaMethod::Certificate | HbaMethod::Both) {
            let what = "a certificate cannot be asked for without TLS";
            reader.fault(&format!("hba.{i}.method"), what, "set tls = true in [postgres], or use password");
        }
    }
}

fn check_roles(spec: &Spec, reader: &Reader) {
    let mut seen = BTreeSet::new();
    for (i, role) in spec.roles.iter().enumerate() {
        let path = |key: &str| format!("role.{i}.{key}");
        if !is_name(&role.name) {
            let what = format!("\"{}\" is not a valid name for a role", printable(&role.name));
            reader.fault(&path("name"), what, NAME_HELP);
        } else if RESERVED_ROLES.contains(&role.name.as_str()) {
            reader.fault(
                &path("name"),
                format!("{} is a role of hanode or a word of PostgreSQL", role.name),
                "use another name",
            );
        } else if !seen.insert(&role.name) {
            reader.fault(&path("name"), format!("two roles are named {}", role.name), "use different names");
        }
        if role.certificate && !spec.postgres.tls {
            let what = "a certificate cannot be asked for without TLS";
            reader.fault(&path("certificate"), what, "set tls = true in [postgres], or use a password");
        }
        if role.certificate && !role.login {
            let what = format!("{} has a certificate but no login", printable(&role.name));
            reader.fault(&path("certificate"), what, "set login = true, or remove certificate");
        }
        for (n, group) in role.memberships.iter().enumerate() {
            let (path, group) = (path(&format!("memberships.{n}")), group.as_str());
            if RESERVED_ROLES.contains(&group) || AS_SUPERUSER.contains(&group) {
                let what = format!("membership in {group} makes a superuser of the role");
                reader.fault(&path, what, "grant less, such as pg_monitor or pg_read_all_data");
            } else if !is_name(group.strip_prefix("pg_").unwrap_or(group)) {
                let what = format!("\"{}\" is not a valid name for a role", printable(group));
                reader.fault(&path, what, NAME_HELP);
            }
        }
        for name in role.settings.keys() {
            let loads_code = name.ends_with("_preload_libraries");
            if !rules::is_setting_name(name) || loads_code || rules::reserved_by(name).is_some() {
                let what = format!("{} cannot be set for a role", printable(name));
                let help = "use a setting that every session may change, such as statement_timeout";
                reader.fault(&path(&format!("settings.{name}")), what, help);
            }
        }
    }
}

fn check_databases(spec: &Spec, reader: &Reader) {
    let mut seen = BTreeSet::new();
    let word = |text: &str| {
        (1..=63).contains(&text.len())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.@-".contains(c))
    };
    for (i, database) in spec.databases.iter().enumerate() {
        let path = |key: &str| format!("database.{i}.{key}");
        let name = &database.name;
        if !is_name(name) || name == "all" || name == "replication" {
            let what = format!("\"{}\" is not a valid name for a database", printable(name));
            reader.fault(&path("name"), what, NAME_HELP);
        } else if RESERVED_DATABASES.contains(&name.as_str()) {
            reader.fault(&path("name"), format!("{name} is PostgreSQL's own"), "use another name");
        } else if !seen.insert(name) {
            reader.fault(&path("name"), format!("two databases are named {name}"), "use different names");
        }
        if database.owner != Role::APP && !spec.roles.iter().any(|role| role.name == database.owner) {
            let what = format!("owner \"{}\" is not a role of the spec", printable(&database.owner));
            reader.fault(&path("owner"), what, "add a [[role]] with this name, or use app");
        }
        for (n, extension) in database.extensions.iter().enumerate().filter(|(_, e)| !is_extension(e)) {
            let what = format!("\"{}\" is not a valid name for an extension", printable(extension));
            reader.fault(&path(&format!("extensions.{n}")), what, "use a name from pg_available_extensions");
        }
        for (key, value) in [("encoding", &database.encoding), ("locale", &database.locale)] {
            if !word(value) {
                let what = format!("\"{}\" is not a valid {key}", printable(value));
                reader.fault(&path(key), what, "write it as PostgreSQL does, e.g. UTF8 and en_US.UTF-8");
            }
        }
    }
}
