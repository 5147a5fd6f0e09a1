//! The PostgreSQL cluster to which the data on this disk belongs, where its WAL starts, and the end of its log, which
//! is read while no server runs.

use super::Disk;
use anyhow::{Context, Result};
use hanode_core::peer::PostgresData;
use hanode_util::command::{capture, run_to_end};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In memory, and deleted before each start of the server: it changes the end.
const END_FILE: &str = "/run/hanode/postgres-end.json";

impl Disk {
    /// Identifier of the cluster, and the end of the log if it was measured.
    pub(crate) fn postgres_data(&self) -> Option<PostgresData> {
        let data = self.at(&self.paths.postgres);
        let control = data.join("global/pg_control");
        let mut identifier = [0; 8];
        // The identifier is the first field of the file in every version.
        std::fs::File::open(control).and_then(|mut file| file.read_exact(&mut identifier)).ok()?;
        let end = std::fs::read(self.at(END_FILE)).ok();
        let end = end.and_then(|text| serde_json::from_slice(&text).ok());
        let system = u64::from_ne_bytes(identifier).to_string();
        let version = std::fs::read_to_string(data.join("PG_VERSION")).ok();
        let major = version.and_then(|text| text.trim().parse().ok());
        Some(PostgresData { system, end, oldest_wal: oldest_wal(&data.join("pg_wal")), major })
    }

    /// Where the newest WAL segment of a timeline on this disk starts, also while a server runs: it may not have replayed
    /// all that it has.
    pub(crate) fn newest_postgres_wal(&self, timeline: u32) -> Option<u64> {
        newest_wal(&self.at(&self.paths.postgres).join("pg_wal"), timeline)
    }

    /// The data of a server that still recovers.
    pub(crate) fn recovering_postgres(&self) -> Result<RecoveringPostgres> {
        let data = self.at(&self.paths.postgres);
        let wal = data.join("pg_wal");
        let control = Control::read(&data, &self.paths.postgres_bin)?;
        let lacks = first_missing(&wal, control.redo).context("pg_wal has no segments")?;
        // After pg_rewind, the last checkpoint is the one before the timelines parted.
        let timeline = control.checkpoint.max(control.recovered_timeline);
        // Or promoted shortly before it crashed: then the end of its last segment counts as replicated.
        let rewound = control.checkpoint < control.recovered_timeline;
        let newest = match newest_wal(&wal, timeline) {
            // Its WAL is a copy of that of a server that still has it.
            Some(start) if rewound => Some(start),
            // A record that starts where the timeline ended is not part of it.
            Some(start) => Some(end_of_log(&wal, &self.paths.postgres_bin, timeline, start)? + 1),
            None => None,
        };
        let contains =
            (control.recovered > 0).then(|| newest.map_or(control.recovered, |at| at.max(control.recovered)));
        Ok(RecoveringPostgres { timeline, lacks, contains })
    }

    /// The size of all files in the data directory; those that cannot be read do not count.
    pub(crate) fn postgres_bytes(&self) -> u64 {
        let data = self.at(&self.paths.postgres);
        let tablespaces = std::fs::read_dir(data.join("pg_tblspc")).into_iter().flatten().flatten();
        bytes_below(&data) + tablespaces.map(|link| bytes_below(&link.path())).sum::<u64>()
    }

    /// Measures the end of the log and saves it for [`Self::postgres_data`].
    pub(crate) fn measure_postgres_end(&self) -> Result<()> {
        let end = end(&self.at(&self.paths.postgres), &self.paths.postgres_bin)?;
        Ok(self.tree()?.replace(END_FILE, &serde_json::to_vec(&end)?, 0o644, None)?)
    }

    /// Deletes the saved end, before a server starts.
    pub(crate) fn forget_postgres_end(&self) -> Result<()> {
        match self.tree()?.remove_file(END_FILE) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(END_FILE),
            _ => Ok(()),
        }
    }
}

