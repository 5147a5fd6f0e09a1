//! Disks that are not what they were: one that was discarded and comes back, torn and unreadable files, memories that
//! are gone. Everything is real; one cluster goes through it all, and keeps what it has. Needs root.

use crate::support::lab::{Lab, NODES, eventually};
use serde_json::Value;
use std::time::Duration;

const FIRSTBOOT: &str = "/usr/lib/hanode/hanode-firstboot";
const SOON: Duration = Duration::from_secs(120);
/// Redis syncs its log each second.
const SYNCED: Duration = Duration::from_secs(2);
/// Redis says of this that it cannot read it; `redis-check-aof` cuts it off.
const SPOIL: &str = "printf 'garbage\\r\\n' >>$(ls /var/lib/redis/appendonlydir/*.incr.aof)";

#[test]
#[ignore = "takes minutes: make test-recover"]
fn damaged_disks_cost_nothing_that_others_have() {
    let dir = support::workdir();
    let (cluster, image) = support::cluster_with_image(dir.path(), "node.tar");
    let before = support::leftovers::Leftovers::now(&cluster.dir);
    let lab = Lab { cluster, image };
    lab.up(&[]);
    lab.psql("5432", "CREATE TABLE kept (n int)").unwrap();
    an_etcd_that_holds_other_data_is_named(&lab);
    a_plan_made_anew_brings_the_watcher(&lab);
    a_torn_sentinel_file_is_learned_anew(&lab);
    a_primary_that_cannot_read_its_log_is_succeeded(&lab);
    where_nobody_can_read_redis_the_choice_is_named(&lab);
    forgotten_redis_is_recovered_alone(&lab);
    the_furthest_postgres_starts_first(&lab);
    a_discarded_disk_is_no_part_of_a_quorum(&lab);
    let dir = lab.cluster.dir.clone();
    drop(lab);
    assert_eq!(support::leftovers::Leftovers::now(&dir), before);
}

/// Writes a number to both databases, and gives Redis the time to have it on its disks.
fn keep(lab: &Lab, number: u32) {
    lab.psql("5432", &format!("INSERT INTO kept VALUES ({number})")).unwrap();
    assert_eq!(lab.redis(&["set", "kept", &number.to_string()]).as_deref(), Ok("OK"));
    std::thread::sleep(SYNCED);
}

fn kept(lab: &Lab, number: u32) {
    assert_eq!(lab.psql("5432", "SELECT max(n) FROM kept"), Ok(number.to_string()));
    assert_eq!(lab.redis(&["get", "kept"]), Ok(number.to_string()));
}

fn shell(lab: &Lab, node: &str, script: &str) -> String {
    lab.said(node, &["sh", "-ec", script])
}

fn others(than: &str) -> Vec<&'static str> {
    NODES.into_iter().filter(|n| *n != than).collect()
}

/// What a node would do now with a service, and what it sees.
fn plan(lab: &Lab, node: &str) -> Value {
    serde_json::from_str(&lab.said(node, &[FIRSTBOOT, "plan", "--json"])).unwrap()
}

/// Waits until the plan of a service on a node has this action, for a reason with these words.
fn decided(lab: &Lab, node: &str, service: &str, action: &str, words: &str) {
    eventually(SOON, || {
        let step = &plan(lab, node)["plan"][service];
        let reason = step["reason"].as_str().unwrap_or_default();
        if step["action"] != action || !reason.contains(words) {
            return Err(format!("{node} has not decided to {action} {service}: {step:#}"));
        }
        eprintln!("{node}: {service}: {reason}");
        Ok(())
    });
}

/// etcd's members by id.
fn members(lab: &Lab, node: &str) -> Vec<String> {
    let plan = plan(lab, node);
    let list = plan["observations"]["etcd"].as_array().unwrap();
    let mut ids: Vec<_> = list.iter().map(|m| m["ID"].as_str().unwrap().to_string()).collect();
    ids.sort();
    ids
}

