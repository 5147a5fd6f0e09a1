//! Builds for CentOS 8, from repositories with its names, versions, paths, units and users around the most similar programs
//! available, and errors that must end a build. `hanode` is that of `make dist`. Needs root.

use crate::support;
use crate::support::target_build::{self, TargetBuild, server};
use crate::support::workdir;
use crate::support::{
    centos,
    fixture::{CENTOS_VERSIONS, run},
};
use hanode_image::inspect;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn build(own_cache: bool) -> TargetBuild {
    TargetBuild::new(workdir(), "centos-8", CENTOS_VERSIONS, own_cache)
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
    systemd_knows_every_setting(&root, &image.entries);
    labels_follow_the_policy(&build, &root, &image.entries);
    bake_labels_all_files(&build, &root);
}

/// The tree's systemd, the oldest that can be installed here, parses the units that the bake wrote. It would ignore a
/// setting that it does not know, with a warning.
fn systemd_knows_every_setting(root: &Path, baked_files: &[serde_json::Value]) {
    let path = |row: &serde_json::Value| row["path"].as_str().unwrap().to_string();
    let unit = |path: &String| {
        let (_, name) = path.split_once("/systemd/system/")?;
        let name = name.split('/').next()?.trim_end_matches(".d");
        [".service", ".socket"].iter().any(|kind| name.ends_with(kind)).then(|| name.to_string())
    };
    let files: Vec<String> = baked_files.iter().map(path).filter(|path| unit(path).is_some()).collect();
    let units: BTreeSet<String> = files.iter().filter_map(unit).collect();
    assert!(units.len() > 12, "{units:?}");
    // The parser of the whole manager starts only where it finds a cgroup.
    const VERIFY: &str = "mount --rbind --make-rslave /sys $1/sys; mount -o remount,bind,ro $1/sys/fs/cgroup; \
        root=$1; shift; chroot $root systemd-analyze verify --man=no \"$@\"";
    let warnings = || {
        let mut verify = Command::new("unshare");
        verify.args(["--mount", "--pid", "--fork"]);
        verify.arg(format!("--mount-proc={}", root.join("proc").display()));
        let output = verify.args(["sh", "-ec", VERIFY, "verify"]).arg(root).args(&units).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let of_ours = |line: &&str| files.iter().any(|file| line.contains(file.as_str()));
        text.lines().filter(of_ours).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(warnings(), Vec::<String>::new());

    let drop_in = files.iter().find(|path| path.ends_with("/redis.service.d/50-hanode.conf")).unwrap();
    let (at, text) = (root.join(&drop_in[1..]), std::fs::read_to_string(root.join(&drop_in[1..])).unwrap());
    std::fs::write(&at, format!("{text}NoSuchSetting=yes\n")).unwrap();
    let found = warnings();
    std::fs::write(&at, text).unwrap();
    assert!(found.len() == 1 && found[0].contains("NoSuchSetting"), "{found:?}");
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
