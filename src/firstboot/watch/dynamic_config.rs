//! The settings that Patroni keeps in etcd: patched there when the spec changed.
//!
//! What hanode last put there is noted beside them. So what an operator changed with `patronictl edit-config`
//! stays until the spec changes, and a setting that left the spec is taken back.

use crate::node_config::NodeConfig;
use anyhow::{Context, Result, ensure};
use hanode_cluster::client::etcd::Etcd;
use hanode_cluster::client::http::Http;
use hanode_util::file_tree::below;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(15);

/// Looks until etcd holds what this node's spec says; a new spec comes with a new watcher.
#[derive(Default)]
pub(super) struct Dynamic {
    settled: bool,
    looked: Option<Instant>,
}

impl Dynamic {
    pub(super) fn look(&mut self, root: &Path, config: &NodeConfig, node: &str) {
        if self.settled || self.looked.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        self.looked = Some(Instant::now());
        match settle(root, config, node) {
            Ok(settled) => self.settled = settled,
            Err(error) => tracing::warn!("Patroni's settings in etcd: {error:#}; trying again"),
        }
    }
}

fn settle(root: &Path, config: &NodeConfig, node: &str) -> Result<bool> {
    let own = config.spec.node(node).context("node vanished from the spec")?;
    let file = config.target.path("patroni_dynamic")?;
    let text = std::fs::read(below(root, file)).with_context(|| format!("reading {file}"))?;
    let wanted: Value = serde_json::from_slice(&text).with_context(|| file.to_string())?;
    let credentials = config.credentials()?;
    let etcd = Etcd::new(&credentials, own.address, TIMEOUT)?;
    let key = format!("/hanode/{}/dynamic", config.spec.name);
    let noted = etcd.get(&key)?.map(|text| serde_json::from_slice(&text).unwrap_or_default());
    if noted.as_ref() == Some(&wanted) {
        return Ok(true);
    }
    // While specs differ nobody knows which one is to hold.
    if !all_agree(config, node)? {
        return Ok(false);
    }
    let patch = patch(&noted.unwrap_or_else(|| json!({})), &wanted);
    let url = format!("https://{}/config", SocketAddr::new(own.address, config.spec.patroni.restapi_port));
    let password = &config.bundle.secrets.patroni_rest;
    let answer = Http::new(Some(&credentials), TIMEOUT)?.patch(&url, ("patroni", password), &patch)?;
    ensure!(answer.status == 200, "PATCH {url}: status {}", answer.status);
    etcd.put(&key, &serde_json::to_vec(&wanted)?)?;
    tracing::info!("Patroni's settings in etcd are those of the spec");
    Ok(true)
}

fn all_agree(config: &NodeConfig, node: &str) -> Result<bool> {
    let (credentials, hash) = (config.credentials()?, config.spec.hash());
    let port = config.spec.network.join_port;
    let agrees = |address| {
        hanode_cluster::peer::fetch_report(&credentials, address, port, TIMEOUT)
            .is_ok_and(|a| a.spec_hash == hash)
    };
    Ok(config.spec.peers(node).all(|peer| agrees(peer.address)))
}

/// All that is wanted, and a null for each setting that was put there before and is not wanted any more.
fn patch(before: &Value, wanted: &Value) -> Value {
    let (Value::Object(before), Value::Object(wanted)) = (before, wanted) else { return wanted.clone() };
    let gone = before.keys().filter(|key| !wanted.contains_key(*key));
    let mut all: Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
    all.extend(
        wanted
            .iter()
            .map(|(key, value)| (key.clone(), patch(before.get(key).unwrap_or(&Value::Null), value))),
    );
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_the_spec_is_taken_back() {
        let before =
            json!({"ttl": 20, "failsafe_mode": true, "postgresql": {"parameters": {"a": "1", "b": "2"}}});
        let wanted = json!({"ttl": 30, "postgresql": {"use_slots": true, "parameters": {"b": "3"}}});
        let expected = json!({"ttl": 30, "failsafe_mode": null,
            "postgresql": {"use_slots": true, "parameters": {"a": null, "b": "3"}}});
        assert_eq!(patch(&before, &wanted), expected);
        assert_eq!(patch(&json!({}), &wanted), wanted);
    }
}
