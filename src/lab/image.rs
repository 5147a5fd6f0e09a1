//! The image below the nodes' disks: read-only, shared by all nodes, and used without a copy where possible.

use super::layout::Image;
use anyhow::{Context, Result, bail, ensure};
use hanode_util::command::{capture, command, run_to_end};
use hanode_util::user_error::UserError;
use std::path::{Path, PathBuf};

/// The format of an image file, from its name.
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
            () => bail!("{name} is not an image: expected .raw, .qcow2, .vmdk, .tar or .tar.gz"),
        })
    }

    /// QEMU's name of the format.
    pub(crate) fn qemu(self) -> Option<&'static str> {
        match self {
            Format::Tar => None,
            Format::Raw => Some("raw"),
            Format::Qcow2 => Some("qcow2"),
            Format::Vmdk => Some("vmdk"),
        }
    }
}

/// Prepares the image below `state`, once for all nodes: unpacks an archive, converts a compact disk to a raw one.
pub(crate) fn prepare(image: &Image, state: &Path, vm: bool) -> Result<()> {
    let format = Format::of(&image.path)?;
    match format {
        _ if vm => ensure!(
            format != Format::Tar,
            "{} is not a disk image: --vm needs .qcow2, .raw or .vmdk",
            image.path.display()
        ),
        Format::Tar => make_once(&prepared(image, state), |new| unpack(&image.path, new))?,
        Format::Raw => {}
        Format::Qcow2 | Format::Vmdk => make_once(&prepared(image, state), |new| {
            let convert = ["convert", "-O", "raw", "-S", "4k"];
            run_to_end(command("qemu-img").args(convert).arg(&image.path).arg(new)).map(|_| ())
        })?,
    }
    Ok(())
}

/// Fails if the image file changed below a disk that uses it directly.
pub(crate) fn require_unchanged(image: &Image, vm: bool) -> Result<()> {
    if (vm || Format::of(&image.path)? == Format::Raw) && Image::at(&image.path)? != *image {
        bail!(UserError::with_help(
            format!("{} has changed since this node's disk was made from it", image.path.display()),
            "replace the node with `hanode lab reprovision`"
        ));
    }
    Ok(())
}

/// Mounts the root file system of the image read-only on `at`. The caller must have private mounts.
pub(crate) fn mount(image: &Image, state: &Path, at: &Path) -> Result<()> {
    std::fs::create_dir_all(at)?;
    let raw = match Format::of(&image.path)? {
        Format::Tar => {
            run_to_end(command("mount").args(["--bind", "-o", "ro"]).arg(prepared(image, state)).arg(at))?;
            return Ok(());
        }
        Format::Raw => image.path.clone(),
        Format::Qcow2 | Format::Vmdk => prepared(image, state),
    };
    let root = root_partition(&raw)
        .with_context(|| format!("looking for the root file system in {}", image.path.display()))?;
    let options = format!("ro,loop,offset={},sizelimit={}", root.start, root.bytes);
    run_to_end(command("mount").args(["-o", &options]).arg(&raw).arg(at)).map(|_| ())
}

/// The result of [`prepare`]: the unpacked tree or the raw disk. Each version of an image has its own.
fn prepared(image: &Image, state: &Path) -> PathBuf {
    state.join("images").join(image.id())
}

fn make_once(wanted: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
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
    ensure!(into.join("etc").is_dir(), "{} is not an image of a system: it has no /etc", archive.display());
    Ok(())
}

/// Offset and size of a partition, in bytes.
#[derive(Debug, PartialEq)]
struct Partition {
    start: u64,
    bytes: u64,
}

/// "Linux root (x86-64)" of the Discoverable Partitions Specification, and "Linux filesystem".
const ROOT: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";
const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";

/// The fields of `sfdisk --json` that are read here.
mod sfdisk {
    use serde::Deserialize;

    #[derive(Deserialize)]
    pub(super) struct Dump {
        #[serde(rename = "partitiontable")]
        pub(super) table: Table,
    }

    #[derive(Deserialize)]
    pub(super) struct Table {
        pub(super) label: String,
        /// sfdisk before util-linux 2.37 does not write it.
        #[serde(rename = "sectorsize", default = "default_sector")]
        pub(super) sector: u64,
        #[serde(default)]
        pub(super) partitions: Vec<Entry>,
    }

    /// Start and size in sectors.
    #[derive(Deserialize)]
    pub(super) struct Entry {
        pub(super) start: u64,
        pub(super) size: u64,
        #[serde(rename = "type")]
        pub(super) kind: String,
    }

    fn default_sector() -> u64 {
        512
    }
}

/// The root partition of the disk image in the file `disk`.
fn root_partition(disk: &Path) -> Result<Partition> {
    let dump = capture(command("sfdisk").arg("--json").arg(disk))?;
    let no_table = dump.stderr.contains("does not contain a recognized partition table");
    ensure!(!no_table, "no GUID partition table");
    ensure!(dump.status.success(), "reading the partition table: {}", dump.stderr.trim());
    root_in(&dump.stdout)
}

