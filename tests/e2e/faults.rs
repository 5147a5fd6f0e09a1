//! Faults of single servers and of the network, in a lab under write load: no acknowledged write is lost, the virtual IP
//! has one holder, and the cluster repairs itself. Takes minutes: `make test-faults`.

use crate::support::balancer::{Balancer, health_status};
use crate::support::lab::{ETCDCTL, HEALED, Lab, no_acknowledged_write_is_lost, other_than, until};
use crate::support::schedule::{self, Shared};
use crate::support::{workdir_alone, workdir_without_turn};
use hanode_cluster::health;
use hanode_lab::chaos::Fault;
use hanode_lab::load::{Load, Service};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longer than Patroni's ttl and what follows.
const PATRONI_REACTS: Duration = Duration::from_secs(45);
const SOON: Duration = Duration::from_secs(60);

fn cluster() -> Shared {
    schedule::shared("faults", || Lab::up_on_debian(workdir_without_turn(), &[]))
}

/// `SENTINEL FAILOVER`, as an operator calls it, while clients write and the primary runs.
#[test]
#[ignore = "minutes: make test-faults"]
fn planned_failovers_of_redis_lose_no_write() {
    let lab = cluster();
    let load = lab.load();
    for round in 0..6 {
        let before = lab.redis_primary().unwrap();
        let sentinel = ["node1", "node2", "node3"][round % 3];
        let from = load.now();
        assert_eq!(lab.sentinel(sentinel, &["sentinel", "failover", "redis-cluster"]), "OK");
        let start = Instant::now();
        while lab.sentinel("node1", &["sentinel", "get-master-addr-by-name", "redis-cluster"])
            == format!("{}\n6378", lab.cluster.spec.node(&before).unwrap().address)
        {
            assert!(start.elapsed() < HEALED, "no replica was promoted");
            sleep(Duration::from_millis(200));
        }
        lab.healthy_within(HEALED);
        sleep(Duration::from_secs(2));
        let (wait, plain) =
            (load.longest_gap(Service::RedisWait, from), load.longest_gap(Service::RedisPlain, from));
        eprintln!(
            "{before} -> {} by {sentinel}: longest gap {:.1} s (WAIT), {:.1} s (plain)",
            lab.redis_primary().unwrap(),
            wait.seconds,
            plain.seconds
        );
    }
    let verdict = no_acknowledged_write_is_lost(load);
    assert!(verdict.redis_plain.lost.is_empty(), "{:?}", verdict.redis_plain);
}

/// The node leads PostgreSQL and etcd. Its etcd resumes with outdated leases and must not revoke the new leader's.
#[test]
#[ignore = "minutes: make test-faults"]
fn a_leader_of_postgres_and_etcd_that_was_frozen_revokes_no_lease() {
    let lab = cluster();
    let load = lab.load();
    for _ in 0..4 {
        let before = lab.postgres_leader().unwrap();
        lab.sh(&before, &move_etcd_leader_here());
        let mut leader = None;
        let recovery = lab.during(&load, Fault::Freeze, &before, || {
            until("another leads", SOON, || lab.postgres_leader().is_some_and(|leader| leader != before));
            leader = lab.postgres_leader();
        });
        eprintln!(
            "{before} frozen, {leader:?} led, now {:?}, longest gap {:.1} s",
            lab.postgres_leader(),
            recovery.gaps[&Service::Postgres].seconds
        );
        assert_eq!(lab.postgres_leader(), leader);
    }
    no_acknowledged_write_is_lost(load);
}

/// A script that makes its node etcd's leader, unless it is.
fn move_etcd_leader_here() -> String {
    format!(
        "E=\"{ETCDCTL}\"; own=$($E member list | grep \"$(hostname),\" | cut -d, -f1); \
         leads=$($E endpoint status --cluster | awk -F', ' '$5 == \"true\" {{print $1}}'); \
         case $leads in *\"$(hostname -I | cut -d' ' -f1)\":*) ;; \
         *) E=\"$E --endpoints=$leads\"; $E move-leader $own || true;; esac"
    )
}

