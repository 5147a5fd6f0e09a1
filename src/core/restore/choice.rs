//! What the repository has for a request: the part, the backup, and how far its WAL goes.

use super::request::{Moment, PartOf, RestoreRequest, part_time};
use super::wal::{ArchivedWal, Reach, WalPosition};
use super::{RedisRestored, RedisSnapshot};
use crate::backup::{BackupInfo, PartInfo, time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// What is restored. One node chooses, and records it in etcd for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreChoice {
    pub request: RestoreRequest,
    /// pgBackRest's stanza.
    pub part: String,
    pub backup: String,
    /// When the backup was complete, in seconds since 1970.
    pub backup_finished: i64,
    /// The timeline that recovery follows.
    pub timeline: u32,
    /// The last WAL segment of the archive.
    pub last_wal: String,
}

impl RestoreChoice {
    /// PostgreSQL's setting for the moment; `None` for the end of the archive.
    pub fn recovery_target(&self) -> Option<(&'static str, String)> {
        match &self.request.moment {
            Moment::Latest => None,
            Moment::Time(micros) => {
                let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
                let (year, month, day, hour, minute, second) = time::utc(seconds);
                let date = format!("{year:04}-{month:02}-{day:02}");
                Some((
                    "recovery_target_time",
                    format!("{date} {hour:02}:{minute:02}:{second:02}.{micros:06}+00"),
                ))
            }
            Moment::Lsn(lsn) => {
                Some(("recovery_target_lsn", format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)))
            }
            Moment::Name(name) => Some(("recovery_target_name", name.clone())),
        }
    }
}

/// Why a request cannot be met. An operator repairs the repository, or boots blank machines with another request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotRestorable {
    #[error("the repository {repository} cannot be read: {fault}")]
    Repository { repository: String, fault: String },
    #[error("the repository {repository} has no part {part}; it has {found}")]
    NoSuchPart { repository: String, part: String, found: String },
    #[error(
        "the repository {repository} has no part of cluster {cluster} from before {moment}; it has {found}"
    )]
    NoPart { repository: String, cluster: String, moment: String, found: String },
    #[error(
        "{part} in the repository cannot be read: {fault}; is backup_key in secrets.toml that of its cluster?"
    )]
    Unreadable { part: String, fault: String },
    #[error("{part} has no complete backup from before {moment}; {first}")]
    NoBackup { part: String, moment: String, first: String },
    #[error("{part} lacks the WAL segment {segment}, so it cannot be restored beyond {}", time::text(*.until))]
    MissingWal { part: String, segment: String, until: i64 },
    #[error("{part} lacks the WAL segment {segment} of the backup {backup}")]
    NoWal { part: String, segment: String, backup: String },
    #[error("the archive of {part} ends at {}, before {moment}; the last moment is {part}/latest", time::text(*.end))]
    NotReached { part: String, end: i64, moment: String },
    #[error("{moment} is in the future")]
    Future { moment: String },
}

/// The part from which a cluster of this name is restored.
pub fn part_of(
    request: &RestoreRequest,
    cluster: &str,
    repository: &str,
    parts: &BTreeMap<String, PartInfo>,
) -> Result<String, NotRestorable> {
    let repository = || repository.to_string();
    // pgBackRest lists a repository that it cannot read as one part.
    if let Some(fault) = parts.get("[invalid]").and_then(|info| info.fault.clone()) {
        return Err(NotRestorable::Repository { repository: repository(), fault });
    }
    let found = || match parts.is_empty() {
        true => "none".to_string(),
        false => parts.keys().cloned().collect::<Vec<_>>().join(", "),
    };
    let cluster = match &request.part {
        PartOf::Part(part) if parts.contains_key(part) => return Ok(part.clone()),
        PartOf::Part(part) => {
            let (repository, part) = (repository(), part.clone());
            return Err(NotRestorable::NoSuchPart { repository, part, found: found() });
        }
        PartOf::Cluster(cluster) => cluster,
        PartOf::ThisCluster => cluster,
    };
    let before = match request.moment {
        Moment::Time(micros) => micros.div_euclid(1_000_000),
        _ => i64::MAX,
    };
    let of_cluster = |part: &&String| part.rsplit_once('-').is_some_and(|(name, _)| name == cluster);
    let created = parts.keys().filter(of_cluster).filter_map(|part| Some((part_time(part)?, part)));
    let newest = created.filter(|(at, _)| *at <= before).max();
    newest.map(|(_, part)| part.clone()).ok_or_else(|| NotRestorable::NoPart {
        repository: repository(),
        cluster: cluster.to_string(),
        moment: request.moment.to_string(),
        found: found(),
    })
}

