//! The context of the templates: the inputs and some values derived from them.

use super::{RenderInput, declared, firewall, limits, parameters, sizing, sql};
use crate::plan::Action;
use crate::redis_parameters;
use crate::redis_users;
use crate::secrets::Secrets;
use crate::sentinel::Settings;
use crate::spec::{
    Backup, ETCD_CLIENT_PORT, ETCD_PEER_PORT, Node, RedisAccess, RedisUser, Repository, Slot, SlotKind, Spec,
    slot_of_node,
};
use anyhow::{Context, Result, ensure};
use hanode_util::user_error::UserError;
use serde::Serialize;
use std::net::IpAddr;
use tera::Tera;

/// OpenSSL's name for the suites of TLS 1.2 with forward secrecy and authenticated encryption. Every client since 2014
/// has one of them.
const TLS_SUITES: &str = "ECDHE+AESGCM:ECDHE+CHACHA20";

/// A node with its address in each form that a template needs.
#[derive(Serialize)]
struct NodeView<'a> {
    name: &'a str,
    hostname: &'a str,
    vrrp_priority: u8,
    address: IpAddr,
    /// As in a URL: IPv6 in brackets.
    host: String,
    /// The address as a network of one host.
    net: String,
    client_url: String,
    peer_url: String,
}

impl<'a> NodeView<'a> {
    fn of(node: &'a Node) -> Self {
        let host = bracketed(node.address);
        NodeView {
            name: &node.name,
            hostname: &node.hostname,
            vrrp_priority: node.vrrp_priority,
            address: node.address,
            net: host_network(node.address),
            client_url: format!("https://{host}:{ETCD_CLIENT_PORT}"),
            peer_url: format!("https://{host}:{ETCD_PEER_PORT}"),
            host,
        }
    }
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

fn host_network(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// The whole context. PostgreSQL's parameters come last, since their template uses the rest.
pub(super) fn build(input: &RenderInput, engine: &Tera) -> Result<tera::Context> {
    let spec = input.spec;
    let node = spec.require_node(input.node)?;
    let views: Vec<NodeView> = spec.nodes.iter().map(NodeView::of).collect();
    let peers: Vec<NodeView> = spec.peers(&node.name).map(NodeView::of).collect();

    let mut context = tera::Context::new();
    context.insert("spec", spec);
    context.insert("vip", &vip(spec));
    context.insert("tls_suites", TLS_SUITES);
    context.insert("paths", &input.target.paths);
    context.insert("users", &input.target.users);
    context.insert("features", &input.target.features);
    context.insert("node", &NodeView::of(node));
    context.insert("nodes", &views);
    context.insert("peers", &peers);
    context.insert("machine", input.machine);
    context.insert("interface", spec.keepalived.interface.as_ref().unwrap_or(&input.machine.interface));
    context.insert("plan", input.plan);
    context.insert("secrets", input.secrets);
    // VRRP uses eight characters; Keepalived warns about longer passwords.
    context.insert("vrrp_password", &input.secrets.vrrp.chars().take(8).collect::<String>());
    context.insert("size", &sizing::sizes(input.machine, peers.len()));
    context.insert("crl", &crl(input));
    context.insert("redis_users", &redis_users(input)?);
    context.insert("redis", &redis(input, node)?);
    context.insert("sentinel", &Settings::of(spec));
    context.insert("redis_settings", &redis_settings(input, engine, &context)?);
    context.insert("haproxy", &haproxy(input));
    context.insert("maximum_lag_on_failover", &spec.postgres.lag_limit());
    context.insert("postgres_sources", &postgres_sources(spec));
    context.insert("rest_readers", &rest_readers(spec));
    context.insert("replication_slot", &slot_of_node(&node.name));
    let of_nodes: Vec<String> = spec.nodes.iter().map(|node| slot_of_node(&node.name)).collect();
    context.insert("slots_of_nodes", &of_nodes);
    context.insert("permanent_slots", &permanent_slots(spec));
    // Two for each node, two for clones, and room for consumers, so that the first slots need no restart.
    context.insert("replication_slots", &(spec.nodes.len() * 2 + 2 + spec.slots.len().max(4)));
    context.insert("has_slots", &!spec.slots.is_empty());
    context.insert("read_max_lag", &spec.postgres.read_limit().as_secs());
    context.insert("backup", &backup(input)?);
    context.insert("restore", &restore(input));
    context.insert("verifiers", &verifiers(input)?);
    context.insert("declared", &declared::view(spec, input.secrets)?);
    context.insert("guards", &firewall::guards(spec));
    let parameters = parameters::parameters(spec, engine, &context)?;
    context.insert("limits", &limits::limits(spec, parameters.client_connections));
    context.insert("postgres", &parameters);
    Ok(context)
}

fn vip(spec: &Spec) -> serde_json::Value {
    let v4 = spec.network.vip.is_ipv4();
    // Names of the virtual IP: those in the certificates, without wildcards.
    let mut names: Vec<&String> =
        spec.postgres.alt_names.iter().chain(&spec.redis.alt_names).filter(|n| !n.contains('*')).collect();
    names.sort();
    names.dedup();
    serde_json::json!({ "address": spec.network.vip, "net": host_network(spec.network.vip), "v4": v4, "named": !names.is_empty(), "names": names })
}

/// The networks from which PostgreSQL accepts connections.
fn postgres_sources(spec: &Spec) -> Vec<String> {
    let nodes = spec.nodes.iter().map(|node| host_network(node.address));
    nodes.chain(["127.0.0.1/32".to_string()]).collect()
}

/// The networks that can read Patroni's REST interface without a certificate: the nodes, for HAProxy's checks, and
/// operators if the spec names them. The default of operators is the whole subnet, which is too wide.
fn rest_readers(spec: &Spec) -> Vec<String> {
    let nodes = spec.nodes.iter().map(|node| host_network(node.address));
    nodes.chain(spec.network.operators.iter().flatten().map(|net| net.to_string())).collect()
}

fn crl(input: &RenderInput) -> serde_json::Value {
    serde_json::json!({
        "service": input.crl.service,
        "cluster": input.crl.cluster,
        "served": input.crl.der.is_some(),
        "length": input.crl.der.as_ref().map_or(0, Vec::len),
    })
}

/// The slots of the spec, each with its definition in Patroni's configuration.
fn permanent_slots(spec: &Spec) -> Vec<serde_json::Value> {
    let definition = |slot: &Slot| match &slot.kind {
        SlotKind::Physical => serde_json::json!({"type": "physical"}),
        SlotKind::Logical { database, plugin } => {
            serde_json::json!({"type": "logical", "database": database, "plugin": plugin})
        }
    };
    let view = |slot: &Slot| {
        let missing = format!("replication slot {} does not exist", slot.name);
        serde_json::json!({ "name": slot.name, "definition": definition(slot).to_string(), "missing": missing })
    };
    spec.slots.iter().map(view).collect()
}

/// The primary of this node's Redis; unknown while the plan waits, when no file uses it.
fn redis(input: &RenderInput, node: &Node) -> Result<serde_json::Value> {
    let step = &input.plan.redis;
    if matches!(step.step.action, Action::Wait | Action::Refuse) {
        return Ok(serde_json::json!({ "replica": false, "primary": null }));
    }
    let primary = step.primary.context("the plan starts Redis but has no primary")?;
    Ok(serde_json::json!({
        "replica": primary != node.address,
        "primary": primary,
    }))
}

/// The lines of Redis' files for the parameters that it can change while it runs, and for the others.
fn redis_settings(input: &RenderInput, engine: &Tera, context: &tera::Context) -> Result<serde_json::Value> {
    let defaults = parameters::defaults("redis-parameters.toml", engine, context)?;
    let version = input.target.versions.get("redis").map(String::as_str).unwrap_or_default();
    let layers = [&defaults, &input.spec.redis.parameters];
    let values = redis_parameters::values(version, &layers).map_err(|what| {
        UserError::with_help(format!("[redis.parameters]: {what}"), "remove it from cluster.toml")
    })?;
    let lines = |is_live: bool| -> Vec<String> {
        let values = values.iter().filter(|(parameter, _)| parameter.is_live == is_live);
        values.flat_map(|(parameter, value)| redis_parameters::lines(parameter.name, value)).collect()
    };
    Ok(serde_json::json!({ "live": lines(true), "fixed": lines(false) }))
}

/// What PostgreSQL stores instead of a password, by role.
fn verifiers(input: &RenderInput) -> Result<serde_json::Value> {
    let verifier = |role, password| sql::scram_verifier(&input.spec.name, role, password);
    Ok(serde_json::json!({
        "dbadmin": verifier("dbadmin", &input.secrets.postgres_dbadmin),
        "app": verifier("app", input.secrets.app()?),
    }))
}

/// The users of Redis, in the syntax of the target's version.
fn redis_users(input: &RenderInput) -> Result<serde_json::Value> {
    let version = input.spec.versions.get("redis").or_else(|| input.target.versions.get("redis"));
    let mut numbers =
        version.map(String::as_str).unwrap_or_default().split('.').map(|part| part.parse().unwrap_or(0));
    let version: redis_users::Version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let enabled = input.secrets.redis_admin.is_some();
    ensure!(
        enabled || input.spec.redis_users.is_empty(),
        UserError::with_help(
            "[[redis_user]] needs redis_admin in secrets.toml, which this older cluster does not have",
            "see \"A cluster of an older hanode\" in docs/applications.md",
        )
    );
    let declared = |user: &RedisUser| {
        let password = input.secrets.of_redis_user(&user.name)?;
        Ok(format!("user {} reset on >{password} {}", user.name, redis_users::rules(user, version)?))
    };
    Ok(serde_json::json!({
        "enabled": enabled,
        "channels": redis_users::all_channels(version),
        "commands": redis_users::commands(RedisAccess::All, version),
        "publish": redis_users::publish(&["*".into()], version),
        "declared": input.spec.redis_users.iter().map(declared).collect::<Result<Vec<String>>>()?,
    }))
}

/// Without `[backup]` the archive's command does nothing.
fn backup(input: &RenderInput) -> Result<serde_json::Value> {
    let Some(backup) = &input.spec.backup else {
        return Ok(serde_json::json!({ "enabled": false, "archive_timeout": 0 }));
    };
    let target = input.target;
    ensure!(
        target.features.get("pgbackrest") == Some(&true),
        UserError::with_help(
            format!("the target {} has no pgBackRest, which [backup] needs", target.name),
            "remove [backup], or use another target",
        )
    );
    repository(backup, input.secrets)
}

/// `[backup]` with its secrets.
pub(super) fn repository(backup: &Backup, secrets: &Secrets) -> Result<serde_json::Value> {
    let mut view = serde_json::json!({
        "enabled": true,
        "endpoint": backup.endpoint.as_deref().unwrap_or_default(),
        "region": backup.region,
        "path_style": backup.path_style,
        "has_ca_file": backup.ca_file.is_some(),
        "ca_file": backup.ca_file.as_deref().unwrap_or_default(),
        "schedule": backup.schedule,
        "retention": backup.retention,
        "archive_timeout": backup.archive_timeout,
        "key": secrets.backup_key.as_ref().context("the secrets have no backup_key")?,
    });
    match &backup.repository {
        Repository::File { path } => {
            view["is_file"] = true.into();
            view["path"] = path.as_str().into();
        }
        Repository::S3 { bucket, prefix } => {
            view["is_file"] = false.into();
            view["bucket"] = bucket.as_str().into();
            view["prefix"] = prefix.as_str().into();
            let key = |value: &Option<String>, name: &str| {
                value.clone().with_context(|| format!("the secrets have no {name}"))
            };
            view["s3_key"] = key(&secrets.s3_key, "s3_key")?.into();
            view["s3_secret"] = key(&secrets.s3_secret, "s3_secret")?.into();
        }
    }
    Ok(view)
}

/// How Patroni restores PostgreSQL, if the cluster begins with a restore.
fn restore(input: &RenderInput) -> serde_json::Value {
    let Some(choice) = input.restore else { return serde_json::json!({ "enabled": false }) };
    let target = choice.recovery_target();
    serde_json::json!({
        "enabled": true,
        "part": choice.part,
        "backup": choice.backup,
        "backup_finished": choice.backup_finished,
        "timeline": choice.timeline.to_string(),
        // At the end of the archive recovery has no target: it is complete if it has read the last segment.
        "has_target": target.is_some(),
        "target": target.as_ref().map_or("", |(name, _)| *name),
        "value": target.as_ref().map_or("", |(_, value)| value.as_str()),
        "last_wal": choice.last_wal,
    })
}

fn haproxy(input: &RenderInput) -> serde_json::Value {
    let spec = input.spec;
    let extra = |section: &str| spec.haproxy.extra.get(section).cloned().unwrap_or_default();
    // The networks that may use the VIP, and the nodes, which probe it.
    let clients = spec.network.clients.iter().map(|net| net.to_string());
    let nodes = spec.nodes.iter().map(|n| n.address.to_string());
    let loopback = if spec.network.vip.is_ipv4() { "127.0.0.1" } else { "::1" };
    let own: Vec<String> = nodes.chain([loopback.to_string()]).collect();
    let allowed: Vec<String> = clients.chain(own.iter().cloned()).collect();
    let operators = spec.network.operators().iter().map(|net| net.to_string());
    let watchers: Vec<String> = allowed.iter().cloned().chain(operators).collect();
    serde_json::json!({
        "any": if spec.network.vip.is_ipv4() { "*" } else { "::" },
        "allowed": allowed.join(" "),
        // The limits per address do not apply to the nodes: they probe each other.
        "own": own.join(" "),
        // Operators may also read statistics and metrics.
        "watching": watchers.join(" "),
        "idle_timeout": spec.haproxy.idle_timeout,
        "extra_global": extra("global"),
        "extra_defaults": extra("defaults"),
        "bufsize": bufsize(input.crl.der.as_ref().map_or(0, Vec::len)),
        "guarded": spec.redis.min_replicas > 0,
        "enough_replicas": at_least(spec.redis.min_replicas),
    })
}

/// HAProxy sends the CRL from one buffer, of which it reserves 1 KiB.
fn bufsize(crl: usize) -> usize {
    (crl + 2048).next_power_of_two().max(16384)
}

/// A regular expression for the decimal numbers from `least` to 99.
fn at_least(least: u32) -> String {
    match least {
        0..=9 => format!("([{least}-9]|[1-9][0-9])"),
        _ => {
            let numbers: Vec<String> = (least..100).map(|n| n.to_string()).collect();
            format!("({})", numbers.join("|"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_each_form() {
        let v6: IpAddr = "fd00::21".parse().expect("an address");
        assert_eq!((bracketed(v6).as_str(), host_network(v6).as_str()), ("[fd00::21]", "fd00::21/128"));
    }

    #[test]
    fn slots_are_named_as_by_patroni() {
        assert_eq!(slot_of_node("node1"), "node1");
        assert_eq!(slot_of_node("DB-2.lab_x"), "db_2_lab_x");
    }

    #[test]
    fn the_buffer_fits_a_long_crl() {
        assert_eq!(bufsize(300), 16384);
        assert_eq!(bufsize(16384), 32768);
    }

    #[test]
    fn the_pattern_matches_enough_replicas() {
        assert_eq!(at_least(1), "([1-9]|[1-9][0-9])");
        assert!(at_least(98).ends_with("(98|99)"));
    }
}