/// The data of a server that is not consistent yet.
pub(crate) struct RecoveringPostgres {
    pub(crate) timeline: u32,
    /// The position of the first WAL that it lacks.
    pub(crate) lacks: u64,
    /// Up to where its pages or its WAL may have changes of that timeline; `None` if that is not recorded, as of a leader
    /// that crashed.
    pub(crate) contains: Option<u64>,
}

/// Of the log.
const PAGE: u64 = 8192;

/// A segment of the log on this disk.
struct Segment {
    timeline: u32,
    /// From its name: the position's upper 32 bits, and then the number of the segment within them.
    number: u64,
    path: PathBuf,
}

impl Segment {
    /// All of them, in no order.
    fn all(wal: &Path) -> Option<impl Iterator<Item = Segment>> {
        let segment = |entry: std::fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let is_segment = name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit());
            let timeline = u32::from_str_radix(name.get(..8)?, 16).ok()?;
            let number = u64::from_str_radix(name.get(8..)?, 16).ok()?;
            is_segment.then_some(Segment { timeline, number, path: entry.path() })
        };
        Some(std::fs::read_dir(wal).ok()?.flatten().filter_map(segment))
    }

    /// The position at which it starts; `None` if its size is not one of a segment.
    fn start(&self) -> Option<u64> {
        let size = std::fs::metadata(&self.path).ok()?.len();
        let is_size = size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size);
        is_size.then_some(self.number >> 32 << 32 | (self.number & 0xffff_ffff).checked_mul(size)?)
    }

    /// Whether its first page was written for this segment: PostgreSQL renames old segments for later use.
    fn is_written(&self) -> bool {
        self.has_page(0)
    }

    /// Whether its last page was.
    fn is_complete(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|file| self.has_page(file.len().saturating_sub(PAGE)))
    }

    /// After two fields of two bytes, a page has its timeline and its position.
    fn has_page(&self, at: u64) -> bool {
        let mut head = [0; 16];
        let read = std::fs::File::open(&self.path).and_then(|file| file.read_exact_at(&mut head, at));
        let page = u64::from_ne_bytes(head[8..].try_into().unwrap_or_default());
        read.is_ok() && self.start().is_some_and(|start| page == start + at)
    }
}

/// Without links in the directory.
fn bytes_below(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// Where the oldest segment starts, on any timeline.
fn oldest_wal(wal: &Path) -> Option<u64> {
    Segment::all(wal)?.min_by_key(|segment| segment.number)?.start()
}

/// The first position after `from` of which this disk has no WAL, on any timeline. A rewound server also has the newest
/// segments of the leader, so the newest one does not tell.
fn first_missing(wal: &Path, from: u64) -> Option<u64> {
    let written: Vec<Segment> = Segment::all(wal)?.filter(Segment::is_written).collect();
    let size = std::fs::metadata(&written.first()?.path).ok()?.len();
    let mut next = from / size * size;
    let mut lacks = from;
    while let Some(segment) = written.iter().find(|segment| segment.start() == Some(next)) {
        lacks = if segment.is_complete() { next + size } else { next };
        next += size;
    }
    Some(lacks)
}

/// Where the newest segment of a timeline that has been written starts.
fn newest_wal(wal: &Path, timeline: u32) -> Option<u64> {
    let mut segments: Vec<_> = Segment::all(wal)?.filter(|segment| segment.timeline == timeline).collect();
    segments.sort_by_key(|segment| std::cmp::Reverse(segment.number));
    segments.iter().find(|segment| segment.is_written())?.start()
}

/// Timeline and position of the last complete record.
fn end(data: &Path, bin: &str) -> Result<(u32, u64)> {
    let Control { redo, checkpoint, recovered, .. } = Control::read(data, bin)?;
    let wal = data.join("pg_wal");
    let (timeline, from) = match newest_history(&wal)? {
        Some((timeline, switched)) if timeline > checkpoint => (timeline, switched),
        _ => (checkpoint, redo),
    };
    Ok((timeline, end_of_log(&wal, bin, timeline, from)?.max(recovered)))
}

/// What PostgreSQL's control file has about recovery.
struct Control {
    /// Where recovery starts.
    redo: u64,
    /// The timeline of the last checkpoint.
    checkpoint: u32,
    /// Where the data is consistent, and on which timeline; 0 if that is everywhere.
    recovered: u64,
    recovered_timeline: u32,
}

impl Control {
    fn read(data: &Path, bin: &str) -> Result<Control> {
        let mut controldata = Command::new(format!("{bin}/pg_controldata"));
        let output = run_to_end(controldata.arg("-D").arg(data).env("LC_ALL", "C"))?.text_lossy();
        let field = |name: &str| {
            let line = output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim).with_context(|| format!("pg_controldata prints no {name}"))
        };
        Ok(Control {
            redo: position(field("Latest checkpoint's REDO location")?)?,
            checkpoint: field("Latest checkpoint's TimeLineID")?.parse()?,
            recovered: position(field("Minimum recovery ending location")?)?,
            recovered_timeline: field("Min recovery ending loc's timeline")?.parse()?,
        })
    }
}

