//! Patroni's dynamic configuration in etcd: patched when the spec changes.
//!
//! The last settings that hanode wrote are saved in etcd too. So an operator's `patronictl edit-config` stays
//! until the spec changes, and a setting that is removed from the spec is removed from Patroni's
//! configuration.

use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_cluster::discovery::dynamic_config_key;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_secs(15);

/// Retries until etcd has the settings of this node's spec; a new spec restarts the watcher.
#[derive(Default)]
pub(super) struct DynamicConfigSync {
    done: bool,
    last_attempt: Option<Instant>,
}

impl DynamicConfigSync {
    pub(super) fn sync(&mut self, node: &NodeContext) {
        self.attempt(|| update(node, &written(node)?.unwrap_or_else(|| json!({}))));
    }

    /// While PostgreSQL is down, perhaps because of a setting that a new spec corrects. Without earlier settings of
    /// hanode, Patroni still initializes the cluster.
    pub(super) fn correct(&mut self, node: &NodeContext) {
        self.attempt(|| match written(node)? {
            Some(written) => update(node, &written),
            None => Ok(false),
        });
    }

    fn attempt(&mut self, update: impl FnOnce() -> Result<bool>) {
        if self.done || self.last_attempt.is_some_and(|at| at.elapsed() < RETRY_INTERVAL) {
            return;
        }
        self.last_attempt = Some(Instant::now());
        match update() {
            Ok(done) => self.done = done,
            Err(error) => tracing::warn!("Patroni's settings in etcd: {error:#}; retrying"),
        }
    }
}

fn etcd_key(node: &NodeContext) -> String {
    dynamic_config_key(&node.spec().name)
}

/// The settings that hanode wrote last.
fn written(node: &NodeContext) -> Result<Option<Value>> {
    let text = node.etcd(node.own(), REQUEST_TIMEOUT)?.get(&etcd_key(node))?;
    Ok(text.map(|text| serde_json::from_slice(&text).unwrap_or_default()))
}

/// Returns whether the settings in etcd are those of this node's spec.
fn update(node: &NodeContext, written: &Value) -> Result<bool> {
    let file = node.target().path("patroni_dynamic")?;
    let text = std::fs::read(node.at(file)).with_context(|| format!("reading {file}"))?;
    let wanted: Value = serde_json::from_slice(&text).with_context(|| file.to_string())?;
    if *written == wanted {
        return Ok(true);
    }
    // While the nodes' specs differ, none of them is known to be the newer one.
    if !all_peers_have_spec(node) {
        return Ok(false);
    }
    let patch = patch(written, &wanted);
    node.access().patroni(node.own(), REQUEST_TIMEOUT)?.patch_config(&patch)?;
    node.etcd(node.own(), REQUEST_TIMEOUT)?.put(&etcd_key(node), &serde_json::to_vec(&wanted)?)?;
    tracing::info!("updated Patroni's settings in etcd from the spec");
    Ok(true)
}

fn all_peers_have_spec(node: &NodeContext) -> bool {
    let hash = node.spec().hash();
    node.all_peers(REQUEST_TIMEOUT, |report| report.spec_hash == hash)
}

/// All wanted settings, and a null for each setting that was written before and is not wanted any more.
fn patch(before: &Value, wanted: &Value) -> Value {
    let (Value::Object(before), Value::Object(wanted)) = (before, wanted) else { return wanted.clone() };
    let removed = before.keys().filter(|key| !wanted.contains_key(*key));
    let mut merged: Map<String, Value> = removed.map(|key| (key.clone(), Value::Null)).collect();
    merged.extend(
        wanted
            .iter()
            .map(|(key, value)| (key.clone(), patch(before.get(key).unwrap_or(&Value::Null), value))),
    );
    Value::Object(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_left_the_spec_is_removed() {
        let before =
            json!({"ttl": 20, "failsafe_mode": true, "postgresql": {"parameters": {"a": "1", "b": "2"}}});
        let wanted = json!({"ttl": 30, "postgresql": {"use_slots": true, "parameters": {"b": "3"}}});
        let expected = json!({"ttl": 30, "failsafe_mode": null,
            "postgresql": {"use_slots": true, "parameters": {"a": null, "b": "3"}}});
        assert_eq!(patch(&before, &wanted), expected);
        assert_eq!(patch(&json!({}), &wanted), wanted);
    }
}
