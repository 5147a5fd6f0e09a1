//! Space on the file systems that hold the system and the services' data, for this node's report.
//!
//! A thread per path measures, so that storage that hangs stops neither the other measurements nor the report:
//! the report reads the last values from a file in memory, with their age.

use super::{Disk, volume};
use crate::host::clock::{recent_age_ms, uptime_ms};
use anyhow::{Context, Result};
use hanode_core::peer::FileSystem;
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

const MEASURE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two values of the history.
const HISTORY_INTERVAL: Duration = Duration::from_secs(60);
const HISTORY_TIME: Duration = Duration::from_secs(3600);
/// The shortest history from which growth is computed.
const MIN_HISTORY: Duration = Duration::from_secs(30 * 60);
/// Growth that ended before this time, such as the copy of a new replica, does not last.
const RECENT: Duration = Duration::from_secs(15 * 60);
const FILE: &str = "/run/hanode/disk_space.json";
/// Older values are not reported: the watcher does not run.
const MAX_FILE_AGE_MS: u64 = 60_000;

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// By the clock that counts since boot.
    saved_ms: u64,
    file_systems: Vec<FileSystem>,
}

/// A path that is measured, and what is there.
struct Place {
    path: String,
    holds: Option<&'static str>,
}

#[derive(Debug, Clone)]
struct Measurement {
    at: Instant,
    device: u64,
    file_system: FileSystem,
}

/// The last measurement of each place, by its index.
type Measurements = Arc<Mutex<BTreeMap<usize, Measurement>>>;

/// Starts threads that measure until the process ends.
pub(crate) fn start(disk: &Disk) {
    let (places, measurements) = (places(disk), Measurements::default());
    for (index, place) in places.iter().enumerate() {
        let (disk, path, measurements) = (disk.clone(), place.path.clone(), measurements.clone());
        spawn(move || {
            measure_forever(&disk, &path, |found| {
                measurements.lock().unwrap_or_else(PoisonError::into_inner).insert(index, found);
            })
        });
    }
    let disk = disk.clone();
    spawn(move || save_forever(&disk, &places, &measurements));
}

fn save_forever(disk: &Disk, places: &[Place], measurements: &Measurements) {
    let (start, mut histories) = (Instant::now(), BTreeMap::new());
    loop {
        let found = measurements.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut current = by_device(places, &found);
        for (device, measurement) in &mut current {
            let history: &mut History = histories.entry(*device).or_default();
            let current = (measurement.at - start, measurement.file_system.used_bytes);
            history.add(current);
            measurement.file_system.growth_bytes_per_hour = history.growth(current);
            measurement.file_system.age_seconds = measurement.at.elapsed().as_secs();
        }
        histories.retain(|device, _| current.iter().any(|(current, _)| current == device));
        if let Err(error) = save(disk, current.into_iter().map(|(_, m)| m.file_system).collect()) {
            tracing::warn!("{FILE}: {error:#}");
        }
        // The first measurements take no time.
        sleep(if start.elapsed() < MEASURE_INTERVAL { Duration::from_secs(1) } else { MEASURE_INTERVAL });
    }
}

/// In the order in which they name a file system: the data volume is mounted at several paths.
fn places(disk: &Disk) -> Vec<Place> {
    let place = |path: &str, holds| Place { path: path.into(), holds };
    vec![
        place("/", Some("system")),
        place(volume::MOUNT, None),
        place(&disk.paths.etcd, Some("etcd")),
        place(&disk.paths.postgres, Some("PostgreSQL")),
        place(&disk.paths.redis, Some("Redis")),
        place("/var/log", Some("logs")),
    ]
}

fn measure_forever(disk: &Disk, path: &str, found: impl Fn(Measurement)) {
    loop {
        // After an error the last measurement stays, and its age grows.
        match measure(disk, path) {
            Ok(measurement) => found(measurement),
            Err(error) => tracing::debug!("{path}: {error:#}"),
        }
        sleep(MEASURE_INTERVAL);
    }
}

/// Measures the file system of a path; if the path does not exist yet, of the nearest directory above it.
fn measure(disk: &Disk, path: &str) -> Result<Measurement> {
    let (existing, device) = nearest(disk, path)?;
    let stat = statvfs(&existing)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    let file_system = FileSystem {
        mount: topmost(disk, &existing, device),
        size_bytes: bytes(stat.blocks()),
        used_bytes: bytes(stat.blocks().saturating_sub(stat.blocks_free())),
        free_bytes: bytes(stat.blocks_available()),
        inodes: stat.files(),
        inodes_free: stat.files_free(),
        ..FileSystem::default()
    };
    Ok(Measurement { at: Instant::now(), device, file_system })
}

