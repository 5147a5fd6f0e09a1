//! The data volume, on loop devices, with the distribution's tools. Needs root.

use crate::common;
use crate::support::schedule;
use hanode_core::spec::Spec;
use hanode_core::target::Target;
use hanode_firstboot::disk::volume;
use sha2::{Digest, Sha256};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A disk's name, its preparation, and a part of the error message.
type Prepared<'a> = (&'static str, &'a dyn Fn(&str), &'static str);

const PARTS: [&str; 4] = ["var/lib/etcd", "var/lib/postgresql", "var/lib/redis", "var/lib/hanode"];

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// A loop device, unmounted and detached on drop.
struct LoopDisk {
    file: PathBuf,
    device: String,
}

impl LoopDisk {
    fn new(dir: &Path, name: &str) -> LoopDisk {
        let file = dir.join(name);
        std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
        let device = run("losetup", &["--find", "--show", file.to_str().unwrap()]);
        LoopDisk { file, device }
    }

    fn sum(&self) -> Vec<u8> {
        Sha256::digest(std::fs::read(&self.file).unwrap()).to_vec()
    }

    fn unmount(&self) {
        while Command::new("umount")
            .arg(&self.device)
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
            .success()
        {}
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        self.unmount();
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

/// A root directory with users: postgres has this uid, etcd and redis have the next two.
fn root(dir: &Path, name: &str, uid: u32) -> PathBuf {
    let root = dir.join(name);
    std::fs::create_dir_all(root.join("etc")).unwrap();
    let users = [("root", 0), ("postgres", uid), ("etcd", uid + 1), ("redis", uid + 2)];
    let lines = |extra: &str| users.map(|(name, id)| format!("{name}:x:{id}:{extra}\n")).concat();
    std::fs::write(root.join("etc/passwd"), lines("0::/:/bin/sh")).unwrap();
    std::fs::write(root.join("etc/group"), lines("")).unwrap();
    root
}

fn spec(data: &str) -> Spec {
    let mut spec = common::spec();
    spec.storage.data = Some(data.into());
    spec
}

fn target() -> Target {
    hanode_admin::embedded::target("debian-13").unwrap().1
}

fn mount(root: &Path, spec: &Spec) -> anyhow::Result<()> {
    volume::mount(root, spec, &target(), Duration::from_millis(300))
}

fn refused(root: &Path, spec: &Spec, words: &str) {
    let error = format!("{:#}", mount(root, spec).unwrap_err());
    assert!(error.contains(words), "{words:?}: {error}");
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(root.to_str().unwrap()), "something stays mounted");
}

#[test]
fn a_blank_volume_is_taken_and_found_again_by_a_new_image() {
    let _turn = schedule::concurrent();
    let dir = tempfile::tempdir().unwrap();
    let disk = LoopDisk::new(dir.path(), "disk");
    let first = root(dir.path(), "first", 205);
    mount(&first, &spec(&disk.device)).unwrap();
    let owner = |root: &Path, at: &str| root.join(at).metadata().unwrap().uid();
    assert_eq!(PARTS.map(|at| owner(&first, at)), [206, 205, 207, 0]);
    let own = first.join("var/lib/postgresql/17");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("PG_VERSION"), "17").unwrap();
    chown(own.join("PG_VERSION"), Some(205), Some(205)).unwrap();
    std::fs::write(first.join("var/lib/hanode/install-id"), "this").unwrap();
    assert!(!first.join("var/lib/hanode-data/install-id").exists());
    // A second call in the same boot changes nothing.
    mount(&first, &spec(&disk.device)).unwrap();
    let mounts =
        || std::fs::read_to_string("/proc/self/mountinfo").unwrap().matches(first.to_str().unwrap()).count();
    assert_eq!(mounts(), 5);
    disk.unmount();
    assert!(!first.join("var/lib/hanode/install-id").exists(), "the file is on the root disk");
    // The machine boots without the volume, but with another blank disk.
    let blank = LoopDisk::new(dir.path(), "blank");
    refused(&first, &spec(&blank.device), "this machine had a data volume before, and");
    assert!(
        std::fs::read(&blank.file).unwrap().iter().all(|byte| *byte == 0),
        "the blank disk was written to"
    );