/// The backup to start from, if this part covers the moment. `now`: in seconds since 1970.
pub fn choose(
    request: &RestoreRequest,
    part: &str,
    info: &PartInfo,
    wal: &ArchivedWal,
    now: i64,
) -> Result<RestoreChoice, NotRestorable> {
    let moment = request.moment.to_string();
    if let Some(fault) = &info.fault {
        return Err(NotRestorable::Unreadable { part: part.into(), fault: fault.clone() });
    }
    if matches!(request.moment, Moment::Time(micros) if micros.div_euclid(1_000_000) > now) {
        return Err(NotRestorable::Future { moment });
    }
    let before = info.backups.iter().filter(|backup| is_before(backup, &request.moment));
    let mut suitable = before
        .filter_map(|backup| Some((backup, backup.start_wal?)))
        .filter(|(backup, _)| is_followed(backup, wal));
    // Where a restore point is, only its WAL shows: start from the oldest backup.
    let backup = match request.moment {
        Moment::Name(_) => suitable.next(),
        _ => suitable.next_back(),
    };
    let Some((backup, start)) = backup else {
        let usable = |backup: &&BackupInfo| !backup.damaged && is_followed(backup, wal);
        let first = info.backups.iter().find(usable);
        let first = first.map_or("it has none".to_string(), |backup| {
            format!("the first one was complete at {}", time::text(backup.finished))
        });
        return Err(NotRestorable::NoBackup { part: part.into(), moment, first });
    };
    let Some(reach) = wal.reach(start) else {
        let (segment, backup) = (start.name(), backup.label.clone());
        return Err(NotRestorable::NoWal { part: part.into(), segment, backup });
    };
    check_reach(request, part, &reach)?;
    Ok(RestoreChoice {
        request: request.clone(),
        part: part.into(),
        backup: backup.label.clone(),
        backup_finished: backup.finished,
        timeline: wal.newest_timeline(),
        last_wal: reach.last.name(),
    })
}

/// Whether a recovery from this backup comes to the newest timeline. The one of an old leader does not if it began or ended
/// after another node had been promoted.
fn is_followed(backup: &BackupInfo, wal: &ArchivedWal) -> bool {
    backup.start_wal.is_some_and(|start| {
        wal.is_followed(start)
            && backup.stop_lsn.is_none_or(|stop| wal.has_not_branched(start.timeline, stop))
    })
}

/// Whether a backup was complete at the moment.
fn is_before(backup: &BackupInfo, moment: &Moment) -> bool {
    !backup.damaged
        && match moment {
            Moment::Latest | Moment::Name(_) => true,
            // The time of the backup has no fraction.
            Moment::Time(micros) => backup.finished < micros.div_euclid(1_000_000),
            Moment::Lsn(lsn) => backup.stop_lsn.is_some_and(|stop| stop <= *lsn),
        }
}

/// Whether the WAL goes to the moment, as far as the times of its files show; PostgreSQL knows it exactly.
fn check_reach(request: &RestoreRequest, part: &str, reach: &Reach) -> Result<(), NotRestorable> {
    let enough = match request.moment {
        Moment::Latest => reach.missing.is_none(),
        Moment::Time(micros) => micros.div_euclid(1_000_000) <= reach.at,
        Moment::Lsn(lsn) => reach.last.ends_after(lsn),
        Moment::Name(_) => true,
    };
    match (enough, reach.missing) {
        (true, _) => Ok(()),
        (false, Some(missing)) => {
            Err(NotRestorable::MissingWal { part: part.into(), segment: missing.name(), until: reach.at })
        }
        (false, None) => {
            let moment = request.moment.to_string();
            Err(NotRestorable::NotReached { part: part.into(), end: reach.at, moment })
        }
    }
}

/// The newest snapshot of Redis at or before the moment, given as seconds since 1970. `names`: the files in the
/// part's directory `dir`.
pub fn choose_snapshot<'a>(dir: &str, names: impl Iterator<Item = &'a str>, moment: i64) -> RedisRestored {
    let at = |name: &'a str| Some((snapshot_time(name)?, name));
    let newest = names.filter_map(at).filter(|(at, _)| *at <= moment).max();
    RedisRestored { snapshot: newest.map(|(at, name)| RedisSnapshot { path: format!("{dir}/{name}"), at }) }
}

/// When the snapshot of this file name was complete, in seconds since 1970.
pub fn snapshot_time(name: &str) -> Option<i64> {
    part_time(&format!("-{}", name.strip_suffix(".rdb")?))
}

/// What the archive lacks: the WAL without which a backup is useless, and the moments that no restore reaches.
#[derive(Debug, Default, PartialEq)]
pub struct Lacking {
    pub useless: Vec<NotRestorable>,
    pub gaps: Vec<NotRestorable>,
}

impl Lacking {
    pub fn of(part: &str, info: &PartInfo, wal: &ArchivedWal) -> Lacking {
        let mut lacking = Lacking::default();
        for backup in &info.backups {
            let Some((start, stop)) = backup.start_wal.zip(backup.stop_wal) else { continue };
            if !is_followed(backup, wal) {
                continue;
            }
            let (part, label) = (part.to_string(), backup.label.clone());
            match wal.reach(start) {
                None => {
                    let segment = start.name();
                    lacking.useless.push(NotRestorable::NoWal { part, segment, backup: label });
                }
                Some(reach) => {
                    let Some(segment) = reach.missing.map(WalPosition::name) else { continue };
                    if reach.last.segment < stop.segment {
                        lacking.useless.push(NotRestorable::NoWal { part, segment, backup: label });
                    } else {
                        lacking.gaps.push(NotRestorable::MissingWal { part, segment, until: reach.at });
                    }
                }
            }
        }
        lacking.gaps.dedup();
        lacking
    }
}
