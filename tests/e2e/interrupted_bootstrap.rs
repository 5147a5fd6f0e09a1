//! An interrupted bootstrap of PostgreSQL: the node that runs it loses its power, or its disk. Takes minutes:
//! `make test-recover`.

use crate::common::programs::hanode;
use crate::support::lab::{ETCDCTL, Lab, NODES, other_than, until};
use crate::support::{ImageSetup, workdir_alone};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// From start to a healthy cluster, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(45);
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
#[ignore = "minutes: make test-recover"]
fn a_power_cut_during_bootstrap_is_resumed_at_once() {
    let (lab, _) = interrupted(false);
    let start = Instant::now();
    lab.up(&[]);
    // The disk records that this node was bootstrapping, so it does not wait for others.
    assert!(start.elapsed() < AT_ONCE, "healthy only after {:?}", start.elapsed());
    is_bootstrapped(&lab);
}

#[test]
#[ignore = "minutes: make test-recover"]
fn a_disk_lost_during_bootstrap_is_replaced() {
    let (lab, _) = interrupted(true);
    lab.up(&[]);
    is_bootstrapped(&lab);
}

#[test]
#[ignore = "minutes: make test-recover"]
fn data_of_a_bootstrap_that_another_node_completed_is_moved_aside() {
    let (lab, victim) = interrupted(false);
    let survivor = other_than(victim)[0];
    let key = format!("{ETCDCTL} get --print-value-only /service/hspas/initialize");
    until("a cluster is registered", PATIENCE, || lab.sh(survivor, &key).bytes().any(|b| b.is_ascii_digit()));
    lab.driver().start(victim).unwrap();
    lab.healthy_within(PATIENCE);
    is_bootstrapped(&lab);
    let status = lab.health();
    let node = status.nodes.iter().find(|node| node.name == victim).unwrap();
    assert_eq!(node.moved_aside.len(), 1, "{:?}", node.moved_aside);
}

/// The last step of a bootstrap has finished: clients can write.
fn is_bootstrapped(lab: &Lab) {
    lab.psql("5432", "CREATE TABLE kept AS SELECT 1 AS n").unwrap();
}

/// Starts all nodes, and cuts the power of the bootstrapping node as soon as it has a data directory of PostgreSQL; also
/// returns that node, which stays off.
fn interrupted(lose_the_disk: bool) -> (Lab, &'static str) {
    let lab = Lab::new(workdir_alone(), &ImageSetup::debian(), &[]);
    let mut up = hanode();
    up.args(["lab", "up"]).arg(&lab.cluster.dir).arg("--image").arg(&lab.image).stderr(Stdio::null());
    let mut up = up.spawn().unwrap();
    let start = Instant::now();
    let victim = loop {
        assert!(start.elapsed() < PATIENCE, "no initialization within {PATIENCE:?}");
        let Ok(open) = hanode_lab::Lab::open(&lab.cluster.dir) else { continue };
        let is_bootstrapping = |node: &&str| {
            let at = ["test", "-e", "/var/lib/postgresql/17/hanode/PG_VERSION"];
            open.exec_output(node, &at).is_ok_and(|output| output.status.success())
        };
        if let Some(node) = NODES.into_iter().find(is_bootstrapping) {
            open.power_off(node).unwrap();
            break node;
        }
    };
    eprintln!("{victim} loses its {}", if lose_the_disk { "disk" } else { "power" });
    // An interrupt would stop the nodes.
    up.kill().unwrap();
    up.wait().unwrap();
    let survivor = other_than(victim)[0];
    assert_eq!(
        lab.sh(survivor, &format!("{ETCDCTL} get /service/hspas/initialize")),
        "/service/hspas/initialize",
        "its value is empty"
    );
    if lose_the_disk {
        lab.driver().discard_disk(victim).unwrap();
    }
    (lab, victim)
}
