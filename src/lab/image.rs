//! The image as the nodes' common, read-only ground: a tree or a disk, used as it is wherever possible.

use super::layout::Image;
use anyhow::{Context, Result, bail, ensure};
use hanode_util::command::{command, run_to_end};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How an image file's name says what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Tar,
    Raw,
    Qcow2,
    Vmdk,
}

impl Format {
    pub(crate) fn of(path: &Path) -> Result<Format> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ends = |ending: &str| name.ends_with(ending);
        Ok(match () {
            () if ends(".tar") || ends(".tar.gz") => Format::Tar,
            () if ends(".raw") => Format::Raw,
            () if ends(".qcow2") => Format::Qcow2,
            () if ends(".vmdk") => Format::Vmdk,
            () => bail!("{name} is no image by its name: .raw, .qcow2, .vmdk, .tar or .tar.gz"),
        })
    }

    /// The name QEMU has for it.
    pub(crate) fn qemu(self) -> Option<&'static str> {
        match self {
            Format::Tar => None,
            Format::Raw => Some("raw"),
            Format::Qcow2 => Some("qcow2"),
            Format::Vmdk => Some("vmdk"),
        }
    }
}

/// Does below `state` what takes long and every node profits from: unpacks an archive, makes a raw disk of
/// a compact one. Whole or not at all.
pub(crate) fn prepare(image: &Image, state: &Path, vm: bool) -> Result<()> {
    let format = Format::of(&image.path)?;
    match format {
        _ if vm => ensure!(
            format != Format::Tar,
            "{} is no disk: --vm needs .qcow2, .raw or .vmdk",
            image.path.display()
        ),
        Format::Tar => once(&copy(image, state), |new| unpack(&image.path, new))?,
        Format::Raw => {}
        Format::Qcow2 | Format::Vmdk => once(&copy(image, state), |new| {
            let convert = ["convert", "-O", "raw", "-S", "4k"];
            run_to_end(command("qemu-img").args(convert).arg(&image.path).arg(new)).map(|_| ())
        })?,
    }
    Ok(())
}

/// A disk that lies directly on the image's file needs that file as it was.
pub(crate) fn still_there(image: &Image, vm: bool) -> Result<()> {
    if (vm || Format::of(&image.path)? == Format::Raw) && Image::at(&image.path)? != *image {
        bail!(
            "{} was replaced since this node's disk was made from it: `hanode lab reprovision` the node",
            image.path.display()
        );
    }
    Ok(())
}

/// Mounts (an archive: binds) the image's root, read-only, on `at`; within private mounts.
pub(crate) fn mount(image: &Image, state: &Path, at: &Path) -> Result<()> {
    std::fs::create_dir_all(at)?;
    let raw = match Format::of(&image.path)? {
        Format::Tar => {
            run_to_end(command("mount").args(["--bind", "-o", "ro"]).arg(copy(image, state)).arg(at))?;
            return Ok(());
        }
        Format::Raw => image.path.clone(),
        Format::Qcow2 | Format::Vmdk => copy(image, state),
    };
    let root = root_partition(&std::fs::File::open(&raw)?)
        .with_context(|| format!("looking for the root file system in {}", image.path.display()))?;
    let options = format!("ro,loop,offset={},sizelimit={}", root.start, root.bytes);
    run_to_end(command("mount").args(["-o", &options]).arg(&raw).arg(at)).map(|_| ())
}

/// What `prepare` makes of the image: an archive's tree, or a raw disk. A newer image does not disturb it.
fn copy(image: &Image, state: &Path) -> PathBuf {
    state.join("images").join(image.id())
}

