//! What the nodes record about backups in etcd, what they report, and when a backup is due. Pure.
//!
//! All times are seconds since 1970.

mod health;
mod info;
mod rdb;
mod verification;

use crate::restore::RestoreRecord;
use crate::state::Component;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use health::{has_gap, problems, summary, waiting};
pub use info::{BackupInfo, PartInfo, parse_info};
pub use rdb::RdbCheck;
pub use verification::damage;

/// A full backup at least this often; the ones between contain the differences from it.
const FULL_INTERVAL: i64 = 7 * 86_400;
/// In seconds: the nodes record a time of the schedule at most so long after each other.
const SAME_SCHEDULE: i64 = 60;
/// In seconds, after the second of two times of the schedule without a backup.
const OVERDUE: i64 = 600;
/// After a failed backup, the time until the next attempt.
const RETRY_INTERVAL: i64 = 60;

/// A server that is backed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    Postgres,
    Redis,
}

impl Server {
    pub const ALL: [Server; 2] = [Server::Postgres, Server::Redis];

    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Server::Postgres => "PostgreSQL",
            Server::Redis => "Redis",
        }
    }

    fn component(self) -> Component {
        match self {
            Server::Postgres => Component::Postgres,
            Server::Redis => Component::Redis,
        }
    }

    pub fn key(self) -> &'static str {
        match self {
            Server::Postgres => "postgres",
            Server::Redis => "redis",
        }
    }
}

/// This cluster's part of a repository. A cluster that is bootstrapped or restored gets another one: it never writes
/// into the archive of another cluster, nor into its own of before the restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// pgBackRest's stanza: the cluster's name and the time of creation.
    pub stanza: String,
    pub repository: String,
}

impl Archive {
    /// Names sort in the order of their creation.
    pub fn stanza_name(cluster: &str, now: i64) -> String {
        let at = time::utc(now);
        format!("{cluster}-{:04}{:02}{:02}T{:02}{:02}{:02}Z", at.0, at.1, at.2, at.3, at.4, at.5)
    }
}

/// The last complete backup of one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completed {
    pub stanza: String,
    pub label: String,
    pub started: i64,
    pub finished: i64,
    /// The size in the repository.
    pub bytes: u64,
    /// The node that made it.
    pub node: String,
    /// PostgreSQL: the timeline at its start, and the start of the full backup that it needs.
    #[serde(default)]
    pub timeline: i64,
    #[serde(default)]
    pub full_started: i64,
}

/// The last attempt that failed; older than the last complete backup if it was repeated since.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    pub at: i64,
    pub node: String,
    pub error: String,
}

/// What etcd has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Records {
    pub archive: Option<Archive>,
    /// The last time of the schedule, and the one before it.
    #[serde(default)]
    pub due: Option<i64>,
    #[serde(default)]
    pub previous_due: Option<i64>,
    #[serde(default)]
    pub completed: BTreeMap<Server, Completed>,
    #[serde(default)]
    pub failed: BTreeMap<Server, Failed>,
    /// The last time at which WAL could not be archived.
    #[serde(default)]
    pub archive_failed: Option<Failed>,
}

impl Records {
    /// The archive in this repository: after a change of the repository there is none yet.
    pub fn archive_in(&self, repository: &str) -> Option<&Archive> {
        self.archive.as_ref().filter(|archive| archive.repository == repository)
    }

    /// The last complete backup in the current archive.
    pub fn last(&self, server: Server) -> Option<&Completed> {
        let stanza = &self.archive.as_ref()?.stanza;
        self.completed.get(&server).filter(|last| last.stanza == *stanza)
    }

    /// The failure since the last complete backup.
    pub fn failure(&self, server: Server) -> Option<&Failed> {
        let since = self.last(server).map_or(i64::MIN, |last| last.finished);
        self.failed.get(&server).filter(|failed| failed.at > since)
    }

    /// The time of the schedule before this one; `None` if this is the same time, which each node records.
    pub fn due_before(&self, now: i64) -> Option<i64> {
        self.due.filter(|due| now - due >= SAME_SCHEDULE)
    }

    /// Whether two backups of the schedule in a row were not made: the second has had some time.
    pub fn is_overdue(&self, server: Server, now: i64) -> bool {
        let started = self.completed.get(&server).map_or(i64::MIN, |last| last.started);
        let due = self.due.is_some_and(|due| now - due > OVERDUE);
        due && self.previous_due.is_some_and(|previous| previous > started)
    }

    fn is_scheduled(&self, last: &Completed) -> bool {
        self.due.is_some_and(|due| due > last.started)
    }

