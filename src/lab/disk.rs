//! The disk of a container node: the files that it writes over the image, in a file system of limited size, so that it
//! can fill up like a machine's disk. The backing file is sparse.

use super::cgroup::private_mounts;
use super::process::wait_until;
use anyhow::{Context, Result, ensure};
use hanode_util::command::{command, run_to_end};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Enough for the servers' logs and a few databases. Chaos fills the disk by reserving blocks, not by writing them.
const BYTES: u64 = 8 << 30;
pub(crate) const FILE: &str = "disk.ext4";
/// The upper and work directories of the overlay.
const PARTS: [&str; 2] = ["upper", "work"];

/// Mounts the disk below `home`, after creating it if missing. The caller must have private mounts.
pub(crate) fn mount(home: &Path) -> Result<PathBuf> {
    let (file, at) = (home.join(FILE), home.join("disk"));
    if !file.exists() {
        create(&file)?;
    }
    std::fs::create_dir_all(&at)?;
    check(&file)?;
    let mut mount = command("mount");
    run_to_end(
        mount.args(["--types", "ext4", "--options", "loop,discard,errors=remount-ro"]).arg(&file).arg(&at),
    )?;
    for part in PARTS {
        std::fs::create_dir_all(at.join(part))?;
    }
    Ok(at)
}

/// Repairs a file system that was read-only because of an error, as a machine does when it boots.
fn check(file: &Path) -> Result<()> {
    let output = hanode_util::command::capture(command("e2fsck").arg("-p").arg(file))?;
    let repaired = matches!(output.status.code(), Some(0 | 1));
    ensure!(repaired, "{} is damaged: {}", file.display(), output.text_lossy().trim());
    Ok(())
}

/// Without a journal: a power cut of the node does not lose the host's page cache.
fn create(file: &Path) -> Result<()> {
    let new = file.with_extension("new");
    let mut mke2fs = command("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"]);
    run_to_end(mke2fs.arg(&new).arg(format!("{}k", BYTES >> 10)))?;
    std::fs::rename(&new, file)?;
    Ok(())
}

/// Mounts the disk and calls `work` with the directory of the files that the node has written.
pub(crate) fn with_mounted<T: Send>(home: &Path, work: impl FnOnce(&Path) -> Result<T> + Send) -> Result<T> {
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
    ensure!(wait_released(home, Duration::from_secs(20)), "{} is still in use", home.join(FILE).display());
    Ok(done)
}

/// Calls `work` while the file system is frozen: everything written is on the disk, and writers wait. The process
/// `holder` has it mounted.
pub(crate) fn while_frozen<T>(home: &Path, holder: i32, work: impl FnOnce() -> Result<T>) -> Result<T> {
    freeze(home, holder, true)?;
    let done = work();
    freeze(home, holder, false)?;
    done
}

/// Freezes the file system, or thaws it. Frozen, it answers reads, and writers wait.
pub(crate) fn freeze(home: &Path, holder: i32, frozen: bool) -> Result<()> {
    let mut nsenter = command("nsenter");
    nsenter.arg(format!("--mount=/proc/{holder}/ns/mnt")).args(["--", "fsfreeze"]);
    nsenter.arg(if frozen { "--freeze" } else { "--unfreeze" });
    run_to_end(nsenter.arg(home.join("disk"))).map(drop)
}

/// Has the kernel treat the file system as damaged: it becomes read-only until it is mounted again.
pub(crate) fn make_read_only(home: &Path) -> Result<()> {
    let devices = loop_devices(home)?;
    ensure!(!devices.is_empty(), "{} is not mounted", home.join(FILE).display());
    for device in devices {
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        std::fs::write(&trigger, "injected by hanode lab").with_context(|| trigger)?;
    }
    Ok(())
}

/// Limits the loop device, `$ARGV[0]`, to its first sector, by the ioctls LOOP_GET_STATUS64 and LOOP_SET_STATUS64. No
/// tool of util-linux changes that of a device in use, and device-mapper's `error` target is not in every kernel.
const FAIL: &str = r#"
    open(my $device, "+<", $ARGV[0]) or die "$ARGV[0]: $!\n";
    my $info = "\0" x 232;
    ioctl($device, 0x4c05, $info) or die "$ARGV[0]: reading its limits: $!\n";
    substr($info, 32, 8) = pack("Q", 512);
    ioctl($device, 0x4c04, $info) or die "$ARGV[0]: setting its limits: $!\n";
"#;

/// Makes all reads and writes of the file system fail, except those that the kernel answers from memory.
pub(crate) fn fail(home: &Path) -> Result<()> {
    let devices = loop_devices(home)?;
    ensure!(!devices.is_empty(), "{} is not mounted", home.join(FILE).display());
    for device in devices {
        run_to_end(command("perl").args(["-e", FAIL]).arg(Path::new("/dev").join(device)))?;
    }
    Ok(())
}

/// Waits until no loop device uses the disk: only then can it be mounted again, copied or discarded.
pub(crate) fn wait_released(home: &Path, limit: Duration) -> bool {
    wait_until(limit, || loop_devices(home).is_ok_and(|devices| devices.is_empty()))
}

/// The loop devices that use the disk.
fn loop_devices(home: &Path) -> Result<Vec<String>> {
    let file = match home.join(FILE).metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let uses = |device: &std::fs::DirEntry| {
        let path = std::fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        let backing = std::fs::metadata(path.trim_end());
        backing.is_ok_and(|b| (b.dev(), b.ino()) == (file.dev(), file.ino()))
    };
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten().filter(uses);
    Ok(devices.map(|device| device.file_name().to_string_lossy().into_owned()).collect())
}
