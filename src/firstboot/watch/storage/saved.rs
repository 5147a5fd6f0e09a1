//! What the watcher knows about the disks: a file in memory, for the gates, the metrics and this node's report.

use crate::host::clock::{recent_age_ms, uptime_ms};
use anyhow::Result;
use hanode_core::peer::{FileSystem, StorageFault};
use hanode_core::state::{Component, Problem, ProblemKind};
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// More than the time between two probes.
const MAX_WRITE_AGE_SECONDS: u64 = 2;
pub(super) const FILE: &str = "/run/hanode/storage.json";
/// Older values do not count: the watcher does not run.
const MAX_FILE_AGE_MS: u64 = 60_000;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Saved {
    /// By the clock that counts since boot.
    pub(super) saved_ms: u64,
    /// The servers that are stopped because of a fault.
    #[serde(default)]
    pub(super) stopped: Vec<Component>,
    /// The servers that run on nevertheless, since no other node could take over.
    #[serde(default)]
    pub(super) kept: Vec<Component>,
    pub(super) disks: Vec<SavedDisk>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedDisk {
    pub(super) mount: String,
    pub(super) write_age_seconds: u64,
    pub(super) fault: Option<StorageFault>,
}

pub(super) fn save(root: &Path, saved: &Saved) -> Result<()> {
    Ok(SafeTree::open(root)?.replace(FILE, &serde_json::to_vec(saved)?, 0o644, None)?)
}

fn read(root: &Path, now_ms: u64) -> Result<Saved> {
    let mut saved: Saved = serde_json::from_slice(&std::fs::read(below(root, FILE))?)?;
    let age_ms = recent_age_ms(saved.saved_ms, now_ms, MAX_FILE_AGE_MS)?;
    for disk in &mut saved.disks {
        disk.write_age_seconds = disk.write_age_seconds.saturating_add(age_ms / 1000);
    }
    Ok(saved)
}

fn last_saved(root: &Path) -> Saved {
    read(root, uptime_ms()).unwrap_or_default()
}

/// The file systems of this node's report, with the faults of their disks.
pub(crate) fn add_faults(root: &Path, file_systems: Vec<FileSystem>) -> Vec<FileSystem> {
    with_faults(&last_saved(root), file_systems)
}

pub(super) fn with_faults(saved: &Saved, mut file_systems: Vec<FileSystem>) -> Vec<FileSystem> {
    for disk in &saved.disks {
        let at = file_systems.iter().position(|known| known.mount == disk.mount).unwrap_or_else(|| {
            file_systems.push(FileSystem { mount: disk.mount.clone(), ..FileSystem::default() });
            file_systems.len() - 1
        });
        let known = &mut file_systems[at];
        known.write_age_seconds = disk.write_age_seconds;
        known.fault = disk.fault;
        known.roles_released = disk.fault.is_some() && !saved.stopped.is_empty();
        if known.roles_released {
            known.kept.clone_from(&saved.kept);
        }
    }
    file_systems
}

/// The problems of this node's disks.
pub(crate) fn problems(root: &Path) -> Vec<Problem> {
    let saved = last_saved(root);
    let faults = saved.disks.iter().filter_map(|disk| Some((&disk.mount, disk.fault?)));
    faults
        .map(|(mount, fault)| {
            Problem::new(ProblemKind::StorageFault, format!("{mount} {}", fault.describe()))
        })
        .collect()
}

/// Whether the last writes of the probes took no longer than usual.
pub(in crate::watch) fn answers(root: &Path) -> bool {
    last_saved(root).disks.iter().all(|disk| disk.write_age_seconds <= MAX_WRITE_AGE_SECONDS)
}

/// Whether the watcher has stopped this server.
pub(crate) fn is_stopped(root: &Path, server: Component) -> bool {
    last_saved(root).stopped.contains(&server)
}

/// Whether a disk is full.
pub(super) fn is_full(root: &Path) -> bool {
    last_saved(root).disks.iter().any(|disk| disk.fault == Some(StorageFault::Full))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::watch::storage) fn saved(fault: Option<StorageFault>, stopped: &[Component]) -> Saved {
        let disk = SavedDisk { mount: "/".into(), write_age_seconds: 3, fault };
        Saved { saved_ms: uptime_ms(), stopped: stopped.to_vec(), kept: Vec::new(), disks: vec![disk] }
    }

    #[test]
    fn the_report_names_the_file_system_with_the_fault() {
        let measured = FileSystem { mount: "/".into(), size_bytes: 7, ..FileSystem::default() };
        let read_only = Saved {
            kept: vec![Component::Patroni],
            ..saved(Some(StorageFault::ReadOnly), &[Component::Etcd, Component::Redis])
        };
        let reported = with_faults(&read_only, vec![measured.clone()]);
        let expected = FileSystem {
            write_age_seconds: 3,
            fault: Some(StorageFault::ReadOnly),
            roles_released: true,
            kept: vec![Component::Patroni],
            ..measured.clone()
        };
        assert_eq!(reported, [expected]);
        let unmeasured = with_faults(&saved(None, &[Component::Etcd]), Vec::new());
        assert_eq!(unmeasured.len(), 1);
        assert!(!unmeasured[0].roles_released, "another disk has the fault");
    }
}
