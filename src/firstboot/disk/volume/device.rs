//! Block devices: which one is meant, and whether there is anything on it.

use anyhow::{Context, Result, bail, ensure};
use hanode_util::command::{capture, run_to_end};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

/// So much of a disk's begin and end must be zeros before it is called blank.
const LOOKED_AT: u64 = 1 << 20;

pub(super) enum Found {
    /// What the spec names.
    Named(PathBuf),
    /// Disks with nothing on them, one of which may become it.
    Blank(Vec<PathBuf>),
    /// Why there is neither.
    Nothing(String),
}

#[derive(Debug, PartialEq)]
pub(super) enum Content {
    Blank,
    /// One that a node may use.
    FileSystem(String),
}

/// The device that fstab's way of naming means. A label that is nowhere yet means the one disk that is blank.
pub(super) fn find(name: &str) -> Result<Found> {
    if name.starts_with('/') {
        let there = Path::new(name).exists();
        return Ok(match there {
            true => Found::Named(name.into()),
            false => Found::Nothing(format!("there is no {name}")),
        });
    }
    let output = capture(Command::new("blkid").args(["-c", "/dev/null", "-o", "device", "-t", name]))?;
    // 2: no device is called so.
    ensure!(matches!(output.status.code(), Some(0 | 2)), "blkid -t {name}: {}", output.stderr.trim());
    let devices: Vec<PathBuf> = output.text_lossy().lines().map(PathBuf::from).collect();
    match devices.as_slice() {
        [one] => return Ok(Found::Named(one.clone())),
        [] => {}
        several => {
            let several = several.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(" and ");
            bail!("{several} are all called {name}; detach the wrong ones");
        }
    }
    let blank = if name.starts_with("LABEL=") { blank_disks()? } else { Vec::new() };
    Ok(match blank.is_empty() {
        true => Found::Nothing(format!("no device is {name}, and no disk is blank")),
        false => Found::Blank(blank),
    })
}

/// Whole disks that are writable, in no use, and have nothing on them.
fn blank_disks() -> Result<Vec<PathBuf>> {
    let mut blank = Vec::new();
    for entry in std::fs::read_dir("/sys/block").context("reading /sys/block")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_disk = ["sd", "vd", "xvd", "nvme", "hd"].iter().any(|kind| name.starts_with(kind));
        let (about, device) = (Path::new("/sys/block").join(&name), Path::new("/dev").join(&name));
        let says = |file: &str| std::fs::read_to_string(about.join(file)).unwrap_or_default();
        if is_disk
            && says("ro").trim() == "0"
            && says("removable").trim() == "0"
            && device.exists()
            && is_blank(&device).unwrap_or(false)
        {
            blank.push(device);
        }
    }
    blank.sort();
    Ok(blank)
}

/// What is on it. Whatever a node has no use for is an error: it is not ours to erase.
pub(super) fn content(device: &Path) -> Result<Content> {
    let shown = device.display();
    let probed = probe(device)?;
    match probed.iter().find(|(key, _)| key == "TYPE").map(|(_, value)| value.as_str()) {
        Some(kind @ ("ext4" | "xfs")) => Ok(Content::FileSystem(kind.into())),
        Some(kind) => bail!(
            "{shown} holds {kind}, not a volume of hanode; attach another one, or wipe it: wipefs -a {shown}"
        ),
        None if !probed.is_empty() => {
            bail!(
                "{shown} has a partition table; name the partition, attach another one, or wipe it: wipefs -a {shown}"
            )
        }
        None if is_blank(device)? => Ok(Content::Blank),
        None => bail!(
            "{shown} bears no known signature, but it is not empty; if nobody needs what is there: blkdiscard -z {shown}"
        ),
    }
}

/// Every signature that the distribution's tool knows, straight from the device.
fn probe(device: &Path) -> Result<Vec<(String, String)>> {
    let output = capture(Command::new("blkid").args(["-p", "-o", "export"]).arg(device))?;
    match output.status.code() {
        Some(0) => {}
        // Nothing was found.
        Some(2) => return Ok(Vec::new()),
        _ => bail!("{}: blkid cannot tell what it holds: {}", device.display(), output.stderr.trim()),
    }
    let text = output.text_lossy();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let told =
        pairs.filter(|(key, _)| *key != "DEVNAME" && !key.contains("SIZE") && !key.starts_with("PART_ENTRY"));
    Ok(told.map(|(key, value)| (key.to_string(), value.to_string())).collect())
}

fn is_blank(device: &Path) -> Result<bool> {
    Ok(probe(device)?.is_empty() && is_zero(device)?)
}

/// A disk that once was used and bears no signature is not blank either.
fn is_zero(device: &Path) -> Result<bool> {
    let mut file = File::open(device).with_context(|| format!("opening {}", device.display()))?;
    let size = file.seek(SeekFrom::End(0))?;
    for begin in [0, size.saturating_sub(LOOKED_AT)] {
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        file.by_ref().take(LOOKED_AT).read_to_end(&mut bytes)?;
        if bytes.iter().any(|b| *b != 0) {
            return Ok(false);
        }
    }
    Ok(size > 0)
}

pub(super) fn format(device: &Path, label: &str) -> Result<()> {
    run_to_end(Command::new("mkfs.ext4").args(["-q", "-L", label]).arg(device)).map(drop)
}
