//! What a verb of the lab starts bears the lab's mark in its environment, and so does all that comes of it. A verb that
//! is killed leaves its tools and half-started nodes behind, not yet written down anywhere: by the mark `down` finds them.

use super::process::wait_until;
use anyhow::{Context, Result, ensure};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const MARK: &str = "HANODE_LAB";

/// Gives this process the mark of the lab of `dir`, which takes that it begins anew: nobody may change the environment of
/// a running one.
pub fn bear(dir: &Path) -> Result<()> {
    let dir = dir.canonicalize().with_context(|| format!("no directory {}", dir.display()))?;
    let mark = super::name(&dir);
    if std::env::var_os(MARK).is_some_and(|found| found.as_os_str() == mark.as_str()) {
        return Ok(());
    }
    let program = std::env::current_exe().context("finding this program's own file")?;
    let mut again = Command::new(program);
    Err(again.args(std::env::args_os().skip(1)).env(MARK, mark).exec()).context("starting anew")
}

/// Kills whoever bears this mark, but for the caller, until nobody does.
pub(crate) fn end(mark: &str) -> Result<()> {
    let entry = format!("{MARK}={mark}");
    let none_left = wait_until(super::SHORTLY, || {
        let found = bearers(&entry);
        for pid in &found {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        }
        found.is_empty()
    });
    ensure!(none_left, "processes of the lab do not die: {:?}", bearers(&entry));
    Ok(())
}

fn bearers(entry: &str) -> Vec<i32> {
    let own = std::process::id() as i32;
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|p| p.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != own && bears(*pid, entry)).collect()
}

/// One that has ended, and waits for its parent to notice, has no environment any more.
fn bears(pid: i32, entry: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == entry.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_bears_the_mark_is_ended_and_nobody_else() {
        let start = |mark: &str| Command::new("sleep").arg("60").env(MARK, mark).spawn().unwrap();
        let (mut ours, mut others) = (start("hanode-test-mark"), start("hanode-test-mark-2"));
        end("hanode-test-mark").unwrap();
        assert!(!ours.wait().unwrap().success());
        assert!(others.try_wait().unwrap().is_none());
        others.kill().unwrap();
        others.wait().unwrap();
    }
}
