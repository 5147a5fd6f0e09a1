//! CentOS 8's repositories and root file system, as `tests/fixture/el.sh` makes them below target/ at the first use.

use super::fixture;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The directory of it.
pub fn fixture() -> PathBuf {
    static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture/el.sh");
        PathBuf::from(fixture::run(Command::new("sh").arg(script).arg(fixture::dir())))
    });
    MADE.clone()
}

/// Every source that centos-8 takes, from there. Of Patroni, ydiff and python-etcd they are the very files: their
/// checksums stay.
pub fn sources() -> Vec<String> {
    let (at, programs) = (fixture(), fixture::dir().join("programs"));
    let sum = |file: &Path| fixture::run(Command::new("sha256sum").arg(file))[..64].to_string();
    let (root, etcd) = (at.join("root.tar.xz"), programs.join("etcd-v3.5.1-linux-amd64.tar.gz"));
    let repository =
        |name: &str, key: &str| format!("{name}=file://{0}/{name},key={0}/{key}.asc", at.display());
    vec![
        format!("root=file://{},sha256={}", root.display(), sum(&root)),
        repository("baseos", "centos"),
        repository("appstream", "centos"),
        repository("pgdg", "pgdg"),
        format!("etcd=file://{},sha256={}", etcd.display(), sum(&etcd)),
        format!("patroni=file://{}/patroni-2.1.0-py3-none-any.whl", programs.display()),
        format!("ydiff=file://{}/ydiff-1.2.tar.gz", programs.display()),
        format!("python-etcd=file://{}/python-etcd-0.4.5.tar.gz", at.display()),
    ]
}