fn nearest(disk: &Disk, path: &str) -> Result<(PathBuf, u64)> {
    let path = disk.at(path);
    for ancestor in path.ancestors().take_while(|ancestor| ancestor.starts_with(&disk.root)) {
        match std::fs::metadata(ancestor) {
            Ok(metadata) => return Ok((ancestor.to_path_buf(), metadata.dev())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{}", ancestor.display())),
        }
    }
    Err(anyhow::anyhow!("{} does not exist", disk.root.display()))
}

/// The topmost directory of the same file system, as an absolute path in the tree.
fn topmost(disk: &Disk, path: &Path, device: u64) -> String {
    topmost_in(&disk.root, path, device)
}

pub(crate) fn topmost_in(root: &Path, path: &Path, device: u64) -> String {
    let same = |path: &&Path| std::fs::metadata(path).is_ok_and(|metadata| metadata.dev() == device);
    let ancestors = path.ancestors().take_while(|ancestor| ancestor.starts_with(root));
    let top = ancestors.take_while(same).last().unwrap_or(path);
    format!("/{}", top.strip_prefix(root).unwrap_or(top).display())
}

/// Each file system once, with all that is on it; the first place on it names its mount point.
fn by_device(places: &[Place], found: &BTreeMap<usize, Measurement>) -> Vec<(u64, Measurement)> {
    let mut all: Vec<(u64, Measurement)> = Vec::new();
    for (index, measurement) in found {
        let device = measurement.device;
        let at = all.iter().position(|(known, _)| *known == device).unwrap_or_else(|| {
            all.push((device, measurement.clone()));
            all.len() - 1
        });
        let known = &mut all[at].1;
        if measurement.at > known.at {
            let FileSystem { mount, holds, .. } = std::mem::take(&mut known.file_system);
            *known = measurement.clone();
            (known.file_system.mount, known.file_system.holds) = (mount, holds);
        }
        known.file_system.holds.extend(places[*index].holds.map(String::from));
    }
    all
}

/// The used bytes of one file system in the last hour, by the time since the start of the watcher.
#[derive(Debug, Default)]
struct History(VecDeque<(Duration, u64)>);

impl History {
    fn add(&mut self, (at, used): (Duration, u64)) {
        if self.0.back().is_none_or(|(last, _)| at >= *last + HISTORY_INTERVAL) {
            self.0.push_back((at, used));
        }
        while self.0.front().is_some_and(|(first, _)| *first + HISTORY_TIME < at) {
            self.0.pop_front();
        }
    }

    /// Bytes per hour that the file system grows up to the current value, both over the whole history and
    /// recently.
    fn growth(&self, current: (Duration, u64)) -> Option<i64> {
        let first = self.0.front()?;
        if current.0.saturating_sub(first.0) < MIN_HISTORY {
            return None;
        }
        let recent = self.0.iter().rfind(|(at, _)| *at + RECENT <= current.0)?;
        Some(growth_between(first, &current)?.min(growth_between(recent, &current)?))
    }
}

fn growth_between(first: &(Duration, u64), last: &(Duration, u64)) -> Option<i64> {
    let seconds = i128::from((last.0 - first.0).as_secs());
    let bytes = (i128::from(last.1) - i128::from(first.1)) * 3600;
    Some(bytes.checked_div(seconds)?.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
}

fn save(disk: &Disk, file_systems: Vec<FileSystem>) -> Result<()> {
    let saved = Saved { saved_ms: uptime_ms(), file_systems };
    Ok(disk.tree()?.replace(FILE, &serde_json::to_vec(&saved)?, 0o644, None)?)
}

/// The file systems for this node's report; empty if the watcher does not run.
pub(crate) fn last_measured(disk: &Disk) -> Vec<FileSystem> {
    read(disk, uptime_ms()).unwrap_or_default()
}

fn read(disk: &Disk, now_ms: u64) -> Result<Vec<FileSystem>> {
    let saved: Saved = serde_json::from_slice(&std::fs::read(disk.at(FILE))?)?;
    let age_ms = recent_age_ms(saved.saved_ms, now_ms, MAX_FILE_AGE_MS)?;
    let mut file_systems = saved.file_systems;
    file_systems.iter_mut().for_each(|f| f.age_seconds = f.age_seconds.saturating_add(age_ms / 1000));
    Ok(file_systems)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;
    const GIB: u64 = 1 << 30;

    /// The growth after these values, one per minute.
    fn growth(used: impl IntoIterator<Item = u64>) -> Option<i64> {
        let mut history = History::default();
        let mut current = (Duration::ZERO, 0);
        for (minute, used) in used.into_iter().enumerate() {
            current = (Duration::from_secs(minute as u64 * MINUTE), used);
            history.add(current);
        }
        assert!(history.0.len() <= 61, "{}", history.0.len());
        history.growth(current)
    }

    #[test]
    fn growth_needs_half_an_hour_and_must_last() {
        assert_eq!(growth([]), None);
        assert_eq!(growth((0..30).map(|minute| minute * GIB)), None, "29 minutes");
        assert_eq!(growth((0..31).map(|minute| minute * GIB)), Some(60 << 30));
        assert_eq!(growth((0..500).map(|minute| minute * GIB)), Some(60 << 30));
        assert_eq!(growth((0..61).map(|_| GIB)), Some(0));
        let copy_at_start = (0..61).map(|minute| minute.min(20) * GIB);
        assert_eq!(growth(copy_at_start), Some(0), "it ended long ago");
        let copy_at_end = (0..61).map(|minute| if minute < 60 { 0 } else { GIB });
        assert_eq!(growth(copy_at_end), Some(1 << 30), "diluted by the hour");
        let deleted = (0..61).map(|minute| if minute < 60 { 2 * GIB } else { 0 });
        assert_eq!(growth(deleted), Some(-8 << 30), "the recent quarter of an hour");
        assert_eq!(growth((0..61).map(|minute| if minute < 60 { 0 } else { u64::MAX })), Some(i64::MAX));
    }

    #[test]
    fn values_within_a_minute_are_one() {
        let mut history = History::default();
        (0..60).for_each(|second| history.add((Duration::from_secs(second), second)));
        assert_eq!(history.0, [(Duration::ZERO, 0)]);
    }

    fn measurement(at: Instant, device: u64, mount: &str, used_bytes: u64) -> Measurement {
        let file_system = FileSystem { mount: mount.into(), used_bytes, ..FileSystem::default() };
        Measurement { at, device, file_system }
    }

    #[test]
    fn a_file_system_counts_once() {
        let holds = [Some("system"), None, Some("etcd"), Some("PostgreSQL"), Some("Redis"), Some("logs")];
        let places = holds.map(|holds| Place { path: String::new(), holds });
        let (old, new) = (Instant::now(), Instant::now() + MEASURE_INTERVAL);
        // The data volume has the data; the measurement at its mount point is older than those of its directories.
        let found = BTreeMap::from([
            (0, measurement(new, 1, "/", 10)),
            (1, measurement(old, 2, "/var/lib/hanode-data", 20)),
            (2, measurement(new, 2, "/var/lib/etcd", 21)),
            (3, measurement(old, 2, "/var/lib/postgresql", 20)),
            (4, measurement(old, 2, "/var/lib/redis", 20)),
            (5, measurement(new, 1, "/", 10)),
        ]);
        let all = by_device(&places, &found);
        let shown: Vec<_> = all
            .iter()
            .map(|(_, m)| {
                (m.file_system.mount.as_str(), m.file_system.holds.join(" "), m.file_system.used_bytes)
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("/", "system logs".to_string(), 10),
                ("/var/lib/hanode-data", "etcd PostgreSQL Redis".to_string(), 21)
            ]
        );
    }

    #[test]
    fn a_path_is_measured_even_before_it_exists() {
        let (root, disk) = crate::disk::tests::empty(&crate::disk::tests::debian());
        let found = measure(&disk, "/var/lib/etcd/hanode").expect("a measurement");
        assert_eq!(found.file_system.mount, "/");
        assert!(found.file_system.size_bytes >= found.file_system.used_bytes, "{found:?}");
        let absent = Disk { root: root.path().join("absent"), ..disk };
        assert!(measure(&absent, "/var").is_err());
    }

    #[test]
    fn old_values_are_not_reported() {
        let (_root, disk) = crate::disk::tests::empty(&crate::disk::tests::debian());
        assert_eq!(last_measured(&disk), []);
        let file_system = FileSystem { mount: "/".into(), age_seconds: 3, ..FileSystem::default() };
        save(&disk, vec![file_system]).expect("saving");
        let now = uptime_ms();
        let age = |ms| read(&disk, ms).map(|found| found[0].age_seconds).ok();
        assert!(matches!(age(now), Some(3 | 4)));
        assert!(matches!(age(now + 30_000), Some(33 | 34)));
        assert_eq!(age(now + 2 * MAX_FILE_AGE_MS), None, "the watcher does not run");
        assert_eq!(age(0), None, "from another boot");
    }
}
