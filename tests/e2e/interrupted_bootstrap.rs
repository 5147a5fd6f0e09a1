//! The first start of PostgreSQL, cut: whoever began it loses its power, or its disk, in the midst. Needs root.

use crate::support::lab::{Lab, NODES};
use hanode::lab;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// From the launch to a cluster that is well, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(45);
const INITIALIZE: &str = "etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/ssl/hanode/ca.crt \
    --cert=/etc/ssl/hanode/etcd.crt --key=/etc/ssl/hanode/etcd.key get /service/hspas/initialize";
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
#[ignore = "takes minutes: make test-recover"]
fn a_first_start_that_is_cut_is_begun_again() {
    for lose_the_disk in [false, true] {
        let dir = support::workdir();
        let (cluster, image) = support::cluster_with_image(dir.path(), "node.tar");
        let lab = Lab { cluster, image };
        cut(&lab, lose_the_disk);
        let begun = Instant::now();
        lab.up(&[]);
        // Where the disk tells that it was this node's start, nobody need be waited for.
        assert!(lose_the_disk || begun.elapsed() < AT_ONCE, "well only after {:?}", begun.elapsed());
        // What comes last in a first start.
        lab.psql("5432", "CREATE TABLE kept AS SELECT 1 AS n").unwrap();
    }
}

/// Launches all, and takes the power from the one that makes PostgreSQL's data directory as soon as there is one.
fn cut(lab: &Lab, lose_the_disk: bool) {
    let mut up = Command::new(HANODE);
    up.args(["lab", "up"]).arg(&lab.cluster.dir).arg("--image").arg(&lab.image).stderr(Stdio::null());
    let mut up = up.spawn().unwrap();
    let begun = Instant::now();
    let victim = loop {
        assert!(begun.elapsed() < PATIENCE, "no first start within {PATIENCE:?}");
        let Ok(open) = lab::Lab::open(&lab.cluster.dir) else { continue };
        let begins = |node: &&str| {
            let at = ["test", "-e", "/var/lib/postgresql/17/hanode/PG_VERSION"];
            open.exec_output(node, &at).is_ok_and(|output| output.status.success())
        };
        if let Some(node) = NODES.into_iter().find(begins) {
            open.power_off(node).unwrap();
            break node;
        }
    };
    eprintln!("{victim} loses its {}", if lose_the_disk { "disk" } else { "power" });
    // An interrupted one would take its nodes with it.
    up.kill().unwrap();
    up.wait().unwrap();
    let inner = lab.inner();
    let survivor = NODES.into_iter().find(|node| *node != victim).unwrap();
    assert_eq!(
        lab.said(survivor, &["sh", "-c", INITIALIZE]),
        "/service/hspas/initialize",
        "its value is empty"
    );
    if lose_the_disk {
        inner.discard_disk(victim).unwrap();
    }
}
