//! cloud-init and hanode: each platform's tag is found where cloud-init's own code leaves it, what hanode and
//! `cloud-init/` give to cloud-init is what it accepts, and what it cannot tell is asked of the platform itself.
#![allow(clippy::unwrap_used)]

mod common;

use hanode::boot::identity::{metadata, platform};
use hanode::seed::Seed;
use hanode::spec;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PLATFORMS: [&str; 7] = ["nocloud", "configdrive", "openstack", "ec2", "gce", "azure", "vmware"];

fn sources(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn recorded(version: &str, platform: &str) -> serde_json::Value {
    let file = sources("tests/metadata/recorded").join(version).join(format!("{platform}.json"));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn the_tag_is_found_in_what_each_version_recorded() {
    for (version, older) in [("20.4", true), ("22.4", false), ("25.1", false)] {
        for platform in PLATFORMS {
            if older && platform == "vmware" {
                continue; // 20.4 has no such data source.
            }
            let found = metadata::parse(&recorded(version, platform));
            // 20.4 does not ask EC2 for tags; everything else is there, so that hanode knows to ask itself.
            let node = if older && platform == "ec2" { None } else { Some("node2") };
            assert_eq!(found.node.as_deref(), node, "{version} {platform}");
            assert!(found.instance_id.is_some() && found.hostname.is_some(), "{version} {platform}");
            let named = found.platform.unwrap();
            assert_eq!(named, platform, "{version}");
        }
    }
}

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
    found_where_it_is_left(&common::debian(), "25.1", &PLATFORMS);
}

/// A Debian release with little but its cloud-init; kept, as making one takes minutes.
fn release(suite: &str) -> PathBuf {
    // With systemd's users, to whom files are given.
    common::tree_of(&format!("cloud-init-{suite}"), |out| {
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
    cloud_init_of(&common::debian(), dir, arguments)
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
    let dir = tempfile::tempdir().unwrap();
    for (seed, _) in seeds() {
        seed.write_directory(dir.path()).unwrap();
        valid(dir.path(), "user-data", "cloud-config");
    }
    every_renderer_makes_the_network(&common::debian(), &RENDERERS);
}

/// EC2's metadata service, as far as hanode asks it: the first `busy` requests are answered with 503.
fn imds(mut busy: usize, tag: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let lines = BufReader::new(socket.try_clone().unwrap()).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let has = |name: &str| head.iter().any(|line| line.to_lowercase().starts_with(name));
            let (status, body) = if busy > 0 {
                busy -= 1;
                (503, "busy")
            } else if head[0].starts_with("PUT /latest/api/token ")
                && has("x-aws-ec2-metadata-token-ttl-seconds:")
            {
                (200, "secret")
            } else if !has("x-aws-ec2-metadata-token: secret") {
                (401, "")
            } else if head[0].starts_with("GET /latest/meta-data/tags/instance/hanode_node ") {
                tag.map_or((404, ""), |tag| (200, tag))
            } else {
                (404, "")
            };
            let length = body.len();
            let _ = write!(
                socket,
                "HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    address
}

#[test]
fn ec2_is_asked_with_a_token_until_it_answers() {
    let patience = Duration::from_secs(10);
    assert_eq!(platform::ec2(&imds(0, Some("node2\n")), patience).unwrap().as_deref(), Some("node2"));
    assert_eq!(platform::ec2(&imds(3, Some("node2")), patience).unwrap().as_deref(), Some("node2"));
    assert_eq!(platform::ec2(&imds(0, None), patience).unwrap(), None);
}

#[test]
fn a_metadata_service_that_does_not_answer_is_given_up_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let busy = imds(usize::MAX, None);
    for (service, why) in [
        (format!("http://{}", silent.local_addr().unwrap()), "timeout"),
        (format!("http://{gone}"), "refused"),
        (busy, "503"),
    ] {
        let began = Instant::now();
        let said = format!("{:#}", platform::ec2(&service, Duration::from_secs(1)).unwrap_err());
        assert!(said.contains(&service) && said.contains(why), "{said}");
        assert!(began.elapsed() < Duration::from_secs(20), "{service}: {:?}", began.elapsed());
    }
}

#[test]
fn a_tag_too_long_for_a_name_is_none() {
    let long: &'static str = "x".repeat(4096).leak();
    assert_eq!(platform::ec2(&imds(0, Some(long)), Duration::from_secs(5)).unwrap(), None);
}

/// Stands where open-vm-tools' program would: only on VMware it can speak to anyone.
fn rpctool(root: &Path, script: &str) {
    let firmware = root.join("sys/class/dmi/id");
    std::fs::create_dir_all(&firmware).unwrap();
    std::fs::write(firmware.join("sys_vendor"), "VMware, Inc.\n").unwrap();
    let bin = root.join("usr/bin");
    std::fs::create_dir_all(&bin).unwrap();
    hanode::tree::replace(&bin.join("vmware-rpctool"), script.as_bytes(), 0o755, None).unwrap();
}

#[test]
fn vmware_is_asked_where_cloud_init_said_nothing() {
    let root = tempfile::tempdir().unwrap();
    let ask = |told: Option<metadata::Metadata>| {
        let mut metadata = told;
        platform::complete(root.path(), &mut metadata, Duration::from_secs(1)).map(|()| metadata)
    };
    assert_eq!(ask(None).unwrap(), None, "not VMware");
    rpctool(root.path(), "#!/bin/sh\n[ \"$*\" = 'info-get guestinfo.hanode_node' ] && echo node3\n");
    assert_eq!(ask(None).unwrap().unwrap().node.as_deref(), Some("node3"));
    let told = metadata::Metadata { node: Some("node1".into()), ..Default::default() };
    assert_eq!(ask(Some(told)).unwrap().unwrap().node.as_deref(), Some("node1"), "cloud-init knew");
    rpctool(root.path(), "#!/bin/sh\necho No value found; exit 1\n");
    assert_eq!(ask(None).unwrap(), None);
    rpctool(root.path(), "#!/bin/sh\nexec sleep 60\n");
    assert!(format!("{:#}", ask(None).unwrap_err()).contains("did not answer"));
}
