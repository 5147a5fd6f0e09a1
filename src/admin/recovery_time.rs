//! Recovery time budget: how long each service is unavailable after each failure, computed from the configuration.
//!
//! Each row is a sum of parts with a typical and a maximum duration:
//!
//! - Power cut of the PostgreSQL leader: the lock in etcd expires `ttl` after its last renewal, 0 to `loop_wait` ago. If
//!   the node was also the etcd leader, an election comes first (one to two timeouts), and the new etcd leader restarts
//!   the `ttl`. The standbys notice by a watch, or in their next loop; they query the dead leader's REST port (2 s) and
//!   promote; then HAProxy's next health check succeeds.
//! - Power cut of the Redis primary: `down-after`, one ping to notice, one round to agree, an election among the Sentinels,
//!   the promotion (polled once per second), then HAProxy's health check.
//! - Virtual IP: three missed advertisements, and the skew time of the priority (less than one more).
//! - Isolated holder of the virtual IP: its HAProxy's checks of the other nodes fail, then Keepalived's probe.
//! - Hung HAProxy: Keepalived's probe fails `fall` times, then as for the virtual IP.
//! - Storage that hangs, fails, is read-only or full: hanode-ready notices, queries the other nodes, kills the servers and
//!   releases Patroni's lock and the virtual IP; the rest is as after a power cut.
//! - Replaced node, from its launch: boot, expiry of its former key in etcd (`ttl`), etcd's join, then Patroni's clone,
//!   which grows with the data; the budget is for an empty database.
//!
//! - Slow link of the PostgreSQL leader, and a clock that jumps, from their end: the worst case is that a failover has
//!   just begun, and the old leader then rejoins. While a link is slow, commits wait for what it has to send.
//! - Standby away longer than the leader keeps its WAL, from its launch: boot, then Patroni's loop starts PostgreSQL, which
//!   must not move for ten seconds before it is cloned again. A node that also waits for another's clone needs longer.
//!
//! Values that are not in the spec are those of `image/templates`; a test compares them.

use hanode_core::spec::{Postgres, Spec, VipMode};
use serde::Serialize;

pub(crate) const SCHEMA: u32 = 1;

/// Values in the templates, in seconds.
const ETCD_ELECTION: f64 = 2.0;
const POSTGRES_DOWN_INTER: f64 = 1.0;
const REDIS_INTER: f64 = 1.0;
const ADVERT: f64 = 1.0;
const PROBE_INTERVAL: f64 = 1.0;
const PROBE_TIMEOUT: f64 = 2.0;
const PROBE_FALL: f64 = 2.0;
const PEER_INTER: f64 = 1.0;
const PEER_FASTINTER: f64 = 0.5;
const PEER_FALL: f64 = 3.0;
const PEER_TIMEOUT: f64 = 1.0;

/// Values of hanode-ready: how long a write may hang, and a failure may last.
const STORAGE_HANG: f64 = 10.0;
const STORAGE_FAILURE: f64 = 5.0;
/// Between two probes, and between two queries of the other nodes with their timeouts.
const STORAGE_PROBE: f64 = 1.0;
const STORAGE_QUERY: f64 = 3.0;

/// Built into the servers: Patroni's timeout of queries to other members, the period of Sentinel's timer.
const PATRONI_QUERY: f64 = 2.0;
const SENTINEL_TICK: f64 = 1.0;
const PROMOTION: (f64, f64) = (1.0, 4.0);
/// Measured with containers and rounded up; a virtual machine also needs time for firmware and kernel.
const BOOT: (f64, f64) = (8.0, 20.0);
const CLONE: (f64, f64) = (3.0, 10.0);
/// The watcher waits until the standby has not moved for 10 s, and checks every 2 s.
const STALLED: (f64, f64) = (11.0, 14.0);

/// Recovery times of a cluster, one row per failure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecoveryBudget {
    pub(crate) schema: u32,
    pub rows: Vec<BudgetRow>,
    /// Which standby is promoted, and what the times leave out.
    pub notes: Vec<String>,
}

