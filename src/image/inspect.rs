//! Reads the manifest out of an image file of any format.

use super::ext4::Ext4;
use super::format::Format;
use super::manifest::{ImageManifest, PATH, date};
use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use hanode_util::command::{self, command, run};
use hanode_util::scratch::Scratch;
use hanode_util::user_error::unreadable;
use serde::Serialize;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

#[derive(Debug, Serialize)]
pub struct Inspection {
    pub(crate) schema: u32,
    pub(crate) file: String,
    pub image: ImageManifest,
}

/// The manifest of an image; fails for a file that hanode did not build.
pub fn inspect(file: &Path) -> Result<Inspection> {
    let metadata = std::fs::metadata(file).map_err(|error| unreadable(file, error))?;
    let format = Format::from_path(file)?;
    if !metadata.is_file() {
        bail!("{}: not a file", file.display());
    }
    command::require(match format {
        Format::Tar | Format::TarGz => &[],
        Format::Raw => &["debugfs"],
        Format::Qcow2 | Format::Vmdk => &["debugfs", "qemu-img"],
    })?;
    let text = match format {
        Format::Tar => last_member(tar::Archive::new(File::open(file)?).entries_with_seek()?),
        Format::TarGz => {
            let content = GzDecoder::new(BufReader::new(File::open(file)?));
            last_member(tar::Archive::new(content).entries()?)
        }
        Format::Raw => from_disk(file),
        Format::Qcow2 | Format::Vmdk => from_converted(file),
    };
    let text = text
        .with_context(|| format!("reading {}", file.display()))?
        .with_context(|| format!("{} was not built by hanode: it has no {PATH}", file.display()))?;
    let image = serde_json::from_slice(&text)
        .with_context(|| format!("{PATH} in {} has the format of another hanode version", file.display()))?;
    Ok(Inspection { schema: 1, file: file.display().to_string(), image })
}

/// The content of the last member with the manifest's name, which is the one that an extraction leaves.
fn last_member<R: Read>(members: tar::Entries<R>) -> Result<Option<Vec<u8>>> {
    let mut found = None;
    for member in members {
        let mut member = member?;
        let path = member.path()?;
        if path.strip_prefix("./").unwrap_or(&path) == Path::new(PATH.trim_start_matches('/')) {
            drop(path);
            let mut text = Vec::new();
            member.read_to_end(&mut text)?;
            found = Some(text);
        }
    }
    Ok(found)
}

fn from_converted(file: &Path) -> Result<Option<Vec<u8>>> {
    let scratch = Scratch::within(&std::env::temp_dir(), "hanode-")?;
    let raw = scratch.join("raw");
    run(command("qemu-img").args(["convert", "-O", "raw"]).arg(file).arg(&raw))?;
    from_disk(&raw)
}

fn from_disk(raw: &Path) -> Result<Option<Vec<u8>>> {
    for offset in partitions(&File::open(raw)?)? {
        if is_ext4(raw, offset)? {
            let found = Ext4 { image: raw, offset }.cat(PATH)?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

fn is_ext4(raw: &Path, offset: u64) -> Result<bool> {
    let mut magic = [0; 2];
    Ok(File::open(raw)?.read_exact_at(&mut magic, offset + 0x438).is_ok() && magic == [0x53, 0xef])
}

/// The offsets of the partitions in bytes, from the GPT or else the MBR.
fn partitions(disk: &File) -> Result<Vec<u64>> {
    let mut head = [0; 1024];
    disk.read_exact_at(&mut head, 0).context("the file is too short for a disk")?;
    let u32_at = |bytes: &[u8], at: usize| {
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    if &head[512..520] != b"EFI PART" {
        return Ok((0..4)
            .map(|n| u64::from(u32_at(&head, 446 + 16 * n + 8)) * 512)
            .filter(|o| *o > 0)
            .collect());
    }
    let mut table = [0; 128 * 128];
    disk.read_exact_at(&mut table, 1024).context("the partition table is truncated")?;
    let starts = table.chunks(128).filter(|entry| entry[..16] != [0; 16]).map(|entry| {
        let (low, high) = (u32_at(entry, 32), u32_at(entry, 36));
        (u64::from(low) | u64::from(high) << 32) * 512
    });
    Ok(starts.collect())
}

impl std::fmt::Display for Inspection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let image = &self.image;
        writeln!(f, "{}", self.file)?;
        writeln!(f, "  target      {} ({})", image.target, image.os)?;
        writeln!(f, "  hanode      {}", image.hanode)?;
        let base = image.base.id.get(..16).unwrap_or("not built by hanode");
        writeln!(f, "  base        {base}, packages of {}", date(image.base.built_at))?;
        if let Some(selinux) = &image.selinux {
            writeln!(f, "  SELinux     {selinux}")?;
        }
        match &image.cluster {
            Some(cluster) => {
                writeln!(f, "  cluster     {}", cluster.name)?;
                writeln!(f, "  spec        {}", cluster.spec_hash)?;
                writeln!(f, "  bundle      generation {}", cluster.bundle_generation)?;
            }
            None => writeln!(f, "  cluster     none")?,
        }
        for (component, version) in &image.components {
            writeln!(f, "  {component:<11} {version}")?;
        }
        write!(f, "  contents    {} packages, {} baked files", image.packages.len(), image.entries.len())
    }
}
