//! Restore = boot: all machines with all disks are lost, and blank machines of the same image start with the metadata key
//! `hanode_restore`.

use crate::support::lab::{Lab, NODES, eventually, until};
use crate::support::workdir;
use hanode_core::backup::{Completed, Server, time};
use hanode_core::restore::{Moment, PartOf, RestoreRecord, RestoreRequest};
use hanode_lab::load::Written;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const KEYS: [(&str, &str); 2] = [
    ("# [backup]\n# repository = \"s3://bucket/prefix\" ", "[backup]\nrepository = \"file:///mnt/backup\" "),
    ("# archive_timeout = \"60s\"", "archive_timeout = \"10s\""),
];
const ARCHIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// For a segment to reach the repository, on a busy machine.
const PUSH_TIME: Duration = Duration::from_secs(5);
const RESTORED: Duration = Duration::from_secs(240);
const BACKED_UP: Duration = Duration::from_secs(200);

fn lab() -> Lab {
    Lab::up_on_debian(workdir(), &KEYS)
}

pub fn completed(lab: &Lab) -> [Completed; 2] {
    Server::ALL.map(|server| {
        eventually(BACKED_UP, || {
            let reports = lab.health().nodes.into_iter().filter_map(|node| node.backup);
            let last = reports.filter_map(|report| report.records.last(server).cloned()).next();
            last.ok_or_else(|| format!("no backup of {}", server.name()))
        })
    })
}

fn record(lab: &Lab) -> RestoreRecord {
    eventually(RESTORED, || {
        let found = lab.health().nodes.into_iter().find_map(|node| node.backup?.restore);
        found.ok_or_else(|| "no node reports the restore".into())
    })
}

fn now() -> Moment {
    Moment::Time(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64)
}

fn seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

pub fn to(moment: Moment) -> RestoreRequest {
    RestoreRequest { part: PartOf::ThisCluster, moment }
}

/// All machines at the same time.
pub fn power_off(lab: &Lab) {
    let driver = lab.driver();
    std::thread::scope(|scope| {
        for node in NODES {
            scope.spawn(|| driver.power_off(node).unwrap());
        }
    });
}

/// All machines lose their power at the same time, and then their disks.
pub fn destroy(lab: &Lab) {
    power_off(lab);
    NODES.iter().for_each(|node| lab.driver().discard_disk(node).unwrap());
}

/// Gives the node a new machine with this key.
pub fn request(lab: &Lab, node: &str, request: &RestoreRequest) {
    lab.driver().request_restore(node, request).unwrap();
}

fn start(lab: &Lab, node: &str, key: &RestoreRequest) {
    request(lab, node, key);
    lab.driver().start(node).unwrap();
}

/// Whether all WAL of before this call has reached the repository.
pub fn archived(lab: &Lab) {
    // A segment without a record since the last switch is not archived.
    lab.psql("5432", "SELECT txid_current()").unwrap();
    let switch = "SELECT pg_switch_wal(), clock_timestamp()";
    let at = lab.admin_sql(&lab.postgres_leader().unwrap(), switch);
    let at = at.rsplit('|').next().unwrap().to_string();
    until("the archive has the WAL", BACKED_UP, || {
        let reached = format!("SELECT last_archived_time > '{at}' FROM pg_stat_archiver");
        lab.psql("5432", &reached).is_ok_and(|answer| answer == "t")
    });
}

fn reason(lab: &Lab, node: &str) -> String {
    let output = lab.on(node, &["cat", "/run/hanode/state.json"]);
    let state: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    state["plan"]["etcd"]["reason"].as_str().unwrap_or_default().to_string()
}

/// Every acknowledged commit of before the moment is there, and none of after it.
fn verify(writes: &Written, moment: Duration, what: &str) {
    let [postgres, redis] = writes.verify_restored(moment).unwrap();
    eprintln!("{what}: {} commits acknowledged before, {} lost", postgres.acknowledged, postgres.lost.len());
    eprintln!(
        "{what}: Redis: {} writes before, {} newer than the snapshot",
        redis.acknowledged,
        redis.lost.len()
    );
    assert!(postgres.acknowledged > 20 && postgres.lost.is_empty(), "{postgres:?}");
    assert!(postgres.later.is_empty() && redis.later.is_empty(), "{postgres:?} {redis:?}");
}

/// Until both servers are backed up again.
pub fn back_up(lab: &Lab) {
    let before = completed(lab);
    // The times of backups are whole seconds.
    until("a second has passed", BACKED_UP, || seconds() > before[1].finished);
    for node in NODES {
        lab.output(node, &["systemctl", "start", "hanode-backup-due.service"]);
    }
    until("both servers are backed up", BACKED_UP, || {
        let last = completed(lab);
        (0..2).all(|server| last[server].started > before[server].started)
    });
}

