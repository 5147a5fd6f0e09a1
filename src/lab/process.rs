//! Identifies a process beyond the life of the command that started it, even if its process id is reused.

use anyhow::{Context, Result, ensure};
use hanode_util::user_error::UserError;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

pub(crate) fn require_root() -> Result<()> {
    ensure!(
        geteuid().is_root(),
        UserError::with_help("the lab needs root to make mounts and network namespaces", "run it with sudo")
    );
    Ok(())
}

/// Process ids are reused; boot id and start time make the identity unique.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    started: u64,
    boot: String,
}

impl Process {
    pub(crate) fn current() -> Result<Process> {
        let pid = std::process::id() as i32;
        let (_, started) = stat(pid).context("reading /proc/self/stat")?;
        Ok(Process { pid, started, boot: boot_id()? })
    }

    pub(crate) fn alive(&self) -> bool {
        let same_boot = boot_id().is_ok_and(|b| b == self.boot);
        same_boot && stat(self.pid).is_some_and(|(state, started)| state != 'Z' && started == self.started)
    }

    pub(crate) fn kill(&self) {
        if self.alive() {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    /// Waits for the process to end; false after `limit`.
    pub(crate) fn ended_within(&self, limit: Duration) -> bool {
        wait_until(limit, || !self.alive())
    }
}

/// State letter and start time in clock ticks. The command name before them can contain any character.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn boot_id() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_string())
}

/// The first child of `pid` that is process 1 of its own namespace: the init of a container.
pub(crate) fn container_init(pid: i32) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().filter_map(|c| c.parse().ok()).find(|child: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        let ids = status.lines().find_map(|l| l.strip_prefix("NSpid:"));
        ids.is_some_and(|ids| ids.split_whitespace().count() > 1 && ids.trim_end().ends_with("\t1"))
    })
}

/// False if `done` did not become true within `limit`.
pub(crate) fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
