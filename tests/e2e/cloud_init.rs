//! hanode and cloud-init of several versions: the node's name is found where cloud-init's own code leaves it, and
//! cloud-init accepts what hanode and `cloud-init/` hand to it. In trees with that cloud-init; needs root.

use crate::common::{self, PLATFORMS, recorded_metadata as recorded, sources};
use crate::support::{self, schedule};
use hanode_admin::seed::Seed;
use hanode_core::spec;
use hanode_firstboot::identity::metadata;
use std::path::{Path, PathBuf};
use std::process::Command;

/// As root: in network and mount namespaces of its own. `version`: whose fixtures must come out.
fn found_where_it_is_left(tree: &Path, version: &str, platforms: &[&str]) {
    for platform in platforms {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Command::new("sh");
        record.arg(sources("tests/metadata/record.sh")).arg(tree).arg(platform).arg(dir.path());
        let output = record.output().unwrap();
        assert!(output.status.success(), "{platform}: {}", String::from_utf8_lossy(&output.stderr));
        let now: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(now, recorded(version, platform), "{version} {platform}: record the fixtures anew");
        // The second time the file for root alone is gone, and the redacted one must do.
        for _ in 0..2 {
            let found = metadata::read(dir.path()).unwrap().unwrap();
            let told = metadata::parse(&recorded(version, platform)).node;
            assert_eq!(found.node, told, "{version} {platform}");
            let _ = std::fs::remove_file(dir.path().join("run/cloud-init/instance-data-sensitive.json"));
        }
    }
}

#[test]
fn the_tag_is_found_where_cloud_inits_own_code_leaves_it() {
    let _turn = schedule::beside_others();
    found_where_it_is_left(&support::debian(), "25.1", &PLATFORMS);
}

/// A Debian release with little but its cloud-init; kept, as making one takes minutes.
fn release(suite: &str) -> PathBuf {
    // With systemd's users, to whom files are given.
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
fn older_versions_leave_the_tag_and_take_the_seeds() {
    let _turn = schedule::beside_others();
    for (suite, version, platforms, renderers) in [
        ("bookworm", "22.4", &PLATFORMS[..], &RENDERERS[..]),
        ("bullseye", "20.4", &PLATFORMS[..6], &RENDERERS[..3]),
    ] {
        let tree = release(suite);
        let said = cloud_init_of(&tree, &sources("cloud-init"), "cloud-init --version");
        assert!(said.contains(version), "{suite} has {said}");
        found_where_it_is_left(&tree, version, platforms);
        every_renderer_makes_the_network(&tree, renderers);
    }
}

/// Runs the target's own cloud-init on files that are laid beside it.
fn cloud_init(dir: &Path, arguments: &str) -> String {
    cloud_init_of(&support::debian(), dir, arguments)
}

fn cloud_init_of(tree: &Path, dir: &Path, arguments: &str) -> String {
    let script = "mount --bind \"$1\" \"$0/mnt\" && cd \"$0\" && exec chroot . sh -c \"cd /mnt && $2\" 2>&1";
    let mut run = Command::new("unshare");
    run.args(["--mount", "sh", "-c", script]).arg(tree).arg(dir).arg(arguments);
    let output = run.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn valid(dir: &Path, file: &str, kind: &str) {
    let said = cloud_init(dir, &format!("cloud-init schema -t {kind} -c {file}"));
    assert!(said.contains("Valid schema") && !said.contains("eprecat"), "{file}: {said}");
}

#[test]
fn what_an_operator_copies_is_valid() {
    let _turn = schedule::beside_others();
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
fn a_key_that_cloud_init_does_not_know_is_not_valid() {
    let _turn = schedule::beside_others();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x"), "#cloud-config\nhanode_node: node1\n").unwrap();
    let said = cloud_init(dir.path(), "cloud-init schema -c x || true");
    assert!(said.contains("hanode_node"), "{said}");
}

/// cloud-init's renderers and whom each serves; the first three are in every version.
const RENDERERS: [(&str, &str); 5] = [
    ("netplan", "ubuntu"),
    ("eni", "debian"),
    ("sysconfig", "centos"),
    ("networkd", "debian"),
    ("network-manager", "centos"),
];

/// A seed with everything in it, for either family of addresses, and its gateway.
fn seeds() -> [(Seed, &'static str); 2] {
    let text = spec::STARTER.replace("192.168.18.0/24", "fd00:18::/64").replace("192.168.18.", "fd00:18::");
    let six = spec::parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
    [(common::spec(), "192.168.18.1"), (six, "fd00:18::1")].map(|(spec, gateway)| {
        let (mac, address) = ("52:54:00:00:00:01".parse().unwrap(), gateway.parse().unwrap());
        let seed = Seed::of(&spec, "node2").unwrap();
        let mut seed = seed.with_network(&spec, mac, Some(address), &[address]).unwrap();
        seed.ssh_key = Some("ssh-ed25519 AAAA operator\n".into());
        seed.late = vec![("/etc/hanode/bundle.tar.gz", vec![0; 6000])];
        (seed, gateway)
    })
}

fn every_renderer_makes_the_network(tree: &Path, renderers: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    for (seed, gateway) in seeds() {
        seed.write_directory(dir.path()).unwrap();
        for (renderer, distribution) in renderers {
            let convert = format!(
                "cloud-init devel net-convert -p network-config -k yaml -O {renderer} -D {distribution} -d out \
                 -m eth0,52:54:00:00:00:01 && grep -rhE '{gateway}' out; rm -rf out"
            );
            let said = cloud_init_of(tree, dir.path(), &convert);
            // As name server and as gateway.
            let lines = said.lines().filter(|line| line.contains(gateway)).count();
            assert!(lines >= 2, "{renderer}: no default route:\n{said}");
        }
    }
}

#[test]
fn a_seed_is_valid_and_every_renderer_makes_its_network() {
    let _turn = schedule::beside_others();
    let dir = tempfile::tempdir().unwrap();
    for (seed, _) in seeds() {
        seed.write_directory(dir.path()).unwrap();
        valid(dir.path(), "user-data", "cloud-config");
    }
    every_renderer_makes_the_network(&support::debian(), &RENDERERS);
}