/// etcd's leader stalls again and again, on a node that does not lead PostgreSQL, as on a slow disk: PostgreSQL stays where
/// it is and accepts commits.
#[test]
#[ignore = "minutes: make test-faults"]
fn stalls_of_etcds_leader_do_not_move_postgresql() {
    let lab = cluster();
    let load = lab.load();
    let leader = lab.postgres_leader().unwrap();
    let stalling = other_than(&leader)[0];
    let from = load.now();
    for seconds in [2, 3, 4, 2, 3, 4, 2, 3] {
        lab.sh(stalling, &move_etcd_leader_here());
        lab.sh(stalling, &format!("pkill -STOP -x etcd; sleep {seconds}; pkill -CONT -x etcd; sleep 2"));
        assert_eq!(lab.postgres_leader().as_ref(), Some(&leader), "after a stall of {seconds} s");
    }
    let gap = load.longest_gap(Service::Postgres, from).seconds;
    eprintln!("etcd's leader {stalling} stalled eight times, {leader} led, longest gap {gap:.1} s");
    assert!(gap < 5.0, "{gap:.1} s without a commit");
    lab.healthy_within(HEALED);
    no_acknowledged_write_is_lost(load);
}

/// The primary is suspended, and resumes at the moment when another node is promoted.
#[test]
#[ignore = "minutes: make test-faults"]
fn a_pause_that_ends_during_the_failover_loses_no_acknowledged_write() {
    let lab = cluster();
    let load = lab.load();
    for fault in [Fault::PauseRedis, Fault::Freeze, Fault::PauseRedis, Fault::Freeze] {
        let before = lab.redis_primary().unwrap();
        let recovery = lab.during(&load, fault, &before, || {
            until("a replica is promoted", SOON, || lab.is_primary_elsewhere(&before));
        });
        let gap = recovery.gaps[&Service::RedisWait];
        eprintln!("{} of {before}, longest gap {:.1} s", fault.name(), gap.seconds);
    }
    for fault in [Fault::Freeze, Fault::PausePostgres] {
        let before = lab.postgres_leader().unwrap();
        let recovery = lab.during(&load, fault, &before, || {
            // If only PostgreSQL hangs, for less than Patroni's timeout, no standby is promoted.
            let start = Instant::now();
            while lab.postgres_leader().is_none_or(|leader| leader == before)
                && start.elapsed() < PATRONI_REACTS
            {
                sleep(Duration::from_millis(200));
            }
        });
        eprintln!(
            "{} of {before} ({:?} leads now), longest gap {:.1} s",
            fault.name(),
            lab.postgres_leader(),
            recovery.gaps[&Service::Postgres].seconds
        );
    }
    no_acknowledged_write_is_lost(load);
}

/// No watcher gets CPU time from before the primary hangs until two seconds after it resumed in the middle of the failover,
/// as on an overloaded host: no replica may be promoted before the other one stops confirming the old primary's writes.
#[test]
#[ignore = "minutes: make test-faults"]
fn a_failover_of_redis_with_late_watchers_loses_no_acknowledged_write() {
    let lab = cluster();
    let (spec, driver) = (&lab.cluster.spec, lab.driver());
    let load = lab.load();
    for _ in 0..3 {
        let before = lab.redis_primary().unwrap();
        let (from, all) = (load.now(), || driver.nodes());
        all()
            .for_each(|node| drop(lab.sh(node, "systemctl kill --kill-who=main --signal=STOP hanode-ready")));
        Fault::PauseRedis.apply(&driver, spec, &before).unwrap();
        until("a Sentinel leads a failover", SOON, || {
            all().any(|node| {
                lab.sentinel(node, &["sentinel", "master", "redis-cluster"]).contains("failover-state")
            })
        });
        Fault::PauseRedis.revert(&driver, spec, &before).unwrap();
        sleep(Duration::from_secs(2));
        all()
            .for_each(|node| drop(lab.sh(node, "systemctl kill --kill-who=main --signal=CONT hanode-ready")));
        until("another is primary", SOON, || lab.redis_primary().is_some_and(|primary| primary != before));
        lab.healthy_within(HEALED);
        let gap = load.longest_gap(Service::RedisWait, from).seconds;
        eprintln!("{before} -> {:?}, longest gap {gap:.1} s", lab.redis_primary());
    }
    no_acknowledged_write_is_lost(load);
}

