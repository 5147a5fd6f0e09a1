//! CentOS 8's whole path, on repositories that have its names, versions, paths, units and users around the nearest
//! programs that can be had; and what must end a build. `hanode` is the one of `make dist`. Needs root.

use crate::support;
use crate::support::target_build::{self, TargetBuild, server};
use crate::support::workdir;
use crate::support::{centos, fixture::run};
use hanode_image::inspect;
use std::path::Path;
use std::process::Command;

fn build(own_cache: bool) -> TargetBuild {
    TargetBuild::new(workdir(), "centos-8", own_cache)
}

/// The sources with one of them replaced.
fn with(name: &str, text: String) -> Vec<String> {
    target_build::with(centos::sources(), name, text)
}

/// AppStream from another directory of the fixture.
fn appstream(directory: &str) -> Vec<String> {
    let at = centos::fixture().display().to_string();
    with("appstream", format!("appstream=file://{at}/{directory},key={at}/centos.asc"))
}

#[test]
fn the_whole_path_makes_an_image() {
    let build = build(false);
    let root = build.image(&centos::sources());
    let image = inspect(&build.path("node.tar")).unwrap().image;
    assert_eq!(image.os, "CentOS Linux 8");
    for (component, version) in [
        ("postgres", "12.22-1PGDG.rhel8"),
        ("patroni", "2.1.0"),
        ("etcd", "3.5.1"),
        ("redis", "6.0.9-5.module_el8.4.0+956+a52e9aa4"),
        ("sentinel", "6.0.9-5.module_el8.4.0+956+a52e9aa4"),
        ("haproxy", "1.8.27-2.el8"),
        ("keepalived", "2.1.5-6.el8"),
    ] {
        assert_eq!(image.components[component], version, "{:?}", image.components);
    }
    as_a_target_wants_it(&root);
    labels_follow_the_policy(&build, &root, &image.entries);
    a_bake_labels_all_it_writes(&build, &root);
}

/// Compares the labels in the archive and on the disk with the policy, without a boot.
fn labels_follow_the_policy(build: &TargetBuild, root: &Path, baked_files: &[serde_json::Value]) {
    assert_eq!(support::unlabelled(root), "", "members of the archive without a label");
    // Lists the files with other labels; the files on /dev are not part of the tree.
    let setfiles =
        "setfiles -n -v -F -e /dev /etc/selinux/targeted/contexts/files/file_contexts /".split(' ');
    let differing =
        run(Command::new("chroot").arg(root).args(setfiles).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
    let differing: Vec<_> = differing.lines().filter(|line| line.contains("elabel")).collect();
    assert!(differing.is_empty(), "{differing:#?}");
    assert!(
        root.join("usr/bin/redis-server").symlink_metadata().unwrap().is_file(),
        "Redis would run unconfined"
    );

    let wanted: Vec<(&str, &str)> = baked_files
        .iter()
        .map(|row| (row["path"].as_str().unwrap(), row["label"].as_str().unwrap()))
        .collect();
    let dirs = wanted.iter().filter_map(|(path, _)| Some((Path::new(path).parent()?.to_str()?, "")));
    let queried: Vec<(&str, &str)> = wanted.iter().copied().chain(dirs).collect();
    let found = disk_labels(&build.path("node.raw"), &queried);
    assert_eq!(found.len(), queried.len());
    for ((path, label), found) in queried.iter().zip(found) {
        assert!(
            !found.is_empty() && (label.is_empty() || *label == found),
            "{path}: {found:?}, not {label:?}"
        );
    }
}

/// The labels of these paths on the disk, read without mounting it.
fn disk_labels(raw: &Path, paths: &[(&str, &str)]) -> Vec<String> {
    let device = format!("{}?offset={}", raw.display(), 36864 * 512);
    let script: String =
        paths.iter().map(|(path, _)| format!("ea_get \"{path}\" security.selinux\n")).collect();
    let commands = raw.with_extension("commands");
    std::fs::write(&commands, script).unwrap();
    let output = run(Command::new("debugfs").arg("-f").arg(&commands).arg(device));
    // debugfs prints each command before its result. A label that setfiles wrote ends in a NUL.
    output
        .split("debugfs: ea_get ")
        .skip(1)
        .map(|result| {
            let value = result.lines().nth(1).and_then(|line| line.split('"').nth(1)).unwrap_or_default();
            value.trim_end_matches("\\000").to_string()
        })
        .collect()
}

/// Into a tree of that image, whose etcd must be the one that is asked for.
fn a_bake_labels_all_it_writes(build: &TargetBuild, root: &Path) {
    let bake = || {
        let mut hanode = build.hanode();
        hanode.args(["bake", "--target", "centos-8", "--root"]).arg(root).arg(build.path("demo"));
        hanode.output().unwrap()
    };
    let link = "etc/systemd/system/multi-user.target.wants/sshd.service";
    std::fs::remove_file(root.join(link)).unwrap();
    std::fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let output = bake();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(support::unlabelled(root), "", "files without a label");

    build.pin("[versions]\netcd = \"3.5.21\"\n");
    let output = bake();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("etcd 3.5.1, and 3.5.21 is asked for"), "{said}");
}

