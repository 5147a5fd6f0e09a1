//! CentOS 8's repositories and root file system. `tests/fixture/el.sh` makes them below target/ on first use.

use super::fixture;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The directory that contains them.
pub fn fixture() -> PathBuf {
    static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture/el.sh");
        PathBuf::from(fixture::run(Command::new("sh").arg(script).arg(fixture::dir())))
    });
    MADE.clone()
}

/// `--source` arguments for all sources of centos-8, from the fixture. Patroni, ydiff and python-etcd are the original
/// files, so the target's checksums apply.
pub fn sources() -> Vec<String> {
    let (dir, programs) = (fixture(), fixture::dir().join("programs"));
    let sha256 = |file: &Path| fixture::run(Command::new("sha256sum").arg(file))[..64].to_string();
    let (root, etcd) = (dir.join("root.tar.xz"), programs.join("etcd-v3.5.1-linux-amd64.tar.gz"));
    let repository =
        |name: &str, key: &str| format!("{name}=file://{0}/{name},key={0}/{key}.asc", dir.display());
    vec![
        format!("root=file://{},sha256={}", root.display(), sha256(&root)),
        repository("baseos", "centos"),
        repository("appstream", "centos"),
        repository("pgdg", "pgdg"),
        format!("etcd=file://{},sha256={}", etcd.display(), sha256(&etcd)),
        format!("patroni=file://{}/patroni-2.1.0-py3-none-any.whl", programs.display()),
        format!("ydiff=file://{}/ydiff-1.2.tar.gz", programs.display()),
        format!("python-etcd=file://{}/python-etcd-0.4.5.tar.gz", dir.display()),
    ]
}
