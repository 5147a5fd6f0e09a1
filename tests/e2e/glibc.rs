//! Programs of `make dist`, for glibc 2.28: they start with glibc 2.31, and a check refuses programs that need a newer glibc.
//! Needs root, the network on its first run, and minutes after a change of the programs.

use crate::common::programs::firstboot_program;
use crate::support;
use crate::support::schedule;
use std::path::Path;
use std::process::Command;

#[test]
fn both_programs_start_in_debian_11() {
    let dir = support::workdir();
    support::fixture::debs("start", &["libc-bin"]);
    let unpack = "while read -r deb; do dpkg-deb -x \"$deb\" \"$1\"; done";
    let list = std::fs::File::open(support::fixture::dir().join("debs/start.list")).unwrap();
    let unpacked =
        Command::new("sh").args(["-euc", unpack, "sh"]).arg(dir.path()).stdin(list).status().unwrap();
    assert!(unpacked.success());
    let inside =
        |program: &str| Command::new("chroot").arg(dir.path()).args([program, "--version"]).output().unwrap();
    let glibc = String::from_utf8(inside("ldd").stdout).unwrap();
    assert!(glibc.contains("2.31"), "the tree has another version of glibc: {glibc}");
    for name in ["hanode", "hanode-firstboot"] {
        std::fs::copy(support::fixture::dist().join(name), dir.path().join(name)).unwrap();
        let output = inside(&format!("/{name}"));
        let message = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && message.contains(env!("CARGO_PKG_VERSION")), "{name}: {output:?}");
    }
}

/// Programs that cargo builds here need this machine's glibc, so the check must refuse them.
#[test]
fn a_program_that_needs_a_newer_glibc_is_refused() {
    let _turn = schedule::concurrent();
    let check = |version: &str, program: &Path| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check-glibc.sh");
        let output = Command::new("sh").arg(script).arg(version).arg(program).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let plain = firstboot_program();
    let (passed, message) = check("2.28", plain);
    assert!(!passed && message.contains("needs glibc 2.3"), "{message}");
    assert!(check("2.99", plain).0);
    assert!(check("2.28", &support::fixture::dist().join("hanode-firstboot")).0);
    let (passed, message) = check("2.28", &Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    assert!(!passed && message.contains("no glibc version"), "{message}");
}
