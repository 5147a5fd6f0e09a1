//! The programs under test, as cargo builds them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub const HANODE: &str = env!("CARGO_BIN_EXE_hanode");

/// `hanode` that finds the image's program.
pub fn hanode() -> Command {
    let mut command = Command::new(HANODE);
    command.env("HANODE_FIRSTBOOT", firstboot_program());
    command
}

/// The image's program, `hanode-firstboot`: a package of its own, so cargo does not build it for these tests.
pub fn firstboot_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build_firstboot(target_dir(), &[]))
}

/// The same with the fail points compiled in, in a target directory of its own.
pub fn firstboot_with_failpoints() -> PathBuf {
    build_firstboot(&target_dir().join("failpoints"), &["--features", "failpoints"])
}

fn build_firstboot(target_dir: &Path, arguments: &[&str]) -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "--offline",
        "-p",
        "hanode-firstboot",
        "--bin",
        "hanode-firstboot",
    ]);
    cargo.args(arguments);
    let status = cargo.arg("--target-dir").arg(target_dir).status().expect("cargo runs");
    assert!(status.success(), "building hanode-firstboot: {status}");
    target_dir.join("debug/hanode-firstboot")
}

/// Of the test program that runs.
fn target_dir() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp has a parent")
}
