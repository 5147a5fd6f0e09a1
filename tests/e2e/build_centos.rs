//! Builds for CentOS 8, from repositories with its names, versions, paths, units and users around the most similar programs
//! available, and errors that must end a build. `hanode` is that of `make dist`. Needs root.

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
fn an_image_is_built_from_repositories() {
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
    tree_fits_the_target(&root);
    bake_labels_all_files(&build, &root);
}

/// Bakes into a tree of the image. A different version of etcd than requested is refused.
fn bake_labels_all_files(build: &TargetBuild, root: &Path) {
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
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("etcd 3.5.1, not 3.5.21"), "{message}");
}

fn tree_fits_the_target(root: &Path) {
    let inside = |words: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--pid", "--fork"]);
        unshare.arg(format!("--mount-proc={}", root.join("proc").display()));
        let output = unshare.arg("chroot").arg(root).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    // The added program starts with the glibc of the tree.
    assert!(inside(&["hanode", "--version"]).contains(env!("CARGO_PKG_VERSION")));
    let (_, target) = hanode_admin::embedded::target("centos-8").unwrap();
    for unit in target.units.values() {
        assert_eq!(inside(&["systemctl", "is-enabled", unit]), "disabled", "{unit}");
    }
    for unit in &target.enabled {
        assert_eq!(inside(&["systemctl", "is-enabled", unit]), "enabled", "{unit}");
    }
    // systemctl of this version checks /dev/null, which an unpacked tree does not have.
    for unit in &target.masked {
        let link = std::fs::read_link(root.join("etc/systemd/system").join(unit)).unwrap();
        assert_eq!(link, Path::new("/dev/null"), "{unit}");
    }
    // The image has no repositories of the build machine.
    assert_eq!(std::fs::read_dir(root.join("etc/yum.repos.d")).unwrap().count(), 0);
    assert!(inside(&["patroni", "--version"]).contains("2.1.0"));
    assert!(inside(&["etcd", "--version"]).contains("3.5.1"));
    assert!(inside(&["/usr/pgsql-12/bin/postgres", "--version"]).contains("12.22"));
    assert_eq!(inside(&["id", "-u", "postgres"]), "26");
    assert_eq!(std::fs::read_dir(root.join("var/lib/pgsql/12/data")).unwrap().count(), 0);
    // Although made in a container, the initial RAM disk must have the disk drivers of all machines.
    let modules = inside(&["sh", "-c", "lsinitrd /boot/initramfs-*.img"]);
    // ext4 is built into this kernel; the other drivers are modules.
    assert!(modules.contains("virtio_blk.ko") && modules.contains("xfs.ko"), "{modules}");
    for (path, to) in [("etc/redis.conf", "redis.conf"), ("etc/redis-sentinel.conf", "redis-sentinel.conf")] {
        assert!(root.join(path).is_file(), "{to} is not in its place");
    }
}

#[test]
fn a_damaged_package_is_named() {
    let build = build(true);
    let damaged = build.path("damaged");
    run(Command::new("cp").arg("-a").arg(centos::fixture().join("appstream")).arg(&damaged));
    let package = damaged.join("Packages/keepalived-2.1.5-6.el8.x86_64.rpm");
    let mut bytes = std::fs::read(&package).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&package, bytes).unwrap();
    let key = centos::fixture().join("centos.asc");
    let source = format!("appstream=file://{},key={}", damaged.display(), key.display());
    build.refuses(&with("appstream", source), &["keepalived-2.1.5-6.el8"]);
}

#[test]
fn an_unsigned_package_is_refused() {
    build(true).refuses(&appstream("unsigned"), &["haproxy-1.8.27-4.el8", "is not signed"]);
}

#[test]
fn a_package_signed_with_another_key_is_refused() {
    let at = centos::fixture().display().to_string();
    let sources = with("pgdg", format!("pgdg=file://{at}/pgdg,key={at}/centos.asc"));
    build(true).refuses(&sources, &["postgresql12", "GPG"]);
}

#[test]
fn a_key_unknown_to_the_target_is_refused() {
    let at = centos::fixture().display().to_string();
    // The key in the root file system has the right name, but is not that of CentOS.
    let sources = with("baseos", format!("baseos=file://{at}/baseos"));
    build(true).refuses(&sources, &["source baseos", "whose fingerprint is not in the target file"]);
}

#[test]
fn a_root_file_system_with_another_checksum_is_refused() {
    let at = centos::fixture().display().to_string();
    let wrong = "0".repeat(64);
    let sources = with("root", format!("root=file://{at}/root.tar.xz,sha256={wrong}"));
    build(true).refuses(&sources, &["source root", "SHA-256", &wrong]);
    // The target's checksum applies if the source has none.
    let sources = with("root", format!("root=file://{at}/root.tar.xz"));
    build(true).refuses(&sources, &["source root", "029d1873"]);
}

#[test]
fn a_missing_module_stream_is_named() {
    build(true).refuses(&appstream("streamless"), &["module redis:6"]);
}

#[test]
#[ignore = "installs everything, minutes: make test-targets"]
fn a_package_whose_script_fails_is_named_although_dnf_succeeds() {
    build(true).refuses(&appstream("failing"), &["a package script failed", "haproxy"]);
}

#[test]
fn an_interrupted_download_is_reported() {
    let url = server(centos::fixture(), "haproxy-");
    let key = centos::fixture().join("centos.asc");
    let source = format!("appstream={url}/appstream,key={}", key.display());
    build(true).refuses(&with("appstream", source), &["haproxy-1.8.27-2.el8"]);
    let url = server(centos::fixture(), "root.tar.xz");
    let source = format!("root={url}/root.tar.xz,sha256={}", "0".repeat(64));
    build(true).refuses(&with("root", source), &["source root: fetching"]);
}
