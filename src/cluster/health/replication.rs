//! Which replicas stream: the leader's own PostgreSQL knows. Patroni tells it of each replica from 3.0 on alone; before,
//! one that lost its leader is as `running` as one that follows it.

use crate::client::http::Http;
use anyhow::{Context, Result};
use hanode_core::spec::Spec;
use serde_json::Value;
use std::net::SocketAddr;

/// The name of the leader in what `/cluster` says.
pub(super) fn leader(cluster: &Value) -> Option<&str> {
    let members = cluster["members"].as_array()?;
    members.iter().find(|m| m["role"] == "leader")?["name"].as_str()
}

/// Names of the members that stream from the leader.
pub(super) fn from_leader(http: &Http, spec: &Spec, cluster: &Value) -> Result<Vec<String>> {
    let leader = leader(cluster).and_then(|name| spec.node(name)).context("PostgreSQL has no leader")?;
    let url = format!("https://{}/patroni", SocketAddr::new(leader.address, spec.patroni.restapi_port));
    Ok(names(&http.get(&url)?.body))
}

fn names(patroni: &Value) -> Vec<String> {
    let senders = patroni["replication"].as_array().into_iter().flatten();
    let streaming = senders.filter(|sender| sender["state"] == "streaming");
    streaming.filter_map(|sender| Some(sender["application_name"].as_str()?.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_that_only_copies_does_not_count() {
        let said = serde_json::json!({"role": "master", "replication": [
            {"application_name": "node2", "state": "streaming", "sync_state": "sync"},
            {"application_name": "pg_basebackup", "state": "backup"},
            {"application_name": "node3", "state": "catchup"},
        ]});
        assert_eq!(names(&said), ["node2"]);
        assert_eq!(names(&serde_json::json!({"role": "master"})), [""; 0]);
    }

    #[test]
    fn the_leader_is_found_by_its_role() {
        let said = serde_json::json!({"members": [{"name": "node1", "role": "replica"}, {"name": "node3", "role": "leader"}]});
        assert_eq!(leader(&said), Some("node3"));
        assert_eq!(leader(&Value::Null), None);
    }
}
