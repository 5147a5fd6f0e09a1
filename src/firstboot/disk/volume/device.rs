//! Block devices: which one the spec names, and whether it is blank.

use anyhow::{Context, Result, bail, ensure};
use hanode_util::command::{capture, run_to_end};
use hanode_util::user_error::UserError;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first and last bytes of a disk that must be zeros before it counts as blank.
const CHECKED_BYTES: u64 = 1 << 20;

pub(super) enum DeviceLookup {
    /// The device that the spec names.
    Named(PathBuf),
    /// Blank disks, one of which may become the volume.
    Blank(Vec<PathBuf>),
    /// Why there is neither of them.
    Nothing(String),
}

#[derive(Debug, PartialEq)]
pub(super) enum DeviceContent {
    Blank,
    /// A file system that a node can use.
    FileSystem(String),
}

/// The device with this name in fstab's notation; for a label that no device has, the blank disks.
pub(super) fn find(name: &str) -> Result<DeviceLookup> {
    if name.starts_with('/') {
        return Ok(match Path::new(name).exists() {
            true => DeviceLookup::Named(name.into()),
            false => DeviceLookup::Nothing(format!("{name} does not exist")),
        });
    }
    let output = capture(Command::new("blkid").args(["-c", "/dev/null", "-o", "device", "-t", name]))?;
    // 2: no device has this name.
    ensure!(matches!(output.status.code(), Some(0 | 2)), "blkid -t {name}: {}", output.stderr.trim());
    let devices: Vec<PathBuf> = output.text_lossy().lines().map(PathBuf::from).collect();
    match devices.as_slice() {
        [one] => return Ok(DeviceLookup::Named(one.clone())),
        [] => {}
        several => {
            bail!(UserError::with_help(
                format!("{} are all {name}", join_names(several)),
                "detach the wrong ones",
            ));
        }
    }
    let blank = if name.starts_with("LABEL=") { blank_disks()? } else { Vec::new() };
    Ok(match blank.is_empty() {
        true => DeviceLookup::Nothing(format!("no device is {name}, and no disk is blank")),
        false => DeviceLookup::Blank(blank),
    })
}

/// `/dev/vda and /dev/vdb`, for a message.
pub(super) fn join_names(devices: &[PathBuf]) -> String {
    devices.iter().map(|device| device.display().to_string()).collect::<Vec<_>>().join(" and ")
}

/// Whole disks that are writable, not removable and blank.
fn blank_disks() -> Result<Vec<PathBuf>> {
    let mut blank = Vec::new();
    for entry in std::fs::read_dir("/sys/block").context("reading /sys/block")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_disk = ["sd", "vd", "xvd", "nvme", "hd"].iter().any(|kind| name.starts_with(kind));
        let (about, device) = (Path::new("/sys/block").join(&name), Path::new("/dev").join(&name));
        let attribute = |file: &str| std::fs::read_to_string(about.join(file)).unwrap_or_default();
        if is_disk
            && attribute("ro").trim() == "0"
            && attribute("removable").trim() == "0"
            && device.exists()
            && is_blank(&device).unwrap_or(false)
        {
            blank.push(device);
        }
    }
    blank.sort();
    Ok(blank)
}

/// What is on the device. Content that a node cannot use is an error, since it may belong to somebody.
pub(super) fn content(device: &Path) -> Result<DeviceContent> {
    let shown = device.display();
    let probed = probe(device)?;
    match probed.iter().find(|(key, _)| key == "TYPE").map(|(_, value)| value.as_str()) {
        Some(kind @ ("ext4" | "xfs")) => Ok(DeviceContent::FileSystem(kind.into())),
        Some(kind) => bail!(UserError::with_help(
            format!("{shown} holds {kind}, not a volume of hanode"),
            format!("attach another one, or wipe it: wipefs -a {shown}"),
        )),
        None if !probed.is_empty() => bail!(UserError::with_help(
            format!("{shown} has a partition table"),
            format!("name the partition, attach another disk, or wipe it: wipefs -a {shown}"),
        )),
        None if is_blank(device)? => Ok(DeviceContent::Blank),
        None => bail!(UserError::with_help(
            format!("{shown} has no known signature, but it is not blank"),
            format!("attach another one, or erase it: blkdiscard -z {shown}"),
        )),
    }
}

/// The signatures that blkid finds on the device.
fn probe(device: &Path) -> Result<Vec<(String, String)>> {
    let output = capture(Command::new("blkid").args(["-p", "-o", "export"]).arg(device))?;
    match output.status.code() {
        Some(0) => {}
        // No signature found.
        Some(2) => return Ok(Vec::new()),
        _ => bail!("blkid -p {}: {}", device.display(), output.stderr.trim()),
    }
    let text = output.text_lossy();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let content =
        pairs.filter(|(key, _)| *key != "DEVNAME" && !key.contains("SIZE") && !key.starts_with("PART_ENTRY"));
    Ok(content.map(|(key, value)| (key.to_string(), value.to_string())).collect())
}

fn is_blank(device: &Path) -> Result<bool> {
    Ok(probe(device)?.is_empty() && is_zero(device)?)
}

/// A used disk without a signature is not blank either.
fn is_zero(device: &Path) -> Result<bool> {
    let mut file = File::open(device).with_context(|| format!("opening {}", device.display()))?;
    let size = file.seek(SeekFrom::End(0))?;
    for offset in [0, size.saturating_sub(CHECKED_BYTES)] {
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.by_ref().take(CHECKED_BYTES).read_to_end(&mut bytes)?;
        if bytes.iter().any(|b| *b != 0) {
            return Ok(false);
        }
    }
    Ok(size > 0)
}

pub(super) fn format(device: &Path, label: &str) -> Result<()> {
    run_to_end(Command::new("mkfs.ext4").args(["-q", "-L", label]).arg(device)).map(drop)
}
