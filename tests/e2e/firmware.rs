//! Boots one disk image by BIOS and by UEFI, with a seed on a CD.
//! Needs root and the tools that `make setup` installs.

use crate::support;
use crate::support::qemu::{Firmware, MAC, Machine};
use hanode_admin::seed::{InterfaceMatch, Seed};
use std::time::Duration;

/// For an emulated boot on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

#[test]
fn the_image_boots_by_bios_and_by_uefi_and_waits_for_its_peers() {
    let dir = support::workdir_alone();
    let (_, target) = hanode_admin::embedded::target("debian-13").unwrap();
    let (cluster, disk) = support::cluster_with_image(dir.path(), "node.qcow2");
    let seed = Seed::for_node(&cluster.spec, "node2").unwrap();
    let seed = seed.with_network(&cluster.spec, InterfaceMatch::Mac(MAC.into()), None, &[]).unwrap();

    // With both kinds of seed disks: ISO 9660 and vfat.
    for (firmware, seed_disk) in [(Firmware::Bios, "node2.iso"), (Firmware::Uefi, "node2.img")] {
        let seed_disk = dir.path().join(seed_disk);
        seed.write(&seed_disk).unwrap();
        let mut machine = Machine::boot(firmware, &disk, &seed_disk, dir.path());
        machine.wait_for(&["Linux version"], PATIENCE);
        machine.wait_for(&["node2 login:"], PATIENCE);
        machine.wait_for(&["hanode: node2: waiting-for-peers"], PATIENCE);
        let console = machine.console();
        assert!(console.contains("192.168.18.22"), "{firmware:?}: not the node's address:\n{console}");
        assert!(!console.contains("FAILED"), "{firmware:?}: a unit failed:\n{console}");
        for unit in target.units.values() {
            // systemd highlights a unit's name on the console.
            let started = console.lines().any(|l| l.contains("Start") && l.contains(unit.as_str()));
            assert!(!started, "{firmware:?}: {unit} was started:\n{console}");
        }
    }
}
