//! Loads each target's rendered rules into its real firewall, and tries every port from machines outside. Needs root.

use crate::cases::Case;
use crate::support;
use crate::support::sandbox::sandboxed;
use hanode_core::state::Component;
use hanode_util::file_tree::Entry;
use ipnet::IpNet;
use std::path::PathBuf;
use std::process::Command;

/// A kind of firewall: a target with it, a tree with its programs, and the script that loads its rules.
struct Firewall {
    target: &'static str,
    tree: fn() -> PathBuf,
    script: &'static str,
    /// Whether a port that hanode does not use is open or closed.
    unrelated: &'static str,
}

/// The oldest distribution available, with firewalls as old as the targets'.
fn old_firewalls() -> PathBuf {
    support::tree_of("firewalls", |out| {
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--mode=root", "--variant=apt"]);
        mmdebstrap.arg("--include=ufw,firewalld,iptables,dbus,iproute2,python3");
        mmdebstrap.args(["bullseye"]).arg(out).arg(support::mirror());
        assert!(mmdebstrap.status().expect("mmdebstrap").success());
    })
}

const NFTABLES: Firewall = Firewall {
    target: "debian-13",
    tree: support::debian,
    script: include_str!("../validators/nftables.sh"),
    unrelated: "open",
};

const UFW: Firewall = Firewall {
    target: "ubuntu-20.04",
    tree: old_firewalls,
    script: include_str!("../validators/ufw.sh"),
    unrelated: "closed",
};

const FIREWALLD: Firewall = Firewall {
    target: "centos-8",
    tree: old_firewalls,
    script: include_str!("../validators/firewalld.sh"),
    unrelated: "closed",
};

fn nets(of: &[&str]) -> Vec<IpNet> {
    of.iter().map(|net| net.parse().expect("a network")).collect()
}

/// The firewall's files on node1.
fn files(case: &Case) -> Vec<Entry> {
    let files = case.render_component("node1", Component::Firewall);
    assert!(!files.is_empty(), "no firewall");
    files
}

fn check_ports(firewall: &Firewall, v6: bool, change: impl Fn(&mut Case)) {
    let mut case = Case::of(3).on(firewall.target);
    let (first, second) = match v6 {
        false => (["10.1.0.0/16", "10.1.0.0/24"], "172.16.0.0/16"),
        true => (["fd00:1::/64", "fd00:1::9/128"], "fd00:2::/64"),
    };
    if v6 {
        let network = &mut case.spec.network;
        network.subnet = nets(&["fd00::/64"])[0];
        network.vip = "fd00::20".parse().expect("an address");
        for (node, last) in case.spec.nodes.iter_mut().zip(["21", "22", "23"]) {
            node.address = format!("fd00::{last}").parse().expect("an address");
        }
        case.plan.redis.primary = case.spec.node("node2").map(|n| n.address);
    }
    case.spec.network.operators = Some(nets(&[if v6 { "fd00::5/128" } else { "192.168.18.5/32" }]));
    case.spec.network.clients = nets(&first);
    change(&mut case);
    let mut entries = files(&case);
    case.spec.network.clients = nets(&[second]);
    entries.extend(files(&case).into_iter().map(|mut entry| {
        entry.path = format!("/second{}", entry.path);
        entry
    }));
    let statistics = match case.spec.network.vip_mode {
        hanode_core::spec::VipMode::Vrrp => "some",
        hanode_core::spec::VipMode::External => "anyone",
    };
    let script = format!(
        "VERSION={} STATISTICS={statistics} UNRELATED={}\n{}\n{}",
        if v6 { 6 } else { 4 },
        firewall.unrelated,
        firewall.script,
        include_str!("../validators/firewall.sh")
    );
    sandboxed(&(firewall.tree)(), &support::program(), &entries, &script);
}

#[test]
fn nftables_admits_clients_and_operators_of_the_spec() {
    check_ports(&NFTABLES, false, |_| ());
    check_ports(&NFTABLES, true, |_| ());
    check_ports(&NFTABLES, false, |case| case.spec.network.vip_mode = hanode_core::spec::VipMode::External);
}

#[test]
fn ufw_admits_clients_and_operators_of_the_spec() {
    check_ports(&UFW, false, |_| ());
    check_ports(&UFW, true, |_| ());
    check_ports(&UFW, false, |case| case.spec.network.vip_mode = hanode_core::spec::VipMode::External);
}

#[test]
fn firewalld_admits_clients_and_operators_of_the_spec() {
    check_ports(&FIREWALLD, false, |_| ());
    check_ports(&FIREWALLD, true, |_| ());
    check_ports(&FIREWALLD, false, |case| case.spec.network.vip_mode = hanode_core::spec::VipMode::External);
}
