//! Builds images from the cached base (the first run makes it) and inspects them.
//! Needs root and the tools that `make setup` installs.

use crate::common;
use crate::support;
use hanode_admin::cluster_dir::ClusterDir;
use hanode_core::bundle::Bundle;
use hanode_core::spec;
use hanode_image::{self, BuildOptions, ClusterPayload, inspect};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// One cluster's bundle with this generation.
fn bundle_of_generation(generation: u64) -> Vec<u8> {
    static CLUSTER: LazyLock<ClusterDir> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        ClusterDir::init(&dir.path().join("demo"), spec::STARTER).unwrap()
    });
    let Bundle { secrets, entries, .. } = CLUSTER.bundle.clone();
    Bundle::new(&CLUSTER.spec.name, generation, secrets, entries).pack().unwrap()
}

fn build(dir: &Path, name: &str, with_cluster: bool) -> PathBuf {
    let out = dir.join(name);
    let (spec, bundle) = (common::spec(), bundle_of_generation(3));
    let cluster =
        ClusterPayload { spec_text: spec::STARTER, spec: &spec, bundle: &bundle, bundle_generation: 3 };
    let payload = with_cluster.then_some(cluster);
    hanode_image::build(&BuildOptions {
        target: "debian-13",
        sources: &[],
        out: &out,
        fresh: false,
        compress: false,
        payload,
        base_only: false,
        program: &support::program(),
    })
    .unwrap();
    out
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Files directly in a directory of the tree; none if it is missing.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_raw_image_is_consistent_and_reproducible_and_has_a_manifest() {
    let dir = support::workdir();
    let raw = build(dir.path(), "node.raw", true);
    assert_eq!(raw.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(dir.path()), ["node.raw"], "working files were left");
    let table = run(Command::new("sgdisk").arg("-v").arg(&raw));
    assert!(table.contains("No problems found"), "{table}");
    let root = format!("{}?offset={}", raw.display(), 36864 * 512);
    run(Command::new("e2fsck").arg("-fn").arg(&root));
    let bundle = run(Command::new("debugfs").args(["-R", "stat /usr/lib/hanode/bundle.tar.gz"]).arg(&root));
    assert!(bundle.contains("Mode:  0600") && bundle.contains("User:     0"), "{bundle}");
    let shown = run(Command::new("debugfs").args(["-R", "stat /usr/lib/hanode/hanode-firstboot"]).arg(&root));
    assert!(
        shown.contains("Mode:  0755") && shown.contains(&format!("Size: {}", support::program().len())),
        "{shown}"
    );
    let image = inspect(&raw).unwrap().image;
    let cluster = image.cluster.unwrap();
    assert_eq!((cluster.name.as_str(), cluster.bundle_generation), ("hspas", 3));
    assert_eq!(cluster.spec_hash, common::spec().hash());
    for (component, version) in
        [("postgres", "17."), ("patroni", "4."), ("etcd", "3.5."), ("haproxy", "3.0.")]
    {
        assert!(image.components[component].starts_with(version), "{component} {:?}", image.components);
    }
    run(Command::new("cmp").arg(&raw).arg(build(dir.path(), "again.raw", true)));
}

#[test]
fn every_format_has_the_same_manifest() {
    let dir = support::workdir();
    let manifest = |name: &str| {
        let file = build(dir.path(), name, true);
        let manifest = serde_json::to_value(inspect(&file).unwrap().image).unwrap();
        std::fs::remove_file(file).unwrap();
        manifest
    };
    let first = manifest("node.qcow2");
    for name in ["node.vmdk", "node.tar", "node.tar.gz"] {
        assert_eq!(first, manifest(name), "{name}");
    }
}

#[test]
fn an_archive_is_reproducible_and_has_the_right_content() {
    let dir = support::workdir();
    let archive = build(dir.path(), "node.tar", true);
    run(Command::new("cmp").arg(&archive).arg(build(dir.path(), "again.tar", true)));
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    run(Command::new("tar")
        .args(["--xattrs", "--xattrs-include=security.*", "--numeric-owner", "-xf"])
        .arg(&archive)
        .arg("-C")
        .arg(&root));
    entries_are_as_recorded(&root, &inspect(&archive).unwrap().image.entries);
    defaults_of_packages_are_removed(&root);
    no_server_is_enabled(&root);
    own_units_are_confined(&root);
    no_program_has_capabilities(&root);
    a_second_bake_changes_the_bundle_only(&root);
}

/// Bakes another generation of the bundle into the tree of an image: no other file changes.
fn a_second_bake_changes_the_bundle_only(root: &Path) {
    let (spec, newer) = (common::spec(), bundle_of_generation(4));
    let payload =
        ClusterPayload { spec_text: spec::STARTER, spec: &spec, bundle: &newer, bundle_generation: 4 };
    let mut changed = hanode_image::bake(root, "debian-13", Some(&payload), &support::program()).unwrap();
    changed.sort();
    assert_eq!(changed, ["/usr/lib/hanode/bundle.tar.gz", "/usr/lib/hanode/image.json"]);
    let bundle = root.join("usr/lib/hanode/bundle.tar.gz");
    assert_eq!(std::fs::read(&bundle).unwrap(), newer);
    assert_eq!(bundle.metadata().unwrap().mode() & 0o7777, 0o600);

    let release = root.join("usr/lib/os-release");
    let other = std::fs::read_to_string(&release).unwrap().replace("VERSION_ID=\"13\"", "VERSION_ID=\"12\"");
    std::fs::write(&release, other).unwrap();
    let refused =
        hanode_image::bake(root, "debian-13", Some(&payload), &support::program()).unwrap_err().to_string();
    assert!(refused.contains("has debian 12, but target debian-13 is for debian 13"), "{refused}");
}

fn entries_are_as_recorded(root: &Path, rows: &[serde_json::Value]) {
    assert!(rows.len() > 10);
    for row in rows {
        let path = root.join(row["path"].as_str().unwrap().trim_start_matches('/'));
        let meta = path.symlink_metadata().unwrap();
        let kind = match row["type"].as_str().unwrap() {
            "file" => meta.is_file(),
            "dir" => meta.is_dir(),
            _ => meta.is_symlink(),
        };
        assert!(kind, "{row}");
        assert_eq!((meta.uid(), meta.gid()), (0, 0), "{row}");
        if !meta.is_symlink() {
            assert_eq!(format!("{:04o}", meta.mode() & 0o7777), row["mode"].as_str().unwrap(), "{row}");
        }
    }
}

fn defaults_of_packages_are_removed(root: &Path) {
    assert!(!names(&root.join("etc/ssh")).iter().any(|n| n.starts_with("ssh_host_")), "host keys");
    assert_eq!(std::fs::read(root.join("etc/machine-id")).unwrap(), b"", "machine-id");
    assert_eq!(names(&root.join("etc/postgresql")), [""; 0], "a PostgreSQL cluster");
    assert_eq!(names(&root.join("var/lib/postgresql")), [""; 0], "a PostgreSQL cluster's data");
    assert!(!root.join("etc/hostname").exists(), "a host name");
    assert!(!root.join("etc/ssl/private/ssl-cert-snakeoil.key").exists(), "a key that all images share");
    let shadow = std::fs::read_to_string(root.join("etc/shadow")).unwrap();
    for line in shadow.lines() {
        let password = line.split(':').nth(1).unwrap();
        assert!(password.starts_with(['*', '!']), "a password: {line}");
    }
    for log in walkdir::WalkDir::new(root.join("var/log")) {
        let log = log.unwrap();
        assert!(!log.file_type().is_file(), "a log: {}", log.path().display());
    }
}

fn no_server_is_enabled(root: &Path) {
    let (_, target) = hanode_admin::embedded::target("debian-13").unwrap();
    let state = |unit: &str| {
        let output =
            Command::new("chroot").arg(root).args(["systemctl", "is-enabled", unit]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    for unit in &target.enabled {
        assert_eq!(state(unit), "enabled", "{unit}");
    }
    for unit in &target.masked {
        assert_eq!(state(unit), "masked", "{unit}");
    }
    // As built, and after all presets are applied, as on a first boot.
    for _ in 0..2 {
        for unit in target.units.values() {
            assert_eq!(state(unit), "disabled", "{unit}");
        }
        run(Command::new("chroot").arg(root).args(["systemctl", "preset-all"]));
    }
}

/// Exposure levels by systemd of the image, times ten; a private /tmp in memory counts as none. The plan unit writes files
/// of all owners, sets the host name and searches the network for a duplicate address, so it needs more.
fn own_units_are_confined(root: &Path) {
    for (unit, at_most) in
        [("plan", 38), ("apply", 35), ("data", 40), ("ready", 22), ("join", 20), ("metrics@", 20)]
    {
        let mut analyze = Command::new("chroot");
        analyze.arg(root).args(["systemd-analyze", "security", "--offline=yes", "--no-pager"]);
        analyze.arg(format!("--threshold={at_most}")).arg(format!("hanode-{unit}.service"));
        let analysis = run(&mut analyze);
        assert!(analysis.contains("Overall exposure level"), "{analysis}");
    }
}

/// With one, an ordinary user could send forged packets. None of the target's programs needs any.
fn no_program_has_capabilities(root: &Path) {
    assert_eq!(run(Command::new("getcap").arg("-r").arg(root)), "");
    assert!(root.join("usr/bin/arping").is_file());
}

#[test]
fn an_image_without_a_cluster_has_none() {
    let dir = support::workdir();
    let image = inspect(&build(dir.path(), "base.tar", false)).unwrap().image;
    assert_eq!(image.cluster, None);
    assert!(!image.entries.iter().any(|row| row["path"] == "/usr/lib/hanode/bundle.tar.gz"));
}
