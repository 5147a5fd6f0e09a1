//! A standby for which the leader no longer has the WAL: it is cloned again, one node at a time.

use crate::disk::postgres_wal::RecoveringPostgres;
use crate::node::NodeContext;
use anyhow::{Context, Result, bail, ensure};
use hanode_cluster::client::etcd::{EtcdClient, EtcdLock};
use hanode_cluster::client::http::HttpClient;
use hanode_cluster::discovery;
use hanode_cluster::health::Access;
use hanode_cluster::peer;
use hanode_core::peer::NodeReport;
use hanode_core::spec::Node;
use hanode_core::standby::{Blockers, Decision, Leader, StalledStandby, decide};
use serde_json::{Value, json};
use std::net::SocketAddr;
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
        let own = match recovers {
            true => Some(self.recovering_standby(&node.disk.recovering_postgres()?)),
            false => self.stalled_standby(&patroni).map(|own| {
                let newest_wal = own.timeline.and_then(|timeline| node.disk.newest_postgres_wal(timeline));
                StalledStandby { newest_wal, ..own }
            }),
        };
        let Some(own) = own else { return Ok(None) };
        let cluster = servers.get(servers.own, "/cluster")?;
        let Some(leader) = servers.leader(&cluster)? else {
            return Ok(Some("replica is not streaming: the cluster has no leader".into()));
        };
        let found = match servers.leader_view(leader, &own) {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!("the leader: {error:#}");
                return Ok(Some(format!(
                    "replica is not streaming: its leader {} does not answer",
                    leader.name
                )));
            }
        };
        let NodeReport { postgres: wal, file_systems, .. } = servers.report(leader)?;
        ensure!(
            node.disk.postgres_data().map(|data| data.system) == wal.as_ref().map(|data| data.system.clone()),
            "{} has the data of another cluster",
            leader.name
        );
        if recovers && own.contains.is_none() && own.timeline != Some(found.timeline) {
            return Ok(Some("replica recovers from a crash as leader; Patroni rewinds it after that".into()));
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
        if decide(&own, &found, &blockers) == Decision::Clone {
            blockers.cloning = self.acquire(&servers)?;
        }
        match decide(&own, &found, &blockers) {
            Decision::Keep(reason) => {
                self.lock = None;
                Ok(Some(reason))
            }
            Decision::Clone => {
                let cause = format!("{} no longer had the WAL that it needs", leader.name);
                servers.reinitialize(recovers)?;
                tracing::warn!("this standby is cloned again: {cause}");
                self.cause = Some(cause.clone());
                Ok(Some(format!("replica is being cloned: {cause}")))
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

/// The other members whose data is being cloned.
fn others_cloning<'a>(cluster: &'a Value, node: &str) -> Vec<&'a str> {
    let members = cluster["members"].as_array().into_iter().flatten();
    let cloning = members.filter(|member| member["state"] == CLONING);
    cloning.filter_map(|member| member["name"].as_str()).filter(|name| *name != node).collect()
}

/// Patroni on this node and on the leader.
struct Servers<'a> {
    access: &'a Access,
    own: &'a Node,
    http: HttpClient,
}

impl<'a> Servers<'a> {
    fn new(access: &'a Access, node: &str) -> Result<Self> {
        let own = access.spec.node(node).with_context(|| format!("the spec has no node {node}"))?;
        Ok(Servers { access, own, http: HttpClient::new(Some(&access.cluster), REQUEST_TIMEOUT)? })
    }

    fn url(&self, node: &Node, path: &str) -> String {
        format!("https://{}{path}", SocketAddr::new(node.address, self.access.spec.patroni.restapi_port))
    }

    fn get(&self, node: &Node, path: &str) -> Result<Value> {
        Ok(self.http.get(&self.url(node, path))?.body)
    }

    /// The inner error is the name of the current holder.
    fn lock(&self, key: &str) -> Result<Result<EtcdLock, String>> {
        self.etcd()?.lock(key, &self.own.name, LOCK_TTL)
    }

