//! The programs under test, as cargo builds them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub const HANODE: &str = env!("CARGO_BIN_EXE_hanode");

/// `hanode`, with the path of `hanode-firstboot` in its environment.
pub fn hanode() -> Command {
    let mut command = Command::new(HANODE);
    command.env("HANODE_FIRSTBOOT", firstboot_program());
    command
}

/// `hanode-firstboot`. Cargo does not build another package's program for these tests, so they build it.
pub fn firstboot_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build_firstboot(target_dir(), &[]))
}

/// The same with fail points, in a separate target directory.
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

/// The target directory of the running test program.
fn target_dir() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp has a parent")
}
