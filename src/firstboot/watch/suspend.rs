//! A machine that stood still and goes on.
//!
//! An etcd that led before holds all leases for expired then, by its own clock, and has them revoked before it hears that
//! another leads (etcd 3.5.16 looks first, and believes answers from before). With them goes the lock of whoever leads
//! PostgreSQL by now, the Patroni of this machine takes it, and what the other has acknowledged is lost: so this etcd
//! is ended at once. It has some tens of milliseconds.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::thread::sleep;
use std::time::{Duration, Instant};

const ROUND: Duration = Duration::from_millis(10);
/// Where etcd's unit has its processes, with either version of control groups.
const PROCESSES: [&str; 2] = [
    "/sys/fs/cgroup/system.slice/etcd.service/cgroup.procs",
    "/sys/fs/cgroup/systemd/system.slice/etcd.service/cgroup.procs",
];

/// For good, on a thread of its own. `harmless`: so long may a machine stand still without a lease expiring.
pub(super) fn watch(harmless: Duration) {
    loop {
        let before = Instant::now();
        sleep(ROUND);
        let stood = before.elapsed();
        if stood > harmless {
            end_etcd();
            tracing::warn!("this machine stood still for {} s: its etcd is started anew", stood.as_secs());
        }
    }
}

fn end_etcd() {
    for at in PROCESSES {
        for process in std::fs::read_to_string(at).unwrap_or_default().lines() {
            if let Ok(process) = process.parse() {
                let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
            }
        }
    }
}
