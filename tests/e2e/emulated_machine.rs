//! Tests that need a machine with firmware: disks, clock, watchdog. Slow, since emulated: `make test-vm`. Needs root.

use crate::support;
use crate::support::qemu::{Firmware, MAC, Machine};
use hanode_admin::cluster_dir::ClusterDir;
use hanode_admin::seed::{InterfaceMatch, Seed};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// For an emulated boot on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1200);

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A seed for a node that runs this script during the boot.
fn seed(cluster: &ClusterDir, node: &str, instance: &str, dir: &Path, script: &str) -> PathBuf {
    let mut seed = Seed::for_node(&cluster.spec, node).unwrap();
    seed.instance_id = instance.into();
    let files = dir.join(format!("seed-{instance}"));
    seed.with_network(&cluster.spec, InterfaceMatch::Mac(MAC.into()), None, &[])
        .unwrap()
        .write_directory(&files)
        .unwrap();
    // The script is a file, to avoid quoting. It opens the console for each line, since getty hangs up open consoles.
    let commands = serde_json::json!([
        ["sh", "-c", "echo \"$0\" > /run/probe", script],
        ["systemd-run", "--no-block", "--unit=probe", "sh", "/run/probe"],
    ]);
    let user_data = format!("#cloud-config\nbootcmd: {commands}\n");
    std::fs::write(files.join("user-data"), user_data).unwrap();
    let iso = dir.join(format!("{instance}.iso"));
    run(
        "xorriso",
        &[
            "-as",
            "mkisofs",
            "-quiet",
            "-V",
            "CIDATA",
            "-J",
            "-r",
            "-o",
            iso.to_str().unwrap(),
            files.to_str().unwrap(),
        ],
    );
    iso
}

/// A new root disk of this size.
fn root_disk(dir: &Path, image: &Path, name: &str, size: &str) -> PathBuf {
    let disk = dir.join(format!("{name}.qcow2"));
    let (image, at) = (image.to_str().unwrap(), disk.to_str().unwrap());
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", at, size]);
    disk
}

fn drive(file: &Path) -> Vec<String> {
    ["-drive".into(), format!("file={},if=virtio,format=raw", file.display())].into()
}

fn uuid(last: u32) -> [String; 2] {
    ["-uuid".into(), format!("7d3a1f00-0000-4000-8000-{last:012}")]
}

/// A file on the data volume after a power cut. Synced data may be in the journal only, so the journal is replayed on a
/// copy, as the next mount does.
fn on_volume(volume: &Path, path: &str) -> Value {
    let copy = volume.with_extension("copy");
    run("cp", &["--sparse=always", volume.to_str().unwrap(), copy.to_str().unwrap()]);
    let mut check = Command::new("e2fsck");
    let checked = check.args(["-y", "-E", "journal_only"]).arg(&copy).output().unwrap();
    assert!(checked.status.code().is_some_and(|code| code <= 1), "{checked:?}");
    let text = run("debugfs", &["-R", &format!("cat {path}"), copy.to_str().unwrap()]);
    assert!(!text.trim().is_empty(), "no /{path} on the volume");
    serde_json::from_str(&text).unwrap_or(Value::String(text.trim().into()))
}

