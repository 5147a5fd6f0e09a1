//! Damaged data: a replaced disk that is put back, truncated and unreadable files, lost state. The cluster repairs itself, or
//! names a remedy. Takes minutes: `make test-recover`.

use crate::common::programs::HANODE;
use crate::support::lab::{ETCDCTL, Lab, NODES, eventually, other_than};
use crate::support::schedule::{self, Shared};
use crate::support::{FIRSTBOOT, workdir_without_turn};
use serde_json::Value;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(120);
/// Redis syncs its log each second.
const SYNCED: Duration = Duration::from_secs(2);
/// Appends bytes that Redis cannot read and `redis-check-aof` removes.
const DAMAGE_LOG: &str = "printf 'garbage\\r\\n' >>$(ls /var/lib/redis/appendonlydir/*.incr.aof)";

fn cluster() -> Shared {
    schedule::shared("data_damage", || {
        let lab = Lab::up_on_debian(workdir_without_turn(), &[]);
        lab.psql("5432", "CREATE TABLE kept (n int)").unwrap();
        lab
    })
}

/// Writes a larger number than all before to both databases, and waits until Redis has synced it.
fn write_mark(lab: &Lab) -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::SeqCst) + 1;
    lab.psql("5432", &format!("INSERT INTO kept VALUES ({number})")).unwrap();
    lab.redis_set("kept", &number.to_string()).unwrap();
    std::thread::sleep(SYNCED);
    number
}

#[track_caller]
fn mark_is_there(lab: &Lab, number: u32) {
    assert_eq!(lab.psql("5432", "SELECT max(n) FROM kept"), Ok(number.to_string()));
    assert_eq!(lab.redis(&["get", "kept"]), Ok(number.to_string()));
}

/// Waits until a node's plan for a service has this action and these words in its reason.
fn decided(lab: &Lab, node: &str, service: &str, action: &str, words: &str) {
    eventually(SOON, || {
        let step = &lab.plan(node)["plan"][service];
        let reason = step["reason"].as_str().unwrap_or_default();
        if step["action"] != action || !reason.contains(words) {
            return Err(format!("{node} has not decided to {action} {service}: {step:#}"));
        }
        eprintln!("{node}: {service}: {reason}");
        Ok(())
    });
}

/// A changed byte in the file of etcd, which has no checksums: only a comparison with other members finds it.
#[test]
#[ignore = "minutes: make test-recover"]
fn an_etcd_member_with_other_data_is_reported() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let node = "node3";
    lab.sh(node, &format!("{ETCDCTL} put /kept hanode-sound; sleep 1; systemctl stop etcd"));
    let rot =
        "sed s/hanode-sound/hanode-wrong/ \"$db\" >/run/rotten; cat /run/rotten >\"$db\"; rm /run/rotten";
    lab.sh(node, &format!("db=/var/lib/etcd/hanode/member/snap/db; {rot}; systemctl start etcd"));
    eventually(SOON, || {
        let problems = lab.status()["problems"].clone();
        let [problem] = problems.as_array().unwrap().as_slice() else { return Err(format!("{problems:#}")) };
        let named = "node3: etcd: its data differs from the other members";
        let found = problem["message"] == named && problem["kind"] == "data-differs";
        if found { Ok(()) } else { Err(format!("{problems:#}")) }
    });
    // The remedy of the documentation.
    lab.sh(
        node,
        "systemctl stop etcd; mv /var/lib/etcd/hanode /var/lib/etcd/hanode.aside; systemctl start etcd",
    );
    lab.healthy_within(SOON);
    lab.etcd_agrees(node);
    lab.sh(node, &format!("{ETCDCTL} get /kept | grep hanode-sound; {ETCDCTL} del /kept"));
}

/// After a failed plan the readiness service is not running; the message names a restart of the plan.
#[test]
#[ignore = "minutes: make test-recover"]
fn a_restarted_plan_starts_the_readiness_service() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let replica = other_than(&lab.redis_primary().unwrap())[0];
    lab.sh(replica, "systemctl stop hanode-ready; systemctl restart hanode-plan");
    eventually(SOON, || {
        match lab.on(replica, &["systemctl", "is-active", "hanode-ready"]).status.success() {
            true => Ok(()),
            false => Err(format!("hanode-ready does not run on {replica}")),
        }
    });
    lab.healthy_within(SOON);
}