/// The root partition by its type in the GUID partition table, else the one Linux partition.
fn root_in(dump: &[u8]) -> Result<Partition> {
    let sfdisk::Dump { table } = serde_json::from_slice(dump).context("reading the output of sfdisk")?;
    ensure!(table.label == "gpt", "no GUID partition table");
    let of_type = |kind: &str| {
        let entries = table.partitions.iter().filter(|entry| entry.kind.eq_ignore_ascii_case(kind));
        entries
            .map(|entry| Partition { start: entry.start * table.sector, bytes: entry.size * table.sector })
            .collect::<Vec<_>>()
    };
    let (mut root, mut linux) = (of_type(ROOT), of_type(LINUX));
    match (root.pop(), linux.pop()) {
        (Some(one), _) if root.is_empty() => Ok(one),
        (None, Some(one)) if linux.is_empty() => Ok(one),
        (None, None) => bail!("no Linux partition in the partition table"),
        _ => bail!("more than one partition could be the root partition"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `sfdisk --json` of util-linux 2.38 prints it.
    const RECORDED: &str = r#"{
   "partitiontable": {
      "label": "gpt",
      "id": "9F0AE5CE-9675-41F8-A331-A6037E04829B",
      "device": "a.raw",
      "unit": "sectors",
      "firstlba": 34,
      "lastlba": 131038,
      "sectorsize": 512,
      "partitions": [
         {
            "node": "a.raw1",
            "start": 2048,
            "size": 2048,
            "type": "21686148-6449-6E6F-744E-656564454649",
            "uuid": "1E388E92-926E-4C5C-A4B9-4A189D757CBA"
         },{
            "node": "a.raw2",
            "start": 4096,
            "size": 40960,
            "type": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
            "uuid": "2D5DA08E-E6CA-4AC9-926A-2B8F26EF1E4A",
            "name": "boot"
         },{
            "node": "a.raw3",
            "start": 45056,
            "size": 85983,
            "type": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
            "uuid": "F1065A67-45C9-41F6-B1E4-9AB3EC5A1069"
         }
      ]
   }
}
"#;
    /// Of a table without partitions, and of a DOS partition table.
    const EMPTY: &str = r#"{"partitiontable": {"label": "gpt", "unit": "sectors", "sectorsize": 512}}"#;
    const DOS: &str = r#"{"partitiontable": {"label": "dos", "id": "0xa5b9888c", "device": "m.raw",
        "unit": "sectors", "sectorsize": 512,
        "partitions": [{"node": "m.raw1", "start": 2048, "size": 18432, "type": "83"}]}}"#;
    const BIOS: &str = "21686148-6449-6E6F-744E-656564454649";

    fn error(dump: &str) -> String {
        format!("{:#}", root_in(dump.as_bytes()).unwrap_err())
    }

    #[test]
    fn root_partition_is_preferred_to_other_linux_partitions() {
        let root = root_in(RECORDED.as_bytes()).unwrap();
        assert_eq!(root, Partition { start: 45056 * 512, bytes: 85983 * 512 });
    }

    #[test]
    fn a_single_linux_partition_is_the_root() {
        let root = root_in(RECORDED.replace(ROOT, BIOS).as_bytes()).unwrap();
        assert_eq!(root, Partition { start: 4096 * 512, bytes: 40960 * 512 });
    }

    #[test]
    fn sector_size_is_read_from_the_table() {
        let start = |dump: String| root_in(dump.as_bytes()).unwrap().start;
        assert_eq!(start(RECORDED.replace(r#""sectorsize": 512"#, r#""sectorsize": 4096"#)), 45056 * 4096);
        assert_eq!(start(RECORDED.replace(r#""sectorsize": 512,"#, "")), 45056 * 512);
    }

    #[test]
    fn ambiguous_or_missing_root_is_an_error() {
        for one in [ROOT, LINUX] {
            let twice = RECORDED.replace(ROOT, one).replace(LINUX, one);
            assert!(error(&twice).contains("more than one partition"), "{one}");
        }
        for none in [EMPTY.to_string(), RECORDED.replace(ROOT, BIOS).replace(LINUX, BIOS)] {
            assert!(error(&none).contains("no Linux partition"), "{none}");
        }
        assert!(error(DOS).contains("no GUID partition table"));
        assert!(error("").contains("output of sfdisk"));
    }

    #[test]
    fn file_name_sets_the_format() {
        assert_eq!(Format::of(Path::new("a/node.tar.gz")).unwrap(), Format::Tar);
        assert_eq!(Format::of(Path::new("node.qcow2")).unwrap(), Format::Qcow2);
        assert!(Format::of(Path::new("node.iso")).is_err());
    }
}
