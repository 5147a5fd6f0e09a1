//! A standby for which the leader no longer has the WAL: it is cloned again, one node at a time.

mod servers;

use crate::disk::postgres_wal::RecoveringPostgres;
use crate::node::NodeContext;
use anyhow::{Result, ensure};
use hanode_cluster::client::etcd::EtcdLock;
use hanode_cluster::discovery;
use hanode_core::peer::NodeReport;
use hanode_core::standby::{Blockers, Decision, Leader, StalledStandby, decide};
use serde_json::Value;
use servers::Servers;
use std::time::{Duration, Instant};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The lock expires if this node fails; it is renewed in each check.
const LOCK_TTL: Duration = Duration::from_secs(60);
/// Without new data for this long, the clone keeps no other node from being cloned; a little later it ends, by the script.
const CLONE_PATIENCE: Duration = Duration::from_secs(540);
/// Between two measurements of the data: all directories are read.
const MEASURE_INTERVAL: Duration = Duration::from_secs(20);
/// Patroni's state of a member whose data is being cloned.
const CLONING: &str = "creating replica";

/// Checks a standby that is unhealthy.
#[derive(Default)]
pub(super) struct Reclone {
    last_check: Option<Instant>,
    /// The position at which the standby has stopped, and since when.
    stopped: Option<(u64, Instant)>,
    /// Held from before the data is removed until the standby streams, or makes no progress.
    lock: Option<EtcdLock>,
    progress: CloneProgress,
    /// Held while the clone makes no progress.
    stalled: Option<EtcdLock>,
    /// Why the data is cloned again.
    cause: Option<String>,
    reason: Option<String>,
    /// The last error of a check, which is logged once.
    error: Option<String>,
}

impl Reclone {
    /// The standby streams, or is the leader.
    pub(super) fn reset(&mut self) {
        if self.lock.is_some() {
            tracing::info!("PostgreSQL's data was cloned");
        }
        *self = Reclone::default();
    }

    /// The reason why the standby does not stream. If nothing else helps, its data is cloned again.
    pub(super) fn check(&mut self, node: &NodeContext) -> Option<String> {
        if self.last_check.is_none_or(|at| at.elapsed() >= CHECK_INTERVAL) {
            self.last_check = Some(Instant::now());
            self.reason = self.act(node).unwrap_or_else(|error| {
                let error = format!("{error:#}");
                if self.error.as_ref() != Some(&error) {
                    tracing::info!("whether this standby must be cloned again is unknown: {error}");
                    self.error = Some(error);
                }
                None
            });
        }
        self.reason.clone()
    }

    fn act(&mut self, node: &NodeContext) -> Result<Option<String>> {
        let servers = Servers::new(node.access(), node.name())?;
        self.renew();
        let patroni = servers.get(servers.own, "/patroni")?;
        if patroni["state"] == CLONING {
            return self.while_cloned(node, &servers).map(Some);
        }
        (self.progress, self.stalled) = (CloneProgress::default(), None);
        let recovers = patroni["state"] == "starting" && patroni["role"] == "replica";
        match self.own_standby(node, &patroni, recovers)? {
            Some(own) => self.while_stalled(node, &servers, &patroni, &own, recovers).map(Some),
            None => Ok(None),
        }
    }

    /// This node's standby, if it does not stream.
    fn own_standby(
        &mut self,
        node: &NodeContext,
        patroni: &Value,
        recovers: bool,
    ) -> Result<Option<StalledStandby>> {
        if recovers {
            return Ok(Some(self.recovering_standby(&node.disk.recovering_postgres()?)));
        }
        Ok(self.stalled_standby(patroni).map(|own| {
            let newest_wal = own.timeline.and_then(|timeline| node.disk.newest_postgres_wal(timeline));
            StalledStandby { newest_wal, ..own }
        }))
    }

