//! An interrupted bootstrap of PostgreSQL: the node that runs it loses its power, or its disk. Takes minutes:
//! `make test-recover`.

use crate::common::programs::hanode;
use crate::support::lab::{ETCDCTL, Lab, NODES, other_than};
use crate::support::{ImageSetup, workdir_alone};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// From start to a healthy cluster, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(45);
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
#[ignore = "minutes: make test-recover"]
fn a_power_cut_during_bootstrap_is_resumed_at_once() {
    let lab = interrupted(false);
    let start = Instant::now();
    lab.up(&[]);
    // The disk records that this node was bootstrapping, so it does not wait for others.
    assert!(start.elapsed() < AT_ONCE, "healthy only after {:?}", start.elapsed());
    is_bootstrapped(&lab);
}

#[test]
#[ignore = "minutes: make test-recover"]
fn a_disk_lost_during_bootstrap_is_replaced() {
    let lab = interrupted(true);
    lab.up(&[]);
    is_bootstrapped(&lab);
}

/// The last step of a bootstrap has finished: clients can write.
fn is_bootstrapped(lab: &Lab) {
    lab.psql("5432", "CREATE TABLE kept AS SELECT 1 AS n").unwrap();
}

/// Starts all nodes, and cuts the power of the bootstrapping node as soon as it has a data directory of PostgreSQL.
fn interrupted(lose_the_disk: bool) -> Lab {
    let lab = Lab::new(workdir_alone(), &ImageSetup::debian(), &[]);
    let mut up = hanode();
    up.args(["lab", "up"]).arg(&lab.cluster.dir).arg("--image").arg(&lab.image).stderr(Stdio::null());
    let mut up = up.spawn().unwrap();
    let start = Instant::now();
    let victim = loop {
        assert!(start.elapsed() < PATIENCE, "no first start within {PATIENCE:?}");
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
    lab
}
