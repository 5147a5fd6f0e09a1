//! A power cut after every step of `hanode-firstboot`: after the next boot the node is in service. Takes minutes:
//! `make test-failpoints`.

use crate::common::programs::firstboot_with_failpoints;
use crate::support::lab::{Lab, output};
use crate::support::{ImageSetup, workdir_alone};
use hanode_firstboot::failpoint::POINTS;
use std::path::Path;
use std::time::{Duration, Instant};

/// Only a bootstrap reaches these steps.
const BOOTSTRAP: [&str; 2] = ["bootstrap-recorded", "bootstrap-started"];
const REACHED: Duration = Duration::from_secs(180);

fn lab() -> Lab {
    let workdir = workdir_alone();
    let program = std::fs::read(firstboot_with_failpoints()).unwrap();
    Lab::new(workdir, &ImageSetup { program, ..ImageSetup::debian() }, &[])
}

#[test]
#[ignore = "minutes: make test-failpoints"]
fn a_power_cut_at_any_step_of_bootstrap_ends_in_service() {
    let lab = lab();
    for point in BOOTSTRAP {
        output("lab down", lab.hanode(&["lab", "down"], &[]));
        lab.up(&["--node", "node2", "--node", "node3"]);
        cut_power_at(&lab, "node1", point);
        lab.up(&[]);
        eprintln!("bootstrap: {point}: in service");
    }
}

#[test]
#[ignore = "minutes: make test-failpoints"]
fn a_power_cut_at_any_step_of_a_join_ends_in_service() {
    let lab = lab();
    lab.up(&[]);
    for point in POINTS.iter().filter(|point| !BOOTSTRAP.contains(point)) {
        cut_power_at(&lab, "node2", point);
        lab.up(&[]);
        eprintln!("join: {point}: in service");
    }
}

/// Boots the node with an empty disk, cuts its power after the step, and leaves it off.
fn cut_power_at(lab: &Lab, node: &str, point: &str) {
    let driver = lab.driver();
    driver.power_off(node).unwrap();
    driver.discard_disk(node).unwrap();
    let failpoint = |disk: &Path| disk.join("etc/hanode/failpoint");
    let set_failpoint = |disk: &Path| {
        std::fs::create_dir_all(disk.join("etc/hanode"))?;
        Ok(std::fs::write(failpoint(disk), point)?)
    };
    driver.on_disk(node, set_failpoint).unwrap();
    driver.start(node).unwrap();
    let start = Instant::now();
    let reached = || driver.exec_output(node, &["test", "-e", "/run/hanode/failpoint"]);
    while !reached().is_ok_and(|output| output.status.success()) {
        let logs = || driver.logs(node).unwrap();
        assert!(start.elapsed() < REACHED, "{node} does not reach {point}:\n{}", logs());
        std::thread::sleep(Duration::from_millis(300));
    }
    driver.power_off(node).unwrap();
    driver.on_disk(node, |disk| Ok(std::fs::remove_file(failpoint(disk))?)).unwrap();
}
