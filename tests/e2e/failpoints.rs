//! A power cut after every step of `hanode-firstboot`: after the next boot the node is in service. Takes minutes:
//! `make test-failpoints`.

use crate::common::programs::firstboot_with_failpoints;
use crate::restore;
use crate::support::lab::{Lab, NODES, output, until};
use crate::support::{ImageSetup, workdir_alone};
use hanode_core::restore::Moment;
use hanode_firstboot::failpoint::POINTS;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Only a bootstrap reaches these steps.
const BOOTSTRAP: [&str; 2] = ["bootstrap-recorded", "bootstrap-started"];
/// Only a restore reaches these.
const RESTORE: [&str; 5] =
    ["restore-recorded", "restore-chosen", "restore-prepared", "snapshot-fetched", "snapshot-recorded"];
const REACHED: Duration = Duration::from_secs(180);

fn lab(edits: &[(&str, &str)]) -> Lab {
    let workdir = workdir_alone();
    let program = std::fs::read(firstboot_with_failpoints()).unwrap();
    Lab::new(workdir, &ImageSetup { program, ..ImageSetup::debian() }, edits)
}

#[test]
#[ignore = "minutes: make test-failpoints"]
fn a_power_cut_at_any_step_of_bootstrap_ends_in_service() {
    let lab = lab(&[]);
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
    let lab = lab(&[]);
    lab.up(&[]);
    let of_join = |point: &&&str| !BOOTSTRAP.contains(point) && !RESTORE.contains(point);
    for point in POINTS.iter().filter(of_join) {
        cut_power_at(&lab, "node2", point);
        lab.up(&[]);
        eprintln!("join: {point}: in service");
    }
}

/// All nodes lose their power once one of them has come to the step. The last two cuts are of the node that restores, in the
/// middle of a script: while the backup is copied, and while PostgreSQL recovers.
#[test]
#[ignore = "minutes: make test-failpoints"]
fn a_power_cut_at_any_step_of_a_restore_ends_in_service() {
    let lab = lab(&restore::KEYS);
    lab.up(&[]);
    restore::completed(&lab);
    lab.psql("5432", "CREATE TABLE kept AS SELECT 1 AS x").unwrap();
    lab.redis_set("kept", "1").unwrap();
    restore::back_up(&lab);
    restore::archived(&lab);
    let ends_in_service = |what: &str| {
        NODES
            .iter()
            .filter(|node| !lab.driver().running(node))
            .for_each(|node| lab.driver().start(node).unwrap());
        lab.healthy_within(Duration::from_secs(300));
        assert_eq!(lab.psql("5432", "SELECT x FROM kept").as_deref(), Ok("1"), "{what}");
        assert_eq!(lab.redis(&["get", "kept"]).as_deref(), Ok("1"), "{what}");
        eprintln!("restore: {what}: in service");
        // The backups of the restored cluster are in a part of their own.
        restore::back_up(&lab);
        restore::archived(&lab);
        restore::destroy(&lab);
        NODES.iter().for_each(|node| restore::request(&lab, node, &restore::to(Moment::Latest)));
    };
    restore::destroy(&lab);
    NODES.iter().for_each(|node| restore::request(&lab, node, &restore::to(Moment::Latest)));
    for point in RESTORE {
        NODES.iter().for_each(|node| set_failpoint(&lab, node, point));
        NODES.iter().for_each(|node| lab.driver().start(node).unwrap());
        until(point, REACHED, || NODES.iter().any(|node| is_halted(&lab, node)));
        restore::power_off(&lab);
        NODES.iter().for_each(|node| remove_failpoint(&lab, node));
        ends_in_service(point);
    }
    for (what, condition) in [
        ("the copy of the backup", "ls -d /var/lib/postgresql/17/hanode.cloning"),
        ("recovery", "test -e /var/lib/postgresql/17/hanode/hanode-wal"),
    ] {
        NODES.iter().for_each(|node| lab.driver().start(node).unwrap());
        until(what, REACHED, || {
            let restores = |node: &&&str| lab.on(node, &["sh", "-c", condition]).status.success();
            let Some(node) = NODES.iter().find(restores) else { return false };
            lab.driver().power_off(node).unwrap();
            true
        });
        ends_in_service(what);
    }
}

/// Boots the node with an empty disk, cuts its power after the step, and leaves it off.
fn cut_power_at(lab: &Lab, node: &str, point: &str) {
    let driver = lab.driver();
    driver.power_off(node).unwrap();
    driver.discard_disk(node).unwrap();
    set_failpoint(lab, node, point);
    halt_and_cut_power(lab, node, point);
}

fn failpoint(disk: &Path) -> PathBuf {
    disk.join("etc/hanode/failpoint")
}

fn set_failpoint(lab: &Lab, node: &str, point: &str) {
    let write = |disk: &Path| {
        std::fs::create_dir_all(disk.join("etc/hanode"))?;
        Ok(std::fs::write(failpoint(disk), point)?)
    };
    lab.driver().on_disk(node, write).unwrap();
}

/// Boots the node until it halts at the step.
fn halt_and_cut_power(lab: &Lab, node: &str, point: &str) {
    let driver = lab.driver();
    driver.start(node).unwrap();
    let start = Instant::now();
    while !is_halted(lab, node) {
        let logs = || driver.logs(node).unwrap();
        assert!(start.elapsed() < REACHED, "{node} does not reach {point}:\n{}", logs());
        std::thread::sleep(Duration::from_millis(300));
    }
    driver.power_off(node).unwrap();
    remove_failpoint(lab, node);
}

fn is_halted(lab: &Lab, node: &str) -> bool {
    let reached = lab.driver().exec_output(node, &["test", "-e", "/run/hanode/failpoint"]);
    reached.is_ok_and(|output| output.status.success())
}

fn remove_failpoint(lab: &Lab, node: &str) {
    lab.driver().on_disk(node, |disk| Ok(std::fs::remove_file(failpoint(disk))?)).unwrap();
}
