//! Processes of the services.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::path::Path;

/// With cgroup v2 and v1.
const SLICES: [&str; 2] = ["/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/systemd/system.slice"];
/// Processes that are killed cannot start others, so the second round normally finds no new one.
const MAX_ROUNDS: usize = 20;

/// Sends SIGKILL to all processes of a unit within some tens of milliseconds, without systemd or the disk; its `Restart=`
/// starts it again. Returns their number, and `None` if new ones appeared meanwhile. Otherwise none of them executes
/// another instruction of its program: one that waits for the disk ends as soon as the disk answers.
pub(crate) fn kill_unit(unit: &str) -> Option<usize> {
    let mut killed = BTreeSet::new();
    for _ in 0..MAX_ROUNDS {
        let found = processes(unit);
        if found.is_subset(&killed) {
            return Some(killed.len());
        }
        for process in &found {
            signal(Pid::from_raw(*process), Signal::SIGKILL);
        }
        killed.extend(found);
    }
    None
}

/// Whether a process of a unit has a name that starts with this.
pub(crate) fn unit_runs(unit: &str, name: &str) -> bool {
    let has_name = |process: &i32| {
        std::fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|comm| comm.starts_with(name))
    };
    processes(unit).iter().any(has_name)
}

/// The processes of a unit.
pub(crate) fn processes(unit: &str) -> BTreeSet<i32> {
    let lists = SLICES.map(|slice| std::fs::read_to_string(format!("{slice}/{unit}/cgroup.procs")));
    let lines = lists.iter().flatten().flat_map(|list| list.lines());
    lines.filter_map(|line| line.parse().ok()).collect()
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
