//! Builds for Ubuntu 20.04, from an archive with its names, versions, paths, units and users around the most similar
//! programs available, and errors that must end a build. `hanode` is that of `make dist`. Needs root.

use crate::support::fixture::{self, UBUNTU_VERSIONS};
use crate::support::target_build::{self, TargetBuild, server};
use crate::support::workdir;
use hanode_image::inspect;
use std::path::{Path, PathBuf};
use std::process::Command;

fn build() -> TargetBuild {
    TargetBuild::new(workdir(), "ubuntu-20.04", UBUNTU_VERSIONS, true)
}

/// A copy of the archive to damage; its files are hard links to the original's.
fn archive(build: &TargetBuild) -> PathBuf {
    let at = build.path("archive");
    fixture::run(Command::new("cp").arg("-al").arg(fixture::ubuntu()).arg(&at));
    at
}

/// The sources with one of them replaced.
fn with(name: &str, text: String) -> Vec<String> {
    target_build::with(fixture::ubuntu_sources(), name, text)
}

fn ubuntu_at(url: &str, key: &Path) -> Vec<String> {
    with("ubuntu", format!("ubuntu={url},key={}", key.display()))
}

/// The file below a directory with this prefix of its name.
fn find(dir: &Path, prefix: &str) -> PathBuf {
    let files = walkdir::WalkDir::new(dir).into_iter().map(|e| e.unwrap().into_path());
    let mut files = files.filter(|at| at.file_name().unwrap().to_string_lossy().starts_with(prefix));
    files.next().unwrap_or_else(|| panic!("no {prefix}* below {}", dir.display()))
}

#[test]
fn an_image_is_built_from_an_archive() {
    let build = TargetBuild::new(workdir(), "ubuntu-20.04", UBUNTU_VERSIONS, false);
    let root = build.image(&fixture::ubuntu_sources());
    let image = inspect(&build.path("node.tar")).unwrap().image;
    assert_eq!(image.os, "Ubuntu 20.04.6 LTS");
    for (component, version) in [
        ("postgres", "12.22-0ubuntu0.20.04.4"),
        ("patroni", "2.1.0"),
        ("etcd", "3.5.1"),
        ("redis", "6:6.0.16-1rl1~focal1"),
        ("sentinel", "6:6.0.16-1rl1~focal1"),
        ("haproxy", "2.0.13-2ubuntu0.5"),
        ("keepalived", "1:2.0.19-2ubuntu0.2"),
    ] {
        assert_eq!(image.components[component], version, "{:?}", image.components);
    }
    tree_fits_the_target(&root);
}

fn tree_fits_the_target(root: &Path) {
    let inside = |words: &[&str]| {
        let output = Command::new("chroot").arg(root).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    // The program that was put in starts on the tree's own glibc.
    assert!(inside(&["hanode", "--version"]).contains(env!("CARGO_PKG_VERSION")));
    let (_, target) = hanode_admin::embedded::target("ubuntu-20.04").unwrap();
    for unit in target.units.values() {
        assert_eq!(inside(&["systemctl", "is-enabled", unit]), "disabled", "{unit}");
    }
    for unit in &target.enabled {
        assert_eq!(inside(&["systemctl", "is-enabled", unit]), "enabled", "{unit}");
    }
    let none: [PathBuf; 0] = [];
    for place in ["etc/postgresql", "var/lib/postgresql"] {
        let entries: Vec<_> =
            std::fs::read_dir(root.join(place)).into_iter().flatten().map(|e| e.unwrap().path()).collect();
        assert_eq!(entries, none, "a PostgreSQL cluster was made");
    }
    let list = std::fs::read_to_string(root.join("etc/apt/sources.list")).unwrap();
    assert_eq!(list, "", "directories of the machine that built it are nothing to it");
    assert!(inside(&["patroni", "--version"]).contains("2.1.0"));
    assert!(inside(&["etcd", "--version"]).contains("3.5.1"));
}

#[test]
fn a_damaged_package_is_named() {
    let build = build();
    let archive = archive(&build);
    let deb = find(&archive.join("ubuntu"), "haproxy_");
    let mut bytes = std::fs::read(&deb).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&deb).unwrap();
    std::fs::write(&deb, bytes).unwrap();
    let sources = ubuntu_at(&format!("file://{}/ubuntu", archive.display()), &archive.join("key.asc"));
    build.refuses(&sources, &["Hash Sum mismatch", "haproxy"]);
}