/// Faults of the virtual IP's holder: name, command that causes the fault, command that fixes it.
const VIP_FAULTS: [(&str, &str, &str); 3] = [
    (
        "HAProxy's configuration broken, then a restart",
        "echo nonsense >> /etc/haproxy/haproxy.cfg; systemctl restart haproxy || true",
        "sed -i '/^nonsense/d' /etc/haproxy/haproxy.cfg; systemctl restart haproxy",
    ),
    ("interface down", "ip link set host0 down", "ip link set host0 up"),
    (
        "HAProxy killed, again and again",
        "systemd-run -q --unit=killer sh -c 'while :; do pkill -KILL -x haproxy; sleep 0.2; done'",
        "systemctl stop killer",
    ),
];

/// After each fault of its holder the address moves to one other node; after the repair one node has it.
#[test]
#[ignore = "minutes: make test-faults"]
fn the_virtual_ip_leaves_a_node_that_cannot_serve() {
    let lab = cluster();
    let (spec, driver) = (&lab.cluster.spec, lab.driver());
    let load = lab.load();
    for (name, break_it, fix_it) in VIP_FAULTS {
        lab.vip_moves(&load, name, |node| drop(lab.sh(node, break_it)), |node| drop(lab.sh(node, fix_it)));
    }
    for fault in [Fault::PauseHaproxy, Fault::Deaf, Fault::Mute, Fault::Split, Fault::Partition] {
        let name = fault.name();
        lab.vip_moves(
            &load,
            &name,
            |node| fault.apply(&driver, spec, node).unwrap(),
            |node| fault.revert(&driver, spec, node).unwrap(),
        );
    }
    no_acknowledged_write_is_lost(load);
}

impl Lab {
    fn vip_moves(&self, load: &Load, what: &str, apply: impl Fn(&str), revert: impl Fn(&str)) {
        let [holder] = &self.vip_holders()[..] else { panic!("{:?} hold the address", self.vip_holders()) };
        let from = load.now();
        let start = Instant::now();
        apply(holder);
        until(what, SOON, || {
            self.vip_holders().iter().any(|h| h != holder) && !self.vip_holders().contains(holder)
        });
        let moved = start.elapsed().as_secs_f64();
        // It stays on that node.
        let new = self.vip_holders();
        for _ in 0..10 {
            sleep(Duration::from_millis(500));
            assert_eq!(self.vip_holders(), new, "{what}");
        }
        revert(holder);
        self.healthy_within(HEALED);
        for _ in 0..10 {
            sleep(Duration::from_millis(500));
            assert_eq!(self.vip_holders().len(), 1, "{what}, taken back");
        }
        let gap = load.longest_gap(Service::Vip, from).seconds;
        eprintln!("{what}: {holder} -> {new:?} after {moved:.1} s, longest gap {gap:.1} s");
    }

    fn is_primary_elsewhere(&self, than: &str) -> bool {
        let access = self.access();
        let replication = |node: &hanode_core::spec::Node| {
            access.redis(node.address, Duration::from_millis(500))?.replication()
        };
        let is = |node| replication(node).is_ok_and(|replication| replication.is_primary());
        self.in_network(|| self.cluster.spec.peers(than).any(is))
    }
}

