//! Which replicas stream, as reported by PostgreSQL on the leader. Patroni before 3.0 reports a replica as `running`
//! whether it streams or not.

use crate::client::http::HttpClient;
use anyhow::{Context, Result};
use hanode_core::spec::Spec;
use serde_json::Value;
use std::net::SocketAddr;

/// The name of the leader in Patroni's `/cluster` response.
pub(super) fn leader(cluster: &Value) -> Option<&str> {
    let members = cluster["members"].as_array()?;
    members.iter().find(|m| m["role"] == "leader")?["name"].as_str()
}

/// Names of the members that stream from the leader.
pub(super) fn streaming_members(http: &HttpClient, spec: &Spec, cluster: &Value) -> Result<Vec<String>> {
    let leader = leader(cluster).and_then(|name| spec.node(name)).context("PostgreSQL has no leader")?;
    let url = format!("https://{}/patroni", SocketAddr::new(leader.address, spec.patroni.restapi_port));
    Ok(streaming_names(&http.get(&url)?.body))
}

fn streaming_names(patroni: &Value) -> Vec<String> {
    let senders = patroni["replication"].as_array().into_iter().flatten();
    let streaming = senders.filter(|sender| sender["state"] == "streaming");
    streaming.filter_map(|sender| Some(sender["application_name"].as_str()?.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_senders_in_state_streaming_count() {
        let patroni = serde_json::json!({"role": "master", "replication": [
            {"application_name": "node2", "state": "streaming", "sync_state": "sync"},
            {"application_name": "pg_basebackup", "state": "backup"},
            {"application_name": "node3", "state": "catchup"},
        ]});
        assert_eq!(streaming_names(&patroni), ["node2"]);
        assert_eq!(streaming_names(&serde_json::json!({"role": "master"})), [""; 0]);
    }

    #[test]
    fn the_leader_is_found_by_its_role() {
        let cluster = serde_json::json!({"members": [{"name": "node1", "role": "replica"}, {"name": "node3", "role": "leader"}]});
        assert_eq!(leader(&cluster), Some("node3"));
        assert_eq!(leader(&Value::Null), None);
    }
}
