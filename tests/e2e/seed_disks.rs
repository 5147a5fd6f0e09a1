//! Seeds as disk images, read with other programs.

use crate::common;
use crate::common::admin_dir::AdminDir;
use hanode_admin::seed::{InterfaceMatch, Seed};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_directory_and_both_kinds_of_disk_have_equal_content() {
    let (dir, spec) = (tempfile::tempdir().unwrap(), common::spec());
    let gateway = Some("192.168.18.1".parse().unwrap());
    let seed = Seed::for_node(&spec, "node2").unwrap();
    let seed = seed.with_network(&spec, InterfaceMatch::Name("host0".into()), gateway, &[]).unwrap();
    let [folder, iso, vfat] = ["seed/", "seed.iso", "seed.img"].map(|name| dir.path().join(name));
    for out in [&folder, &iso, &vfat] {
        seed.write(out).unwrap();
    }
    for disk in [&iso, &vfat] {
        assert_eq!(disk.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let back = dir.path().join("back");
    output(
        Command::new("xorriso")
            .args(["-osirrox", "on", "-indev"])
            .arg(&iso)
            .args(["-extract", "/"])
            .arg(&back),
    );
    for (name, text) in seed.files().unwrap() {
        assert_eq!(std::fs::read_to_string(folder.join(name)).unwrap(), text, "{name}");
        assert_eq!(std::fs::read_to_string(back.join(name)).unwrap(), text, "{name}");
        let on_vfat = output(Command::new("mtype").arg("-i").arg(&vfat).arg(format!("::/{name}")));
        assert_eq!(on_vfat, text, "{name}");
    }
}

/// As in the documentation, the output is a bare file name.
#[test]
fn a_disk_is_named_without_a_directory() {
    let admin = AdminDir::new();
    admin.succeeds("seed demo --node node1 --out node1.iso");
    assert!(admin.home.path().join("node1.iso").is_file());
}