    fn etcd(&self) -> Result<EtcdClient> {
        EtcdClient::new(&self.access.cluster, self.own.address, REQUEST_TIMEOUT)
    }

    /// Another member that is being cloned, and whose clone is not known to make no progress.
    fn another_that_progresses(&self, cluster: &Value) -> Option<String> {
        let stalled = |name: &str| {
            let key = discovery::stalled_clone_key(&self.access.spec.name, name);
            self.etcd().and_then(|etcd| etcd.get(&key)).is_ok_and(|found| found.is_some())
        };
        let mut others = others_cloning(cluster, &self.own.name).into_iter();
        others.find(|name| !stalled(name)).map(String::from)
    }

    /// The leader in Patroni's list, which it reads from etcd.
    fn leader(&self, cluster: &Value) -> Result<Option<&'a Node>> {
        let members = cluster["members"].as_array().context("Patroni's response has no members")?;
        let name = members.iter().find(|m| m["role"] == "leader").and_then(|m| m["name"].as_str());
        match name {
            None => Ok(None),
            Some(name) if name == self.own.name => bail!("this node is the leader"),
            Some(name) => Ok(Some(self.access.spec.require_node(name)?)),
        }
    }

    /// The leader as it reports itself, without its WAL and storage. Fails unless it holds the lock and accepts writes.
    fn leader_view(&self, leader: &Node, own: &StalledStandby) -> Result<Leader> {
        let answer = self.http.get(&self.url(leader, "/leader"))?;
        let body = answer.body;
        let writes =
            matches!(body["role"].as_str(), Some("primary" | "master")) && body["state"] == "running";
        ensure!(answer.status == 200 && writes, "{} is not a leader that accepts writes", leader.name);
        let timeline = body["timeline"].as_u64().context("the leader reports no timeline")?.try_into()?;
        let history = match own.timeline == Some(timeline) {
            true => Vec::new(),
            false => history(&self.get(leader, "/history")?),
        };
        Ok(Leader { name: leader.name.clone(), timeline, oldest_wal: None, storage_fault: None, history })
    }

    fn report(&self, node: &Node) -> Result<NodeReport> {
        let port = self.access.spec.network.join_port;
        let report = peer::fetch_report(&self.access.cluster, node.address, port, REQUEST_TIMEOUT)?;
        ensure!(report.node == node.name, "{} is {}", node.address, report.node);
        Ok(report)
    }

    /// Makes Patroni remove this node's data and clone the leader's. While the server recovers, Patroni waits for it, and
    /// gives that up only by `force`.
    fn reinitialize(&self, force: bool) -> Result<()> {
        let url = self.url(self.own, "/reinitialize");
        let login = ("patroni", self.access.secrets.patroni_rest.as_str());
        let answer = self.http.post_as(&url, login, &json!({"force": force}))?;
        ensure!(answer.status == 200, "POST {url}: status {}", answer.status);
        Ok(())
    }
}

/// The earlier timelines in Patroni's `/history`, each with the position at which it ended.
fn history(answer: &Value) -> Vec<(u32, u64)> {
    let line = |line: &Value| Some((line[0].as_u64()?.try_into().ok()?, line[1].as_u64()?));
    answer.as_array().into_iter().flatten().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_has_the_ends_of_earlier_timelines() {
        let answer = json!([[1, 25623960, "no recovery target specified", "2026-01-01"], ["x"], [2, 3e9]]);
        assert_eq!(history(&answer), [(1, 25_623_960)]);
        assert_eq!(history(&Value::Null), []);
    }

    #[test]
    fn only_another_member_counts_as_cloning() {
        let cluster = json!({"members": [
            {"name": "node1", "role": "leader", "state": "running"},
            {"name": "node2", "role": "replica", "state": "creating replica"},
        ]});
        assert_eq!(others_cloning(&cluster, "node3"), ["node2"]);
        assert!(others_cloning(&cluster, "node2").is_empty());
    }

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
