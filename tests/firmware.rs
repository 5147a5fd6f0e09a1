//! The image as a machine meets it: the same disk by BIOS and by UEFI, with a seed on a CD.
//! Needs root and the tools that `make setup` installs.
#![allow(clippy::unwrap_used)]

#[path = "common/qemu.rs"]
mod qemu;
#[path = "common/sample.rs"]
mod sample;

use hanode::image::{self, Baked, Options};
use hanode::seed::{Interface, Seed};
use qemu::{Firmware, MAC, Machine};
use std::time::Duration;

/// The program of the image, as cargo built it for this test.
fn program() -> Vec<u8> {
    std::fs::read(env!("CARGO_BIN_EXE_hanode-firstboot")).unwrap()
}

/// Emulated and on a busy machine: long.
const PATIENCE: Duration = Duration::from_secs(600);

/// One test, not two: two emulated machines at once only make each other slow.
#[test]
fn the_image_boots_by_bios_and_by_uefi_as_the_node_of_its_seed() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (disk, iso) = (dir.path().join("node.qcow2"), dir.path().join("node2.iso"));
    let spec = sample::spec();
    let baked = Baked { spec_text: "# the spec\n", spec: &spec, bundle: b"the bundle", generation: 1 };
    let options =
        Options { target: "debian-13", out: &disk, compress: false, baked: Some(baked), program: &program() };
    image::build(&options).unwrap();
    let seed = Seed::of(&spec, "node2").unwrap();
    seed.with_network(&spec, Interface::Mac(MAC.into()), None).unwrap().write(&iso).unwrap();

    for firmware in [Firmware::Bios, Firmware::Uefi] {
        let mut machine = Machine::boot(firmware, &disk, &iso, dir.path());
        machine.wait_for(&["Linux version"], PATIENCE);
        machine.wait_for(&["node2 login:"], PATIENCE);
        machine.wait_for(&["192.168.18.22"], PATIENCE);
        let console = machine.console();
        assert!(!console.contains("FAILED"), "{firmware:?}: a unit failed:\n{console}");
    }
}