/// The newest timeline on this disk, and the position at which it branched off.
fn newest_history(wal: &Path) -> Result<Option<(u32, u64)>> {
    let names = std::fs::read_dir(wal).with_context(|| format!("reading {}", wal.display()))?;
    let timelines = names.flatten().filter_map(|entry| {
        u32::from_str_radix(entry.file_name().to_str()?.strip_suffix(".history")?, 16).ok()
    });
    let Some(newest) = timelines.max() else { return Ok(None) };
    let text = std::fs::read_to_string(wal.join(format!("{newest:08X}.history")))?;
    let last = text.lines().rev().find(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    let switched =
        last.and_then(|line| line.split_whitespace().nth(1)).context("an empty timeline history")?;
    Ok(Some((newest, position(switched)?)))
}

/// Reads the log from `from` to its last complete record; `from` if nothing is readable there.
fn end_of_log(wal: &Path, bin: &str, timeline: u32, from: u64) -> Result<u64> {
    let start = format!("{:X}/{:X}", from >> 32, from & 0xffff_ffff);
    let mut waldump = Command::new(format!("{bin}/pg_waldump"));
    waldump.args(["-t", &timeline.to_string(), "-s", &start, "-p"]).arg(wal);
    waldump.env("LC_ALL", "C").stdout(std::process::Stdio::null());
    Ok(last_readable(&capture(&mut waldump)?.stderr)?.unwrap_or(from))
}

/// The last readable record, from the error with which pg_waldump ends.
fn last_readable(output: &str) -> Result<Option<u64>> {
    let at = output.lines().find_map(|line| line.split_once("error in WAL record at "));
    at.and_then(|(_, rest)| rest.split(':').next()).map(position).transpose()
}

/// `0/1500718` as a number.
fn position(text: &str) -> Result<u64> {
    let parts =
        text.trim().split_once('/').with_context(|| format!("{text:?} is not a position in the log"))?;
    Ok(u64::from_str_radix(parts.0, 16)? << 32 | u64::from_str_radix(parts.1, 16)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_the_last_readable_record() {
        let output = "pg_waldump: error: error in WAL record at 1/1500718: invalid record length at 1/1500790: wanted 24, got 0";
        assert_eq!(last_readable(output).unwrap(), Some(0x1_0150_0718));
        assert_eq!(last_readable("pg_waldump: error: could not find file").unwrap(), None);
        assert!(position("15").is_err());
    }

    #[test]
    fn the_oldest_wal_is_the_lowest_segment_of_any_timeline() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(oldest_wal(dir.path()), None);
        let segment = |name: &str| {
            std::fs::File::create(dir.path().join(name)).and_then(|file| file.set_len(16 << 20)).unwrap()
        };
        segment("000000030000000100000002");
        assert_eq!(oldest_wal(dir.path()), Some(0x1_0200_0000));
        segment("0000000200000001000000FF");
        segment("0000000400000001000000A0");
        segment("000000010000000000000001.partial");
        std::fs::write(dir.path().join("00000003.history"), "").unwrap();
        assert_eq!(oldest_wal(dir.path()), Some(0x1_0200_0000));
        segment("0000000100000000000000FF");
        assert_eq!(oldest_wal(dir.path()), Some(0xff00_0000));
        std::fs::write(dir.path().join("000000010000000000000001"), "torn").unwrap();
        assert_eq!(oldest_wal(dir.path()), None, "its size is not one of a segment");
    }

    #[test]
    fn the_newest_wal_is_the_last_segment_that_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(newest_wal(dir.path(), 2), None);
        let segment = |name: &str, page: u64| {
            let path = dir.path().join(name);
            let head = [&[0; 8][..], &page.to_ne_bytes()].concat();
            std::fs::write(&path, head).unwrap();
            std::fs::File::options().write(true).open(path).unwrap().set_len(16 << 20).unwrap();
        };
        segment("000000020000000100000003", 0x1_0300_0000);
        segment("000000020000000100000004", 0x1_0400_0000);
        segment("000000020000000100000005", 0x1_0200_0000);
        segment("000000020000000100000006", 0);
        segment("000000010000000100000007", 0x1_0700_0000);
        assert_eq!(newest_wal(dir.path(), 2), Some(0x1_0400_0000), "the later ones are renamed");
        assert_eq!(newest_wal(dir.path(), 1), Some(0x1_0700_0000));
        assert_eq!(newest_wal(dir.path(), 3), None);
    }

    #[test]
    fn the_first_missing_wal_is_after_the_last_segment_without_a_gap() {
        const SIZE: u64 = 16 << 20;
        let dir = tempfile::tempdir().unwrap();
        let segment = |number: u64, complete: bool| {
            let path = dir.path().join(format!("0000000600000000{number:08X}"));
            let file = std::fs::File::create(path).unwrap();
            file.set_len(SIZE).unwrap();
            file.write_all_at(&(number * SIZE).to_ne_bytes(), 8).unwrap();
            if complete {
                let last = SIZE - PAGE;
                file.write_all_at(&(number * SIZE + last).to_ne_bytes(), last + 8).unwrap();
            }
        };
        assert_eq!(first_missing(dir.path(), 7), None);
        segment(0x8e, true);
        segment(0x8f, true);
        // Copied from the leader.
        segment(0x91, true);
        assert_eq!(first_missing(dir.path(), 0x8e * SIZE + 40), Some(0x90 * SIZE));
        assert_eq!(first_missing(dir.path(), 0x8d * SIZE + 40), Some(0x8d * SIZE + 40));
        segment(0x90, false);
        assert_eq!(first_missing(dir.path(), 0x8e * SIZE), Some(0x92 * SIZE));
        segment(0x92, false);
        assert_eq!(first_missing(dir.path(), 0x8e * SIZE), Some(0x92 * SIZE), "the rest of it");
    }

    #[test]
    fn all_files_below_a_directory_count() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("base/5")).unwrap();
        std::fs::write(dir.path().join("base/5/1"), "12345").unwrap();
        std::fs::write(dir.path().join("PG_VERSION"), "17").unwrap();
        std::os::unix::fs::symlink("..", dir.path().join("base/loop")).unwrap();
        assert_eq!(bytes_below(dir.path()), 7 + 2);
        assert_eq!(bytes_below(&dir.path().join("missing")), 0);
    }

    #[test]
    fn a_timeline_starts_where_it_branched_off() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(newest_history(dir.path()).unwrap(), None);
        std::fs::write(dir.path().join("00000002.history"), "1\t0/3000000\tno recovery target\n").unwrap();
        let later = "1\t0/3000000\tno recovery target\n\n2\t0/5000028\tno recovery target\n";
        std::fs::write(dir.path().join("0000000A.history"), later).unwrap();
        assert_eq!(newest_history(dir.path()).unwrap(), Some((10, 0x500_0028)));
    }
}
