//! What no node may be fooled by, and what no program may decide: a second machine of the same name, a disk from
//! an old snapshot, and most disks gone at once. Everything is real; one cluster goes through it all. Needs root.

use crate::support::lab::{Lab, NODES, eventually};
use serde_json::Value;
use std::time::{Duration, Instant};

const FIRSTBOOT: &str = "/usr/lib/hanode/hanode-firstboot";
/// By then the node has counted further than what its snapshot holds.
const AGE: Duration = Duration::from_secs(100);
const SOON: Duration = Duration::from_secs(120);

#[test]
#[ignore = "takes minutes: make test-recover"]
fn nobody_is_fooled_and_the_operator_decides() {
    let dir = support::workdir();
    let (cluster, image) = support::cluster_with_image(dir.path(), "node.tar");
    let before = support::leftovers::Leftovers::now(&cluster.dir);
    let lab = Lab { cluster, image };
    lab.up(&[]);
    lab.psql("5432", "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n").unwrap();
    a_twin_is_refused(&lab);
    an_old_disk_is_a_lost_disk(&lab);
    the_operator_chooses(&lab);
    let dir = lab.cluster.dir.clone();
    drop(lab);
    assert_eq!(support::leftovers::Leftovers::now(&dir), before);
}

/// etcd's members as a node sees them: ids, which change when one is removed and added again.
fn members(lab: &Lab, node: &str) -> Vec<String> {
    let plan: Value = serde_json::from_str(&lab.said(node, &[FIRSTBOOT, "plan", "--json"])).unwrap();
    let list = plan["observations"]["etcd"].as_array().unwrap();
    let mut ids: Vec<_> = list.iter().map(|m| m["ID"].as_str().unwrap().to_string()).collect();
    ids.sort();
    ids
}

/// A blank machine with the identity of the busiest node, which lives.
fn a_twin_is_refused(lab: &Lab) {
    let victim = lab.holder("postgres", "leader").unwrap();
    let other = NODES.into_iter().find(|n| *n != victim).unwrap();
    let before = members(lab, other);
    let load = lab.load();
    let mut inner = lab.inner();
    let twin = inner.add_twin(&victim).unwrap();
    inner.start(&twin).unwrap();
    let said = |path: &str| {
        let output = inner.exec_output(&twin, &["cat", path]).map_err(|e| e.to_string())?;
        Ok::<_, String>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    eventually(SOON, || {
        let state = said("/run/hanode/state.json")?;
        let state: Value = serde_json::from_str(&state).map_err(|e| e.to_string())?;
        let what = state["error"]["what"].as_str().unwrap_or_default();
        match (state["phase"].as_str(), what.contains("another machine")) {
            (Some("refused"), true) => {
                eprintln!("the twin of {victim}: {what}; {}", state["times_ms"]);
                Ok(())
            }
            _ => Err(format!("the twin is not refused: {state:#}")),
        }
    });
    // Long enough for whatever harm it could do.
    std::thread::sleep(Duration::from_secs(15));
    let address = lab.cluster.spec.node(&victim).unwrap().address.to_string();
    let own = inner.exec_output(&twin, &["ip", "-brief", "-4", "address"]).unwrap();
    assert!(!String::from_utf8_lossy(&own.stdout).contains(&address), "the twin keeps {address}");
    inner.power_off(&twin).unwrap();
    assert_eq!(members(lab, other), before, "etcd's members");
    // For as long as it took to boot, two machines answered for one address: roles may have moved, no more.
    lab.healthy_within(SOON);
    eprintln!("{victim} led; now {:?} leads", lab.holder("postgres", "leader"));
    assert!(
        !lab.on(&victim, &["sh", "-c", "ls -d /var/lib/postgresql/17/*.aside-*"]).status.success(),
        "data moved aside"
    );
    let record = load.stop();
    for service in hanode::lab::load::Service::ALL {
        eprintln!("{}: {:?}", service.name(), record.gaps(service, Duration::from_secs(1)));
    }
    assert!(record.verify().unwrap().promises_kept());
}

/// A node is put back to a snapshot of itself, taken while it ran: what it acknowledged since is not on it.
fn an_old_disk_is_a_lost_disk(lab: &Lab) {
    let node = lab.holder("postgres", "leader").unwrap();
    let other = NODES.into_iter().find(|n| *n != node).unwrap();
    let before = members(lab, other);
    let inner = lab.inner();
    inner.snapshot(&node).unwrap();
    let load = lab.load();
    std::thread::sleep(AGE);
    inner.power_off(&node).unwrap();
    inner.restore(&node).unwrap();
    lab.up(&[]);
    assert_ne!(members(lab, other), before, "its place in etcd was taken anew");
    let journal = lab.said(&node, &["journalctl", "-b", "--no-pager"]);
    assert!(
        journal.contains("this disk to") && journal.contains("an older snapshot"),
        "not seen for what it is"
    );
    lab.said(&node, &["sh", "-c", "ls -d /var/lib/postgresql/17/hanode.aside-*"]);
    assert_eq!(lab.psql("5432", "SELECT count(*) FROM kept").as_deref(), Ok("1000"));
    assert!(load.stop().verify().unwrap().promises_kept());
}

/// Two of three disks are gone: every node refuses and names the choice; one word on the survivor, and the
/// others join it blank.
fn the_operator_chooses(lab: &Lab) {
    let survivor = lab.holder("postgres", "leader").unwrap();
    lab.psql("5432", "INSERT INTO kept SELECT generate_series(1001, 2000)").unwrap();
    assert_eq!(lab.redis(&["set", "kept", "2000"]).as_deref(), Ok("OK"));
    // Redis syncs its log each second.
    std::thread::sleep(Duration::from_secs(2));
    let inner = lab.inner();
    for node in NODES {
        inner.power_off(node).unwrap();
    }
    for node in NODES.into_iter().filter(|n| *n != survivor) {
        inner.discard_disk(node).unwrap();
    }
    let refused = lab.hanode(&["lab", "up"], &["--image", lab.image.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&refused.stderr);
    eprintln!("{told}");
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("1 of 3 nodes still have etcd's log, 2 are needed"), "{told}");
    assert!(told.contains("hanode-firstboot recover --from-this-node"), "{told}");

    let recover = [FIRSTBOOT, "recover", "--from-this-node"];
    let without_consent = lab.on(&survivor, &recover);
    assert!(!without_consent.status.success(), "recovery without the sentence of consent");
    assert_eq!(lab.state(&survivor)["phase"], "refused", "nothing was changed");
    let begun = Instant::now();
    let said = lab.said(&survivor, &[&recover[..], &["--yes-data-on-others-is-lost"]].concat());
    eprintln!("{said}");
    lab.up(&[]);
    eprintln!("healthy {:.1} s after the operator's word", begun.elapsed().as_secs_f64());
    assert_eq!(lab.psql("5432", "SELECT count(*) FROM kept").as_deref(), Ok("2000"));
    assert_eq!(lab.redis(&["get", "kept"]).as_deref(), Ok("2000"));
    lab.etcd_agrees(&survivor);
}
