//! What tests of the two old targets stand on: programs for their glibc, and the nearest real packages. Made below
//! target/ at the first use, by the scripts in `tests/fixture`; what is there already costs nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Where all of it lies.
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("fixture")
}

fn run(command: &mut Command) {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = command.current_dir(root).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

/// The directory of both programs as `make dist` builds them, from the sources as they are now.
pub fn dist() -> PathBuf {
    static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
        run(Command::new("make").arg("dist"));
        Path::new(env!("CARGO_MANIFEST_DIR")).join("dist")
    });
    MADE.clone()
}

/// Debian 11's packages with all they depend on; `debs/NAME.list` below [`dir`] names the files.
pub fn debs(name: &str, packages: &[&str]) {
    run(Command::new("sh").arg("tests/fixture/debs.sh").arg(dir()).arg(name).args(packages));
}
