//! Patroni's dynamic configuration: whether automatic failover is paused, and which of the settings that hanode wrote
//! have other values now.

use crate::access::Access;
use crate::discovery::dynamic_config_key;
use anyhow::Result;
use hanode_core::spec::Node;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PatroniConfig {
    pub(crate) paused: bool,
    pub(crate) changed: Vec<ChangedSetting>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChangedSetting {
    /// Such as `postgresql.parameters.max_connections`.
    pub(crate) name: String,
    /// Null if it was removed.
    pub(crate) value: Value,
    /// What hanode wrote.
    pub(crate) written: Value,
}

impl PatroniConfig {
    /// By the first of these nodes that has an answer.
    pub(super) fn collect(access: &Access, nodes: &[&Node], timeout: Duration) -> Option<PatroniConfig> {
        let query = |node: &Node| -> Result<PatroniConfig> {
            let config = access.patroni(node, timeout)?.config()?;
            let written = access.etcd(node, timeout)?.get(&dynamic_config_key(&access.spec.name))?;
            // Until hanode has written it, the configuration is the one of the bootstrap.
            let written = written.map(|text| serde_json::from_slice(&text)).transpose()?;
            Ok(PatroniConfig::of(&config, &written.unwrap_or(Value::Null)))
        };
        nodes.iter().find_map(|node| query(node).ok())
    }

    fn of(config: &Value, written: &Value) -> PatroniConfig {
        let mut changed = Vec::new();
        compare("", config, written, &mut changed);
        PatroniConfig { paused: config["pause"] == true, changed }
    }

    /// Whether this setting has another value than hanode wrote.
    pub(super) fn has_changed(&self, name: &str) -> bool {
        self.changed.iter().any(|setting| setting.name == name)
    }
}

/// Settings that only `config` has are the operator's own.
fn compare(path: &str, config: &Value, written: &Value, changed: &mut Vec<ChangedSetting>) {
    match written {
        Value::Object(fields) => {
            for (name, written) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare(&path, &config[name], written, changed);
            }
        }
        written if same(config, written) => {}
        written => changed.push(ChangedSetting {
            name: path.into(),
            value: config.clone(),
            written: written.clone(),
        }),
    }
}

/// `patronictl edit-config` writes numbers and booleans of parameters without quotes.
fn same(a: &Value, b: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let canonical = |value: &Value| match text(value).as_str() {
        "on" => "true".into(),
        "off" => "false".into(),
        other => other.to_string(),
    };
    canonical(a) == canonical(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn changed(config: Value) -> Vec<(String, Value, Value)> {
        let written = json!({"ttl": 20, "synchronous_mode": true,
            "postgresql": {"use_slots": true, "parameters": {"max_connections": "200", "hot_standby": "on"}}});
        let config = PatroniConfig::of(&config, &written);
        config.changed.into_iter().map(|s| (s.name, s.value, s.written)).collect()
    }

    #[test]
    fn a_setting_that_hanode_wrote_and_that_differs_is_named() {
        let parameters = json!({"max_connections": 200, "hot_standby": true, "work_mem": "64MB"});
        let own = json!({"ttl": 20, "synchronous_mode": true, "loop_wait": 3,
            "postgresql": {"use_slots": true, "parameters": parameters}});
        assert_eq!(changed(own.clone()), []);
        let mut edited = own;
        edited["synchronous_mode"] = json!(false);
        edited["postgresql"]["parameters"].as_object_mut().expect("an object").remove("max_connections");
        let parameter = "postgresql.parameters.max_connections".to_string();
        assert_eq!(
            changed(edited),
            [
                (parameter, Value::Null, json!("200")),
                ("synchronous_mode".to_string(), json!(false), json!(true))
            ]
        );
    }

    #[test]
    fn a_paused_cluster_is_paused() {
        assert!(PatroniConfig::of(&json!({"pause": true}), &Value::Null).paused);
        assert!(!PatroniConfig::of(&json!({"pause": null}), &Value::Null).paused);
    }
}