/// A power cut truncates the file within a line, after its id or before it.
#[test]
#[ignore = "minutes: make test-recover"]
fn a_torn_sentinel_file_is_rebuilt_from_the_other_sentinels() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let mark = write_mark(lab);
    let primary = lab.redis_primary().unwrap();
    let replica = other_than(&primary)[0];
    for (node, part) in [(primary.as_str(), 2), (replica, 3)] {
        lab.driver().power_off(node).unwrap();
        plan_for_a_replacement_waits(lab, other_than(node)[0]);
        let tear = |root: &std::path::Path| {
            let at = root.join("var/lib/redis/hanode/sentinel.conf");
            let text = std::fs::read_to_string(&at)?;
            let torn = text.trim_end().get(..text.len() * (part - 1) / part).unwrap().trim_end();
            Ok(std::fs::write(&at, torn)?)
        };
        lab.driver().on_disk(node, tear).unwrap();
        lab.up(&[]);
        let journal = lab.output(node, &["journalctl", "-b", "--no-pager"]);
        assert!(journal.contains("is truncated; this Sentinel gets its state from the others"), "{node}");
        mark_is_there(lab, mark);
    }
}

/// While a node is down: the others are a quorum only together with the node that would be replaced.
fn plan_for_a_replacement_waits(lab: &Lab, node: &str) {
    let dir = lab.cluster.dir.to_str().unwrap();
    let output = lab.client(&[HANODE, "plan", dir, "--node", node, "--json"]);
    let planned: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(planned["plan"]["etcd"]["action"], "wait", "{planned:#}");
}

/// Redis restarts and finds its log damaged. The replicas have all its data.
#[test]
#[ignore = "minutes: make test-recover"]
fn a_redis_primary_that_cannot_read_its_log_fails_over() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let mark = write_mark(lab);
    let primary = lab.redis_primary().unwrap();
    let start = Instant::now();
    lab.sh(&primary, &format!("{DAMAGE_LOG}; systemctl kill --signal=KILL redis-server"));
    eventually(SOON, || lab.redis(&["set", "again", "yes"]));
    eprintln!("Redis writable {:.1} s after damage to its primary's log", start.elapsed().as_secs_f64());
    lab.healthy_within(SOON);
    assert_ne!(lab.redis_primary().as_ref(), Some(&primary));
    lab.sh(&primary, "ls -d /var/lib/redis/appendonlydir.aside-*; rm -r /var/lib/redis/*.aside-*");
    mark_is_there(lab, mark);
}

/// As after a full disk below all nodes: none can serve, so an operator decides.
#[test]
#[ignore = "minutes: make test-recover"]
fn if_no_redis_can_read_its_log_the_refusal_names_the_fix() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let mark = write_mark(lab);
    let primary = lab.redis_primary().unwrap();
    for node in other_than(&primary).into_iter().chain([primary.as_str()]) {
        lab.sh(node, &format!("systemctl stop redis-server; {DAMAGE_LOG}"));
    }
    for node in NODES {
        lab.sh(node, "systemctl start --no-block redis-server");
    }
    decided(lab, &primary, "redis", "refuse", "redis-check-aof --fix");
    eventually(SOON, || match lab.state(&primary)["phase"].as_str() {
        Some("refused") => Ok(()),
        other => Err(format!("{primary} is {other:?}, though it refuses")),
    });
    let fix = "cd /var/lib/redis/appendonlydir; echo y | redis-check-aof --fix *.manifest";
    lab.sh(&primary, fix);
    lab.healthy_within(SOON);
    mark_is_there(lab, mark);
    for node in other_than(&primary) {
        lab.sh(node, "rm -r /var/lib/redis/*.aside-*");
    }
}

