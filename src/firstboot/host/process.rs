//! Processes of the services.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;

/// The processes of etcd's unit, with cgroup v2 and v1.
const ETCD_PROCESSES: [&str; 2] = [
    "/sys/fs/cgroup/system.slice/etcd.service/cgroup.procs",
    "/sys/fs/cgroup/systemd/system.slice/etcd.service/cgroup.procs",
];

/// Kills etcd within some tens of milliseconds, without systemd; its `Restart=` starts it again.
pub(crate) fn kill_etcd() {
    for at in ETCD_PROCESSES {
        for process in std::fs::read_to_string(at).unwrap_or_default().lines() {
            if let Ok(process) = process.parse() {
                let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
            }
        }
    }
}

/// The PostgreSQL server that runs on this data directory.
pub(crate) fn postgres_server(data: &Path) -> Option<Pid> {
    let first = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: i32 = first.lines().next()?.trim().parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    name.starts_with("postgres").then(|| Pid::from_raw(pid))
}

/// Sends a signal; a process that has ended is no error.
pub(crate) fn signal(process: Pid, signal: Signal) {
    let _ = kill(process, signal);
}
