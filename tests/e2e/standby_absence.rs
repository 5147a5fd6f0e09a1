//! Standbys that were away longer than the leader keeps WAL: they are cloned again, one at a time, and no read gets old
//! data meanwhile. Takes minutes and needs root: `make test-faults`.

use crate::support::lab::{Lab, NODES, eventually, other_than};
use crate::support::workdir_alone;
use hanode_lab::chaos::Fault;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Less than the product's default, so that less has to be written.
const SETTINGS: &str = "[postgres.parameters]\nmax_slot_wal_keep_size = \"64MB\"\nwal_keep_size = \"32MB\"\n";
const READ_MAX_LAG: u64 = 15;
/// More than `hanode check --rto` states, since containers on a busy machine are slow.
const RECOVERY: Duration = Duration::from_secs(240);
const BIG_ROWS: &str = "150000";
/// More than the lifetime of Patroni's lock.
const ALONE: Duration = Duration::from_secs(45);

impl Lab {
    /// Writes more WAL than the leader keeps, in commits that wait for the synchronous standby if there is one.
    fn write_wal(&self, leader: &str) {
        let emit = "SELECT count(pg_logical_emit_message(true, 'test', repeat(md5(n::text), 30000))) \
                    FROM generate_series(1, 20) n";
        for _ in 0..15 {
            self.admin_sql(leader, emit);
            self.admin_sql(leader, "CHECKPOINT");
        }
    }

    /// A lab in which the standbys are away soon, with a row that is updated every second.
    fn with_short_wal() -> Lab {
        let read_lag = format!("vip_read_port = 5434\nread_max_lag = {READ_MAX_LAG}\n");
        let lab = Lab::up_on_debian(
            workdir_alone(),
            &[("[postgres.parameters]\n", SETTINGS), ("vip_read_port = 5434 ", &read_lag)],
        );
        lab.healthy_within(Duration::from_secs(120));
        lab.psql("5432", "CREATE TABLE beat AS SELECT clock_timestamp() AS at").unwrap();
        lab
    }

    /// Stops PostgreSQL on these nodes until the leader no longer has the WAL that they need.
    fn lose(&self, standbys: &[&str], leader: &str) {
        standbys.iter().for_each(|node| drop(self.output(node, &["systemctl", "stop", "patroni"])));
        // Commits wait for the synchronous standby until Patroni removes it from the list.
        eventually(Duration::from_secs(60), || self.psql("5432", "UPDATE beat SET at = clock_timestamp()"));
        self.write_wal(leader);
    }

    fn start_patroni(&self, nodes: &[&str]) {
        nodes
            .iter()
            .for_each(|node| drop(self.output(node, &["systemctl", "start", "--no-block", "patroni"])));
    }

    /// Starts a lost standby with a slow link to the leader, and returns in the middle of its clone.
    fn start_slow_clone(&self, standby: &str, leader: &str) {
        let limit = "tc qdisc replace dev host0 root tbf rate 24mbit burst 64kb latency 400ms";
        self.sh(leader, limit);
        self.start_patroni(&[standby]);
        eventually(RECOVERY, || {
            let size = self.sh(
                standby,
                "[ -f /var/lib/postgresql/*/*.cloning ] && du -sm /var/lib/postgresql/*/hanode | cut -f1 || echo 0",
            );
            if size.parse::<u64>().is_ok_and(|size| size >= 20) { Ok(()) } else { Err(self.problems()) }
        });
    }

    fn problems(&self) -> String {
        format!("{:#?}", self.health().problems)
    }
}

/// What was seen while the standbys returned.
#[derive(Debug, Default)]
struct Seen {
    reads: usize,
    failed: usize,
    oldest: f64,
    /// The states of PostgreSQL on all nodes.
    cloning: BTreeSet<String>,
    both_at_once: bool,
}