    // Another image, with other uids, finds the volume by its label.
    run("e2label", &[&disk.device, "hanode-test-07"]);
    let second = root(dir.path(), "second", 305);
    mount(&second, &spec("LABEL=hanode-test-07")).unwrap();
    assert_eq!(std::fs::read_to_string(second.join("var/lib/hanode/install-id")).unwrap(), "this");
    assert_eq!(owner(&second, "var/lib/postgresql/17/PG_VERSION"), 305);
    assert_eq!(owner(&second, "var/lib/postgresql/17"), 0, "files of other users are not changed");
    assert_eq!(PARTS.map(|at| owner(&second, at)), [306, 305, 307, 0]);
    disk.unmount();

    // A volume of another cluster is refused.
    let mut other = spec(&disk.device);
    other.name = "other".into();
    refused(&root(dir.path(), "third", 205), &other, "a volume of cluster \"hspas\", not of \"other\"");
}

#[test]
fn a_volume_that_was_enlarged_is_used_in_full() {
    let _turn = schedule::concurrent();
    let dir = tempfile::tempdir().unwrap();
    let disk = LoopDisk::new(dir.path(), "disk");
    let root = root(dir.path(), "root", 205);
    let size = || {
        let volume = nix::sys::statvfs::statvfs(&root.join("var/lib/etcd")).unwrap();
        (volume.blocks() * volume.fragment_size()) >> 20
    };
    mount(&root, &spec(&disk.device)).unwrap();
    assert!((40..64).contains(&size()), "{}", size());
    disk.unmount();
    std::fs::File::options().write(true).open(&disk.file).unwrap().set_len(256 << 20).unwrap();
    run("losetup", &["--set-capacity", &disk.device]);
    mount(&root, &spec(&disk.device)).unwrap();
    assert!((200..256).contains(&size()), "{}", size());
}

#[test]
fn a_disk_with_content_is_refused_and_not_changed() {
    let _turn = schedule::concurrent();
    let dir = tempfile::tempdir().unwrap();
    let root = root(dir.path(), "root", 205);
    let prepared: [Prepared; 5] = [
        ("swap", &|device| drop(run("mkswap", &[device])), "holds swap"),
        ("vfat", &|device| drop(run("mkfs.vfat", &[device])), "holds vfat"),
        ("table", &|device| drop(run("sgdisk", &["--new=1", device])), "has a partition table"),
        (
            "bytes",
            &|device| {
                use std::io::{Seek, Write};
                let mut disk = std::fs::File::options().write(true).open(device).unwrap();
                disk.seek(std::io::SeekFrom::End(-4096)).unwrap();
                disk.write_all(b"somebody's").unwrap();
            },
            "it is not blank",
        ),
        (
            "files",
            &|device| {
                run("mkfs.ext4", &["-q", device]);
                let at = dir.path().join("there");
                std::fs::create_dir_all(&at).unwrap();
                run("mount", &[device, at.to_str().unwrap()]);
                std::fs::write(at.join("theses.txt"), "ten years").unwrap();
                run("umount", &[at.to_str().unwrap()]);
            },
            "\"theses.txt\" but no hanode-volume.json",
        ),
    ];
    for (name, prepare, words) in prepared {
        let disk = LoopDisk::new(dir.path(), name);
        prepare(&disk.device);
        let before = disk.sum();
        refused(&root, &spec(&disk.device), words);
        // A mount increments the mount count of the file system, but replays no journal here.
        if name != "files" {
            assert_eq!(disk.sum(), before, "{name}");
        }
    }
}

#[test]
fn without_its_volume_nothing_is_mounted() {
    let _turn = schedule::concurrent();
    let dir = tempfile::tempdir().unwrap();
    let root = root(dir.path(), "root", 205);
    refused(&root, &spec("/dev/disk/by-id/none"), "no data volume: /dev/disk/by-id/none does not exist");
    assert!(!root.join("var/lib/etcd").exists());
    mount(&root, &common::spec()).unwrap();
    assert!(!root.join("var").exists(), "a spec without a volume");
}