fn once(wanted: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if wanted.exists() {
        return Ok(());
    }
    if let Some(parent) = wanted.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let new = wanted.with_extension("new");
    remove(&new)?;
    make(&new)?;
    std::fs::rename(&new, wanted)?;
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn unpack(archive: &Path, into: &Path) -> Result<()> {
    std::fs::create_dir(into)?;
    let mut tar = command("tar");
    tar.args(["--extract", "--numeric-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*"]);
    tar.arg("--file").arg(archive).arg("--directory").arg(into);
    run_to_end(&mut tar)?;
    ensure!(into.join("etc").is_dir(), "{} holds no system: no /etc in it", archive.display());
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Partition {
    start: u64,
    bytes: u64,
}

/// "Linux root (x86-64)" of the Discoverable Partitions Specification, and "Linux filesystem", as on disk.
const ROOT: [u8; 16] = guid(0x4f68bce3, 0xe8cd, 0x4db1, 0x96e7_fbca_f984_b709);
const LINUX: [u8; 16] = guid(0x0fc63daf, 0x8483, 0x4772, 0x8e79_3d69_d847_7de4);

/// A GUID in a partition table: the first three fields little-endian, the rest as written.
const fn guid(a: u32, b: u16, c: u16, rest: u64) -> [u8; 16] {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), rest.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// The root partition by its type in the GUID partition table, else the one Linux partition.
fn root_partition(disk: &std::fs::File) -> Result<Partition> {
    const SECTOR: u64 = 512;
    let mut header = [0u8; 92];
    disk.read_exact_at(&mut header, SECTOR)?;
    ensure!(header.starts_with(b"EFI PART"), "no GUID partition table on it");
    let word = |at: usize, from: &[u8]| u64::from_le_bytes(from[at..at + 8].try_into().unwrap_or_default());
    let half = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or_default());
    let (first, count, size) = (word(72, &header), half(80).min(128), half(84) as usize);
    ensure!((128..=4096).contains(&size), "its partition table is damaged: entries of {size} bytes");

    let mut entry = vec![0u8; size];
    let (mut root, mut linux) = (Vec::new(), Vec::new());
    for n in 0..u64::from(count) {
        disk.read_exact_at(&mut entry, first * SECTOR + n * size as u64)?;
        let (start, end) = (word(32, &entry), word(40, &entry));
        let partition = Partition { start: start * SECTOR, bytes: (end + 1).saturating_sub(start) * SECTOR };
        match entry[..16] {
            ref kind if kind == ROOT => root.push(partition),
            ref kind if kind == LINUX => linux.push(partition),
            _ => {}
        }
    }
    match (root.pop(), linux.pop()) {
        (Some(one), _) if root.is_empty() => Ok(one),
        (None, Some(one)) if linux.is_empty() => Ok(one),
        (None, None) => bail!("no Linux partition in its table"),
        _ => bail!("more than one partition in its table could be the root"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with(partitions: &[([u8; 16], u64, u64)]) -> std::fs::File {
        let disk = tempfile::tempfile().unwrap();
        let mut header = [0u8; 512];
        header[..8].copy_from_slice(b"EFI PART");
        header[72..80].copy_from_slice(&2u64.to_le_bytes());
        header[80..84].copy_from_slice(&128u32.to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        disk.write_all_at(&header, 512).unwrap();
        disk.set_len(1 << 20).unwrap();
        for (n, (kind, first, last)) in partitions.iter().enumerate() {
            let at = 1024 + n as u64 * 128;
            disk.write_all_at(kind, at).unwrap();
            disk.write_all_at(&first.to_le_bytes(), at + 32).unwrap();
            disk.write_all_at(&last.to_le_bytes(), at + 40).unwrap();
        }
        disk
    }

    #[test]
    fn root_partition_goes_before_other_linux_ones() {
        let disk = disk_with(&[(LINUX, 2048, 4095), (ROOT, 4096, 8191)]);
        assert_eq!(root_partition(&disk).unwrap(), Partition { start: 4096 * 512, bytes: 4096 * 512 });
    }

    #[test]
    fn a_single_linux_partition_is_the_root() {
        let disk = disk_with(&[([7; 16], 34, 2047), (LINUX, 2048, 4095)]);
        assert_eq!(root_partition(&disk).unwrap().start, 2048 * 512);
    }

    #[test]
    fn doubt_is_an_error() {
        for partitions in [&[(LINUX, 34, 40), (LINUX, 41, 50)][..], &[(ROOT, 34, 40), (ROOT, 41, 50)], &[]] {
            assert!(root_partition(&disk_with(partitions)).is_err());
        }
        assert!(root_partition(&tempfile::tempfile().unwrap()).is_err());
    }

    #[test]
    fn guids_lie_on_disk_as_the_table_wants_them() {
        // As sgdisk writes type 8300.
        assert_eq!(hex::encode(LINUX), "af3dc60f838472478e793d69d8477de4");
    }

    #[test]
    fn the_name_says_the_format() {
        assert_eq!(Format::of(Path::new("a/node.tar.gz")).unwrap(), Format::Tar);
        assert_eq!(Format::of(Path::new("node.qcow2")).unwrap(), Format::Qcow2);
        assert!(Format::of(Path::new("node.iso")).is_err());
    }
}
