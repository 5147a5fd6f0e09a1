//! A leader that dies while it is ahead of its standbys: the synchronous one is promoted. Takes minutes and root:
//! `make test-faults`.

use crate::support::lab::{Lab, NODES, eventually};
use crate::support::workdir_alone;
use std::time::{Duration, Instant};

/// More than Patroni's default limit by far, and sooner written than sent.
const AHEAD: u64 = 100 << 20;
/// `check --rto` states less; containers on a busy machine are slow.
const FAILOVER: Duration = Duration::from_secs(90);

impl Lab {
    fn sql(&self, node: &str, words: &str) -> String {
        let psql = format!("psql -XAtq -h /run/postgresql -p 5433 -U admin postgres -c \"{words}\"");
        self.output(node, &["sh", "-c", &format!("runuser -u postgres -- {psql}")])
    }

    /// How many bytes of WAL the standby that has most of them lacks.
    fn behind(&self, leader: &str) -> u64 {
        let lag =
            "SELECT min(pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn))::bigint FROM pg_stat_replication";
        self.sql(leader, lag).parse().unwrap_or(0)
    }
}

#[test]
#[ignore = "minutes: make test-faults"]
fn a_leader_that_dies_ahead_of_its_standbys_is_replaced() {
    let lab = Lab::up_on_debian(workdir_alone(), &[]);
    lab.healthy_within(Duration::from_secs(120));
    let old = lab.postgres_leader().unwrap();
    lab.psql("5432", "CREATE TABLE kept AS SELECT 1 AS n").unwrap();

    lab.output(
        &old,
        &[
            "tc", "qdisc", "replace", "dev", "host0", "root", "tbf", "rate", "24mbit", "burst", "64kb",
            "latency", "400ms",
        ],
    );
    let big = "CREATE TABLE big AS SELECT n, repeat(md5(n::text), 16) FROM generate_series(1, 600000) n";
    let write =
        format!("runuser -u postgres -- psql -h /run/postgresql -p 5433 -U admin postgres -c '{big}'");
    lab.output(&old, &["systemd-run", "-q", "--unit=big", "sh", "-c", &write]);
    eventually(Duration::from_secs(60), || match lab.behind(&old) {
        lag if lag > AHEAD => Ok(()),
        lag => Err(format!("the standbys are only {lag} bytes behind")),
    });
    // Once in each loop Patroni notes the leader's position, which the lag is counted from.
    std::thread::sleep(Duration::from_secs(12));
    let lag = lab.behind(&old);
    lab.kill(&[&old]);
    let begun = Instant::now();
    let new = eventually(FAILOVER, || match lab.postgres_leader() {
        Some(new) if new != old => Ok(new),
        leader => Err(format!("{leader:?} leads {:?} after {old} died {lag} bytes ahead", begun.elapsed())),
    });
    let led = begun.elapsed().as_secs_f64();
    assert_eq!(eventually(Duration::from_secs(30), || lab.psql("5432", "SELECT n FROM kept")), "1");
    lab.psql("5432", "INSERT INTO kept VALUES (2)").unwrap();
    let served = begun.elapsed().as_secs_f64();
    eprintln!(
        "{old} died {} MB ahead: {new} leads after {led:.1} s and serves after {served:.1} s",
        lag >> 20
    );
    lab.up(&[]);
    lab.healthy_within(Duration::from_secs(180));
    for node in NODES {
        assert_eq!(lab.sql(node, "SELECT count(*) FROM kept"), "2", "{node}");
    }
}
