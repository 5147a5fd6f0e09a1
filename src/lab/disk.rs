//! A node's own disk, where it is a container: what it writes over the image, in a file system that can
//! fill up as a machine's does. The file grows with what is in it and shrinks again.

use super::cgroup::private_mounts;
use super::process::wait_until;
use anyhow::{Context, Result, ensure};
use hanode_util::command::{command, run_to_end};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Room for the servers' logs and a few databases; a full one is made full by reservation, not by writing.
const BYTES: u64 = 8 << 30;
pub(crate) const FILE: &str = "disk.ext4";
/// What lies on it: the node's files, and what the kernel wants beside them.
const PARTS: [&str; 2] = ["upper", "work"];

/// Mounts the disk below `home`, within private mounts; a new one is made first.
pub(crate) fn mount(home: &Path) -> Result<PathBuf> {
    let (file, at) = (home.join(FILE), home.join("disk"));
    if !file.exists() {
        make(&file)?;
    }
    std::fs::create_dir_all(&at)?;
    let mut mount = command("mount");
    run_to_end(mount.args(["--types", "ext4", "--options", "loop,discard"]).arg(&file).arg(&at))?;
    for part in PARTS {
        std::fs::create_dir_all(at.join(part))?;
    }
    Ok(at)
}

/// Without a journal: this machine keeps its memory when a node's power is cut.
fn make(file: &Path) -> Result<()> {
    let new = file.with_extension("new");
    let mut mke2fs = command("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"]);
    run_to_end(mke2fs.arg(&new).arg(format!("{}k", BYTES >> 10)))?;
    std::fs::rename(&new, file)?;
    Ok(())
}

/// Runs `work` on the files that the node has written, by their places in the node.
pub(crate) fn visit<T: Send>(home: &Path, work: impl FnOnce(&Path) -> Result<T> + Send) -> Result<T> {
    let done = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            private_mounts()?;
            let at = mount(home)?;
            let done = work(&at.join(PARTS[0]));
            nix::mount::umount(&at).with_context(|| format!("unmounting {}", at.display()))?;
            done
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    ensure!(released(home, Duration::from_secs(20)), "{} stays in use", home.join(FILE).display());
    Ok(done)
}

/// Runs `work` while nothing gets to the disk, and all that was written is on it. `holder` has it mounted.
pub(crate) fn frozen<T>(home: &Path, holder: i32, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let freeze = |how: &str| {
        let mut nsenter = command("nsenter");
        nsenter.arg(format!("--mount=/proc/{holder}/ns/mnt")).args(["--", "fsfreeze", how]);
        run_to_end(nsenter.arg(home.join("disk"))).map(drop)
    };
    freeze("--freeze")?;
    let done = work();
    freeze("--unfreeze")?;
    done
}

/// Whether no kernel holds it any more: only then may it be mounted again, copied or thrown away.
pub(crate) fn released(home: &Path, limit: Duration) -> bool {
    let Ok(file) = home.join(FILE).metadata() else { return true };
    let held = || {
        let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
        devices.map(|d| d.path().join("loop/backing_file")).any(|at| {
            let path = std::fs::read_to_string(at).unwrap_or_default();
            let backing = std::fs::metadata(path.trim_end());
            backing.is_ok_and(|b| (b.dev(), b.ino()) == (file.dev(), file.ino()))
        })
    };
    wait_until(limit, || !held())
}
