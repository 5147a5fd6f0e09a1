//! Takes a lab down, including what an interrupted or killed command left behind.

use super::net::Net;
use super::process::{self, Process};
use super::{Lab, cgroup, lab_dir, layout, name, process_tag};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Shuts the nodes down, kills those that do not stop, removes network, control groups and state. Works without intact
/// state, and can be repeated.
pub fn down(dir: &Path) -> Result<()> {
    process::require_root()?;
    let dir = dir.canonicalize().with_context(|| format!("no directory {}", dir.display()))?;
    super::restore_drill::remove_left(&dir)?;
    // Without readable state the nodes are not known by name; `remove` kills their processes.
    if let Ok(lab) = Lab::open(&dir) {
        std::thread::scope(|scope| {
            for node in lab.nodes().filter(|n| lab.running(n)) {
                let lab = &lab;
                scope.spawn(move || lab.shutdown(node).or_else(|_| lab.power_off(node)));
            }
        });
    }
    remove(&dir)
}

/// Removes everything without shutting the nodes down.
pub(super) fn remove(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(lab_dir(dir).join("nodes")).into_iter().flatten().flatten() {
        if let Ok(Some(process)) = layout::read::<Process>(&entry.path().join("process.json")) {
            process.kill();
            process.ended_within(super::HOST_TIMEOUT);
        }
    }
    process_tag::kill_tagged(&name(dir))?;
    let net = Net::of_lab(&layout::id(dir));
    for pid in net.processes() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    let empty = super::wait_until(super::HOST_TIMEOUT, || net.processes().is_empty());
    ensure!(empty, "processes in the lab's network {} survive SIGKILL", net.path().display());
    cgroup::remove_all(&name(dir))?;
    net.remove()?;
    match std::fs::remove_dir_all(lab_dir(dir)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", lab_dir(dir).display()))
        }
        _ => Ok(()),
    }
}
