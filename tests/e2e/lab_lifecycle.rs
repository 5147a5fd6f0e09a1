//! The lab with a real image: nodes boot as in a cloud, lose links, power and disks, and leave nothing behind. Needs root.
//! Whether they become a cluster is tested by [`crate::cluster`].

use crate::common;
use crate::common::programs::HANODE;
use crate::support;
use hanode_lab::{self, Lab, Probe, UpOptions};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn options(dir: &Path, image: &Path, vm: bool, nodes: &[&str]) -> UpOptions {
    UpOptions {
        dir: dir.into(),
        image: image.into(),
        vm,
        timeout_scale: 3.0,
        nodes: nodes.iter().map(|n| n.to_string()).collect(),
        verbose: false,
        restore: None,
        program: Some(HANODE.into()),
    }
}

fn up(options: &UpOptions) -> anyhow::Result<hanode_lab::UpReport> {
    let probe = || Probe { healthy: true, progress: String::new(), problems: Vec::new() };
    hanode_lab::up(options, &common::spec(), &probe, &AtomicBool::new(false))
}

fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

/// Takes the lab down on drop, also after a failed assertion.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        if let Err(error) = hanode_lab::down(self.0) {
            eprintln!("lab down: {error:#}");
        }
    }
}

/// Host name, address and metadata are those of the seed, as the real cloud-init applied them.
fn has_its_identity(lab: &Lab, name: &str) {
    let node = lab.node(name).unwrap();
    assert_eq!(stdout(lab.exec_output(name, &["hostname"]).unwrap()), node.hostname);
    let addresses =
        stdout(lab.exec_output(name, &["ip", "-brief", "address", "show", "scope", "global"]).unwrap());
    assert!(
        addresses.contains(&format!(" {}/{}", node.address, lab.layout.subnet.prefix_len())),
        "{addresses}"
    );
    let metadata = lab.exec_output(name, &["cloud-init", "query", "ds.meta_data.hanode_node"]).unwrap();
    assert_eq!(stdout(metadata), name);
}

fn reaches(lab: &Lab, from: &str, to: &str) -> bool {
    let address = lab.node(to).unwrap().address.to_string();
    lab.exec_output(from, &["ping", "-c1", "-W2", &address]).unwrap().status.success()
}

fn machine_id(lab: &Lab, node: &str) -> String {
    stdout(lab.exec_output(node, &["cat", "/etc/machine-id"]).unwrap())
}