/// A failure that has a recovery time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    PostgresLeader,
    RedisPrimary,
    VipHolder,
    HungHaproxy,
    IsolatedVipHolder,
    Node,
    LongAbsence,
    SlowLink,
    ClockJump,
    PostgresStorage,
    RedisStorage,
    VipStorage,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BudgetRow {
    pub failure: Failure,
    pub fault: &'static str,
    /// The state that ends the recovery.
    pub until: &'static str,
    pub typical_seconds: f64,
    pub at_most_seconds: f64,
    pub parts: Vec<BudgetPart>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BudgetPart {
    pub what: &'static str,
    pub typical_seconds: f64,
    pub at_most_seconds: f64,
}

impl RecoveryBudget {
    /// The row of a failure; `None` if the configuration does not handle it.
    pub fn row(&self, failure: Failure) -> Option<&BudgetRow> {
        self.rows.iter().find(|row| row.failure == failure)
    }
}

pub fn budget(spec: &Spec) -> RecoveryBudget {
    let mut rows = vec![postgres(spec), redis()];
    if spec.network.vip_mode == VipMode::Vrrp {
        let fault = "power cut of the holder of the virtual IP";
        rows.push(row(Failure::VipHolder, fault, "virtual IP on another node", vec![vrrp()]));
        let hang = PROBE_FALL * (PROBE_INTERVAL + PROBE_TIMEOUT);
        let probe = part("Keepalived's probe fails", hang - PROBE_INTERVAL, hang);
        let fault = "HAProxy hangs on the holder of the virtual IP";
        rows.push(row(Failure::HungHaproxy, fault, "virtual IP on another node", vec![probe, vrrp()]));
        let unreachable = PEER_INTER + PEER_FASTINTER * (PEER_FALL - 1.0) + PEER_TIMEOUT * PEER_FALL;
        let checks = part("its checks of the other nodes fail", unreachable - PEER_INTER, unreachable);
        let probe = part("Keepalived's probe fails", PROBE_FALL - 1.0, PROBE_FALL * PROBE_INTERVAL);
        let fault = "the holder of the virtual IP is isolated";
        rows.push(row(
            Failure::IsolatedVipHolder,
            fault,
            "virtual IP on another node",
            vec![checks, probe, vrrp()],
        ));
    }
    rows.push(lost_node(spec));
    rows.push(long_absence(spec));
    rows.push(rejoined(
        spec,
        Failure::SlowLink,
        "the link of the PostgreSQL leader is slower than what it writes",
    ));
    rows.push(rejoined(spec, Failure::ClockJump, "the clock of a node jumps"));
    rows.extend(storage(spec));
    RecoveryBudget { schema: SCHEMA, rows, notes: vec![promotion_note(spec)] }
}

/// Which standby is promoted, and when none is.
fn promotion_note(spec: &Spec) -> String {
    let lag = spec.postgres.maximum_lag_on_failover.as_deref().unwrap_or(Postgres::DEFAULT_LAG);
    match spec.postgres.synchronous {
        true => "PostgreSQL: the synchronous standby is promoted however far it is behind the leader: it has every \
                 acknowledged commit. Replaying what it has received adds to the failover time."
            .into(),
        false => format!(
            "PostgreSQL: with synchronous = false, a standby more than {lag} behind the leader \
             (postgres.maximum_lag_on_failover) is not promoted; while all are, PostgreSQL has no leader until the old \
             one returns. A standby within the limit loses the commits that it has not received."
        ),
    }
}

fn postgres(spec: &Spec) -> BudgetRow {
    let (ttl, loop_wait) = (f64::from(spec.patroni.ttl), f64::from(spec.patroni.loop_wait));
    row(
        Failure::PostgresLeader,
        "power cut of the PostgreSQL leader",
        "writable through the virtual IP",
        vec![
            part("etcd elects a leader", 0.0, 2.0 * ETCD_ELECTION),
            part("the leader's lock expires", ttl - loop_wait / 2.0, ttl),
            part("the standbys notice", 0.0, loop_wait),
            part("they query the other members", PATRONI_QUERY, PATRONI_QUERY),
            part("promotion", PROMOTION.0, PROMOTION.1),
            part("HAProxy's health check", POSTGRES_DOWN_INTER / 2.0, POSTGRES_DOWN_INTER + PATRONI_QUERY),
        ],
    )
}

fn redis() -> BudgetRow {
    let down_after = hanode_core::sentinel::DOWN_AFTER.as_secs_f64();
    row(
        Failure::RedisPrimary,
        "power cut of the Redis primary",
        "writable through the virtual IP",
        vec![
            part("Sentinel's down-after", down_after, down_after + SENTINEL_TICK),
            part("Sentinels agree and elect", SENTINEL_TICK, 3.0 * SENTINEL_TICK),
            part("promotion, confirmed by INFO", SENTINEL_TICK, 2.0 * SENTINEL_TICK),
            part("HAProxy's health check", REDIS_INTER / 2.0, 2.0 * REDIS_INTER),
        ],
    )
}

fn vrrp() -> BudgetPart {
    part("VRRP advertisements missed", 3.0 * ADVERT + 0.6, 4.0 * ADVERT)
}

fn lost_node(spec: &Spec) -> BudgetRow {
    let (ttl, loop_wait) = (f64::from(spec.patroni.ttl), f64::from(spec.patroni.loop_wait));
    row(
        Failure::Node,
        "a node replaced, booted on a new disk",
        "all its services healthy after launch",
        vec![
            part("boot", BOOT.0, BOOT.1),
            part("its former key in etcd expires", (ttl - BOOT.0).max(0.0), ttl),
            part("etcd joins", 3.0, 8.0),
            part("Patroni notices", loop_wait / 2.0, loop_wait),
            part("clone of an empty database", CLONE.0, CLONE.1),
        ],
    )
}

fn long_absence(spec: &Spec) -> BudgetRow {
    let loop_wait = f64::from(spec.patroni.loop_wait);
    row(
        Failure::LongAbsence,
        "a node away until its WAL is removed",
        "all its services healthy after launch",
        vec![
            part("boot", BOOT.0, BOOT.1),
            part("etcd resumes", 3.0, 8.0),
            part("Patroni starts PostgreSQL", loop_wait / 2.0, loop_wait + PROMOTION.1),
            part("the standby does not move", STALLED.0, STALLED.1),
            part("clone of an empty database", CLONE.0, CLONE.1),
            part("it streams", 1.0, loop_wait),
        ],
    )
}

/// From the end of a fault that may have caused a failover.
fn rejoined(spec: &Spec, failure: Failure, fault: &'static str) -> BudgetRow {
    let failover = postgres(spec).at_most_seconds;
    let loop_wait = f64::from(spec.patroni.loop_wait);
    row(
        failure,
        fault,
        "all services healthy after its end",
        vec![
            part("a failover that it caused", 0.0, failover),
            part("the old leader rejoins", 0.0, loop_wait + PROMOTION.1),
            part("the standbys catch up", 1.0, loop_wait),
        ],
    )
}

/// The servers of a node are killed, and PostgreSQL's lock is released, once its storage has not worked for some
/// seconds.
fn storage(spec: &Spec) -> Vec<BudgetRow> {
    let noticed = || part("the storage has not answered", STORAGE_FAILURE, STORAGE_HANG + STORAGE_PROBE);
    let queried = || part("the other nodes can take over", 0.0, STORAGE_QUERY);
    let mut rows = vec![row(
        Failure::PostgresStorage,
        "storage of the PostgreSQL leader hangs or fails",
        "writable through the virtual IP",
        vec![
            noticed(),
            queried(),
            part("the standbys notice the released lock", 0.0, f64::from(spec.patroni.loop_wait)),
            part("they query the other members", PATRONI_QUERY, PATRONI_QUERY),
            part("promotion", PROMOTION.0, PROMOTION.1),
            part("HAProxy's health check", POSTGRES_DOWN_INTER / 2.0, POSTGRES_DOWN_INTER + PATRONI_QUERY),
        ],
    )];
    let mut parts = vec![noticed(), queried()];
    parts.extend(redis().parts);
    let fault = "storage of the Redis primary hangs or fails";
    rows.push(row(Failure::RedisStorage, fault, "writable through the virtual IP", parts));
    if spec.network.vip_mode == VipMode::Vrrp {
        let probe = part("Keepalived's probe fails", PROBE_FALL - 1.0, PROBE_FALL * PROBE_INTERVAL);
        rows.push(row(
            Failure::VipStorage,
            "storage of the holder of the virtual IP hangs or fails",
            "virtual IP on another node",
            vec![noticed(), queried(), probe, vrrp()],
        ));
    }
    rows
}

fn part(what: &'static str, typical: f64, at_most: f64) -> BudgetPart {
    BudgetPart { what, typical_seconds: typical, at_most_seconds: at_most }
}

fn row(failure: Failure, fault: &'static str, until: &'static str, parts: Vec<BudgetPart>) -> BudgetRow {
    let sum = |of: fn(&BudgetPart) -> f64| parts.iter().map(of).sum();
    let (typical, at_most) = (sum(|p| p.typical_seconds), sum(|p| p.at_most_seconds));
    BudgetRow { failure, fault, until, typical_seconds: typical, at_most_seconds: at_most, parts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::spec;

    fn starter() -> Spec {
        spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"))
    }

    #[test]
    fn the_defaults_meet_the_targets() {
        let budget = budget(&starter());
        let typical: Vec<f64> = budget.rows.iter().map(|r| r.typical_seconds).collect();
        assert!(
            typical[0] <= 20.0 && typical[1] <= 8.0 && typical[2] <= 4.0 && typical[4] <= 60.0,
            "{typical:?}"
        );
        assert!(budget.rows.iter().all(|r| r.parts.iter().all(|p| p.typical_seconds <= p.at_most_seconds)));
    }

    #[test]
    fn the_budget_depends_on_the_spec() {
        let mut spec = starter();
        let before = budget(&spec).rows[0].at_most_seconds;
        spec.patroni.ttl += 10;
        assert_eq!(budget(&spec).rows[0].at_most_seconds, before + 10.0);
        spec.network.vip_mode = VipMode::External;
        assert_eq!(budget(&spec).rows.len(), 8, "a load balancer moves the address");
    }

    #[test]
    fn the_notes_state_the_lag_limit() {
        let mut spec = starter();
        assert!(budget(&spec).notes[0].contains("however far it is behind"));
        spec.postgres.synchronous = false;
        assert!(budget(&spec).notes[0].contains("more than 1MB behind"));
        spec.postgres.maximum_lag_on_failover = Some("64MB".into());
        assert!(budget(&spec).notes[0].contains("more than 64MB behind"));
    }

    #[test]
    fn the_templates_and_the_watcher_have_the_same_values() {
        let has =
            |template: &str, line: String| assert!(template.contains(&line), "no {line:?} in the template");
        let etcd = include_str!("../../image/templates/etcd.env");
        has(etcd, format!("ETCD_ELECTION_TIMEOUT={}\n", ETCD_ELECTION * 1e3));
        let haproxy = include_str!("../../image/templates/haproxy.cfg");
        has(haproxy, format!("downinter {POSTGRES_DOWN_INTER}s fall 2 rise 1 "));
        has(haproxy, format!("default-server inter {REDIS_INTER}s fall 2 rise 1 "));
        has(haproxy, format!("    timeout connect {PEER_TIMEOUT}s\n    timeout check {PEER_TIMEOUT}s\n"));
        let fast = PEER_FASTINTER * 1e3;
        has(haproxy, format!("check inter {PEER_INTER}s fastinter {fast}ms fall {PEER_FALL} "));
        let keepalived = include_str!("../../image/templates/keepalived.conf");
        has(keepalived, format!("    advert_int {ADVERT}\n"));
        has(
            keepalived,
            format!("    interval {PROBE_INTERVAL}\n    timeout {PROBE_TIMEOUT}\n    fall {PROBE_FALL}\n"),
        );
        let monitor = include_str!("../firstboot/watch/storage/monitor.rs");
        has(monitor, format!("HANG_LIMIT: Duration = Duration::from_secs({STORAGE_HANG});"));
        has(monitor, format!("FAILURE_LIMIT: Duration = Duration::from_secs({STORAGE_FAILURE});"));
    }
}
