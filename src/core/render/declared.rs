//! The roles, databases and login rules of the spec, as the templates of SQL and of `pg_hba.conf` need them.

use super::sql;
use crate::secrets::Secrets;
use crate::spec::{HbaMethod, Role, Spec};
use anyhow::Result;
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Declared<'a> {
    roles: Vec<RoleView<'a>>,
    memberships: Vec<Membership<'a>>,
    databases: Vec<DatabaseView<'a>>,
    extensions: Vec<Extension<'a>>,
    hba: Vec<HbaView<'a>>,
}

#[derive(Serialize)]
struct RoleView<'a> {
    name: &'a str,
    /// The one of every cluster: if the operator has made it before, it stays as it is.
    is_default: bool,
    login: bool,
    replication: bool,
    /// In SQL: a verifier, or NULL.
    password: String,
    connection_limit: i64,
    settings: Vec<Setting<'a>>,
}

#[derive(Serialize)]
struct Setting<'a> {
    name: &'a str,
    /// In SQL.
    value: String,
    /// As PostgreSQL stores it; `None` for a list, whose items it may quote.
    stored: Option<&'a str>,
    /// The difference, if the role does not have it.
    missing: String,
}

#[derive(Serialize)]
struct Membership<'a> {
    group: &'a str,
    member: &'a str,
    missing: String,
}

#[derive(Serialize)]
struct DatabaseView<'a> {
    name: &'a str,
    is_default: bool,
    owner: &'a str,
    encoding: &'a str,
    locale: &'a str,
}

#[derive(Serialize)]
struct Extension<'a> {
    database: &'a str,
    name: &'a str,
    missing: String,
}

/// A line of `pg_hba.conf` without its address.
#[derive(Serialize)]
struct HbaView<'a> {
    connection: &'static str,
    database: &'a str,
    role: &'a str,
    method: &'static str,
}

/// The role and the database that every cluster has come first, unless the spec declares them itself.
pub(super) fn view<'a>(spec: &'a Spec, secrets: &Secrets) -> Result<Declared<'a>> {
    let memberships = spec.roles.iter().flat_map(|role| {
        role.memberships.iter().map(|group| Membership {
            group,
            member: &role.name,
            missing: format!("role {} is not a member of {group}", role.name),
        })
    });
    let extensions = spec.databases.iter().flat_map(|database| {
        database.extensions.iter().map(|name| Extension {
            database: &database.name,
            name,
            missing: format!("database {} has no extension {name}", database.name),
        })
    });
    Ok(Declared {
        roles: roles(spec, secrets)?,
        memberships: memberships.collect(),
        databases: databases(spec),
        extensions: extensions.collect(),
        hba: hba(spec),
    })
}

fn roles<'a>(spec: &'a Spec, secrets: &Secrets) -> Result<Vec<RoleView<'a>>> {
    let verifier =
        |name: &str, password: &str| sql::literal(&sql::scram_verifier(&spec.name, name, password));
    let mut roles = Vec::new();
    if !spec.roles.iter().any(|role| role.name == Role::APP) {
        let password = verifier(Role::APP, secrets.app()?);
        roles.push(RoleView {
            name: Role::APP,
            is_default: true,
            login: true,
            replication: false,
            password,
            connection_limit: -1,
            settings: Vec::new(),
        });
    }
    for role in &spec.roles {
        let password = match role.has_password() {
            true => verifier(&role.name, secrets.of_role(&role.name)?),
            false => "NULL".into(),
        };
        roles.push(RoleView {
            name: &role.name,
            is_default: false,
            login: role.login,
            replication: role.replication,
            password,
            connection_limit: role.connection_limit.map_or(-1, i64::from),
            settings: role.settings.iter().map(|(name, value)| setting(role, name, value)).collect(),
        });
    }
    Ok(roles)
}

fn setting<'a>(role: &Role, name: &'a str, value: &'a str) -> Setting<'a> {
    // A list of names, which PostgreSQL quotes one by one.
    let is_list = matches!(name, "search_path" | "temp_tablespaces");
    let items: Vec<String> = value.split(',').map(|item| sql::literal(item.trim())).collect();
    Setting {
        name,
        value: if is_list { items.join(", ") } else { sql::literal(value) },
        stored: (!is_list).then_some(value),
        missing: format!("role {} has another {name}", role.name),
    }
}

fn databases(spec: &Spec) -> Vec<DatabaseView<'_>> {
    let is_declared = spec.databases.iter().any(|database| database.name == Role::APP);
    let (encoding, locale) = ("UTF8", "C.UTF-8");
    let app = DatabaseView { name: Role::APP, is_default: true, owner: Role::APP, encoding, locale };
    let declared = spec.databases.iter().map(|database| DatabaseView {
        name: &database.name,
        is_default: false,
        owner: &database.owner,
        encoding: &database.encoding,
        locale: &database.locale,
    });
    (!is_declared).then_some(app).into_iter().chain(declared).collect()
}

/// The spec's lines, then one for each role with a certificate.
fn hba(spec: &Spec) -> Vec<HbaView<'_>> {
    let tls = spec.postgres.tls;
    let lines = spec.hba.iter().map(|line| HbaView {
        connection: if tls { "hostssl" } else { "host" },
        database: &line.database,
        role: &line.role,
        method: match line.method {
            HbaMethod::Password => "scram-sha-256",
            HbaMethod::Certificate => "cert",
            HbaMethod::Both => "scram-sha-256 clientcert=verify-full",
            HbaMethod::Reject => "reject",
        },
    });
    let roles = spec.roles.iter().filter(|role| role.certificate).map(|role| HbaView {
        connection: "hostssl",
        database: "all",
        role: &role.name,
        method: "cert",
    });
    lines.chain(roles).collect()
}