/// Bits rot in its file, which has no checksums: nothing but its peers can tell.
fn an_etcd_that_holds_other_data_is_named(lab: &Lab) {
    const ETCDCTL: &str = "etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/ssl/hanode/ca.crt \
        --cert=/etc/ssl/hanode/etcd.crt --key=/etc/ssl/hanode/etcd.key";
    let node = "node3";
    shell(lab, node, &format!("{ETCDCTL} put /kept hanode-sound; sleep 1; systemctl stop etcd"));
    let rot =
        "sed s/hanode-sound/hanode-wrong/ \"$db\" >/run/rotten; cat /run/rotten >\"$db\"; rm /run/rotten";
    shell(lab, node, &format!("db=/var/lib/etcd/hanode/member/snap/db; {rot}; systemctl start etcd"));
    eventually(SOON, || {
        let problems = lab.status()["problems"].clone();
        let named = "node3: etcd: it does not hold what the other members hold";
        if problems == serde_json::json!([named]) { Ok(()) } else { Err(format!("{problems:#}")) }
    });
    // What README says.
    shell(
        lab,
        node,
        "systemctl stop etcd; mv /var/lib/etcd/hanode /var/lib/etcd/hanode.aside; systemctl start etcd",
    );
    lab.healthy_within(SOON);
    lab.etcd_agrees(node);
    shell(lab, node, &format!("{ETCDCTL} get /kept | grep hanode-sound; {ETCDCTL} del /kept"));
}

/// After a plan that failed the watcher has not started; the operator does what the message says.
fn a_plan_made_anew_brings_the_watcher(lab: &Lab) {
    let replica = others(&lab.holder("redis", "master").unwrap())[0];
    shell(lab, replica, "systemctl stop hanode-ready; systemctl restart hanode-plan");
    eventually(SOON, || {
        match lab.on(replica, &["systemctl", "is-active", "hanode-ready"]).status.success() {
            true => Ok(()),
            false => Err(format!("nobody watches {replica}")),
        }
    });
    lab.healthy_within(SOON);
}

/// A power cut tears the file in the midst of a line, behind its id or before it.
fn a_torn_sentinel_file_is_learned_anew(lab: &Lab) {
    keep(lab, 1);
    let primary = lab.holder("redis", "master").unwrap();
    let replica = others(&primary)[0];
    for (node, part) in [(primary.as_str(), 2), (replica, 3)] {
        lab.inner().power_off(node).unwrap();
        the_desk_counts_without_the_node(lab, others(node)[0]);
        let tear = |root: &std::path::Path| {
            let at = root.join("var/lib/redis/hanode/sentinel.conf");
            let text = std::fs::read_to_string(&at)?;
            let torn = text.trim_end().get(..text.len() * (part - 1) / part).unwrap().trim_end();
            Ok(std::fs::write(&at, torn)?)
        };
        lab.inner().on_disk(node, tear).unwrap();
        lab.up(&[]);
        let journal = lab.said(node, &["journalctl", "-b", "--no-pager"]);
        assert!(journal.contains("is torn; this Sentinel learns from the others"), "{node}");
        kept(lab, 1);
    }
}

/// Beside a dead node: what answers now is a quorum only with the node that would be re-imaged.
fn the_desk_counts_without_the_node(lab: &Lab, node: &str) {
    let dir = lab.cluster.dir.to_str().unwrap();
    let asked = lab.client(&[HANODE, "plan", dir, "--node", node, "--json"]);
    let said: Value = serde_json::from_slice(&asked.stdout).unwrap();
    assert_eq!(said["plan"]["etcd"]["action"], "wait", "{said:#}");
}

/// While it runs: its Redis ends and finds its log spoilt. Others have all it had.
fn a_primary_that_cannot_read_its_log_is_succeeded(lab: &Lab) {
    keep(lab, 2);
    let primary = lab.holder("redis", "master").unwrap();
    let begun = std::time::Instant::now();
    shell(lab, &primary, &format!("{SPOIL}; systemctl kill --signal=KILL redis-server"));
    eventually(SOON, || lab.redis(&["set", "again", "yes"]));
    eprintln!("Redis writable {:.1} s after its primary's log was spoilt", begun.elapsed().as_secs_f64());
    lab.healthy_within(SOON);
    assert_ne!(lab.holder("redis", "master").as_ref(), Some(&primary));
    shell(lab, &primary, "ls -d /var/lib/redis/appendonlydir.aside-*; rm -r /var/lib/redis/*.aside-*");
    kept(lab, 2);
}

/// A full disk below all of them, say: nobody else can go on, so an operator must.
fn where_nobody_can_read_redis_the_choice_is_named(lab: &Lab) {
    keep(lab, 3);
    let primary = lab.holder("redis", "master").unwrap();
    for node in others(&primary).into_iter().chain([primary.as_str()]) {
        shell(lab, node, &format!("systemctl stop redis-server; {SPOIL}"));
    }
    for node in NODES {
        shell(lab, node, "systemctl start --no-block redis-server");
    }
    decided(lab, &primary, "redis", "refuse", "redis-check-aof --fix");
    eventually(SOON, || match lab.state(&primary)["phase"].as_str() {
        Some("refused") => Ok(()),
        other => Err(format!("{primary} is {other:?}, though it refuses")),
    });
    let mend = "cd /var/lib/redis/appendonlydir; echo y | redis-check-aof --fix *.manifest";
    shell(lab, &primary, mend);
    lab.healthy_within(SOON);
    kept(lab, 3);
    for node in others(&primary) {
        shell(lab, node, "rm -r /var/lib/redis/*.aside-*");
    }
}

