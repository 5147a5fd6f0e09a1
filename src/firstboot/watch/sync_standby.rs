//! A leader without a synchronous standby, though a standby streams: Patroni would check again only within
//! `loop_wait`, and until then commits are on one disk only. So it is woken at once.

use crate::node::NodeContext;
use anyhow::Result;
use hanode_cluster::client::patroni::PatroniStatus;
use hanode_core::state::{PostgresState, Role};
use serde_json::{Value, json};
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
    let patroni = node.access().patroni(node.own(), REQUEST_TIMEOUT)?;
    if !needs_sync_standby(&patroni.status()?) {
        return Ok(false);
    }
    // `patronictl edit-config` can end synchronous mode, and a paused Patroni does not choose a standby.
    let config = patroni.config()?;
    if matches!(config["synchronous_mode"], Value::Null | Value::Bool(false)) || config["pause"] == true {
        return Ok(false);
    }
    // Every patch wakes Patroni's loop; this one removes a setting that does not exist.
    patroni.patch_config(&json!({ "hanode": null }))?;
    tracing::info!("a standby streams and none is synchronous: waking Patroni");
    Ok(true)
}

/// Whether this is a leader with a streaming standby but no synchronous one.
fn needs_sync_standby(own: &PatroniStatus) -> bool {
    own.role == Some(Role::Leader)
        && own.state == PostgresState::Running
        && own.standbys.iter().any(|standby| standby.streams)
        && !own.standbys.iter().any(|standby| standby.synchronous)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_cluster::client::patroni::Standby;

    fn leader(standbys: &[(bool, bool)]) -> PatroniStatus {
        let standby = |(streams, synchronous): &(bool, bool)| Standby {
            name: "node2".into(),
            streams: *streams,
            synchronous: *synchronous,
        };
        PatroniStatus {
            role: Some(Role::Leader),
            state: PostgresState::Running,
            streams: None,
            standbys: standbys.iter().map(standby).collect(),
            awaits_restart: None,
            failsafe: false,
            tags: vec![],
        }
    }

    #[test]
    fn only_a_leader_whose_standby_is_not_synchronous_yet_wakes_patroni() {
        assert!(needs_sync_standby(&leader(&[(true, false)])));
        assert!(needs_sync_standby(&leader(&[(false, false), (true, false)])));
        assert!(!needs_sync_standby(&leader(&[(true, false), (true, true)])));
        assert!(!needs_sync_standby(&leader(&[(false, false)])), "Patroni would not accept it yet");
        assert!(!needs_sync_standby(&leader(&[])));
        let streaming = leader(&[(true, false)]);
        assert!(!needs_sync_standby(&PatroniStatus { role: Some(Role::Replica), ..streaming.clone() }));
        let starting = PostgresState::Other("starting".into());
        assert!(!needs_sync_standby(&PatroniStatus { state: starting, ..streaming }));
    }
}
