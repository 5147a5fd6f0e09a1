//! Tags all processes of a lab with an environment variable, which their children inherit. After a command was killed,
//! `down` finds its tools and half-started nodes by the tag, even if no file records them.

use super::process::wait_until;
use anyhow::{Context, Result, ensure};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const VARIABLE: &str = "HANODE_LAB";

/// Tags this process for the lab of `dir`. Restarts the program if needed: /proc shows the environment that a process
/// was started with.
pub fn tag_this_process(dir: &Path) -> Result<()> {
    let dir = dir.canonicalize().with_context(|| format!("no directory {}", dir.display()))?;
    let tag = super::name(&dir);
    if std::env::var_os(VARIABLE).is_some_and(|found| found.as_os_str() == tag.as_str()) {
        return Ok(());
    }
    let program = std::env::current_exe().context("finding this program's own file")?;
    let mut restart = Command::new(program);
    Err(restart.args(std::env::args_os().skip(1)).env(VARIABLE, tag).exec())
        .context("restarting this program")
}

/// Searches without a find in a row before no process is left. A process in the middle of `execve` has no environment
/// for a moment, and one search misses it.
const SEARCHES: u32 = 3;

/// Kills all processes with the tag, except the caller, until none is left.
pub(crate) fn kill_tagged(tag: &str) -> Result<()> {
    let entry = format!("{VARIABLE}={tag}");
    let mut searches_without_find = 0;
    let none_left = wait_until(super::HOST_TIMEOUT, || {
        let found = tagged_pids(&entry);
        for pid in &found {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        }
        searches_without_find = if found.is_empty() { searches_without_find + 1 } else { 0 };
        searches_without_find == SEARCHES
    });
    ensure!(none_left, "processes of the lab survive SIGKILL: {:?}", tagged_pids(&entry));
    Ok(())
}

fn tagged_pids(entry: &str) -> Vec<i32> {
    let own = std::process::id() as i32;
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|p| p.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != own && is_tagged(*pid, entry)).collect()
}

/// A zombie has no environment, and so is not tagged.
fn is_tagged(pid: i32, entry: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == entry.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_tagged_processes_are_killed() {
        let start = |tag: &str| Command::new("sleep").arg("60").env(VARIABLE, tag).spawn().unwrap();
        let (mut ours, mut others) = (start("hanode-test-tag"), start("hanode-test-tag-2"));
        // `spawn` returns before the kernel shows the environment of the new program.
        let tagged = || tagged_pids(&format!("{VARIABLE}=hanode-test-tag")).contains(&(ours.id() as i32));
        assert!(wait_until(Duration::from_secs(60), tagged));
        kill_tagged("hanode-test-tag").unwrap();
        assert!(!ours.wait().unwrap().success());
        assert!(others.try_wait().unwrap().is_none());
        others.kill().unwrap();
        others.wait().unwrap();
    }
}