fn as_a_target_wants_it(root: &Path) {
    let inside = |words: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--pid", "--fork"]);
        unshare.arg(format!("--mount-proc={}", root.join("proc").display()));
        let output = unshare.arg("chroot").arg(root).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    // The program that was put in starts on the tree's own glibc.
    assert!(inside(&["hanode", "--version"]).contains(env!("CARGO_PKG_VERSION")));
    let (_, target) = hanode_admin::embedded::target("centos-8").unwrap();
    for unit in target.units.values() {
        assert_eq!(inside(&["systemctl", "is-enabled", unit]), "disabled", "{unit}");
    }
    for unit in &target.enabled {
        assert_eq!(inside(&["systemctl", "is-enabled", unit]), "enabled", "{unit}");
    }
    // systemctl of this age looks at /dev/null itself, which an unpacked tree has none of.
    for unit in &target.masked {
        let link = std::fs::read_link(root.join("etc/systemd/system").join(unit)).unwrap();
        assert_eq!(link, Path::new("/dev/null"), "{unit}");
    }
    // Directories of the machine that built it are nothing to it.
    assert_eq!(std::fs::read_dir(root.join("etc/yum.repos.d")).unwrap().count(), 0);
    assert!(inside(&["patroni", "--version"]).contains("2.1.0"));
    assert!(inside(&["etcd", "--version"]).contains("3.5.1"));
    assert!(inside(&["/usr/pgsql-12/bin/postgres", "--version"]).contains("12.22"));
    assert_eq!(inside(&["id", "-u", "postgres"]), "26");
    assert_eq!(std::fs::read_dir(root.join("var/lib/pgsql/12/data")).unwrap().count(), 0);
    // Made in a container, the initial RAM disk must still find the disk of whichever machine it boots.
    let held = inside(&["sh", "-c", "lsinitrd /boot/initramfs-*.img"]);
    // This kernel has ext4 built in; of those it has as modules, all are there.
    assert!(held.contains("virtio_blk.ko") && held.contains("xfs.ko"), "{held}");
    for (path, to) in [("etc/redis.conf", "redis.conf"), ("etc/redis-sentinel.conf", "redis-sentinel.conf")] {
        assert!(root.join(path).is_file(), "{to} is not in its place");
    }
}

#[test]
fn a_damaged_package_is_named() {
    let build = build(true);
    let spoilt = build.path("spoilt");
    run(Command::new("cp").arg("-a").arg(centos::fixture().join("appstream")).arg(&spoilt));
    let package = spoilt.join("Packages/keepalived-2.1.5-6.el8.x86_64.rpm");
    let mut bytes = std::fs::read(&package).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&package, bytes).unwrap();
    let key = centos::fixture().join("centos.asc");
    let source = format!("appstream=file://{},key={}", spoilt.display(), key.display());
    build.refuses(&with("appstream", source), &["keepalived-2.1.5-6.el8"]);
}

#[test]
fn a_package_that_nobody_signed_is_refused() {
    build(true).refuses(&appstream("unsigned"), &["haproxy-1.8.27-4.el8", "is not signed"]);
}

#[test]
fn a_package_that_another_key_signed_is_refused() {
    let at = centos::fixture().display().to_string();
    let sources = with("pgdg", format!("pgdg=file://{at}/pgdg,key={at}/centos.asc"));
    build(true).refuses(&sources, &["postgresql12", "GPG"]);
}

#[test]
fn a_key_that_the_target_does_not_know_is_refused() {
    let at = centos::fixture().display().to_string();
    // The root file system brings a key of the right name that is not CentOS'.
    let sources = with("baseos", format!("baseos=file://{at}/baseos"));
    build(true).refuses(&sources, &["source baseos", "which this target does not know"]);
}

#[test]
fn a_root_file_system_with_another_checksum_is_refused() {
    let at = centos::fixture().display().to_string();
    let wrong = "0".repeat(64);
    let sources = with("root", format!("root=file://{at}/root.tar.xz,sha256={wrong}"));
    build(true).refuses(&sources, &["source root", "SHA-256", &wrong]);
    // CentOS' own checksum, where none is given.
    let sources = with("root", format!("root=file://{at}/root.tar.xz"));
    build(true).refuses(&sources, &["source root", "029d1873"]);
}

#[test]
fn a_module_stream_that_is_not_there_is_named() {
    build(true).refuses(&appstream("streamless"), &["module redis:6"]);
}

#[test]
#[ignore = "installs everything, minutes: make test-targets"]
fn a_package_whose_script_fails_is_named_though_dnf_is_content() {
    build(true).refuses(&appstream("failing"), &["a package script failed", "haproxy"]);
}

#[test]
fn a_download_that_breaks_off_is_told() {
    let url = server(centos::fixture(), "haproxy-");
    let key = centos::fixture().join("centos.asc");
    let source = format!("appstream={url}/appstream,key={}", key.display());
    build(true).refuses(&with("appstream", source), &["haproxy-1.8.27-2.el8"]);
    let url = server(centos::fixture(), "root.tar.xz");
    let source = format!("root={url}/root.tar.xz,sha256={}", "0".repeat(64));
    build(true).refuses(&with("root", source), &["source root: fetching"]);
}
