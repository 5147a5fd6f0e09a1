//! Packages of the servers installed again by hand on running nodes, as `apt upgrade` does: a node is meant to be replaced, but
//! an operator may not know. Takes minutes: `make test-recover`.

use crate::common::programs::HANODE;
use crate::support::lab::{HEALED, Lab, NODES, no_acknowledged_write_is_lost};
use crate::support::{fixture, workdir_alone};
use std::path::Path;
use std::process::{Command, Stdio};

/// Each stops and starts its servers, and has configuration files where hanode has its own.
const PACKAGES: [&str; 11] = [
    "postgresql-17",
    "postgresql-common",
    "patroni",
    "etcd-server",
    "redis-server",
    "redis-sentinel",
    "haproxy",
    "keepalived",
    "chrony",
    "openssh-server",
    "cloud-init",
];

/// Checksums of the servers' files, and the enabled units. etcd's environment is left out: each start of etcd writes it.
const CONFIGURATION: &str = "cd /etc && find patroni haproxy keepalived ssl ssh nftables.d chrony systemd/system \
    -type f ! -name '*.dpkg-*' -exec md5sum {} + | sort -k2; systemctl list-unit-files --state=enabled --no-legend";

#[test]
#[ignore = "minutes: make test-recover"]
fn packages_installed_again_by_hand_do_not_harm_a_cluster() {
    let lab = Lab::up_on_debian(workdir_alone(), &[]);
    let debs = fixture::dir().join("debian-13");
    fixture::run(Command::new("sh").arg("tests/fixture/debian-13.sh").arg(&debs).args(PACKAGES));
    let load = lab.load();
    for node in NODES {
        let before = lab.sh(node, CONFIGURATION);
        send(&lab, node, &debs);
        let install = "DEBIAN_FRONTEND=noninteractive dpkg -i --force-confdef --force-confold /var/tmp/*.deb; \
             rm /var/tmp/*.deb";
        eprintln!("{node}: {} lines of dpkg", lab.sh(node, install).lines().count());
        lab.healthy_within(HEALED);
        assert_eq!(lab.sh(node, CONFIGURATION), before, "{node}: its configuration changed");
    }
    no_acknowledged_write_is_lost(load);
}

/// Copies the packages to the node's /var/tmp.
fn send(lab: &Lab, node: &str, debs: &Path) {
    let script = "tar -cf - ./*.deb";
    let mut tar =
        Command::new("sh").args(["-c", script]).current_dir(debs).stdout(Stdio::piped()).spawn().unwrap();
    let mut unpack = Command::new(HANODE);
    unpack.args(["lab", "exec", "--node", node]).arg(&lab.cluster.dir);
    unpack.args(["--", "tar", "-C", "/var/tmp", "-xf", "-"]).stdin(tar.stdout.take().unwrap());
    assert!(
        unpack.status().unwrap().success() && tar.wait().unwrap().success(),
        "copying packages to {node}"
    );
}
