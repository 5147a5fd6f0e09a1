//! Storage that hangs, fails, is read-only or full: the node releases all roles, and takes none until it works again.
//!
//! Patroni, Sentinel and Keepalived do not notice: they renew their leases without touching the disk. So a thread per
//! disk [probes](probe) it once a second. If it has a [fault](monitor) and enough other nodes can take over, the servers
//! are killed through their control groups, which needs neither systemd nor the disk: a process that waits for the disk
//! ends when the disk answers again, before it can answer a client. The [start gates](StartCheck) then wait for the
//! storage, and [`outside`] releases what other nodes see: Patroni's lock and the virtual IP.
//!
//! The thread that decides must not wait for anything that may hang with the disk. Its memory is locked, and it writes
//! no log: another thread does.

mod monitor;
mod outside;
mod probe;

use crate::disk::{space, volume};
use crate::host::clock::{recent_age_ms, uptime_ms};
use crate::host::{console, process};
use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_core::gate::Service;
use hanode_core::peer::{FileSystem, StorageFault};
use hanode_core::state::{Component, Problem, ProblemKind};
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use monitor::Monitor;
use nix::sys::mman::{MlockAllFlags, mlockall};
use outside::Outside;
use probe::{Outcome, ProbeFile};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// On the root disk.
const ROOT_PROBE: &str = "/var/cache/hanode/storage-probe";
/// On the data volume, if there is one.
const DATA_PROBE: &str = "/var/lib/hanode/storage-probe";
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(200);
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// After the first kill: a server that had just passed its gate starts within this time.
const KILL_TIME: Duration = Duration::from_secs(5);
/// The servers whose data is on the disks; etcd is first.
const SERVERS: [Component; 4] = [Component::Etcd, Component::Patroni, Component::Redis, Component::Sentinel];
/// More than the time between two probes.
const MAX_WRITE_AGE_SECONDS: u64 = 2;
const FILE: &str = "/run/hanode/storage.json";
/// Older values do not count: the watcher does not run.
const MAX_FILE_AGE_MS: u64 = 60_000;