#[test]
fn blank_machines_restore_their_cluster_to_a_moment_and_to_the_end_of_the_archive() {
    let lab = lab();
    let first = completed(&lab);
    let load = lab.load();
    back_up(&lab);
    std::thread::sleep(Duration::from_secs(2));
    let (at, moment) = (load.now(), now());
    std::thread::sleep(Duration::from_secs(2));
    let writes = load.stop();
    lab.psql("5432", "DROP SCHEMA public CASCADE").unwrap();
    archived(&lab);
    destroy(&lab);

    // One machine with another moment stops all of them.
    let request = to(moment);
    let mistyped: RestoreRequest = "2026-01-01T00:00:00Z".parse().unwrap();
    for (node, request) in [("node1", &request), ("node2", &request), ("node3", &mistyped)] {
        start(&lab, node, request);
    }
    let both = format!("is {mistyped} on node3 and {request} here");
    until("node1 names the difference", RESTORED, || reason(&lab, "node1").contains(&both));
    until("node3 names the difference", RESTORED, || {
        reason(&lab, "node3").contains("all machines must have")
    });
    for node in NODES {
        assert!(
            !lab.on(node, &["systemctl", "is-active", "etcd", "patroni", "redis-server"]).status.success()
        );
    }
    lab.driver().power_off("node3").unwrap();
    lab.driver().discard_disk("node3").unwrap();
    let started = std::time::Instant::now();
    start(&lab, "node3", &request);
    lab.healthy_within(RESTORED);
    eprintln!("restored to a moment in {:.1} s", started.elapsed().as_secs_f64());
    verify(&writes, at, "a moment");
    let restored = record(&lab);
    assert_eq!((&restored.choice.part, &restored.choice.request), (&first[0].stanza, &request));
    let redis = restored.redis.unwrap().snapshot.unwrap();
    let reached = restored.postgres.unwrap().reached;
    eprintln!("PostgreSQL: {}, Redis: {}", time::text(reached), time::text(redis.at));
    // It never writes into the old part.
    let second = completed(&lab);
    assert!(second[0].stanza > first[0].stanza, "{second:?}");

    // The key stays in the metadata: it is known to be done, also on a replaced machine.
    lab.driver().power_off("node2").unwrap();
    lab.driver().start("node2").unwrap();
    lab.healthy_within(RESTORED);
    lab.driver().power_off("node3").unwrap();
    lab.driver().discard_disk("node3").unwrap();
    start(&lab, "node3", &request);
    lab.healthy_within(RESTORED);

    // To the end of the archive.
    let load = lab.load();
    std::thread::sleep(ARCHIVE_TIMEOUT + PUSH_TIME * 2);
    let at = load.now().checked_sub(ARCHIVE_TIMEOUT + PUSH_TIME).unwrap();
    destroy(&lab);
    let writes = load.stop();
    let latest = to(Moment::Latest);
    NODES.iter().for_each(|node| start(&lab, node, &latest));
    lab.healthy_within(RESTORED);
    let [postgres, _] = writes.verify_restored(at).unwrap();
    eprintln!("latest: {} commits acknowledged before, {} lost", postgres.acknowledged, postgres.lost.len());
    assert!(postgres.acknowledged > 20 && postgres.lost.is_empty(), "{postgres:?}");
    assert_eq!(record(&lab).choice.part, second[0].stanza);
}

/// The replicas of Redis cannot reach their primary until it has lost its disk.
#[test]
#[ignore = "minutes: make test-recover"]
fn a_first_primary_of_redis_that_loses_its_disk_loads_the_snapshot_again() {
    let lab = lab();
    completed(&lab);
    lab.redis_set("kept", "1").unwrap();
    back_up(&lab);
    archived(&lab);
    destroy(&lab);
    let latest = to(Moment::Latest);
    NODES.iter().for_each(|node| start(&lab, node, &latest));
    let port = lab.cluster.spec.redis.port;
    let block = format!(
        "nft 'add table inet test; add chain inet test out {{ type filter hook output priority 0; }};
        add rule inet test out tcp dport {port} drop'"
    );
    for node in ["node1", "node3"] {
        until("the node has booted", RESTORED, || lab.on(node, &["sh", "-ec", &block]).status.success());
    }
    // The other nodes report it, too.
    until("the snapshot is recorded", RESTORED, || record(&lab).redis.is_some());
    lab.driver().power_off("node2").unwrap();
    lab.driver().discard_disk("node2").unwrap();
    assert!(!record(&lab).redis_replicated);
    for node in ["node1", "node3"] {
        lab.sh(node, "nft delete table inet test");
    }
    start(&lab, "node2", &latest);
    lab.healthy_within(RESTORED);
    assert_eq!(lab.redis(&["get", "kept"]).as_deref(), Ok("1"));
    until("a replica has it", RESTORED, || record(&lab).redis_replicated);
}
