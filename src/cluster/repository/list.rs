//! The content of the repository.

use super::Repository;
use anyhow::Result;
use hanode_core::backup::{BackupInfo, PartInfo, snapshot_dir, time};
use hanode_core::restore::snapshot_time;
use hanode_util::{bytes, table::aligned};
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Listing {
    schema: u32,
    repository: String,
    /// Sorted by name, and so by the time at which each began.
    parts: Vec<Part>,
}

#[derive(Debug, Serialize)]
struct Part {
    name: String,
    /// Why it cannot be read.
    fault: Option<String>,
    first_wal: Option<String>,
    last_wal: Option<String>,
    /// Oldest first; so are the snapshots.
    postgres: Vec<Backup>,
    redis: Vec<Snapshot>,
}

/// All times are seconds since 1970.
#[derive(Debug, Serialize)]
struct Backup {
    label: String,
    #[serde(rename = "type")]
    kind: &'static str,
    started: i64,
    finished: i64,
    /// What it added to the repository, and the size of the files that a restore writes.
    bytes: u64,
    restored_bytes: u64,
    timeline: Option<u32>,
    first_wal: Option<String>,
    last_wal: Option<String>,
    /// It has pages with a wrong checksum.
    damaged: bool,
}

#[derive(Debug, Serialize)]
struct Snapshot {
    file: String,
    finished: i64,
    bytes: u64,
}

pub fn list(repository: &Repository) -> Result<Listing> {
    let part = |(name, info): (String, PartInfo)| {
        let files = repository.pgbackrest.list(&snapshot_dir(&name))?;
        let snapshot =
            |(file, bytes): (String, u64)| Some(Snapshot { finished: snapshot_time(&file)?, file, bytes });
        Ok(Part {
            name,
            fault: info.fault,
            first_wal: info.wal.map(|(first, _)| first.name()),
            last_wal: info.wal.map(|(_, last)| last.name()),
            postgres: info.backups.iter().map(backup).collect(),
            redis: files.into_iter().filter_map(snapshot).collect(),
        })
    };
    let parts = repository.pgbackrest.info()?.into_iter().map(part).collect::<Result<_>>()?;
    Ok(Listing { schema: 1, repository: repository.url()?, parts })
}

fn backup(info: &BackupInfo) -> Backup {
    Backup {
        label: info.label.clone(),
        kind: if info.full { "full" } else { "diff" },
        started: info.started,
        finished: info.finished,
        bytes: info.bytes,
        restored_bytes: info.restored_bytes,
        timeline: info.start_wal.map(|wal| wal.timeline),
        first_wal: info.start_wal.map(|wal| wal.name()),
        last_wal: info.stop_wal.map(|wal| wal.name()),
        damaged: info.damaged,
    }
}

const HEAD: [&str; 7] = ["BACKUP", "TYPE", "STARTED", "FINISHED", "SIZE", "TIMELINE", "WAL"];

impl Listing {
    pub fn text(&self) -> String {
        if self.parts.is_empty() {
            return format!("{} has no backups", self.repository);
        }
        self.parts.iter().map(Part::text).collect::<Vec<_>>().join("\n\n")
    }
}

impl Part {
    fn text(&self) -> String {
        let wal = match (&self.first_wal, &self.last_wal) {
            (Some(first), Some(last)) => format!("WAL {first} to {last}"),
            _ => "no WAL".into(),
        };
        let head = format!("{}: {}", self.name, self.fault.as_deref().unwrap_or(&wal));
        let postgres = self.postgres.iter().map(Backup::row);
        let rows: Vec<[String; 7]> = postgres.chain(self.redis.iter().map(Snapshot::row)).collect();
        if rows.is_empty() {
            return head;
        }
        format!("{head}\n{}", aligned(std::iter::once(HEAD.map(String::from)).chain(rows), &[4, 5]))
    }
}

impl Backup {
    fn row(&self) -> [String; 7] {
        let wal = [&self.first_wal, &self.last_wal].map(|wal| wal.clone().unwrap_or_default());
        [
            self.label.clone(),
            if self.damaged { format!("{}, damaged", self.kind) } else { self.kind.into() },
            time::text(self.started),
            time::text(self.finished),
            bytes::text(self.bytes),
            self.timeline.map(|timeline| timeline.to_string()).unwrap_or_default(),
            if wal[0] == wal[1] { wal[0].clone() } else { wal.join(" to ") },
        ]
    }
}

impl Snapshot {
    fn row(&self) -> [String; 7] {
        let finished = time::text(self.finished);
        let empty = String::new;
        [self.file.clone(), "Redis".into(), empty(), finished, bytes::text(self.bytes), empty(), empty()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_table_of_both_servers() {
        let part = Part {
            name: "hspas-20261130T123012Z".into(),
            fault: None,
            first_wal: Some("000000010000000000000001".into()),
            last_wal: Some("000000010000000000000009".into()),
            postgres: vec![Backup {
                label: "20261130-123012F".into(),
                kind: "full",
                started: 1_796_041_812,
                finished: 1_796_041_821,
                bytes: 4_300_000,
                restored_bytes: 23_500_000,
                timeline: Some(1),
                first_wal: Some("000000010000000000000005".into()),
                last_wal: Some("000000010000000000000006".into()),
                damaged: false,
            }],
            redis: vec![Snapshot { file: "20261130T123021Z.rdb".into(), finished: 1_796_041_821, bytes: 93 }],
        };
        let expected = "\
hspas-20261130T123012Z: WAL 000000010000000000000001 to 000000010000000000000009
BACKUP                TYPE   STARTED                  FINISHED                     SIZE  TIMELINE  WAL
20261130-123012F      full   2026-11-30 12:30:12 UTC  2026-11-30 12:30:21 UTC  4.10 MiB         1  \
000000010000000000000005 to 000000010000000000000006
20261130T123021Z.rdb  Redis                           2026-11-30 12:30:21 UTC      93 B";
        assert_eq!(part.text(), expected);
        let unreadable =
            Part { fault: Some("[FormatError] x".into()), postgres: vec![], redis: vec![], ..part };
        assert_eq!(unreadable.text(), "hspas-20261130T123012Z: [FormatError] x");
    }
}