/// What the watcher knows about the disks; in memory, for the gates and this node's report.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    /// By the clock that counts since boot.
    saved_ms: u64,
    roles_released: bool,
    disks: Vec<SavedDisk>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedDisk {
    mount: String,
    write_age_seconds: u64,
    fault: Option<StorageFault>,
}

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
    let mut guard = Guard {
        node: node.clone(),
        disks: disks.into_iter().map(|disk| (disk.mount, Monitor::default())).collect(),
        ended,
        outside,
        units: units.into_iter().collect::<Result<_>>()?,
        tolerated,
        etcd_is_killed: false,
        released: None,
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

/// The result of each disk's last probe, until it is taken.
type Ended = Arc<Mutex<Vec<Option<Outcome>>>>;

struct Guard {
    node: Arc<NodeContext>,
    /// By mount point.
    disks: Vec<(String, Monitor)>,
    ended: Ended,
    outside: Arc<Outside>,
    /// The units of [`SERVERS`].
    units: Vec<String>,
    tolerated: Duration,
    /// During the current hang.
    etcd_is_killed: bool,
    /// Since when this node has no roles.
    released: Option<Instant>,
    /// The fault in the log.
    reported: Option<StorageFault>,
    log: Sender<String>,
    last_save: Option<Instant>,
}

impl Guard {
    fn tick(&mut self, passed: Duration) {
        let before = self.faults();
        let ended: Vec<_> = {
            let mut all = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter_mut().map(Option::take).collect()
        };
        for ((_, monitor), outcome) in self.disks.iter_mut().zip(ended) {
            monitor.tick(passed, outcome);
        }
        self.kill_hanging_etcd();
        let fault = self.disks.iter().filter_map(|(_, monitor)| monitor.fault()).max();
        match (fault, self.released) {
            (Some(fault), None) => self.try_release(fault),
            (Some(_), Some(since)) if since.elapsed() < KILL_TIME => {
                self.kill_servers();
            }
            (None, Some(_)) => self.restore(),
            _ => {}
        }
        self.report(fault);
        let suspect = fault.is_some() || self.disks.iter().any(|(_, monitor)| monitor.is_suspect());
        self.outside.query(suspect && self.released.is_none());
        if before != self.faults() || self.last_save.is_none_or(|at| at.elapsed() >= SAVE_INTERVAL) {
            self.save();
        }
    }

    fn faults(&self) -> Vec<Option<StorageFault>> {
        self.disks.iter().map(|(_, monitor)| monitor.fault()).collect()
    }

    /// An etcd that led when its disk hung still counts leases down, and asks the new leader to revoke them as soon as
    /// the disk answers (etcd before 3.5.16). One of them is Patroni's lock.
    fn kill_hanging_etcd(&mut self) {
        let hangs = self.disks.iter().any(|(_, monitor)| monitor.since_probe() > self.tolerated);
        if !hangs {
            self.etcd_is_killed = false;
        } else if !self.etcd_is_killed
            && self.outside.others().is_some_and(|others| others.can_take_over(StorageFault::Hangs))
        {
            self.etcd_is_killed = process::kill_unit(&self.units[0]).is_some();
            self.log(format!("{}; killed etcd, since another may lead now", self.describe()));
        }
    }

    /// A node releases its roles only if the others can take them: if all have the same fault, none does.
    fn try_release(&mut self, fault: StorageFault) {
        if !self.outside.others().is_some_and(|others| others.can_take_over(fault)) {
            return;
        }
        self.released = Some(Instant::now());
        // First: a gate that is passed after this waits.
        self.save();
        let postgres_is_stopped = self.kill_servers();
        // Its disk may have lost writes that replicas have confirmed: as after a power cut, one of them is promoted
        // before this Redis starts.
        let _ = self.node.forget_gate_step(Service::Redis);
        self.outside.release(postgres_is_stopped);
        let what = self.describe();
        self.log(format!(
            "{what}; stopped the servers of this node; they start when its storage works again"
        ));
    }

    /// Returns whether PostgreSQL was among them, so that it ran here and cannot answer any more.
    fn kill_servers(&self) -> bool {
        let killed: Vec<_> = self.units.iter().map(|unit| process::kill_unit(unit)).collect();
        SERVERS.iter().zip(killed).any(|(server, killed)| {
            *server == Component::Patroni && killed.is_some_and(|processes| processes > 0)
        })
    }

    fn restore(&mut self) {
        self.released = None;
        self.save();
        self.outside.restore();
        self.log("the storage works again: the servers of this node start".into());
    }

    fn report(&mut self, fault: Option<StorageFault>) {
        if fault == self.reported {
            return;
        }
        self.reported = fault;
        if fault.is_some() && self.released.is_none() {
            let what = self.describe();
            self.log(format!("{what}; the servers run on until enough other nodes can take over"));
        }
    }

    /// The disks with a fault, and what they do.
    fn describe(&self) -> String {
        let each = |(mount, monitor): &(String, Monitor)| {
            let fault = monitor.fault().unwrap_or(StorageFault::Hangs);
            let affected = monitor.fault().is_some() || monitor.since_probe() > self.tolerated;
            affected.then(|| format!("{mount} {}", fault.describe()))
        };
        self.disks.iter().filter_map(each).collect::<Vec<_>>().join(", ")
    }

    fn log(&self, line: String) {
        let _ = self.log.send(line);
    }

    /// The file is in memory.
    fn save(&mut self) {
        let disks = self.disks.iter().map(|(mount, monitor)| SavedDisk {
            mount: mount.clone(),
            write_age_seconds: monitor.since_write().as_secs(),
            fault: monitor.fault(),
        });
        let saved =
            Saved { saved_ms: uptime_ms(), roles_released: self.released.is_some(), disks: disks.collect() };
        self.last_save = Some(Instant::now());
        let has_fault = self.disks.iter().any(|(_, monitor)| monitor.fault().is_some());
        // What is on them was measured before the fault.
        self.outside.publish(has_fault.then(|| with_faults(&saved, space::last_measured(&self.node.disk))));
        if let Err(error) = save(self.node.root(), &saved) {
            self.log(format!("{FILE}: {error:#}"));
        }
    }
}

fn save(root: &Path, saved: &Saved) -> Result<()> {
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

fn with_faults(saved: &Saved, mut file_systems: Vec<FileSystem>) -> Vec<FileSystem> {
    for disk in &saved.disks {
        let at = file_systems.iter().position(|known| known.mount == disk.mount).unwrap_or_else(|| {
            file_systems.push(FileSystem { mount: disk.mount.clone(), ..FileSystem::default() });
            file_systems.len() - 1
        });
        let known = &mut file_systems[at];
        known.write_age_seconds = disk.write_age_seconds;
        known.fault = disk.fault;
        known.roles_released = disk.fault.is_some() && saved.roles_released;
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
pub(super) fn answers(root: &Path) -> bool {
    last_saved(root).disks.iter().all(|disk| disk.write_age_seconds <= MAX_WRITE_AGE_SECONDS)
}

/// Whether the watcher has stopped the servers.
pub(crate) fn roles_are_released(root: &Path) -> bool {
    last_saved(root).roles_released
}

/// The storage's part of a start gate: a server does not start on a disk that does not work.
#[derive(Default)]
pub(crate) struct StartCheck {
    /// A probe that has not ended yet; another one would hang, too.
    pending: Option<Receiver<Option<String>>>,
}

impl StartCheck {
    /// The reason why a server must not start now.
    pub(crate) fn blocked(&mut self, root: &Path) -> Option<String> {
        if roles_are_released(root) {
            return Some(Problem::list(&problems(root)));
        }
        let pending = self.pending.take().unwrap_or_else(|| {
            let (send, receive) = channel();
            let root = root.to_path_buf();
            spawn(move || send.send(probe_all(&root)));
            receive
        });
        match pending.recv_timeout(monitor::HANG_LIMIT) {
            Ok(reason) => reason,
            Err(RecvTimeoutError::Disconnected) => Some("the probe of the storage failed".into()),
            Err(RecvTimeoutError::Timeout) => {
                self.pending = Some(pending);
                Some(format!("the storage {}", StorageFault::Hangs.describe()))
            }
        }
    }
}

fn probe_all(root: &Path) -> Option<String> {
    let disks = match disks(root) {
        Ok(disks) => disks,
        Err(error) => return Some(format!("the storage cannot be probed: {error:#}")),
    };
    let fault = |disk: &Disk| match disk.file.probe() {
        Outcome::Written(_) => None,
        // PostgreSQL and Redis remove temporary files when they start.
        Outcome::Failed(StorageFault::Full) => None,
        Outcome::Failed(fault) => Some(format!("{} {}", disk.mount, fault.describe())),
    };
    disks.iter().find_map(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(fault: Option<StorageFault>, roles_released: bool) -> Saved {
        let disk = SavedDisk { mount: "/".into(), write_age_seconds: 3, fault };
        Saved { saved_ms: uptime_ms(), roles_released, disks: vec![disk] }
    }

    #[test]
    fn a_server_starts_only_on_storage_that_works() {
        let root = tempfile::tempdir().expect("a directory");
        let blocked = || StartCheck::default().blocked(root.path());
        assert_eq!(blocked(), None, "before the watcher runs");
        std::fs::create_dir_all(root.path().join("run/hanode")).expect("a directory");
        save(root.path(), &saved(Some(StorageFault::Hangs), true)).expect("saving");
        assert_eq!(blocked().as_deref(), Some("/ does not complete writes"));
        save(root.path(), &saved(Some(StorageFault::Hangs), false)).expect("saving");
        assert_eq!(blocked(), None, "the other nodes cannot take over");
        let old = Saved { saved_ms: 0, ..saved(Some(StorageFault::Hangs), true) };
        save(root.path(), &old).expect("saving");
        assert_eq!(blocked(), None, "the watcher does not run any more");
        let file = root.path().join("var/cache/hanode/storage-probe");
        std::fs::remove_file(&file).expect("removing");
        std::fs::create_dir(&file).expect("a directory in its place");
        assert!(blocked().is_some_and(|reason| reason.starts_with("the storage cannot be probed: ")));
    }

    #[test]
    fn the_report_names_the_file_system_with_the_fault() {
        let measured = FileSystem { mount: "/".into(), size_bytes: 7, ..FileSystem::default() };
        let reported = with_faults(&saved(Some(StorageFault::ReadOnly), true), vec![measured.clone()]);
        let expected = FileSystem {
            write_age_seconds: 3,
            fault: Some(StorageFault::ReadOnly),
            roles_released: true,
            ..measured.clone()
        };
        assert_eq!(reported, [expected]);
        let unmeasured = with_faults(&saved(None, true), Vec::new());
        assert_eq!(unmeasured.len(), 1);
        assert!(!unmeasured[0].roles_released, "another disk has the fault");
    }

    #[test]
    fn one_disk_is_probed_once() {
        let root = tempfile::tempdir().expect("a directory");
        let mounts: Vec<_> = disks(root.path()).expect("disks").into_iter().map(|disk| disk.mount).collect();
        assert_eq!(mounts, ["/"]);
    }
}
