//! A second machine with a node's address, a disk from an old snapshot, and the loss of most disks, after which an operator
//! decides. Takes minutes: `make test-recover`.

use crate::support::lab::{Lab, NODES, eventually, no_acknowledged_write_is_lost, other_than};
use crate::support::schedule::{self, Shared};
use crate::support::{FIRSTBOOT, workdir_without_turn};
use serde_json::Value;
use std::time::{Duration, Instant};

/// By then the node's generation is higher than that in its snapshot.
const SNAPSHOT_AGE: Duration = Duration::from_secs(100);
const SOON: Duration = Duration::from_secs(120);

fn cluster() -> Shared {
    schedule::shared("recovery", || Lab::up_on_debian(workdir_without_turn(), &[]))
}

/// A blank machine with the identity of the running leader.
#[test]
#[ignore = "minutes: make test-recover"]
fn a_second_machine_with_a_nodes_address_is_refused() {
    let lab = cluster();
    let victim = lab.postgres_leader().unwrap();
    let other = other_than(&victim)[0];
    let (before, aside_before) = (lab.etcd_members(other), moved_aside(&lab, &victim));
    let load = lab.load();
    let mut driver = lab.driver();
    let second = driver.add_duplicate(&victim).unwrap();
    driver.start(&second).unwrap();
    let read = |path: &str| {
        let output = driver.exec_output(&second, &["cat", path]).map_err(|e| e.to_string())?;
        Ok::<_, String>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    eventually(SOON, || {
        let state = read("/run/hanode/state.json")?;
        let state: Value = serde_json::from_str(&state).map_err(|e| e.to_string())?;
        let what = state["error"]["what"].as_str().unwrap_or_default();
        match (state["phase"].as_str(), what.contains("another machine")) {
            (Some("refused"), true) => {
                eprintln!("the second {victim}: {what}; {}", state["times_ms"]);
                Ok(())
            }
            _ => Err(format!("the second machine is not refused: {state:#}")),
        }
    });
    // Long enough for any harm to show.
    std::thread::sleep(Duration::from_secs(15));
    let address = lab.cluster.spec.node(&victim).unwrap().address.to_string();
    let own = driver.exec_output(&second, &["ip", "-brief", "-4", "address"]).unwrap();
    assert!(!String::from_utf8_lossy(&own.stdout).contains(&address), "the second machine keeps {address}");
    driver.power_off(&second).unwrap();
    assert_eq!(lab.etcd_members(other), before, "etcd's members");
    // During its boot two machines answered for one address: roles may have moved, but nothing else.
    lab.healthy_within(SOON);
    eprintln!("{victim} led; now {:?} leads", lab.postgres_leader());
    assert_eq!(moved_aside(&lab, &victim), aside_before, "data moved aside");
    let record = load.stop();
    for service in hanode_lab::load::Service::ALL {
        eprintln!("{}: {:?}", service.name(), record.gaps(service, Duration::from_secs(1)));
    }
    assert_eq!(record.verify().unwrap().lost(), 0);
}

/// PostgreSQL's data that was moved aside on a node.
fn moved_aside(lab: &Lab, node: &str) -> String {
    lab.output(node, &["sh", "-c", "ls -d /var/lib/postgresql/17/*.aside-* 2>/dev/null; true"])
}

/// A node's disk is restored from a snapshot, which lacks later acknowledged writes.
#[test]
#[ignore = "minutes: make test-recover"]
fn a_disk_from_an_old_snapshot_is_treated_as_lost() {
    let lab = cluster();
    lab.psql("5432", "CREATE TABLE snapshot AS SELECT generate_series(1, 1000) AS n").unwrap();
    let node = lab.postgres_leader().unwrap();
    let other = other_than(&node)[0];
    let before = lab.etcd_members(other);
    let driver = lab.driver();
    driver.snapshot(&node).unwrap();
    let load = lab.load();
    std::thread::sleep(SNAPSHOT_AGE);
    driver.power_off(&node).unwrap();
    driver.restore(&node).unwrap();
    lab.up(&[]);
    assert_ne!(lab.etcd_members(other), before, "it has a new member id in etcd");
    let journal = lab.output(&node, &["journalctl", "-b", "--no-pager"]);
    assert!(
        journal.contains("this disk") && journal.contains("an older snapshot"),
        "the journal does not report the older snapshot"
    );
    lab.output(&node, &["sh", "-c", "ls -d /var/lib/postgresql/17/hanode.aside-*"]);
    assert_eq!(lab.psql("5432", "SELECT count(*) FROM snapshot").as_deref(), Ok("1000"));
    no_acknowledged_write_is_lost(load);
}

/// Two of three disks are lost: every node refuses and names the remedy. After `hanode recover` on the survivor the others
/// join with blank disks.
#[test]
#[ignore = "minutes: make test-recover"]
fn after_the_loss_of_two_of_three_disks_an_operator_recovers_from_the_survivor() {
    let lab = cluster();
    lab.psql("5432", "CREATE TABLE survived AS SELECT generate_series(1, 1000) AS n").unwrap();
    let survivor = lab.postgres_leader().unwrap();
    lab.psql("5432", "INSERT INTO survived SELECT generate_series(1001, 2000)").unwrap();
    lab.redis_set("survived", "2000").unwrap();
    // Redis syncs its log each second.
    std::thread::sleep(Duration::from_secs(2));
    let driver = lab.driver();
    for node in NODES {
        driver.power_off(node).unwrap();
    }
    for node in other_than(&survivor) {
        driver.discard_disk(node).unwrap();
    }
    let refused = lab.hanode(&["lab", "up"], &["--image", lab.image.to_str().unwrap()]);
    let message = String::from_utf8_lossy(&refused.stderr);
    eprintln!("{message}");
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("1 of 3 nodes still have etcd's log, 2 are needed"), "{message}");
    assert!(message.contains("hanode recover --from-this-node"), "{message}");

    let recover = [FIRSTBOOT, "recover", "--from-this-node"];
    let without_consent = lab.on(&survivor, &recover);
    assert!(!without_consent.status.success(), "recovery without consent");
    assert_eq!(lab.state(&survivor)["phase"], "refused", "nothing was changed");
    let start = Instant::now();
    let message = lab.output(&survivor, &[&recover[..], &["--accept-data-loss"]].concat());
    eprintln!("{message}");
    lab.up(&[]);
    eprintln!("healthy {:.1} s after `recover`", start.elapsed().as_secs_f64());
    assert_eq!(lab.psql("5432", "SELECT count(*) FROM survived").as_deref(), Ok("2000"));
    assert_eq!(lab.redis(&["get", "survived"]).as_deref(), Ok("2000"));
    lab.etcd_agrees(&survivor);
}
