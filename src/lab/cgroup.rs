//! A node's control group. On a host with systemd, a transient scope; elsewhere (containers, minimal hosts, hybrid
//! cgroup v1), a directory in a private cgroup2 mount.

use super::process::wait_until;
use anyhow::{Context, Result};
use hanode_util::command::{command, run_to_end};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const MOUNT: &str = "/sys/fs/cgroup";

/// Whether systemd runs this host.
pub(crate) fn systemd_host() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A command that runs `program` in a scope with delegated control groups, if systemd runs the host.
pub(crate) fn in_scope(name: &str, program: &Path) -> Command {
    if !systemd_host() {
        return Command::new(program);
    }
    let mut command = Command::new("systemd-run");
    command.args(["--scope", "--quiet", "--collect", "--property=Delegate=yes"]);
    // An init inside the scope re-executes itself on SIGTERM.
    command.arg("--property=KillSignal=SIGKILL");
    command.arg(format!("--unit={name}.scope")).arg("--").arg(program);
    command
}

/// Gives the calling thread a private mount namespace: its mounts disappear when it ends.
pub(crate) fn private_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("making mounts private")
}

/// Moves the calling process into the group `name`. The caller must have private mounts.
pub(crate) fn enter(name: &str) -> Result<()> {
    if systemd_host() {
        return Ok(());
    }
    mount_cgroup2()?;
    let group = Path::new(MOUNT).join(name);
    std::fs::create_dir_all(&group)?;
    std::fs::write(group.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("entering control group {name}"))
}

/// Mounts cgroup2 on /sys/fs/cgroup in place of all other mounts there, in this mount namespace only.
fn mount_cgroup2() -> Result<()> {
    // Each call detaches the topmost mount with all mounts below it.
    while umount2(MOUNT, MntFlags::MNT_DETACH).is_ok() {}
    mount(Some("none"), MOUNT, Some("cgroup2"), MsFlags::empty(), None::<&str>)
        .context("mounting cgroup2, which the lab requires")
}

/// Kills all processes in the group `name` and in groups named `name-…`, and removes these groups.
pub(crate) fn remove_all(name: &str) -> Result<()> {
    let below = format!("{name}-");
    if systemd_host() {
        // systemctl accepts a pattern without a match, but not an unknown plain name.
        let patterns = [format!("{name}[.]scope"), format!("{below}*.scope")];
        return run_to_end(command("systemctl").arg("stop").args(patterns)).map(|_| ());
    }
    // On a separate thread: the mounts of this one must not change.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            private_mounts()?;
            mount_cgroup2()?;
            for entry in std::fs::read_dir(MOUNT)?.flatten() {
                let found = entry.file_name();
                let found = found.to_string_lossy();
                if found == name || found.starts_with(&below) {
                    remove(&entry.path())?;
                }
            }
            Ok(())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn remove(group: &Path) -> Result<()> {
    let _ = std::fs::write(group.join("cgroup.kill"), "1");
    let gone = wait_until(Duration::from_secs(10), || {
        let groups = walkdir::WalkDir::new(group).contents_first(true).into_iter().flatten();
        for directory in groups.filter(|e| e.file_type().is_dir()) {
            let _ = std::fs::remove_dir(directory.path());
        }
        !group.exists()
    });
    anyhow::ensure!(gone, "processes in control group {} survive SIGKILL", group.display());
    Ok(())
}
