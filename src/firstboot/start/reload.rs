//! Fingerprints of the files with which the services run, per component: a changed component is reloaded or
//! restarted once, even if an earlier attempt was interrupted.

use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_cluster::client::redis::RedisClient;
use hanode_core::plan::{Action, Plan};
use hanode_core::redis_parameters::{self, Difference};
use hanode_core::redis_users;
use hanode_core::render::Rendered;
use hanode_core::state::Component;
use hanode_core::target::OnChange;
use hanode_util::file_tree::{Entry, EntryKind};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// In memory: after a boot every service runs with the current files.
const FINGERPRINTS_FILE: &str = "/run/hanode/reloaded.json";
const REDIS_TIMEOUT: Duration = Duration::from_secs(5);

/// Per component and kind of change (reload or restart): a hash of the files concerned.
pub(crate) type Fingerprints = BTreeMap<Component, BTreeMap<OnChange, String>>;

/// Saves the fingerprints of the files on the disk, with which the services are about to start.
pub(crate) fn save_current(node: &NodeContext) -> Result<()> {
    save(node, &fingerprints(node)?)
}

pub(crate) fn save(node: &NodeContext, fingerprints: &Fingerprints) -> Result<()> {
    Ok(node.tree()?.replace(FINGERPRINTS_FILE, &serde_json::to_vec(fingerprints)?, 0o600, None)?)
}

/// `None` if the services have not been started in this boot yet.
pub(crate) fn load(node: &NodeContext) -> Result<Option<Fingerprints>> {
    match std::fs::read(node.at(FINGERPRINTS_FILE)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).context(FINGERPRINTS_FILE)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(FINGERPRINTS_FILE),
    }
}

pub(crate) fn fingerprints(node: &NodeContext) -> Result<Fingerprints> {
    let target = node.target();
    let mut hashes: BTreeMap<(Component, OnChange), Sha256> = BTreeMap::new();
    let mut add = |component, how, entry: &Entry| {
        let EntryKind::File(content) = &entry.kind else { return };
        let hash = hashes.entry((component, how)).or_default();
        for part in [entry.path.as_bytes(), content] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    };
    for entry in &node.config.bundle.entries {
        let rows = target.reload.iter().filter(|row| row.covers(&entry.path));
        rows.for_each(|row| add(row.component, row.on_change, entry));
    }
    // Redis' primary changes with each failover, so compare what is rendered for a fixed plan.
    let rendered = node.render(&Plan::uniform(node.spec(), Action::Resume))?;
    for Rendered { entry, rule } in &rendered {
        if let Some(component) = rule.component {
            add(component, rule.on_change, entry);
        }
    }
    let mut fingerprints = Fingerprints::new();
    for ((component, how), hash) in hashes {
        fingerprints.entry(component).or_default().insert(how, hex::encode(hash.finalize()));
    }
    Ok(fingerprints)
}

/// The components whose files changed, and how to apply the change, in the target's order.
pub(crate) fn changed_components(
    node: &NodeContext,
    before: &Fingerprints,
    after: &Fingerprints,
) -> Vec<(Component, OnChange)> {
    let target = node.target();
    let named = target.reload.iter().map(|row| row.component);
    let mut order: Vec<Component> = named.chain(target.files.iter().filter_map(|f| f.component)).collect();
    let mut seen = std::collections::BTreeSet::new();
    order.retain(|component| seen.insert(*component));
    let changed = |component: &Component| {
        let (now, then) = (after.get(component)?, before.get(component));
        let kinds = now.iter().filter(|(kind, hash)| then.and_then(|t| t.get(kind)) != Some(*hash));
        // A restart includes a reload.
        kinds.map(|(kind, _)| *kind).max().filter(|kind| *kind != OnChange::Nothing)
    };
    order.into_iter().filter_map(|component| Some((component, changed(&component)?))).collect()
}

/// Has Redis use its current files: certificate and key, which it reloads when their path is set, even to the same value,
/// the parameters that differ from those of the file, and users.
pub(crate) fn reload_redis(node: &NodeContext) -> Result<()> {
    let mut redis = node.redis(node.own().address, REDIS_TIMEOUT)?;
    if node.spec().redis.tls {
        redis.query(&["CONFIG", "SET", "tls-cert-file", "/etc/ssl/redis/server.crt"])?;
    }
    for Difference { name, wanted, running } in redis_differences(node, &mut redis)? {
        redis.query(&["CONFIG", "SET", &name, &wanted]).with_context(|| format!("{name} = {wanted:?}"))?;
        tracing::info!("Redis: {name} = {wanted:?} (was {running:?})");
    }
    set_redis_users(node, &mut redis)
}

/// Creates, changes and deletes users, so that they are those of the file. Sessions of a deleted user end.
fn set_redis_users(node: &NodeContext, redis: &mut RedisClient) -> Result<()> {
    if node.access().secrets.redis_admin.is_none() {
        return Ok(());
    }
    let file = redis_users::parse(&live_file(node, "users.conf")?);
    for (name, rules) in &file {
        let rules = rules.iter().map(String::as_str);
        let command: Vec<&str> = ["ACL", "SETUSER", name].into_iter().chain(rules).collect();
        redis.query(&command).with_context(|| format!("user {name} of Redis"))?;
    }
    let running = redis.users()?;
    for name in redis_users::undeclared(&file, running.iter()) {
        redis.query(&["ACL", "DELUSER", name])?;
        tracing::info!("Redis: deleted the user {name}, which is not in cluster.toml");
    }
    Ok(())
}

/// The parameters with which this node's Redis runs, but would not start.
pub(crate) fn redis_differences(node: &NodeContext, redis: &mut RedisClient) -> Result<Vec<Difference>> {
    let file = redis_parameters::parse(&live_file(node, "parameters.conf")?);
    Ok(redis_parameters::differences(&file, &redis.config()?))
}

/// The users with which this node's Redis runs, but would not start.
pub(crate) fn redis_user_differences(node: &NodeContext, redis: &mut RedisClient) -> Result<Vec<String>> {
    if node.access().secrets.redis_admin.is_none() {
        return Ok(Vec::new());
    }
    Ok(redis_users::differences(&redis_users::parse(&live_file(node, "users.conf")?), &redis.user_rules()?))
}

fn live_file(node: &NodeContext, name: &str) -> Result<String> {
    let path = format!("{}/{name}", node.target().path("redis_live")?);
    std::fs::read_to_string(node.at(&path)).with_context(|| format!("reading {path}"))
}
