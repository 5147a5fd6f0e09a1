//! The read port: which standbys serve reads. HAProxy's health check queries Patroni for the role only; this thread
//! disables those servers in HAProxy that do not stream or are too far behind.
//!
//! Patroni's own limit (`/replica?lag=`) is in bytes, uses a position of the leader that is up to two of Patroni's loops
//! old, and ignores whether the standby streams: a standby with little missing would serve old data forever. HAProxy
//! starts with all servers of the backend disabled, so reads go to the primary until the standbys are known. A watcher
//! that starts later leaves HAProxy as it is until then.

use super::haproxy_socket::{self, ServerState};
use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_cluster::client::etcd::EtcdClient;
use hanode_cluster::client::http::HttpClient;
use hanode_cluster::discovery;
use hanode_cluster::health::Access;
use hanode_core::freshness::{Freshness, LeaderState, Round};
use hanode_core::spec::Node;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

const CHECK_INTERVAL: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_millis(1500);
/// How much older the data can be by the time that the next round has updated HAProxy.
const MARGIN: Duration = Duration::from_secs(5);
pub(super) const BACKEND: &str = "postgres_replicas";

/// Checks until the process ends.
pub(super) fn watch(node: &NodeContext, socket: &Path) {
    let (access, name) = (node.access(), node.name());
    let start = Instant::now();
    let limit = access.spec.postgres.read_limit().saturating_sub(MARGIN);
    let mut freshness = Freshness::default();
    loop {
        let at = start.elapsed();
        match round(access, name, at) {
            Ok(round) => freshness.add(&round),
            Err(error) => tracing::debug!("positions of the standbys: {error:#}"),
        }
        // Without HAProxy there is no read port.
        if let Err(error) = update_servers(access, &freshness, limit, socket) {
            tracing::debug!("{}: {error:#}", socket.display());
        }
        sleep(CHECK_INTERVAL.saturating_sub(start.elapsed() - at));
    }
}

/// Queries all nodes at the same time.
fn round(access: &Access, own: &str, at: Duration) -> Result<Round> {
    let http = HttpClient::new(Some(&access.cluster), REQUEST_TIMEOUT)?;
    let fetch = |node: &Node| -> Result<Value> {
        let address = SocketAddr::new(node.address, access.spec.patroni.restapi_port);
        Ok(http.get(&format!("https://{address}/patroni"))?.body)
    };
    let answers: BTreeMap<&str, Value> = scope(|threads| {
        let queries: Vec<_> =
            access.spec.nodes.iter().map(|n| (n.name.as_str(), threads.spawn(|| fetch(n)))).collect();
        queries.into_iter().filter_map(|(name, query)| Some((name, query.join().ok()?.ok()?))).collect()
    });
    let replayed = answers.iter().filter_map(|(name, answer)| Some((name.to_string(), replayed(answer)?)));
    Ok(Round { at, leader: leader(access, own, &answers), replayed: replayed.collect() })
}

/// The position that a running standby has replayed.
fn replayed(patroni: &Value) -> Option<u64> {
    let runs = patroni["state"] == "running" && patroni["role"] == "replica";
    patroni["xlog"]["replayed_location"].as_u64().filter(|_| runs)
}

fn leader(access: &Access, own: &str, answers: &BTreeMap<&str, Value>) -> LeaderState {
    // During a failover there may be two: the one on the newer timeline leads.
    let leaders = answers.iter().filter_map(|(name, answer)| leader_of(name, answer));
    let newest = leaders.max_by_key(|leader| match leader {
        LeaderState::Known { timeline, .. } => *timeline,
        _ => 0,
    });
    match newest {
        Some(leader) => leader,
        None if answers.values().any(may_lead) => LeaderState::Unknown,
        None if answers.len() == access.spec.nodes.len() || no_leader_in_etcd(access, own) => {
            LeaderState::None
        }
        None => LeaderState::Unknown,
    }
}

/// Whether the server may accept writes. Patroni reports no position, and an unknown state, while its own query fails.
fn may_lead(patroni: &Value) -> bool {
    let stopped = matches!(
        patroni["state"].as_str(),
        Some("stopped" | "crashed" | "start failed" | "starting" | "creating replica")
    );
    let is_standby = patroni["role"] == "replica";
    !stopped && !is_standby
}