#[test]
fn an_archive_signed_with_another_key_is_refused() {
    let build = build();
    let key = tempfile::tempdir().unwrap();
    fixture::run(Command::new("sh").arg("tests/fixture/key.sh").arg(key.path()));
    let url = format!("file://{}/ubuntu", fixture::ubuntu().display());
    build.refuses(&ubuntu_at(&url, &key.path().join("key.asc")), &["ubuntu focal", "NO_PUBKEY"]);
    // The target's key applies if the source has none.
    build.refuses(&with("ubuntu", format!("ubuntu={url}")), &["ubuntu focal", "NO_PUBKEY"]);
}

#[test]
fn a_file_with_another_checksum_is_refused() {
    let build = build();
    let etcd = fixture::files()[0].split(',').next().unwrap().to_string();
    let wrong = "0".repeat(64);
    build.refuses(&with("etcd", format!("{etcd},sha256={wrong}")), &["source etcd", "SHA-256", &wrong]);
    // Patroni's checksum is part of the target: another wheel is refused.
    let ydiff = fixture::files()[2].split_once('=').unwrap().1.to_string();
    build.refuses(&with("patroni", format!("patroni={ydiff}")), &["source patroni", "a6b9be83"]);
}

#[test]
fn a_missing_version_and_a_missing_package_are_named() {
    let build = build();
    build.pin(&format!("{UBUNTU_VERSIONS}haproxy = \"2.0.99\"\n"));
    build.refuses(&fixture::ubuntu_sources(), &["2.0.99-*", "haproxy"]);
    build.pin(UBUNTU_VERSIONS);
    // Ubuntu's archive instead of Redis': at another path, since apt warns about a duplicate source.
    let elsewhere = format!("redis=file://{0}/ubuntu,key={0}/key.asc", archive(&build).display());
    build.refuses(&with("redis", elsewhere), &["redis-server"]);
}

/// The first package that is configured: the result does not depend on the package, only the duration does.
#[test]
fn a_package_whose_script_fails_is_named() {
    let build = build();
    let archive = archive(&build);
    let deb = find(&archive.join("ubuntu"), "base-files");
    let script = "dpkg-deb -R \"$1\" \"$2\"; printf '#!/bin/sh\\nexit 3\\n' > \"$2/DEBIAN/postinst\"; \
         chmod 755 \"$2/DEBIAN/postinst\"; rm \"$1\"; dpkg-deb -b \"$2\" \"$1\"; rm -r \"$2\"";
    let damaged = build.path("archive/damaged");
    fixture::run(Command::new("sh").args(["-euc", script, "sh"]).arg(&deb).arg(&damaged));
    // release.sh creates its files anew, since a write through a hard link would change the original archive.
    let mut release = Command::new("sh");
    release.arg("tests/fixture/release.sh").arg(archive.join("ubuntu")).arg(archive.join("secret.asc"));
    fixture::run(release.args(["focal-updates", "main", "universe"]));
    let sources = ubuntu_at(&format!("file://{}/ubuntu", archive.display()), &archive.join("key.asc"));
    build.refuses(&sources, &["base-files", "post-installation script", "3"]);
}

#[test]
fn an_interrupted_download_is_reported() {
    let build = build();
    let url = server(fixture::dir().join("programs"), "etcd");
    let etcd =
        fixture::files()[0].replace(&format!("file://{}", fixture::dir().join("programs").display()), &url);
    build.refuses(&with("etcd", etcd), &["source etcd", "use another address with --source etcd=URL"]);
    let url = server(fixture::ubuntu().join("ubuntu"), "haproxy_");
    build.refuses(&ubuntu_at(&url, &fixture::ubuntu().join("key.asc")), &["haproxy", "Failed to fetch"]);
}