/// An old leader has its own commits and cannot be rewound, since WAL is missing: its data is moved aside and cloned.
#[test]
#[ignore = "minutes: make test-faults"]
fn diverged_data_that_cannot_be_rewound_is_moved_aside() {
    let lab = cluster();
    let old = lab.postgres_leader().unwrap();
    let moved_aside = || {
        let status = lab.health();
        status.nodes.into_iter().find(|n| n.name == old).unwrap().moved_aside
    };
    let before = moved_aside();
    let driver = lab.driver();
    let sql = |node: &str, words: &str| {
        let psql = "psql -XAtq -v ON_ERROR_STOP=1 -h /run/postgresql -p 5433 -U admin postgres";
        lab.sh(node, &format!("runuser -u postgres -- {psql} -c \"{words}\""))
    };
    sql(&old, "CREATE TABLE diverged (n int)");
    driver.link(&old, false).unwrap();
    // Commits that no standby has, each in its own segment, so that the segment of the divergence can be removed.
    for n in 1..=4 {
        sql(&old, &format!("SET synchronous_commit = local; INSERT INTO diverged VALUES ({n})"));
        sql(&old, "SELECT pg_switch_wal()");
        sql(&old, "CHECKPOINT");
    }
    until("another leads", SOON, || lab.postgres_leader().is_some_and(|leader| leader != old));
    until("the old leader gave up", SOON, || sql(&old, "SELECT pg_is_in_recovery()") == "t");
    let data = "/var/lib/postgresql/17/hanode";
    lab.sh(
        &old,
        &format!("cd {data}/pg_wal && rm -v $(ls -d 0000000?0* | grep -v history | sort | head -n -3)"),
    );
    driver.link(&old, true).unwrap();
    lab.healthy_within(HEALED);

    let new: Vec<_> = moved_aside().into_iter().filter(|path| !before.contains(path)).collect();
    let [aside] = &new[..] else { panic!("{old} moved {new:?} aside") };
    assert!(aside.starts_with(&format!("{data}.aside-")), "{aside}");
    assert_eq!(sql(&old, "SELECT count(*) FROM diverged"), "0", "it replicates from the new leader");
    let look = format!(
        "rm -f {aside}/standby.signal; echo 'SELECT max(n) FROM diverged' | \
         runuser -u postgres -- /usr/lib/postgresql/17/bin/postgres --single -D {aside} -c logging_collector=off postgres"
    );
    let seen = lab.sh(&old, &look);
    assert!(seen.contains("max = \"4\""), "the data that was moved aside has the diverged rows: {seen}");
    let table = health::table(&lab.health(), None);
    assert!(table.contains("moved aside") && table.contains("healthy"), "{table}");
}

/// The server of a running statement hangs: the client's connection is closed once there is another leader.
#[test]
#[ignore = "minutes: make test-faults"]
fn sessions_on_an_old_leader_that_hangs_are_closed() {
    let lab = cluster();
    let (spec, driver) = (&lab.cluster.spec, lab.driver());
    let ca = lab.cluster.dir.join("pki/service/ca.crt");
    let password = format!("PGPASSWORD={}", lab.cluster.secrets.app().unwrap());
    let target = format!(
        "host={} port=5432 user=app dbname=app sslmode=verify-full sslrootcert={}",
        spec.network.vip,
        ca.display()
    );
    let psql = ["env", &password, "timeout", "170", "psql", "-XAtq", "-c", "SELECT pg_sleep(600)", &target];
    let mut client = driver.client_command(&psql).spawn().unwrap();
    // Another one from before a reload: the old worker of HAProxy, which checks no servers, keeps it.
    sleep(Duration::from_secs(2));
    for holder in lab.vip_holders() {
        lab.sh(&holder, "systemctl reload haproxy");
    }
    let mut newer = driver.client_command(&psql).spawn().unwrap();
    // Longer than the connect timeout.
    sleep(Duration::from_secs(20));
    assert!(client.try_wait().unwrap().is_none(), "the statement still runs");
    let old = lab.postgres_leader().unwrap();
    let start = Instant::now();
    Fault::PausePostgres.apply(&driver, spec, &old).unwrap();
    let newer = newer.wait().unwrap();
    let closed_newer = start.elapsed();
    let status = client.wait().unwrap();
    let closed = start.elapsed();
    let leader = lab.postgres_leader();
    Fault::PausePostgres.revert(&driver, spec, &old).unwrap();
    lab.healthy_within(HEALED);
    eprintln!(
        "{old} hung; {leader:?} leads, the connection was closed after {:.1} s, that from before a reload after {:.1} s",
        closed_newer.as_secs_f64(),
        closed.as_secs_f64()
    );
    assert_ne!(newer.code(), Some(124), "the client's connection was not closed");
    assert_ne!(status.code(), Some(124), "the connection from before the reload was not closed");
    assert_ne!(leader.as_ref(), Some(&old));
}

