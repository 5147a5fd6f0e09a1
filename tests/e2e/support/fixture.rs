//! Fixtures for tests of the two old targets: programs for their glibc, and the most similar packages available. The
//! scripts in `tests/fixture` make them below target/ on first use.

use super::ImageSetup;
use crate::cases::Case;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The directory of all fixtures.
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("fixture")
}

/// Standard output of a command run in the source tree.
pub fn run(command: &mut Command) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = command.current_dir(root).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stdout = String::from_utf8_lossy(&output.stdout).trim().to_string();
    assert!(output.status.success(), "{command:?}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

/// The directory of both programs, as `make dist` builds them from the current sources.
pub fn dist() -> PathBuf {
    static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
        run(Command::new("make").arg("dist"));
        Path::new(env!("CARGO_MANIFEST_DIR")).join("dist")
    });
    MADE.clone()
}

/// Downloads packages of Debian 11 with their dependencies; `debs/NAME.list` below [`dir`] lists the files.
pub fn debs(name: &str, packages: &[&str]) {
    run(Command::new("sh").arg("tests/fixture/debs.sh").arg(dir()).arg(name).args(packages));
}

/// The archive of Ubuntu 20.04 in a directory: `ubuntu/`, `redis/`, and the key that signed both.
pub fn ubuntu() -> PathBuf {
    static MADE: LazyLock<PathBuf> =
        LazyLock::new(|| PathBuf::from(run(Command::new("sh").arg("tests/fixture/ubuntu.sh").arg(dir()))));
    MADE.clone()
}

/// The versions that are available where they are not the target's, as the spec's table.
pub const UBUNTU_VERSIONS: &str = "[versions]\netcd = \"3.5.1\"\nredis = \"6.0.16\"\n";
pub const CENTOS_VERSIONS: &str = "[versions]\netcd = \"3.5.1\"\n";

/// `--source` arguments for the sources that are one file. Patroni and ydiff are the original files, so the target's
/// checksums apply.
pub fn files() -> Vec<String> {
    let programs = dir().join("programs");
    let file = |name: &str| programs.join(name).display().to_string();
    let etcd = file("etcd-v3.5.1-linux-amd64.tar.gz");
    let sha256 = run(Command::new("sha256sum").arg(&etcd))[..64].to_string();
    vec![
        format!("etcd=file://{etcd},sha256={sha256}"),
        format!("patroni=file://{}", file("patroni-2.1.0-py3-none-any.whl")),
        format!("ydiff=file://{}", file("ydiff-1.2.tar.gz")),
    ]
}

/// `--source` arguments for all sources of ubuntu-20.04, from the fixture.
pub fn ubuntu_sources() -> Vec<String> {
    let at = ubuntu().display().to_string();
    let mut sources = files();
    sources.extend(["ubuntu", "redis"].map(|name| format!("{name}=file://{at}/{name},key={at}/key.asc")));
    sources
}

/// A cluster with the versions of [`ubuntu_20_04`].
pub fn ubuntu_case() -> Case {
    let mut case = Case::of(3).on("ubuntu-20.04");
    case.spec.versions.insert("redis".into(), "6.0.16".into());
    case
}

pub fn ubuntu_20_04() -> ImageSetup {
    let program = std::fs::read(dist().join("hanode-firstboot")).unwrap();
    let sources = ubuntu_sources().iter().map(|text| text.parse().unwrap()).collect();
    ImageSetup {
        target: "ubuntu-20.04",
        sources,
        program,
        edits: vec![("[versions]\n", "[versions]\netcd = \"3.5.1\"\nredis = \"6.0.16\"\n")],
    }
}