    /// Waits after a failure, unless it was that of another node.
    fn may_retry(&self, server: Server, node: &str, now: i64) -> bool {
        let failure = self.failure(server).filter(|failed| failed.node == node);
        // A clock that was set back must not prevent backups.
        failure.is_none_or(|failed| !(0..RETRY_INTERVAL).contains(&(now - failed.at)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupKind {
    Full,
    Differential,
}

/// What the leader of PostgreSQL knows besides the records.
#[derive(Debug, Clone, Copy)]
pub struct Leader<'a> {
    pub node: &'a str,
    pub timeline: i64,
    /// When a WAL segment was last dropped because the repository was away.
    pub dropped: Option<i64>,
}

/// Which backup of PostgreSQL its leader makes now, if any.
pub fn postgres_due(records: &Records, repository: &str, leader: &Leader, now: i64) -> Option<BackupKind> {
    if !records.may_retry(Server::Postgres, leader.node, now) {
        return None;
    }
    let last = records.archive_in(repository).and_then(|_| records.last(Server::Postgres));
    let Some(last) = last else { return Some(BackupKind::Full) };
    // A restore needs every WAL segment since a backup. Some may be missing before a failover: what the old leader had
    // not archived yet.
    let interrupted = last.timeline != leader.timeline || leader.dropped.is_some_and(|at| at >= last.started);
    if !interrupted && !records.is_scheduled(last) {
        return None;
    }
    let full_is_old = now - last.full_started >= FULL_INTERVAL;
    Some(if full_is_old { BackupKind::Full } else { BackupKind::Differential })
}

/// Whether a snapshot of Redis is due. It goes into the archive that PostgreSQL's first backup creates.
pub fn redis_due(records: &Records, repository: &str, node: &str, now: i64) -> bool {
    records.archive_in(repository).is_some()
        && records.may_retry(Server::Redis, node, now)
        && records.last(Server::Redis).is_none_or(|last| records.is_scheduled(last))
}

/// WAL that the leader has not archived.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ArchiveQueue {
    pub segments: u64,
    /// Since when the oldest one waits.
    pub oldest: Option<i64>,
    pub error: Option<String>,
    /// When a segment was last dropped.
    #[serde(default)]
    pub dropped: Option<i64>,
}

/// A backup that a node makes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub server: Server,
    pub since: i64,
}

/// A node's report about backups.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BackupReport {
    pub repository: String,
    pub records: Records,
    /// On PostgreSQL's leader only.
    #[serde(default)]
    pub queue: Option<ArchiveQueue>,
    /// On PostgreSQL's leader: it awaits a restart, without which `archive_mode` may be off.
    #[serde(default)]
    pub awaits_restart: bool,
    #[serde(default)]
    pub running: Option<Running>,
    /// The restore with which this cluster began.
    #[serde(default)]
    pub restore: Option<RestoreRecord>,
    pub at: i64,
}

/// The path of a snapshot of Redis in the repository. Paths of a stanza sort by time.
pub fn snapshot_path(stanza: &str, at: i64) -> String {
    let time = time::utc(at);
    let (year, month, day, hour, minute, second) = time;
    format!("{}/{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z.rdb", snapshot_dir(stanza))
}

pub fn snapshot_dir(stanza: &str) -> String {
    format!("redis/{stanza}")
}

/// The snapshots to delete: those older than the newest one that is older than the oldest backup of PostgreSQL. So every
/// moment to which PostgreSQL can be restored has a snapshot. `names` are those of `snapshot_path`.
pub fn expired_snapshots(names: &[String], oldest_backup: i64) -> Vec<String> {
    let limit = snapshot_path("", oldest_backup);
    let limit = limit.rsplit('/').next().unwrap_or_default();
    let mut older: Vec<&String> = names.iter().filter(|name| name.as_str() < limit).collect();
    older.sort();
    older.pop();
    older.into_iter().cloned().collect()
}

/// Dates of the Gregorian calendar in UTC.
pub mod time {
    /// Year, month, day, hour, minute, second.
    pub fn utc(seconds: i64) -> (i64, i64, i64, i64, i64, i64) {
        let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Years that start in March: the leap day is the last one.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + era * 400 + i64::from(month <= 2);
        (year, month, day, rest / 3600, rest % 3600 / 60, rest % 60)
    }

    /// The seconds of a date (year, month, day) and a time of day; `None` if there is no such moment.
    pub fn seconds([year, month, day]: [i64; 3], [hour, minute, second]: [i64; 3]) -> Option<i64> {
        // Years that start in March: the leap day is the last one.
        let shifted = year - i64::from(month <= 2);
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = 365 * shifted + shifted.div_euclid(4) - shifted.div_euclid(100) + shifted.div_euclid(400);
        let seconds = (days + of_year - 719_468) * 86_400 + hour * 3600 + minute * 60 + second;
        (utc(seconds) == (year, month, day, hour, minute, second)).then_some(seconds)
    }

    /// `2026-11-30 09:14:05 UTC`
    pub fn text(seconds: i64) -> String {
        let (year, month, day, hour, minute, second) = utc(seconds);
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

#[cfg(test)]
mod tests;