/// Another address comes first on the node's interface, as after DHCP added it: new connections still come from the node's
/// own, the only one that the peers accept.
#[test]
#[ignore = "minutes: make test-faults"]
fn another_address_that_comes_first_is_not_the_source_of_connections() {
    let lab = cluster();
    let (node, foreign) = ("node3", "192.168.18.99");
    let own = lab.cluster.spec.node(node).unwrap().address.to_string();
    let put_first = |first: &str, second: &str| {
        lab.sh(
            node,
            &format!(
                "for a in {own} {foreign}; do ip address del $a/24 dev host0 2> /dev/null || true; done; \
                 for a in {first} {second}; do ip address add $a/24 dev host0; done"
            ),
        )
    };
    put_first(foreign, &own);
    let peers = lab.cluster.spec.peers(node).map(|peer| peer.address.to_string());
    let sources: Vec<String> =
        peers.map(|peer| format!("ip route get {peer} | grep -c 'src {own} '")).collect();
    let all_from_own = sources.join(" && ");
    let output = |script: &str| lab.on(node, &["sh", "-c", script]);
    until("connections come from the own address", SOON, || output(&all_from_own).status.success());
    for unit in ["etcd", "redis-server", "redis-sentinel", "patroni"] {
        lab.sh(node, &format!("systemctl restart {unit}"));
        lab.healthy_within(HEALED);
    }
    // Its connections to itself are accepted from any of its addresses.
    let foreign_connections =
        lab.sh(node, &format!("ss -Htn state established src {foreign} and not dst {own}"));
    put_first(&own, "");
    assert_eq!(foreign_connections, "");
    lab.healthy_within(HEALED);
}

/// `vip_mode = "external"`: no node has the address, and `/health` reports to a load balancer which nodes are healthy.
#[test]
#[ignore = "minutes: make test-faults"]
fn a_load_balancer_sends_clients_to_healthy_nodes_only() {
    let edit = [("vip_mode = \"vrrp\"", "vip_mode = \"external\"")];
    let lab = Lab::up_on_debian(workdir_alone(), &edit);
    let spec = &lab.cluster.spec;
    let statuses = || -> Vec<Option<u16>> {
        lab.in_network(|| spec.nodes.iter().map(|n| health_status(n.address)).collect())
    };
    until("all are healthy", SOON, || statuses() == [Some(200); 3]);
    assert_eq!(lab.vip_holders(), [""; 0]);
    for node in ["node1", "node2", "node3"] {
        assert_eq!(lab.sh(node, "systemctl is-enabled keepalived || true"), "disabled", "{node}");
    }
    assert!(!lab.health().vip.answers, "no machine has the address yet");
    let _balancer = Balancer::start(&lab);
    lab.healthy_within(HEALED);
    assert!(lab.health().vip.answers);
    let load = lab.load();
    // The balancer prefers the first node.
    for fault in [Fault::PauseHaproxy, Fault::Split, Fault::Power] {
        let refused = if fault == Fault::Split { Some(503) } else { None };
        let recovery = lab.during(&load, fault, "node1", || {
            until(&fault.name(), SOON, || statuses() == [refused, Some(200), Some(200)]);
            sleep(Duration::from_secs(3));
            assert_eq!(statuses(), [refused, Some(200), Some(200)], "{}", fault.name());
        });
        until("all are healthy", SOON, || statuses() == [Some(200); 3]);
        let gap = recovery.gaps[&Service::Postgres].seconds;
        eprintln!("{} of node1 behind a load balancer: {gap:.1} s without a commit", fault.name());
    }
    no_acknowledged_write_is_lost(load);
}
