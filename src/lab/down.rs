//! Takes a lab down: whatever of it there still is, whoever left it behind.

use super::net::Net;
use super::process::Process;
use super::{Lab, cgroup, layout, name, process_tag, state};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Shuts the nodes down, kills what does not heed, removes network, control groups and state. Needs no
/// intact state, and may be repeated.
pub fn down(dir: &Path) -> Result<()> {
    super::up::needs_root()?;
    let dir = dir.canonicalize().with_context(|| format!("no directory {}", dir.display()))?;
    // Without readable state there is nothing to shut down by name; what runs is killed all the same.
    if let Ok(lab) = Lab::open(&dir) {
        std::thread::scope(|scope| {
            for node in lab.nodes().filter(|n| lab.running(n)) {
                let lab = &lab;
                scope.spawn(move || lab.shutdown(node).or_else(|_| lab.power_off(node)));
            }
        });
    }
    sweep(&dir)
}

/// Removes everything without asking the nodes.
pub(super) fn sweep(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(state(dir).join("nodes")).into_iter().flatten().flatten() {
        if let Ok(Some(process)) = layout::read::<Process>(&entry.path().join("process.json")) {
            process.kill();
            process.gone_within(super::SHORTLY);
        }
    }
    process_tag::end(&name(dir))?;
    let net = Net::of_lab(&layout::id(dir));
    for pid in net.processes() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    let empty = super::wait_until(super::SHORTLY, || net.processes().is_empty());
    ensure!(empty, "processes in the lab's network {} do not die", net.path().display());
    cgroup::sweep(&name(dir))?;
    net.remove()?;
    match std::fs::remove_dir_all(state(dir)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", state(dir).display()))
        }
        _ => Ok(()),
    }
}
