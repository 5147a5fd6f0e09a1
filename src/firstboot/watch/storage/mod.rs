//! Storage that hangs, fails, is read-only or full: the node releases all roles, and takes none until it works again.
//!
//! Patroni, Sentinel and Keepalived do not notice: they renew their leases without touching the disk. So a thread per
//! disk [probes](probe) it once a second. If it has a [fault](monitor) and enough [other nodes](others) can take over, the
//! [servers](guard) are killed through their control groups, which needs neither systemd nor the disk: a process that
//! waits for the disk ends when the disk answers again, before it can answer a client. The [start gates](StartCheck) then
//! wait for the storage, and [`outside`] releases what other nodes see: Patroni's lock and the virtual IP. A server that
//! no other node can replace, such as a leader without a standby to promote, runs on.
//!
//! The thread that decides must not wait for anything that may hang with the disk. Its memory is locked, and it writes
//! no log: another thread does.

mod guard;
mod monitor;
mod others;
mod outside;
mod probe;
mod saved;
mod start_check;

pub(super) use saved::answers;
pub(crate) use saved::{add_faults, is_stopped, problems};
pub(crate) use start_check::{StartCheck, free_space};

use crate::disk::{space, volume};
use crate::host::console;
use crate::node::NodeContext;
use anyhow::{Context, Result};
use guard::{Ended, Guard, SERVERS, Server};
use hanode_util::file_tree::below;
use monitor::Monitor;
use nix::sys::mman::{MlockAllFlags, mlockall};
use outside::Outside;
use probe::ProbeFile;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// On the root disk.
const ROOT_PROBE: &str = "/var/cache/hanode/storage-probe";
/// On the data volume, if there is one.
const DATA_PROBE: &str = "/var/lib/hanode/storage-probe";
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(200);

/// Starts threads that watch the disks until the process ends. `tolerated`: a hang of etcd after which none of its
/// leases can have expired.
pub(super) fn start(node: &Arc<NodeContext>, tolerated: Duration) -> Result<()> {
    lock_memory();
    let disks = disks(node.root())?;
    let ended: Ended = Arc::new(Mutex::new(disks.iter().map(|_| None).collect()));
    for (index, disk) in disks.iter().enumerate() {
        let (file, ended) = (disk.file.clone(), ended.clone());
        spawn(move || {
            loop {
                let outcome = file.probe();
                ended.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(outcome);
                sleep(PROBE_INTERVAL);
            }
        });
    }
    let (log, lines) = channel();
    spawn(move || write_log(&lines));
    let outside = Outside::start(node, log.clone())?;
    let units = SERVERS.map(|server| node.target().unit(server).map(String::from));
    let mut units = units.into_iter().collect::<Result<Vec<_>>>()?.into_iter();
    let servers =
        SERVERS.map(|component| Server { component, unit: units.next().unwrap_or_default(), stopped: None });
    let mut guard = Guard {
        node: node.clone(),
        disks: disks.into_iter().map(|disk| (disk.mount, Monitor::default())).collect(),
        ended,
        outside,
        tolerated,
        servers,
        etcd_is_killed: false,
        reported: None,
        log,
        last_save: None,
    };
    spawn(move || {
        let mut last = Instant::now();
        loop {
            sleep(TICK);
            let passed = last.elapsed();
            last = Instant::now();
            guard.tick(passed);
        }
    });
    Ok(())
}

/// A page of the program that is not in memory could not be read while the disk hangs.
fn lock_memory() {
    let current = mlockall(MlockAllFlags::MCL_CURRENT);
    // Later mappings, such as the threads' stacks, are locked page by page once they are used.
    let on_fault = MlockAllFlags::from_bits_retain(nix::libc::MCL_ONFAULT);
    let all = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault;
    if let Err(error) = current.and_then(|()| mlockall(all)) {
        tracing::warn!("the memory of the watcher cannot be locked: {error}");
    }
}

/// The journal may hang with the disk; the console does not.
fn write_log(lines: &Receiver<String>) {
    for line in lines {
        console::write(&line);
        tracing::warn!("{line}");
    }
}

struct Disk {
    /// As in the report of disk space.
    mount: String,
    file: ProbeFile,
}

/// The disks of the node, each once. Creates the files of the probes.
fn disks(root: &Path) -> Result<Vec<Disk>> {
    let mut disks: Vec<(u64, Disk)> = Vec::new();
    let volume = std::fs::metadata(below(root, volume::MOUNT)).map(|m| m.dev()).ok();
    for path in [ROOT_PROBE, DATA_PROBE] {
        let file = ProbeFile::new(root, path)?;
        let directory = file.path().parent().context("a directory")?;
        // Of the directory: on an overlay, files have other devices.
        let device = std::fs::metadata(directory)?.dev();
        if disks.iter().any(|(known, _)| *known == device) {
            continue;
        }
        let mount = match volume == Some(device) && path == DATA_PROBE {
            true => volume::MOUNT.to_string(),
            false => space::topmost_in(root, directory, device),
        };
        disks.push((device, Disk { mount, file }));
    }
    Ok(disks.into_iter().map(|(_, disk)| disk).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_disk_is_probed_once() {
        let root = tempfile::tempdir().expect("a directory");
        let mounts: Vec<_> = disks(root.path()).expect("disks").into_iter().map(|disk| disk.mount).collect();
        assert_eq!(mounts, ["/"]);
    }
}
