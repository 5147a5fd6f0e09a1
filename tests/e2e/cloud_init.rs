//! hanode with several versions of cloud-init, in trees with that version: hanode finds the node name in the instance data
//! that cloud-init writes, and cloud-init accepts the seeds and the examples in `cloud-init/`. Needs root.

use crate::common::{self, PLATFORMS, recorded_metadata as recorded, sources};
use crate::support::{self, schedule};
use hanode_admin::seed::Seed;
use hanode_core::spec;
use hanode_firstboot::identity::metadata;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs in new network and mount namespaces. The result must equal the recorded data of this version.
fn finds_the_tag(tree: &Path, version: &str, platforms: &[&str]) {
    for platform in platforms {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Command::new("sh");
        record.arg(sources("tests/metadata/record.sh")).arg(tree).arg(platform).arg(dir.path());
        let output = record.output().unwrap();
        assert!(output.status.success(), "{platform}: {}", String::from_utf8_lossy(&output.stderr));
        let now: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(now, recorded(version, platform), "{version} {platform}: record the fixtures again");
        // The second time without the file that only root can read: the redacted one must suffice.
        for _ in 0..2 {
            let found = metadata::read(dir.path()).unwrap().unwrap();
            let recorded_node = metadata::parse(&recorded(version, platform)).node;
            assert_eq!(found.node, recorded_node, "{version} {platform}");
            let _ = std::fs::remove_file(dir.path().join("run/cloud-init/instance-data-sensitive.json"));
        }
    }
}

#[test]
fn the_tag_is_found_in_the_instance_data() {
    let _turn = schedule::concurrent();
    finds_the_tag(&support::debian(), "25.1", &PLATFORMS);
}

/// A small tree of a Debian release with its cloud-init; cached, as it takes minutes to make.
fn release(suite: &str) -> PathBuf {
    // With the users of systemd, which own files.
    support::tree_of(&format!("cloud-init-{suite}"), |out| {
        let mut make = Command::new("mmdebstrap");
        make.args(["--mode=root", "--variant=apt", "--format=directory", "--include=cloud-init,systemd"]);
        make.arg(suite);
        let output = make.arg(out).output().unwrap();
        assert!(output.status.success(), "{suite}: {}", String::from_utf8_lossy(&output.stderr));
    })
}

#[test]
#[ignore = "bootstraps two older releases, minutes: make test-vm"]
fn older_versions_record_the_tag_and_accept_the_seeds() {
    let _turn = schedule::concurrent();
    for (suite, version, platforms, renderers) in [
        ("bookworm", "22.4", &PLATFORMS[..], &RENDERERS[..]),
        ("bullseye", "20.4", &PLATFORMS[..6], &RENDERERS[..3]),
    ] {
        let tree = release(suite);
        let text = cloud_init_of(&tree, &sources("cloud-init"), "cloud-init --version");
        assert!(text.contains(version), "{suite} has {text}");
        finds_the_tag(&tree, version, platforms);
        every_renderer_configures_the_network(&tree, renderers);
    }
}

/// Runs the target's cloud-init with a directory mounted in its tree.
fn cloud_init(dir: &Path, arguments: &str) -> String {
    cloud_init_of(&support::debian(), dir, arguments)
}

fn cloud_init_of(tree: &Path, dir: &Path, arguments: &str) -> String {
    let script = "mount --bind \"$1\" \"$0/mnt\" && cd \"$0\" && exec chroot . sh -c \"cd /mnt && $2\" 2>&1";
    let mut run = Command::new("unshare");
    run.args(["--mount", "sh", "-c", script]).arg(tree).arg(dir).arg(arguments);
    let output = run.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn valid(dir: &Path, file: &str, kind: &str) {
    let text = cloud_init(dir, &format!("cloud-init schema -t {kind} -c {file}"));
    assert!(text.contains("Valid schema") && !text.contains("eprecat"), "{file}: {text}");
}

#[test]
fn the_examples_are_valid() {
    let _turn = schedule::concurrent();
    let dir = sources("cloud-init");
    let mut seen = 0;
    for platform in std::fs::read_dir(&dir).unwrap() {
        let platform = platform.unwrap().path();
        if platform.is_dir() {
            valid(&platform, "user-data", "cloud-config");
            seen += 1;
        }
    }
    assert_eq!(seen, 7);
    valid(&dir, "nocloud/network-config", "network-config");
    let spec = std::fs::read_to_string(dir.join("cluster.toml")).unwrap();
    let spec = spec::parse(&spec).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(spec.network.vip_mode, spec::VipMode::External);
}

#[test]
fn a_key_unknown_to_cloud_init_is_invalid() {
    let _turn = schedule::concurrent();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x"), "#cloud-config\nhanode_node: node1\n").unwrap();
    let text = cloud_init(dir.path(), "cloud-init schema -c x || true");
    assert!(text.contains("hanode_node"), "{text}");
}

/// cloud-init's network renderers, each with a distribution that uses it; the first three are in every version.
const RENDERERS: [(&str, &str); 5] = [
    ("netplan", "ubuntu"),
    ("eni", "debian"),
    ("sysconfig", "centos"),
    ("networkd", "debian"),
    ("network-manager", "centos"),
];

/// A seed with all its parts for IPv4 and one for IPv6, each with its gateway.
fn seeds() -> [(Seed, &'static str); 2] {
    let text = spec::STARTER.replace("192.168.18.0/24", "fd00:18::/64").replace("192.168.18.", "fd00:18::");
    let six = spec::parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
    [(common::spec(), "192.168.18.1"), (six, "fd00:18::1")].map(|(spec, gateway)| {
        let (mac, address) = ("52:54:00:00:00:01".parse().unwrap(), gateway.parse().unwrap());
        let seed = Seed::for_node(&spec, "node2").unwrap();
        let mut seed = seed.with_network(&spec, mac, Some(address), &[address]).unwrap();
        seed.ssh_key = Some("ssh-ed25519 AAAA operator\n".into());
        seed.write_files = vec![("/etc/hanode/bundle.tar.gz", vec![0; 6000])];
        (seed, gateway)
    })
}

fn every_renderer_configures_the_network(tree: &Path, renderers: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    for (seed, gateway) in seeds() {
        seed.write_directory(dir.path()).unwrap();
        for (renderer, distribution) in renderers {
            let convert = format!(
                "cloud-init devel net-convert -p network-config -k yaml -O {renderer} -D {distribution} -d out \
                 -m eth0,52:54:00:00:00:01 && grep -rhE '{gateway}' out; rm -rf out"
            );
            let text = cloud_init_of(tree, dir.path(), &convert);
            // Once as name server, once as gateway.
            let lines = text.lines().filter(|line| line.contains(gateway)).count();
            assert!(lines >= 2, "{renderer}: no default route:\n{text}");
        }
    }
}

#[test]
fn a_seed_is_valid_for_every_renderer() {
    let _turn = schedule::concurrent();
    let dir = tempfile::tempdir().unwrap();
    for (seed, _) in seeds() {
        seed.write_directory(dir.path()).unwrap();
        valid(dir.path(), "user-data", "cloud-config");
    }
    every_renderer_configures_the_network(&support::debian(), &RENDERERS);
}