/// All states of three nodes of this image.
fn full_lifecycle(image: &Path) {
    let dir = support::workdir_named("a lab, with: odd name");
    let dir = dir.path();
    let before = support::leftovers::Leftovers::now(dir);
    hanode_lab::down(dir).expect("down without a lab");
    let down = Down(dir);

    // One node, then all: the running one is not restarted.
    up(&options(dir, image, false, &["node2"])).unwrap();
    let lab = Lab::open(dir).unwrap().run_by(HANODE);
    let first = lab.init_pid("node2").unwrap();
    let report = up(&options(dir, image, false, &[])).unwrap();
    eprintln!("{report:?}");
    assert_eq!(lab.init_pid("node2").unwrap(), first);
    for name in ["node1", "node2", "node3"] {
        has_its_identity(&lab, name);
    }

    // Nodes reach each other, a client reaches them, and no link leads to another network.
    assert!(reaches(&lab, "node1", "node2") && reaches(&lab, "node3", "node1"));
    let node3 = std::net::SocketAddr::new(lab.node("node3").unwrap().address, 22);
    let connect = || std::net::TcpStream::connect_timeout(&node3, Duration::from_secs(2));
    lab.in_network(connect).unwrap().expect("node3's SSH server, from outside the nodes");
    let links = stdout(lab.client_output(&["ip", "-brief", "link"]).unwrap());
    let known = |l: &str| ["lo ", "br0 ", "vb-n"].iter().any(|known| l.starts_with(known));
    assert!(links.lines().all(known), "{links}");
    let hardware = |links: &str| links.lines().find(|l| l.starts_with("br0 ")).map(String::from);
    let bridge = hardware(&links);

    let status = hanode_lab::exec(dir, "node1", &["sh", "-c", "exit 7"]).unwrap();
    assert_eq!(status.code(), Some(7));
    assert!(lab.logs("node1").unwrap().contains("systemd[1]"));

    // A link goes down and up.
    lab.link("node3", false).unwrap();
    assert!(!reaches(&lab, "node1", "node3"));
    lab.link("node3", true).unwrap();
    assert!((0..10).any(|_| reaches(&lab, "node1", "node3")));

    // After a power cut, `up` starts that node only, with the same disk.
    stdout(lab.exec_output("node1", &["sh", "-c", "echo kept > /var/lib/marker; sync"]).unwrap());
    let id = machine_id(&lab, "node1");
    hanode_lab::kill(dir, "node1").unwrap();
    assert!(!lab.running("node1") && !reaches(&lab, "node2", "node1"));
    up(&options(dir, image, false, &[])).unwrap();
    assert_eq!(lab.init_pid("node2").unwrap(), first);
    assert_eq!(stdout(lab.exec_output("node1", &["cat", "/var/lib/marker"]).unwrap()), "kept");
    assert_eq!(machine_id(&lab, "node1"), id);
    has_its_identity(&lab, "node1");

    // A clean shutdown and a new disk: a new machine of the same node.
    assert!(lab.discard_disk("node1").is_err(), "a running node's disk");
    lab.shutdown("node1").unwrap();
    lab.discard_disk("node1").unwrap();
    // The client's network interface is the same.
    assert_eq!(hardware(&stdout(lab.client_output(&["ip", "-brief", "link"]).unwrap())), bridge);
    up(&options(dir, image, false, &["node1"])).unwrap();
    assert!(!lab.exec_output("node1", &["test", "-e", "/var/lib/marker"]).unwrap().status.success());
    assert_ne!(machine_id(&lab, "node1"), id);
    has_its_identity(&lab, "node1");

    drop(down);
    assert_eq!(support::leftovers::Leftovers::now(dir), before);
    assert!(!dir.join(".lab").exists());
    hanode_lab::down(dir).expect("down, twice in a row");
}

/// `down` removes a lab without state files, with running nodes.
fn crash(image: &Path) {
    let dir = support::workdir_without_turn();
    let dir = dir.path();
    let before = support::leftovers::Leftovers::now(dir);
    let down = Down(dir);
    up(&options(dir, image, false, &["node1", "node2"])).unwrap();
    assert_ne!(support::leftovers::Leftovers::now(dir), before, "the lab is not detected");
    for file in ["lab.json", "nodes/node1/process.json"] {
        std::fs::remove_file(dir.join(".lab").join(file)).unwrap();
    }
    hanode_lab::down(dir).unwrap();
    drop(down);
    assert_eq!(support::leftovers::Leftovers::now(dir), before);
}

/// An interrupted `up` removes the nodes that it started, and no others.
fn interrupted(image: &Path) {
    let dir = support::workdir_without_turn();
    let dir = dir.path();
    let before = support::leftovers::Leftovers::now(dir);
    let down = Down(dir);
    let stop = AtomicBool::new(false);
    // The interrupt comes when the nodes run and the cluster is not healthy yet.
    let probe = || {
        stop.store(true, Ordering::SeqCst);
        Probe { healthy: false, progress: "not yet".into(), problems: vec!["not yet".into()] }
    };
    let interrupt = || {
        let error =
            hanode_lab::up(&options(dir, image, false, &[]), &common::spec(), &probe, &stop).unwrap_err();
        assert!(error.is::<hanode_util::interrupt::Interrupted>(), "{error:#}");
    };
    interrupt();
    assert_eq!(support::leftovers::Leftovers::now(dir), before);
    assert!(!dir.join(".lab").exists());

    up(&options(dir, image, false, &["node2"])).unwrap();
    stop.store(false, Ordering::SeqCst);
    interrupt();
    let lab = Lab::open(dir).unwrap();
    let running: Vec<_> = lab.nodes().filter(|n| lab.running(n)).collect();
    assert_eq!(running, ["node2"]);
    drop(down);
    assert_eq!(support::leftovers::Leftovers::now(dir), before);
}