fn leader_of(name: &str, patroni: &Value) -> Option<LeaderState> {
    if patroni["state"] != "running" || !matches!(patroni["role"].as_str(), Some("primary" | "master")) {
        return None;
    }
    let senders = patroni["replication"].as_array().into_iter().flatten();
    let streaming = senders.filter(|s| matches!(s["state"].as_str(), Some("streaming" | "catchup")));
    Some(LeaderState::Known {
        name: name.into(),
        timeline: patroni["timeline"].as_u64()?.try_into().ok()?,
        position: patroni["xlog"]["location"].as_u64()?,
        streaming: streaming.filter_map(|s| Some(s["application_name"].as_str()?.to_string())).collect(),
    })
}

/// Whether a quorum of etcd reports that no node holds the leader lock.
fn no_leader_in_etcd(access: &Access, own: &str) -> bool {
    let query = || -> Result<bool> {
        let own = access.spec.require_node(own)?;
        let etcd = EtcdClient::new(&access.cluster, own.address, REQUEST_TIMEOUT)?;
        Ok(etcd.get(&discovery::leader_key(&access.spec.name))?.is_none())
    };
    query().unwrap_or(false)
}

/// Enables and disables servers in HAProxy.
fn update_servers(access: &Access, freshness: &Freshness, limit: Duration, socket: &Path) -> Result<()> {
    let states = haproxy_socket::server_states(&haproxy_socket::command(socket, "show stat")?, BACKEND);
    for node in &access.spec.nodes {
        let name = &node.name;
        let state = states.get(name).with_context(|| format!("HAProxy has no server {BACKEND}/{name}"))?;
        // A new watcher keeps what the one before it has decided, until it knows.
        let Some(serves) = freshness.may_serve(name, limit) else { continue };
        if serves == (*state != ServerState::Disabled) {
            continue;
        }
        let wanted = if serves { "ready" } else { "maint" };
        let answer = haproxy_socket::command(socket, &format!("set server {BACKEND}/{name} state {wanted}"))?;
        match (serves, freshness.age(name)) {
            (true, _) => tracing::info!("{name} serves the read port"),
            (false, Some(age)) if age > limit => {
                tracing::warn!("{name} serves no reads: its data is {} s old", age.as_secs())
            }
            (false, _) => tracing::info!("{name} serves no reads: it is not a standby that streams"),
        }
        if !answer.trim().is_empty() {
            tracing::warn!("HAProxy: set server {BACKEND}/{name} state {wanted}: {}", answer.trim());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_leader_lists_the_standbys_that_stream() {
        let patroni = json!({"state": "running", "role": "master", "timeline": 3, "xlog": {"location": 700},
        "replication": [
            {"application_name": "node2", "state": "streaming"},
            {"application_name": "node3", "state": "catchup"},
            {"application_name": "pg_basebackup", "state": "backup"},
        ]});
        let Some(LeaderState::Known { timeline: 3, position: 700, streaming, .. }) =
            leader_of("node1", &patroni)
        else {
            panic!("not a leader");
        };
        assert_eq!(streaming.into_iter().collect::<Vec<_>>(), ["node2", "node3"]);
        let alone = json!({"state": "running", "role": "primary", "timeline": 1, "xlog": {"location": 7}});
        assert!(leader_of("node1", &alone).is_some(), "a leader without standbys");
        assert_eq!(leader_of("node1", &json!({"state": "running", "role": "replica"})), None);
        assert_eq!(leader_of("node1", &json!({"state": "stopped", "role": "primary"})), None);
    }

    #[test]
    fn a_leader_whose_query_fails_may_still_accept_writes() {
        assert!(may_lead(&json!({"state": "unknown", "role": "primary"})));
        assert!(may_lead(&json!({"state": "running", "role": "master"})), "without a position");
        assert!(may_lead(&json!({"error": "internal"})));
        assert!(!may_lead(&json!({"state": "unknown", "role": "replica"})));
        assert!(!may_lead(&json!({"state": "stopped", "role": "primary"})));
        assert!(!may_lead(&json!({"state": "crashed", "role": "primary"})));
    }

    #[test]
    fn only_a_running_standby_has_a_position() {
        let patroni = |state: &str, role: &str| json!({"state": state, "role": role, "xlog": {"replayed_location": 5, "received_location": 9}});
        assert_eq!(replayed(&patroni("running", "replica")), Some(5));
        assert_eq!(replayed(&patroni("starting", "replica")), None);
        assert_eq!(replayed(&patroni("running", "primary")), None);
    }
}