/// Only one of three Sentinels has the primary in its file, which is not a majority. etcd and PostgreSQL are unaffected.
#[test]
#[ignore = "minutes: make test-recover"]
fn recovery_of_redis_alone_leaves_etcd_and_postgres_as_they_are() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let mark = write_mark(lab);
    let (primary, leader) = (lab.redis_primary().unwrap(), lab.postgres_leader().unwrap());
    let before = lab.etcd_members("node1");
    for node in NODES {
        lab.sh(node, "systemctl stop redis-server redis-sentinel");
    }
    for node in other_than(&primary) {
        lab.sh(node, "rm /var/lib/redis/hanode/sentinel.conf");
    }
    for node in NODES {
        lab.sh(node, "systemctl start --no-block redis-server redis-sentinel");
    }
    decided(lab, &primary, "redis", "refuse", "recover --from-this-node");
    let costs = lab.on(&primary, &[FIRSTBOOT, "recover"]);
    let costs = String::from_utf8_lossy(&costs.stdout).into_owned();
    assert!(costs.contains("every Redis write that this node has not received is lost"), "{costs}");
    assert_eq!(costs.lines().filter(|l| l.starts_with("  - ")).count(), 1, "{costs}");
    lab.output(&primary, &[FIRSTBOOT, "recover", "--from-this-node", "--accept-data-loss"]);
    lab.healthy_within(SOON);
    assert_eq!(lab.etcd_members("node1"), before, "etcd's members");
    assert_eq!(lab.postgres_leader(), Some(leader), "PostgreSQL's leader");
    mark_is_there(lab, mark);
}

/// Patroni's keys are deleted after the nodes stopped one by one: only the last node has all data, and it starts last.
#[test]
#[ignore = "minutes: make test-recover"]
fn the_postgres_with_the_newest_data_becomes_leader_after_etcd_lost_its_keys() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let leader = lab.postgres_leader().unwrap();
    let behind = other_than(&leader);
    let mut last = 0;
    for node in &behind {
        lab.sh(node, "systemctl stop patroni");
        last = write_mark(lab);
    }
    lab.sh(&leader, &format!("systemctl stop patroni; {ETCDCTL} del --prefix /service/"));
    for node in &behind {
        lab.sh(node, "systemctl start --no-block patroni");
    }
    for node in &behind {
        decided(lab, node, "postgres", "wait", &format!("{leader} has not reported yet where its WAL ends"));
    }
    lab.sh(&leader, "systemctl start --no-block patroni");
    lab.healthy_within(SOON);
    assert_eq!(lab.postgres_leader(), Some(leader));
    mark_is_there(lab, last);
}

/// A replaced disk is put back while another is lost: two logs, of which only one is a member's.
#[test]
#[ignore = "minutes: make test-recover"]
fn a_replaced_disk_that_is_put_back_does_not_count_for_a_quorum() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let survivor = lab.postgres_leader().unwrap();
    let [replaced, lost] = other_than(&survivor)[..] else { panic!("three nodes") };
    let inner = lab.driver();
    inner.snapshot(replaced).unwrap();
    inner.power_off(replaced).unwrap();
    inner.discard_disk(replaced).unwrap();
    lab.up(&[]);
    let mark = write_mark(lab);
    NODES.into_iter().for_each(|node| inner.power_off(node).unwrap());
    inner.restore(replaced).unwrap();
    inner.discard_disk(lost).unwrap();
    let refused = lab.hanode(&["lab", "up"], &["--image", lab.image.to_str().unwrap()]);
    let message = String::from_utf8_lossy(&refused.stderr);
    eprintln!("{message}");
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("1 of 3 nodes still have etcd's log, 2 are needed"), "{message}");
    assert!(message.contains(&format!("(the log on {replaced} is of a replaced member)")), "{message}");
    // The servers wait for an operator, but the boot itself completes.
    lab.output(&survivor, &["timeout", "60", "cloud-init", "status", "--wait"]);
    lab.output(&survivor, &["systemctl", "is-active", "multi-user.target"]);
    lab.output(&survivor, &[FIRSTBOOT, "recover", "--from-this-node", "--accept-data-loss"]);
    lab.up(&[]);
    mark_is_there(lab, mark);
    lab.etcd_agrees(&survivor);
}