    /// Clones the standby if it cannot stream any more, or returns why not.
    fn while_stalled(
        &mut self,
        node: &NodeContext,
        servers: &Servers,
        patroni: &Value,
        own: &StalledStandby,
        recovers: bool,
    ) -> Result<String> {
        let cluster = servers.get(servers.own, "/cluster")?;
        let Some(leader) = servers.leader(&cluster)? else {
            return Ok("replica is not streaming: the cluster has no leader".into());
        };
        let found = match servers.leader_view(leader, own) {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!("the leader: {error:#}");
                return Ok(format!("replica is not streaming: its leader {} does not answer", leader.name));
            }
        };
        let NodeReport { postgres: wal, file_systems, .. } = servers.report(leader)?;
        ensure!(
            node.disk.postgres_data().map(|data| data.system) == wal.as_ref().map(|data| data.system.clone()),
            "{} has the data of another cluster",
            leader.name
        );
        if recovers && own.contains.is_none() && own.timeline != Some(found.timeline) {
            return Ok("replica recovers from a crash as leader; Patroni rewinds it after that".into());
        }
        let found = Leader {
            oldest_wal: wal.and_then(|data| data.oldest_wal),
            storage_fault: file_systems.iter().filter_map(|file_system| file_system.fault).max(),
            ..found
        };
        let mut blockers = Blockers {
            paused: patroni["pause"] == true || cluster["pause"] == true,
            cloning: servers.another_that_progresses(&cluster),
        };
        if decide(own, &found, &blockers) == Decision::Clone {
            blockers.cloning = self.acquire(servers)?;
        }
        match decide(own, &found, &blockers) {
            Decision::Keep(reason) => {
                self.lock = None;
                Ok(reason)
            }
            Decision::Clone => {
                let cause = format!("{} no longer had the WAL that it needs", leader.name);
                servers.reinitialize(recovers)?;
                tracing::warn!("this standby is cloned again: {cause}");
                self.cause = Some(cause.clone());
                Ok(format!("replica is being cloned: {cause}"))
            }
        }
    }

    /// Also of a new disk: no other node may remove its data meanwhile, unless this clone makes no progress.
    fn while_cloned(&mut self, node: &NodeContext, servers: &Servers) -> Result<String> {
        let cause = self.cause.clone().unwrap_or_else(|| "its data is not complete yet".into());
        if self.progress.still_for(Instant::now(), || node.disk.postgres_bytes()) < CLONE_PATIENCE {
            self.stalled = None;
            let _ = self.acquire(servers)?;
            return Ok(format!("replica is being cloned: {cause}"));
        }
        if self.stalled.is_none() {
            let key = discovery::stalled_clone_key(&servers.access.spec.name, &servers.own.name);
            self.stalled = servers.lock(&key)?.ok();
        }
        // After the other: the next one must know that this clone does not count.
        self.lock = None;
        let minutes = CLONE_PATIENCE.as_secs() / 60;
        Ok(format!("replica is being cloned: {cause}; no data has arrived for {minutes} minutes"))
    }

    /// The standby, if it runs; its data is then consistent, and its position known.
    fn stalled_standby(&mut self, patroni: &Value) -> Option<StalledStandby> {
        let runs = patroni["state"] == "running" && patroni["role"] == "replica";
        let location = |name: &str| patroni["xlog"][name].as_u64();
        let position = location("received_location").max(location("replayed_location"))?;
        if !runs {
            self.stopped = None;
            return None;
        }
        let stalled = self.still_at(position);
        Some(StalledStandby {
            timeline: patroni["timeline"].as_u64().and_then(|timeline| timeline.try_into().ok()),
            position,
            newest_wal: None,
            contains: None,
            stalled,
        })
    }

    /// A standby that is not consistent yet, by its disk: it may wait for WAL that no longer exists, such as an old leader
    /// after pg_rewind.
    fn recovering_standby(&mut self, data: &RecoveringPostgres) -> StalledStandby {
        let stalled = self.still_at(data.lacks);
        StalledStandby {
            timeline: Some(data.timeline),
            position: data.lacks,
            newest_wal: None,
            contains: data.contains,
            stalled,
        }
    }

    /// How long the standby has been at this position.
    fn still_at(&mut self, position: u64) -> Duration {
        let since = match self.stopped {
            Some((at, since)) if at == position => since,
            _ => Instant::now(),
        };
        self.stopped = Some((position, since));
        since.elapsed()
    }

    /// Acquires the lock; returns the node that holds it, if it is another.
    fn acquire(&mut self, servers: &Servers) -> Result<Option<String>> {
        if self.lock.is_none() {
            match servers.lock(&discovery::reclone_key(&servers.access.spec.name))? {
                Ok(lock) => self.lock = Some(lock),
                Err(holder) => return Ok(Some(holder)),
            }
        }
        Ok(None)
    }

    fn renew(&mut self) {
        for lock in [&mut self.lock, &mut self.stalled] {
            // While etcd does not answer, the lock may still exist.
            if lock.as_ref().is_some_and(|lock| matches!(lock.renew(), Ok(false))) {
                *lock = None;
            }
        }
    }
}

/// When the data that is being cloned last changed its size.
#[derive(Default)]
struct CloneProgress {
    measured: Option<Instant>,
    changed: Option<(u64, Instant)>,
}

impl CloneProgress {
    /// The time since the last change, as far as it was seen; measures again if the last measurement is old.
    fn still_for(&mut self, now: Instant, bytes: impl FnOnce() -> u64) -> Duration {
        if self.measured.is_none_or(|at| now.duration_since(at) >= MEASURE_INTERVAL) {
            self.measured = Some(now);
            let bytes = bytes();
            self.changed = self.changed.filter(|(before, _)| *before == bytes).or(Some((bytes, now)));
        }
        self.changed.map_or(Duration::ZERO, |(_, since)| now.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_clone_makes_progress_while_its_size_changes() {
        let mut progress = CloneProgress::default();
        let start = Instant::now();
        let mut after =
            |seconds, bytes| progress.still_for(start + Duration::from_secs(seconds), || bytes).as_secs();
        assert_eq!(after(0, 7), 0);
        assert_eq!(after(10, 8), 10, "not measured again yet");
        assert_eq!(after(20, 8), 0);
        assert_eq!(after(40, 8), 20);
        assert_eq!(after(560, 8), 540);
        assert_eq!(after(580, 3), 0, "it starts again");
    }

    #[test]
    fn a_standby_stops_when_its_position_does() {
        let mut reclone = Reclone::default();
        let patroni = |state: &str, replayed: u64| {
            json!({"state": state, "role": "replica", "timeline": 2,
                "xlog": {"received_location": 50, "replayed_location": replayed}})
        };
        let own = reclone.stalled_standby(&patroni("running", 60)).expect("a standby");
        assert_eq!((own.timeline, own.position), (Some(2), 60));
        let since = reclone.stopped.expect("a position").1;
        reclone.stalled_standby(&patroni("running", 60));
        assert_eq!(reclone.stopped, Some((60, since)));
        reclone.stalled_standby(&patroni("running", 70));
        assert_ne!(reclone.stopped, Some((70, since)));
        assert_eq!(reclone.stalled_standby(&patroni("starting", 70)), None);
        assert_eq!(reclone.stopped, None);
    }
}
