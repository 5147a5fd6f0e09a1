//! A leader without a synchronous standby, though a standby streams: Patroni would check again only within
//! `loop_wait`, and until then commits are on one disk only. So it is woken at once.

use crate::node::NodeContext;
use anyhow::{Result, ensure};
use hanode_cluster::client::http::HttpClient;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Patroni may not accept the standby yet: wake it again, but no more often than this.
const WAKE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct SyncStandbyCheck {
    last_wake: Option<Instant>,
}

impl SyncStandbyCheck {
    /// Wakes this node's Patroni if it has a standby to make synchronous.
    pub(super) fn check(&mut self, node: &NodeContext) {
        if !node.spec().postgres.synchronous || self.last_wake.is_some_and(|at| at.elapsed() < WAKE_INTERVAL)
        {
            return;
        }
        match wake_patroni_if_needed(node) {
            Ok(true) => self.last_wake = Some(Instant::now()),
            Ok(false) => {}
            Err(error) => tracing::debug!(
                "waking Patroni: {error:#}; it checks for a synchronous standby in its next loop"
            ),
        }
    }
}

fn wake_patroni_if_needed(node: &NodeContext) -> Result<bool> {
    let (access, port) = (node.access(), node.spec().patroni.restapi_port);
    let patroni = format!("https://{}", SocketAddr::new(node.own().address, port));
    let http = HttpClient::new(Some(&access.cluster), REQUEST_TIMEOUT)?;
    if !needs_sync_standby(&http.get(&format!("{patroni}/patroni"))?.body) {
        return Ok(false);
    }
    let url = format!("{patroni}/config");
    // Every PATCH wakes Patroni's loop; this one removes a setting that does not exist.
    let no_change = json!({ "hanode": null });
    let answer = http.patch(&url, ("patroni", &access.secrets.patroni_rest), &no_change)?;
    ensure!(answer.status == 200, "PATCH {url}: status {}", answer.status);
    tracing::info!("a standby streams and none is synchronous: waking Patroni");
    Ok(true)
}

/// Whether this is a leader with a streaming standby but no synchronous one.
fn needs_sync_standby(patroni: &Value) -> bool {
    let standbys = patroni["replication"].as_array().map(Vec::as_slice).unwrap_or_default();
    let synchronous = |standby: &Value| matches!(standby["sync_state"].as_str(), Some("sync" | "quorum"));
    let running = patroni["state"].as_str() == Some("running");
    let primary = matches!(patroni["role"].as_str(), Some("primary" | "master"));
    running
        && primary
        && standbys.iter().any(|s| s["state"].as_str() == Some("streaming"))
        && !standbys.iter().any(synchronous)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(standbys: &[(&str, &str)]) -> Value {
        let standbys: Vec<_> = standbys.iter().map(|(s, y)| json!({ "state": s, "sync_state": y })).collect();
        json!({ "state": "running", "role": "primary", "replication": standbys })
    }

    #[test]
    fn only_a_leader_whose_standby_is_not_synchronous_yet_wakes_patroni() {
        assert!(needs_sync_standby(&leader(&[("streaming", "async")])));
        assert!(needs_sync_standby(&leader(&[("backup", "async"), ("streaming", "potential")])));
        assert!(!needs_sync_standby(&leader(&[("streaming", "async"), ("streaming", "sync")])));
        assert!(!needs_sync_standby(&leader(&[("streaming", "quorum")])));
        assert!(!needs_sync_standby(&leader(&[("startup", "async")])), "Patroni would not accept it yet");
        assert!(!needs_sync_standby(&leader(&[])));
        assert!(!needs_sync_standby(&json!({ "state": "running", "role": "replica" })));
        assert!(!needs_sync_standby(&json!({ "state": "starting", "role": "primary" })));
        assert!(!needs_sync_standby(&Value::Null));
    }
}