/// Reads on the read port, updates through the primary's port, and the number of nodes that are cloned at a time, until
/// the cluster is healthy.
fn observe(lab: &Lab, done: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !done.load(Ordering::Relaxed) {
        let _ = lab.psql("5432", "UPDATE beat SET at = clock_timestamp()");
        match lab.psql("5434", "SELECT extract(epoch FROM clock_timestamp() - at) FROM beat") {
            Ok(age) => {
                seen.reads += 1;
                seen.oldest = seen.oldest.max(age.parse().unwrap());
            }
            Err(_) => seen.failed += 1,
        }
        let status = serde_json::to_value(lab.health()).unwrap();
        let nodes = status["nodes"].as_array().unwrap();
        let clones = |node: &&Value| node["postgres"]["state"] == "creating replica";
        let cloning: Vec<_> = nodes.iter().filter(clones).map(|node| node["name"].to_string()).collect();
        seen.both_at_once |= cloning.len() > 1;
        seen.cloning.extend(cloning);
    }
    seen
}

#[test]
#[ignore = "minutes: make test-faults"]
fn standbys_whose_wal_is_gone_are_cloned_again_one_after_the_other() {
    let lab = Lab::with_short_wal();
    let leader = lab.postgres_leader().unwrap();
    let standbys = other_than(&leader);
    lab.lose(&standbys, &leader);
    lab.psql("5432", "CREATE TABLE written AS SELECT 1 AS n").unwrap();
    let started = Instant::now();
    lab.start_patroni(&standbys);
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|threads| {
        let observer = threads.spawn(|| observe(&lab, &done));
        lab.healthy_within(RECOVERY);
        done.store(true, Ordering::Relaxed);
        observer.join().unwrap()
    });
    eprintln!("healthy {:.1} s after the start; {seen:?}", started.elapsed().as_secs_f64());
    assert_eq!(seen.cloning.len(), 2, "{seen:?}");
    assert!(!seen.both_at_once && seen.reads > 0 && seen.oldest < READ_MAX_LAG as f64, "{seen:?}");
    for node in NODES {
        assert_eq!(lab.admin_sql(node, "SELECT n FROM written"), "1", "{node}");
        assert_eq!(lab.sh(node, "ls -d /var/lib/postgresql/*/*.aside-* 2> /dev/null | wc -l"), "0", "{node}");
    }
    assert_eq!(
        lab.admin_sql(&leader, "SELECT count(*) FROM pg_replication_slots WHERE wal_status = 'lost'"),
        "0"
    );
}

#[test]
#[ignore = "minutes: make test-faults"]
fn a_clone_survives_the_power_cut_of_its_node_and_the_death_of_the_leader() {
    let lab = Lab::with_short_wal();
    lab.psql("5432", "CREATE TABLE written AS SELECT 1 AS n").unwrap();
    power_cut_of_the_clone(&lab);
    death_of_the_leader(&lab);
    death_of_the_only_copy(&lab);
}

fn power_cut_of_the_clone(lab: &Lab) {
    let leader = lab.postgres_leader().unwrap();
    let sync = lab.sync_standby().unwrap();
    let standby = NODES.into_iter().find(|node| *node != leader && *node != sync).unwrap();
    let rows = format!(
        "CREATE TABLE big AS SELECT n, repeat(md5(n::text), 32) FROM generate_series(1, {BIG_ROWS}) n"
    );
    lab.lose(&[standby], &leader);
    lab.admin_sql(&leader, &rows);
    lab.start_slow_clone(standby, &leader);
    lab.kill(&[standby]);
    lab.driver().start(standby).unwrap();
    lab.output(&leader, &["tc", "qdisc", "delete", "dev", "host0", "root"]);
    let started = Instant::now();
    lab.healthy_within(RECOVERY);
    eprintln!("healthy {:.1} s after a power cut during the clone", started.elapsed().as_secs_f64());
    let journal = lab.output(standby, &["journalctl", "-b", "-u", "patroni", "--no-pager"]);
    assert!(journal.contains("its clone or restore was interrupted"), "{journal}");
}