/// After SIGKILL to `up` at any moment, `down` removes the lab, and another `up` completes it.
fn killed(image: &Path) {
    let home = support::workdir_without_turn();
    let dir =
        hanode_admin::cluster_dir::ClusterDir::init(&home.path().join("demo"), hanode_core::spec::STARTER)
            .unwrap()
            .dir;
    let before = support::leftovers::Leftovers::now(&dir);
    let down = Down(&dir);
    let up = || Command::new(HANODE).args(["lab", "up", "--image"]).args([image, &dir]).spawn().unwrap();
    for round in 0..8 {
        // Mostly during the setup, sometimes while nodes boot.
        let limit = if round % 3 == 0 { 6000 } else { 1500 };
        let moment = Duration::from_millis(rand::random::<u64>() % limit);
        let mut child = up();
        std::thread::sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
        if round % 4 == 3 {
            let again = self::up(&options(&dir, image, false, &["node3"]));
            again.unwrap_or_else(|error| panic!("up after a kill at {moment:?}: {error:#}"));
        }
        hanode_lab::down(&dir).unwrap_or_else(|error| panic!("down after a kill at {moment:?}: {error:#}"));
        assert_eq!(support::leftovers::Leftovers::now(&dir), before, "after a kill at {moment:?}");
        assert!(!dir.join(".lab").exists(), "after a kill at {moment:?}");
    }
    drop(down);
}

/// One node as a virtual machine: with a seed ISO and SSH, powered off and shut down.
fn machine(image: &Path) {
    let dir = support::workdir_named("a lab, with: odd name");
    let dir = dir.path();
    let before = support::leftovers::Leftovers::now(dir);
    let down = Down(dir);
    let options = options(dir, image, true, &["node1"]);
    up(&options).unwrap();
    let lab = Lab::open(dir).unwrap().run_by(HANODE);
    has_its_identity(&lab, "node1");
    assert_eq!(hanode_lab::exec(dir, "node1", &["sh", "-c", "exit 7"]).unwrap().code(), Some(7));
    assert_eq!(stdout(lab.exec_output("node1", &["echo", "it's  $HOME"]).unwrap()), "it's  $HOME");
    let links = stdout(lab.client_output(&["ip", "-brief", "link"]).unwrap());
    let known = |l: &str| ["lo ", "br0 ", "tap-n"].iter().any(|known| l.starts_with(known));
    assert!(links.lines().all(known), "{links}");

    stdout(lab.exec_output("node1", &["sh", "-c", "echo kept > /var/lib/marker; sync"]).unwrap());
    lab.power_off("node1").unwrap();
    assert!(!lab.running("node1"));
    up(&options).unwrap();
    assert_eq!(stdout(lab.exec_output("node1", &["cat", "/var/lib/marker"]).unwrap()), "kept");
    lab.shutdown("node1").unwrap();
    lab.discard_disk("node1").unwrap();
    drop(down);
    assert_eq!(support::leftovers::Leftovers::now(dir), before);
}

/// Each test checks for leftovers on this machine, so it runs alone, with one image.
fn with_image(name: &str, test: fn(&Path)) {
    let dir = support::workdir_alone();
    test(&support::cluster_with_image(dir.path(), name).1);
}

#[test]
#[ignore = "emulated, takes minutes: make test-vm"]
fn a_virtual_machine_boots_from_a_disk() {
    with_image("node.qcow2", machine);
}

#[test]
fn down_removes_what_a_crash_left() {
    with_image("node.tar", crash);
}

#[test]
fn an_interrupted_up_removes_what_it_started() {
    with_image("node.tar", interrupted);
}

#[test]
fn down_removes_what_a_killed_up_left() {
    with_image("node.qcow2", killed);
}

#[test]
fn nodes_of_an_archive_boot_restart_and_lose_disks() {
    with_image("node.tar", full_lifecycle);
}

#[test]
fn nodes_of_a_disk_boot_restart_and_lose_disks() {
    with_image("node.qcow2", full_lifecycle);
}