/// The most common replacement: a new machine with the old volume.
#[test]
#[ignore = "emulated, takes minutes: make test-vm"]
fn a_data_volume_outlives_its_machine() {
    let dir = support::workdir_alone();
    let dir = dir.path();
    let edits = [("# data = \"LABEL=hanode-data\"", "data = \"LABEL=hanode-data\"")];
    let (cluster, image) = support::edited_cluster_with_image(dir, "node.qcow2", &edits);
    let volume = dir.join("volume.raw");
    std::fs::File::create(&volume).unwrap().set_len(1 << 30).unwrap();
    let waiting = "hanode: node2: waiting-for-peers";
    let probe = "while sleep 10; do echo ROOT $(df -m --output=size / | tail -1) \
        DATA $(findmnt -n -o SOURCE --mountpoint /var/lib/postgresql) $(stat -c %U /var/lib/postgresql) \
        DOG $(stat -c %U /dev/watchdog) END > /dev/ttyS0; done";

    // A blank volume is formatted, and the root file system grows to the size of its disk.
    let iso = seed(&cluster, "node2", "first", dir, probe);
    let disk = root_disk(dir, &image, "first", "8G");
    let more = [drive(&volume), uuid(1).into()].concat();
    let mut machine = Machine::boot_with(Firmware::Bios, &disk, &iso, dir, &more);
    machine.wait_for(&[waiting], PATIENCE);
    let before = machine.console().len();
    machine.wait_for_after(before, &["END"], PATIENCE);
    let console = machine.console();
    let line =
        console[before..].lines().find(|l| l.contains("ROOT") && l.contains("END")).unwrap().to_string();
    println!("{line}");
    let size: u64 = line.split_whitespace().skip_while(|w| *w != "ROOT").nth(1).unwrap().parse().unwrap();
    assert!(size > 6500, "the root file system has {size} MiB of a disk of 8192");
    assert!(
        line.contains("/dev/vdc[/postgres] postgres") || line.contains("/dev/vdb[/postgres] postgres"),
        "{line}"
    );
    assert!(line.contains("DOG postgres"), "{line}");
    drop(machine);
    let (id, pin, state) = (
        on_volume(&volume, "hanode/install-id"),
        on_volume(&volume, "hanode/identity.json"),
        on_volume(&volume, "hanode/disk.json"),
    );
    assert_eq!((&pin["node"], &state["generation"]), (&"node2".into(), &1.into()));

    // A new machine with a new root disk and the old volume is the same node.
    let iso = seed(&cluster, "node2", "second", dir, "true");
    let disk = root_disk(dir, &image, "second", "4G");
    let more = [drive(&volume), uuid(2).into()].concat();
    Machine::boot_with(Firmware::Bios, &disk, &iso, dir, &more).wait_for(&[waiting], PATIENCE);
    assert_eq!(on_volume(&volume, "hanode/install-id"), id);
    assert_eq!(on_volume(&volume, "hanode/disk.json")["generation"], 2);
    assert_eq!(on_volume(&volume, "hanode/identity.json")["instance_id"], "second");

    // Another node refuses the volume and does not change it.
    let iso = seed(&cluster, "node1", "third", dir, "true");
    let disk = root_disk(dir, &image, "third", "4G");
    let more = [drive(&volume), uuid(3).into()].concat();
    let mut machine = Machine::boot_with(Firmware::Bios, &disk, &iso, dir, &more);
    machine.wait_for(&["this is the disk of node2, now in a machine that metadata calls node1"], PATIENCE);
    drop(machine);
    assert_eq!(on_volume(&volume, "hanode/disk.json")["generation"], 2);

    // Without the volume nothing starts on the root disk.
    let iso = seed(&cluster, "node2", "fourth", dir, "true");
    let disk = root_disk(dir, &image, "fourth", "4G");
    let mut machine = Machine::boot_with(Firmware::Bios, &disk, &iso, dir, &uuid(4));
    machine.wait_for(&["no data volume: no device is LABEL=hanode-data, and no disk is blank"], PATIENCE);
    assert!(!machine.console().contains("waiting-for-peers"));
}

/// A clock before the certificates' validity: the node reports it, and continues once the clock is right.
#[test]
#[ignore = "emulated, takes minutes: make test-vm"]
fn a_node_waits_until_its_clock_is_right() {
    let dir = support::workdir_alone();
    let dir = dir.path();
    let (cluster, image) = support::cluster_with_image(dir, "node.qcow2");
    let now = hanode_core::pki::read::date(hanode_core::pki::now());
    // Replaces the time server, which is not reachable here.
    let probe = format!(
        "until grep -qs 'the time client' /run/hanode/state.json; do sleep 2; done; sleep 10
         echo CHRONY $(systemctl is-active chrony) END > /dev/ttyS0; date -s '{now}'"
    );
    let iso = seed(&cluster, "node2", "early", dir, &probe);
    let disk = root_disk(dir, &image, "early", "4G");
    let more = ["-rtc".to_string(), "base=2021-03-04T05:06:07".into()];
    let mut machine = Machine::boot_with(Firmware::Bios, &disk, &iso, dir, &more);
    // systemd sets a clock before its release date to that date.
    machine.wait_for(&["hanode: waiting for the time client: the system clock 20"], PATIENCE);
    assert!(!machine.console().contains("waiting-for-peers"));
    machine.wait_for(&["hanode: node2: waiting-for-peers"], PATIENCE);
    assert!(machine.console().contains("CHRONY active END"), "no time client runs");
}
