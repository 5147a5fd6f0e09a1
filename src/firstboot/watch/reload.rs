//! What the running services were last given, component by component: so that a change is taken up once, in the
//! way that disturbs least, and also where an earlier attempt was cut short.

use crate::disk;
use crate::node_config::NodeConfig;
use crate::start::apply::NodeContext;
use anyhow::{Context, Result};
use hanode_cluster::client::redis::Redis;
use hanode_core::plan::{Action, Plan};
use hanode_core::target::OnChange;
use hanode_util::file_tree::{Entry, Kind, below};
use hanode_util::safe_path::SafeTree;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// In memory: a boot gives every service all there is.
const GIVEN: &str = "/run/hanode/reloaded.json";
const TIMEOUT: Duration = Duration::from_secs(5);

/// Component, and how it takes up a change: a hash of all that it takes up in that way.
pub(crate) type Prints = BTreeMap<String, BTreeMap<OnChange, String>>;

/// Whatever lies on the disk now is what the services are about to start with.
pub(crate) fn remember(node: &NodeContext) -> Result<()> {
    save(node.root, &prints(node)?)
}

pub(crate) fn save(root: &Path, prints: &Prints) -> Result<()> {
    Ok(SafeTree::open(root)?.replace(GIVEN, &serde_json::to_vec(prints)?, 0o600, None)?)
}

/// `None`: this boot has not let the services start yet.
pub(crate) fn load(root: &Path) -> Result<Option<Prints>> {
    match std::fs::read(below(root, GIVEN)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).context(GIVEN)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(GIVEN),
    }
}

pub(crate) fn prints(node: &NodeContext) -> Result<Prints> {
    let target = &node.config.target;
    let mut taken: BTreeMap<(&str, OnChange), Sha256> = BTreeMap::new();
    let mut add = |component, how, entry: &Entry| {
        let Kind::File(content) = &entry.kind else { return };
        let hash = taken.entry((component, how)).or_default();
        for part in [entry.path.as_bytes(), content] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    };
    for entry in &node.config.bundle.entries {
        let rows = target.reload.iter().filter(|row| row.covers(&entry.path));
        rows.for_each(|row| add(&row.component, row.on_change, entry));
    }
    // Whom Redis follows changes with each failover: what counts is what hanode would write for the same plan.
    let rendered = node.render(&Plan::uniform(&node.config.spec, Action::Resume))?;
    for entry in &rendered {
        if let Some(rule) = target.rule_at(&entry.path)
            && let Some(component) = &rule.component
        {
            add(component, rule.on_change, entry);
        }
    }
    let mut prints = Prints::new();
    for ((component, how), hash) in taken {
        prints.entry(component.into()).or_default().insert(how, hex::encode(hash.finalize()));
    }
    Ok(prints)
}

/// Which components have something to take up and how, in the target's order.
pub(crate) fn due(node: &NodeContext, before: &Prints, after: &Prints) -> Vec<(String, OnChange)> {
    let target = &node.config.target;
    let named = target.reload.iter().map(|row| &row.component);
    let mut order: Vec<&String> =
        named.chain(target.files.iter().filter_map(|f| f.component.as_ref())).collect();
    let mut seen = std::collections::BTreeSet::new();
    order.retain(|component| seen.insert(*component));
    let changed = |component: &String| {
        let (now, then) = (after.get(component)?, before.get(component));
        let hows = now.iter().filter(|(how, print)| then.and_then(|t| t.get(how)) != Some(*print));
        // A restart takes up what a reload does.
        hows.map(|(how, _)| *how).max().filter(|how| *how != OnChange::Nothing)
    };
    order.into_iter().filter_map(|component| Some((component.clone(), changed(component)?))).collect()
}

/// Redis reads certificate and key anew when told their place, be it the same.
pub(crate) fn reload_redis(root: &Path) -> Result<()> {
    let config = NodeConfig::active(root)?;
    let name = disk::pin(root)?.context("this disk has no identity yet")?.node;
    let own = config.spec.node(&name).context("node vanished from the spec")?;
    let Some(credentials) = config.redis_credentials()? else { return Ok(()) };
    let (port, password) = (config.spec.redis.port, &config.bundle.secrets.redis);
    let mut redis = Redis::connect(Some(&credentials), own.address, port, password, TIMEOUT)?;
    redis.query(&["CONFIG", "SET", "tls-cert-file", "/etc/ssl/redis/server.crt"])?;
    Ok(())
}
