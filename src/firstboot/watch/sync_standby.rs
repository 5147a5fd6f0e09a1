//! A leader without a synchronous standby, though one streams: Patroni would look again within `loop_wait`, and until then
//! a commit is on one disk only. So it is told to look at once.

use anyhow::{Context, Result, ensure};
use hanode_cluster::client::http::Http;
use hanode_cluster::health::Access;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(2);
/// A standby that Patroni does not take yet is proposed again, but no more often than this.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Standby {
    told: Option<Instant>,
}

impl Standby {
    /// Looks at this node's Patroni, and wakes it where it has a standby to name.
    pub(super) fn look(&mut self, access: &Access, node: &str) {
        let spec = &access.spec;
        if !spec.postgres.synchronous || self.told.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        match wake_where_wanted(access, node) {
            Ok(true) => self.told = Some(Instant::now()),
            Ok(false) => {}
            Err(error) => tracing::debug!("a synchronous standby: {error:#}; Patroni looks by itself"),
        }
    }
}

fn wake_where_wanted(access: &Access, node: &str) -> Result<bool> {
    let own = access.spec.node(node).context("node vanished from the spec")?;
    let patroni = format!("https://{}", SocketAddr::new(own.address, access.spec.patroni.restapi_port));
    let http = Http::new(Some(&access.cluster), TIMEOUT)?;
    if !wanted(&http.get(&format!("{patroni}/patroni"))?.body) {
        return Ok(false);
    }
    let url = format!("{patroni}/config");
    // Every PATCH wakes Patroni's loop; this one takes away a setting that is not there.
    let nothing = json!({ "hanode": null });
    let answer = http.patch(&url, ("patroni", &access.secrets.patroni_rest), &nothing)?;
    ensure!(answer.status == 200, "PATCH {url}: status {}", answer.status);
    tracing::info!("a standby streams and none is synchronous: Patroni is told to look now");
    Ok(true)
}

/// Whether this is a leader with a standby that streams, and none that is synchronous.
fn wanted(patroni: &Value) -> bool {
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
        assert!(wanted(&leader(&[("streaming", "async")])));
        assert!(wanted(&leader(&[("backup", "async"), ("streaming", "potential")])));
        assert!(!wanted(&leader(&[("streaming", "async"), ("streaming", "sync")])));
        assert!(!wanted(&leader(&[("streaming", "quorum")])));
        assert!(!wanted(&leader(&[("startup", "async")])), "it would not be taken yet");
        assert!(!wanted(&leader(&[])));
        assert!(!wanted(&json!({ "state": "running", "role": "replica" })));
        assert!(!wanted(&json!({ "state": "starting", "role": "primary" })));
        assert!(!wanted(&Value::Null));
    }
}