/// Of three Sentinels one remembers: nobody can know whether it is right. etcd and PostgreSQL are none the wiser.
fn forgotten_redis_is_recovered_alone(lab: &Lab) {
    keep(lab, 4);
    let (primary, leader) =
        (lab.holder("redis", "master").unwrap(), lab.holder("postgres", "leader").unwrap());
    let before = members(lab, "node1");
    for node in NODES {
        shell(lab, node, "systemctl stop redis-server redis-sentinel");
    }
    for node in others(&primary) {
        shell(lab, node, "rm /var/lib/redis/hanode/sentinel.conf");
    }
    for node in NODES {
        shell(lab, node, "systemctl start --no-block redis-server redis-sentinel");
    }
    decided(lab, &primary, "redis", "refuse", "recover --from-this-node");
    let costs = lab.on(&primary, &[FIRSTBOOT, "recover"]);
    let costs = String::from_utf8_lossy(&costs.stdout).into_owned();
    assert!(costs.contains("every write to Redis that this node has not received is lost"), "{costs}");
    assert_eq!(costs.lines().filter(|l| l.starts_with("  - ")).count(), 1, "{costs}");
    lab.said(&primary, &[FIRSTBOOT, "recover", "--from-this-node", "--yes-data-on-others-is-lost"]);
    lab.healthy_within(SOON);
    assert_eq!(members(lab, "node1"), before, "etcd's members");
    assert_eq!(lab.holder("postgres", "leader"), Some(leader), "PostgreSQL's leader");
    kept(lab, 4);
}

/// etcd forgot PostgreSQL, and its nodes stopped one after the other: only the last has everything, and starts last.
fn the_furthest_postgres_starts_first(lab: &Lab) {
    let leader = lab.holder("postgres", "leader").unwrap();
    let behind = others(&leader);
    for (node, number) in behind.iter().zip(5..) {
        shell(lab, node, "systemctl stop patroni");
        keep(lab, number);
    }
    shell(
        lab,
        &leader,
        "systemctl stop patroni; etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/ssl/hanode/ca.crt \\
         --cert=/etc/ssl/hanode/etcd.crt --key=/etc/ssl/hanode/etcd.key del --prefix /service/",
    );
    for node in &behind {
        shell(lab, node, "systemctl start --no-block patroni");
    }
    for node in &behind {
        decided(lab, node, "postgres", "wait", &format!("{leader} has yet to say how far its data goes"));
    }
    shell(lab, &leader, "systemctl start --no-block patroni");
    lab.healthy_within(SOON);
    assert_eq!(lab.holder("postgres", "leader"), Some(leader));
    kept(lab, 6);
}

/// One disk was replaced, and is put back while another is lost: two logs, of which only one is a member's.
fn a_discarded_disk_is_no_part_of_a_quorum(lab: &Lab) {
    let survivor = lab.holder("postgres", "leader").unwrap();
    let [replaced, lost] = others(&survivor)[..] else { panic!("three nodes") };
    let inner = lab.inner();
    inner.snapshot(replaced).unwrap();
    inner.power_off(replaced).unwrap();
    inner.discard_disk(replaced).unwrap();
    lab.up(&[]);
    keep(lab, 7);
    NODES.into_iter().for_each(|node| inner.power_off(node).unwrap());
    inner.restore(replaced).unwrap();
    inner.discard_disk(lost).unwrap();
    let refused = lab.hanode(&["lab", "up"], &["--image", lab.image.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&refused.stderr);
    eprintln!("{told}");
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("1 of 3 nodes still have etcd's log, 2 are needed"), "{told}");
    assert!(told.contains(&format!("(on {replaced} lies that of a disk that was replaced since)")), "{told}");
    // Its servers wait for an operator; the boot is done, and whoever waits for that goes on.
    lab.said(&survivor, &["timeout", "60", "cloud-init", "status", "--wait"]);
    lab.said(&survivor, &["systemctl", "is-active", "multi-user.target"]);
    lab.said(&survivor, &[FIRSTBOOT, "recover", "--from-this-node", "--yes-data-on-others-is-lost"]);
    lab.up(&[]);
    kept(lab, 7);
    lab.etcd_agrees(&survivor);
}
