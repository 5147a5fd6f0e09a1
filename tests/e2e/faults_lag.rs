//! The synchronous standby is promoted when the leader dies far ahead of it. Takes minutes and needs root:
//! `make test-faults`.

use crate::support::lab::{Lab, NODES, eventually};
use crate::support::workdir_alone;
use std::time::{Duration, Instant};

/// Far more bytes of WAL than Patroni's default limit; the leader writes them faster than its link can send them.
const AHEAD: u64 = 100 << 20;
/// More than `hanode check --rto` states, since containers on a busy machine are slow.
const FAILOVER: Duration = Duration::from_secs(90);

impl Lab {
    fn sql(&self, node: &str, query: &str) -> String {
        let psql = format!("psql -XAtq -h /run/postgresql -p 5433 -U admin app -c \"{query}\"");
        self.output(node, &["sh", "-c", &format!("runuser -u postgres -- {psql}")])
    }

    /// The bytes of WAL that the most advanced standby has not received.
    fn least_lag(&self, leader: &str) -> u64 {
        let lag =
            "SELECT min(pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn))::bigint FROM pg_stat_replication";
        self.sql(leader, lag).parse().unwrap_or(0)
    }
}

#[test]
#[ignore = "minutes: make test-faults"]
fn the_synchronous_standby_is_promoted_far_behind_a_dead_leader() {
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
    let write = format!("runuser -u postgres -- psql -h /run/postgresql -p 5433 -U admin app -c '{big}'");
    lab.output(&old, &["systemd-run", "-q", "--unit=big", "sh", "-c", &write]);
    eventually(Duration::from_secs(60), || match lab.least_lag(&old) {
        lag if lag > AHEAD => Ok(()),
        lag => Err(format!("the standbys are only {lag} bytes behind")),
    });
    // Patroni writes the leader's position, from which it computes the lag, to etcd once in each loop.
    std::thread::sleep(Duration::from_secs(12));
    let lag = lab.least_lag(&old);
    lab.kill(&[&old]);
    let killed = Instant::now();
    let new = eventually(FAILOVER, || match lab.postgres_leader() {
        Some(new) if new != old => Ok(new),
        leader => {
            Err(format!("leader is {leader:?} {:?} after {old} died {lag} bytes ahead", killed.elapsed()))
        }
    });
    let promoted = killed.elapsed().as_secs_f64();
    assert_eq!(eventually(Duration::from_secs(30), || lab.psql("5432", "SELECT n FROM kept")), "1");
    lab.psql("5432", "INSERT INTO kept VALUES (2)").unwrap();
    let writable = killed.elapsed().as_secs_f64();
    eprintln!(
        "{old} died {} MB ahead: {new} is the leader after {promoted:.1} s and writable after {writable:.1} s",
        lag >> 20
    );
    lab.up(&[]);
    lab.healthy_within(Duration::from_secs(180));
    for node in NODES {
        assert_eq!(lab.sql(node, "SELECT count(*) FROM kept"), "2", "{node}");
    }
}
