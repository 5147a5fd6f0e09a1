//! A node's control group. Where systemd runs the host, it is a scope that systemd makes and removes;
//! elsewhere (containers, minimal hosts, hybrid cgroup v1) a directory in a cgroup2 mount nobody else sees.

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

/// `program` as systemd wants it started: in a scope whose control groups are ours to divide.
pub(crate) fn in_scope(name: &str, program: &Path) -> Command {
    if !systemd_host() {
        return Command::new(program);
    }
    let mut command = Command::new("systemd-run");
    command.args(["--scope", "--quiet", "--collect", "--property=Delegate=yes"]);
    // An init in there takes SIGTERM for a wish to be re-executed.
    command.arg("--property=KillSignal=SIGKILL");
    command.arg(format!("--unit={name}.scope")).arg("--").arg(program);
    command
}

/// Gives the calling thread mounts of its own: what it mounts is gone when it ends.
pub(crate) fn private_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("making mounts private")
}

/// Within private mounts: puts the calling process into the group `name`, which then is its own.
pub(crate) fn enter(name: &str) -> Result<()> {
    if systemd_host() {
        return Ok(());
    }
    mount_alone()?;
    let group = Path::new(MOUNT).join(name);
    std::fs::create_dir_all(&group)?;
    std::fs::write(group.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("entering control group {name}"))
}

/// Replaces whatever is mounted on /sys/fs/cgroup by cgroup2, in these mounts only.
fn mount_alone() -> Result<()> {
    // Detached from the top down, each with all below it.
    while umount2(MOUNT, MntFlags::MNT_DETACH).is_ok() {}
    mount(Some("none"), MOUNT, Some("cgroup2"), MsFlags::empty(), None::<&str>)
        .context("mounting cgroup2: the lab needs a kernel that has it")
}

/// Kills whatever is left in the group `name` and in those named `name-…`, and removes them.
pub(crate) fn sweep(name: &str) -> Result<()> {
    let below = format!("{name}-");
    if systemd_host() {
        // A pattern that matches nothing is no error to systemctl; an unknown plain name is.
        let patterns = [format!("{name}[.]scope"), format!("{below}*.scope")];
        return run_to_end(command("systemctl").arg("stop").args(patterns)).map(|_| ());
    }
    // On a thread of its own, as only mounts of its own may be changed.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            private_mounts()?;
            mount_alone()?;
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
    anyhow::ensure!(gone, "control group {} does not empty", group.display());
    Ok(())
}