/// The synchronous standby is promoted, and the clone starts again from it.
fn death_of_the_leader(lab: &Lab) {
    let leader = lab.postgres_leader().unwrap();
    let sync = lab.sync_standby().unwrap();
    let standby = NODES.into_iter().find(|node| *node != leader && *node != sync).unwrap();
    lab.lose(&[standby], &leader);
    lab.psql("5432", "INSERT INTO written VALUES (2)").unwrap();
    lab.start_slow_clone(standby, &leader);
    lab.kill(&[&leader]);
    let killed = Instant::now();
    eventually(RECOVERY, || {
        let streams = lab.sync_standby().as_deref() == Some(standby);
        if streams { Ok(()) } else { Err(lab.problems()) }
    });
    eprintln!("cloned from the new leader {:.1} s after the leader died", killed.elapsed().as_secs_f64());
    assert_eq!(lab.postgres_leader().unwrap(), sync);
    assert_eq!(lab.admin_sql(standby, "SELECT count(*) FROM big"), BIG_ROWS, "half a clone serves");
    lab.driver().start(&leader).unwrap();
    lab.healthy_within(RECOVERY);
    for node in NODES {
        assert_eq!(lab.admin_sql(node, "SELECT count(*) FROM written"), "2", "{node}");
    }
}

/// Both standbys have lost their WAL, and the leader dies while one is cloned: no other node has the data.
fn death_of_the_only_copy(lab: &Lab) {
    let leader = lab.postgres_leader().unwrap();
    let standbys = other_than(&leader);
    lab.lose(&standbys, &leader);
    lab.psql("5432", "INSERT INTO written VALUES (3)").unwrap();
    lab.start_slow_clone(standbys[0], &leader);
    lab.kill(&[&leader]);
    lab.start_patroni(&standbys[1..]);
    // Longer than Patroni's lock: whatever could be promoted would be.
    let alone = Instant::now();
    while alone.elapsed() < ALONE {
        let leads = lab.postgres_leader();
        assert!(leads.is_none_or(|found| found == leader), "half a clone, or old data, is the leader");
        let read = lab.psql("5434", "SELECT count(*) FROM written");
        assert!(read.is_err(), "half a clone, or old data, answers reads: {read:?}");
    }
    lab.driver().start(&leader).unwrap();
    let started = Instant::now();
    lab.healthy_within(RECOVERY);
    eprintln!("healthy {:.1} s after the only copy was back", started.elapsed().as_secs_f64());
    assert_eq!(lab.postgres_leader().as_deref(), Some(leader.as_str()));
    for node in NODES {
        assert_eq!(lab.admin_sql(node, "SELECT count(*) FROM written"), "3", "{node}");
    }
}

/// An old leader was rewound and waits for WAL that is gone. Before it is cloned again, the leader from which it was rewound
/// dies: its data belongs to a timeline that has ended.
#[test]
#[ignore = "minutes: make test-faults"]
fn a_rewound_leader_is_cloned_though_the_leader_changes_again() {
    let lab = Lab::with_short_wal();
    let driver = lab.driver();
    let first = lab.postgres_leader().unwrap();
    Fault::Absence.apply(&driver, &lab.cluster.spec, &first).unwrap();
    let second = lab.postgres_leader().unwrap();
    lab.psql("5432", "CREATE TABLE written AS SELECT 1 AS n").unwrap();
    driver.start(&first).unwrap();
    let waits = "grep -q 'running pg_rewind' /var/log/patroni/patroni.log && \
         patronictl -c /etc/patroni/config.yml list -f tsv | grep \"$(hostname)\" | grep -q starting";
    eventually(Duration::from_secs(120), || {
        let waiting = lab.on(&first, &["sh", "-c", waits]).status.success();
        if waiting { Ok(()) } else { Err(lab.problems()) }
    });
    lab.kill(&[&second]);
    eventually(RECOVERY, || lab.psql("5432", "UPDATE written SET n = 2"));
    let third = lab.postgres_leader().unwrap();
    driver.start(&second).unwrap();
    let started = Instant::now();
    lab.healthy_within(RECOVERY);
    eprintln!(
        "{first}, then {second}, then {third} led; healthy {:.1} s later",
        started.elapsed().as_secs_f64()
    );
    for node in NODES {
        assert_eq!(lab.admin_sql(node, "SELECT n FROM written"), "2", "{node}");
    }
}
