//! One image on three machines becomes a cluster. The lab runs the real cloud-init, systemd, etcd, PostgreSQL, Redis, HAProxy
//! and Keepalived; the clients are psql, redis-cli, curl and openssl.
//!
//! All tests but the first share a cluster and leave it healthy. Their steps are functions of a lab, which the tests of
//! other targets use too.

use crate::support::lab::{Lab, NODES, eventually, no_acknowledged_write_is_lost, outcome, output};
use crate::support::schedule::{self, Shared};
use crate::support::{ImageSetup, workdir_alone, workdir_without_turn};
use hanode_lab::load::Service;
use serde_json::Value;
use std::time::{Duration, Instant};

/// The lab's client network is in neither list: clients add addresses that are.
pub const LISTS: [(&str, &str); 2] = [
    ("clients = [\"192.168.18.0/24\"]", "clients = [\"10.1.0.0/16\"]"),
    ("# operators = [\"192.168.18.5/32\"]", "operators = [\"10.2.0.5/32\"]"),
];

fn cluster() -> Shared {
    schedule::shared("cluster", || Lab::up_on_debian(workdir_without_turn(), &LISTS))
}

#[test]
fn a_first_node_waits_for_its_peers_then_all_bootstrap() {
    bootstraps_one_after_the_other(&Lab::new(workdir_alone(), &ImageSetup::debian(), &LISTS));
}

#[test]
fn an_operator_finds_every_service_healthy() {
    shows_healthy_services(&cluster());
}

#[test]
fn every_node_exports_metrics_to_prometheus() {
    exports_metrics(&cluster());
}

#[test]
fn clients_reach_both_databases_through_the_virtual_ip() {
    serves_clients(&cluster());
}

#[test]
fn a_dump_of_a_server_with_an_english_locale_can_be_restored() {
    creates_a_database_in_an_english_locale(&cluster());
}

#[test]
fn the_firewall_admits_clients_and_operators_only() {
    keeps_strangers_out(&cluster());
}

#[test]
fn no_secret_is_readable_for_ordinary_users() {
    hides_secrets(&cluster());
}

#[test]
fn a_switchover_and_a_redis_failover_by_hand_keep_all_data() {
    moves_roles_by_hand(&cluster());
}

#[test]
fn failover_of_redis_is_short_when_its_primary_shuts_down_cleanly() {
    fails_over_at_a_clean_shutdown(&cluster());
}

#[test]
fn failover_follows_a_power_cut_of_leader_and_primary() {
    fails_over_at_a_power_cut(&cluster());
}

#[test]
fn a_power_cut_of_all_nodes_loses_no_data() {
    survives_a_power_cut_of_all_nodes(&cluster());
}

#[test]
fn a_node_with_a_lost_disk_is_replaced() {
    replaces_lost_disks(&cluster());
}

#[test]
fn a_short_chaos_run_passes() {
    passes_a_short_chaos_run(&cluster());
}

/// Starts one node, then a second, which are still too few for a bootstrap, then all.
pub fn bootstraps_one_after_the_other(lab: &Lab) {
    waits_alone(lab);
    lab.up(&["--node", "node3"]);
    lab.up(&[]);
    for node in NODES {
        let primary = lab.sentinel(node, &["sentinel", "get-master-addr-by-name", "redis-cluster"]);
        assert_eq!(primary, "192.168.18.22\n6378", "the spec's initial primary");
    }
}

/// A node that starts minutes before the others knows its name and writes its files, but starts no server.
fn waits_alone(lab: &Lab) {
    lab.up(&["--node", "node1"]);
    let state = || lab.state("node1");
    eventually(Duration::from_secs(60), || match state()["phase"].as_str() {
        Some("waiting-for-peers") => Ok(()),
        other => Err(format!("phase {other:?}")),
    });
    let state = state();
    assert_eq!((&state["node"], &state["identity_source"]), (&"node1".into(), &"metadata".into()));
    assert_eq!(state["waiting_for"], serde_json::json!(["node2", "node3"]));
    assert_eq!(state["plan"]["etcd"]["action"], "wait");
    lab.output("node1", &["test", "-s", "/etc/haproxy/haproxy.cfg"]);
    lab.output("node1", &["test", "-s", "/etc/patroni/config.yml"]);
    let units = ["etcd", "patroni", "redis-server", "redis-sentinel", "haproxy", "keepalived"];
    for unit in units {
        let active = lab.on("node1", &["systemctl", "is-active", unit]);
        assert_eq!(String::from_utf8_lossy(&active.stdout).trim(), "inactive", "{unit}");
    }
    // The firewall is active before any server.
    let rules: &[&str] = match nftables(lab) {
        true => &["nft", "list", "chain", "inet", "hanode", "clients"],
        false => &["iptables", "--numeric", "--list", "ufw-before-input"],
    };
    lab.output("node1", rules);
    assert!(
        !lab.on("node1", &["test", "-e", "/var/lib/etcd/hanode"]).status.success(),
        "etcd has a directory"
    );
}

/// Whether the image's target uses nftables.
fn nftables(lab: &Lab) -> bool {
    let image = hanode_image::inspect(&lab.image).unwrap().image;
    image.target.starts_with("debian")
}

/// The checks of the tutorial's page "Post-Installation".
pub fn shows_healthy_services(lab: &Lab) {
    let members: Value = serde_json::from_str(&lab.patroni("node1", &["list", "--format", "json"])).unwrap();
    let members = members.as_array().unwrap();
    let count = |role: &str| members.iter().filter(|m| m["Role"] == role).count();
    assert_eq!((count("Leader"), count("Sync Standby"), count("Replica")), (1, 1, 1), "{members:?}");
    for node in NODES {
        assert!(
            lab.sentinel(node, &["sentinel", "ckquorum", "redis-cluster"])
                .starts_with("OK 3 usable Sentinels")
        );
        let failed = lab.output(node, &["systemctl", "--failed", "--no-legend", "--plain"]);
        assert_eq!(failed, "", "failed units on {node}");
        let journal = lab.output(node, &["journalctl", "-b", "--no-pager"]);
        assert!(!journal.contains("SECURITY VIOLATION"), "Keepalived's script security");
        assert!(!journal.contains("ordering cycle"), "systemd found a cycle");
        // On a node as on the admin machine.
        lab.output(node, &["hanode", "status"]);
    }
    let stats = "http://192.168.18.20:7000/;csv";
    assert!(
        outcome(lab.client(&["curl", "-sSf", stats])).is_err(),
        "the statistics page without its password"
    );
    let login = format!("stats:{}", lab.cluster.secrets.stats);
    let page = output("statistics", lab.client(&["curl", "-sSf", "-u", &login, stats]));
    let up = |backend: &str| {
        page.lines().filter(|l| l.starts_with(&format!("{backend},node")) && l.contains(",UP,")).count()
    };
    assert_eq!((up("postgres_primary"), up("redis_primary")), (1, 1), "{page}");
}

/// The metrics of each node, behind the statistics page's password, read by the parser of Prometheus' Python client.
pub fn exports_metrics(lab: &Lab) {
    const SCRIPT: &str = "import sys; from prometheus_client.parser import text_string_to_metric_families as read; \
        [print(s.name, *s.labels.values(), s.value) for f in read(sys.stdin.read()) for s in f.samples]";
    let login = format!("stats:{}", lab.cluster.secrets.stats);
    let mut metrics = String::new();
    for node in &lab.cluster.spec.nodes {
        let at = format!("http://{}:7000/metrics", node.address);
        assert!(outcome(lab.client(&["curl", "-sSf", &at])).is_err(), "metrics without the password");
        let script = format!("curl -sSf -u {login} {at} | /usr/bin/python3 -c '{SCRIPT}'");
        // A node may detect later than the status that the cluster is healthy.
        metrics += &eventually(Duration::from_secs(30), || {
            let metrics = output("metrics", lab.client(&["bash", "-o", "pipefail", "-c", &script]));
            for metric in
                ["node_healthy", "etcd_healthy", "postgres_up", "redis_up", "sentinel_quorum", "haproxy_up"]
            {
                let line = format!("hanode_{metric} {} 1.0", node.name);
                if !metrics.lines().any(|l| l == line) {
                    return Err(format!("{line:?} is not in\n{metrics}"));
                }
            }
            Ok(metrics)
        });
        metrics += "\n";
    }
    let of = |name: &str| metrics.lines().filter(|l| l.starts_with(name) && l.ends_with(" 1.0")).count();
    let roles = ["hanode_vip_held", "hanode_etcd_leader", "hanode_redis_primary"];
    assert_eq!(roles.map(of), [1, 1, 1], "{metrics}");
    let ends = metrics.lines().find_map(|l| {
        l.strip_prefix("hanode_certificate_not_after_timestamp_seconds /etc/ssl/pgsql/server.crt ")
    });
    let ends: f64 = ends.and_then(|e| e.parse().ok()).unwrap_or_else(|| panic!("{metrics}"));
    assert!(ends > hanode_core::pki::now() as f64, "{ends}");
    assert!(!metrics.contains("hanode_cluster_"), "a node reports only its own metrics");
}

/// Clients verify TLS to both databases through the virtual IP, and the revocation list.
pub fn serves_clients(lab: &Lab) {
    lab.psql("5432", "CREATE TABLE seen (n int); INSERT INTO seen VALUES (42)").unwrap();
    assert_eq!(lab.psql("5432", "SELECT n FROM seen").as_deref(), Ok("42"));
    assert_eq!(lab.psql("5432", "SELECT pg_is_in_recovery()").as_deref(), Ok("f"));
    eventually(Duration::from_secs(10), || lab.psql("5434", "SELECT n FROM seen"));
    assert_eq!(
        lab.psql("5434", "SELECT pg_is_in_recovery()").as_deref(),
        Ok("t"),
        "the read port leads to a replica"
    );
    assert_eq!(
        lab.psql("5432", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").as_deref(),
        Ok("t")
    );
    assert_eq!(lab.redis(&["set", "seen", "42"]).as_deref(), Ok("OK"));
    assert_eq!(lab.redis(&["get", "seen"]).as_deref(), Ok("42"));
    let dir = lab.cluster.dir.to_str().unwrap();
    let script = format!(
        "curl -sSf http://192.168.18.20:7080/server.crl | openssl crl -inform DER > {dir}/fetched.crl && \
         openssl verify -crl_check -CAfile {dir}/pki/service/ca.crt -CRLfile {dir}/fetched.crl {dir}/pki/service/leaves/pgsql.crt"
    );
    output("revocation list", lab.client(&["sh", "-c", &script]));
}

/// The statement that pg_dumpall of most other servers writes.
pub fn creates_a_database_in_an_english_locale(lab: &Lab) {
    let create = "CREATE DATABASE imported OWNER app TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'en_US.UTF-8' LC_CTYPE 'en_US.UTF-8'";
    lab.superuser_sql(create);
    let password = format!("PGPASSWORD={}", lab.cluster.secrets.app().unwrap());
    let target = lab.psql_target("5432").replace("dbname=app", "dbname=imported");
    let sorted =
        "SELECT string_agg(word, ' ' ORDER BY word) FROM (VALUES ('b'), ('A'), ('a'), ('B')) words (word)";
    let sorted = lab.bounded(&["env", &password, "psql", "-XAtq", "-c", sorted, &target]);
    lab.superuser_sql("DROP DATABASE imported");
    assert_eq!(sorted.as_deref(), Ok("a A b B"), "not the order of bytes");
}

/// Ports that operators, clients and others reach. Other machines in the nodes' network reach none.
pub fn keeps_strangers_out(lab: &Lab) {
    const TRY: &str = r"
import socket, sys
def opens(source, target, port):
    with socket.socket() as s:
        s.settimeout(3)
        s.bind((source, 0))
        return s.connect_ex((target, port)) == 0
for source in sys.argv[1:]:
    for target in '192.168.18.20', '192.168.18.21':
        ports = 2379, 2380, 5432, 5433, 5434, 6378, 6379, 7000, 7080, 7081, 8008, 26378
        print(source, target, *(port for port in ports if opens(source, target, port)))
";
    let strangers = ["192.168.18.1", "192.168.18.99", "172.16.0.9"];
    for address in ["192.168.18.99/32", "172.16.0.9/32"] {
        output(address, lab.client(&["ip", "address", "add", address, "dev", "br0"]));
    }
    let sources = [&["10.2.0.5", "10.1.0.1"], &strangers[..]].concat();
    // The virtual IP has only the ports that are bound to all addresses; the first node has all.
    let mut expected = String::from(
        "10.2.0.5 192.168.18.20 7000 7081\n10.2.0.5 192.168.18.21 2379 6378 7000 7081 8008 26378\n\
         10.1.0.1 192.168.18.20 5432 5434 6379 7000 7080\n10.1.0.1 192.168.18.21 5432 5434 6379 7000 7080\n",
    );
    for stranger in strangers {
        expected += &format!("{stranger} 192.168.18.20\n{stranger} 192.168.18.21\n");
    }
    let found =
        output("trying ports", lab.client(&[&["/usr/bin/python3", "-c", TRY], &sources[..]].concat()));
    assert_eq!(found, expected.trim());

    if !nftables(lab) {
        return;
    }
    // The distribution's rules flush all others; hanode's rules must survive them.
    lab.output("node3", &["systemctl", "restart", "nftables"]);
    lab.output("node3", &["nft", "list", "chain", "inet", "hanode", "clients"]);
    lab.output("node3", &["systemctl", "reload", "nftables"]);
    lab.output("node3", &["nft", "list", "chain", "inet", "hanode", "clients"]);
    lab.output("node3", &["systemctl", "stop", "hanode-firewall"]);
    eventually(Duration::from_secs(30), || {
        let problems = lab.status()["problems"].to_string();
        let reported = problems.contains("hanode-firewall.service is inactive");
        if reported { Ok(()) } else { Err(format!("a node without its firewall: {problems}")) }
    });
    lab.output("node3", &["systemctl", "start", "hanode-firewall"]);
    lab.healthy_within(Duration::from_secs(30));
}

/// Searches for every password and key as an ordinary user, in files, processes and the journal.
pub fn hides_secrets(lab: &Lab) {
    let secrets = toml::from_str::<toml::Table>(&lab.cluster.secrets.to_toml()).unwrap();
    let mut needles: Vec<String> = secrets.values().map(|v| v.as_str().unwrap().to_string()).collect();
    needles.push("PRIVATE KEY-----".into());
    let search = "printf '%s\\n' \"$NEEDLES\" > /tmp/needles; chmod 644 /tmp/needles; \
        runuser -u nobody -- grep -rlsIF -f /tmp/needles /etc /run /var /usr/lib/hanode /home /root /srv /opt --exclude-dir=needles; \
        for p in /proc/[0-9]*; do runuser -u nobody -- sh -c \"tr '\\\\0' '\\\\n' < $p/cmdline; tr '\\\\0' '\\\\n' < $p/environ\" 2>/dev/null; done | grep -vF needles | grep -cF -f /tmp/needles; \
        journalctl -b --no-pager | grep -cF -f /tmp/needles; rm /tmp/needles";
    let found = |node: &str, script: &str| {
        let needles = format!("NEEDLES={}", needles.join("\n"));
        lab.output(node, &["env", &needles, "sh", "-c", script])
    };
    for node in NODES {
        assert_eq!(
            found(node, &format!("{search}; true")),
            "0\n0",
            "an ordinary user of {node} finds secrets (files, then processes, then journal)"
        );
    }
    // The search finds a planted secret in a file, a process and the journal.
    let plant = "needle=${NEEDLES%%[[:space:]]*}; echo \"$needle\" > /var/tmp/planted; \
        env -i CONTROL=$needle setpriv --reuid=65534 --regid=65534 --clear-groups sleep 60 > /dev/null 2>&1 & \
        echo \"$needle\" | systemd-cat; journalctl --sync";
    let planted = found("node3", &format!("{plant}; {search}; kill $!; rm /var/tmp/planted"));
    assert_eq!(planted, "/var/tmp/planted\n1\n1", "the search misses a planted secret, or finds others");
}

/// Writes a row and an item that must survive the following steps.
fn write_rows(lab: &Lab, name: &str) {
    lab.psql("5432", &format!("CREATE TABLE {name} (n int); INSERT INTO {name} VALUES (42)")).unwrap();
    lab.redis_set(name, "42").unwrap();
}

/// Asserts that all rows since [`write_rows`] exist, and its item.
#[track_caller]
fn rows_exist(lab: &Lab, name: &str, rows: usize) {
    let count = lab.psql("5432", &format!("SELECT count(*) FROM {name} WHERE n >= 42"));
    assert_eq!(count, Ok(rows.to_string()));
    assert_eq!(lab.redis(&["get", name]).as_deref(), Ok("42"));
}

/// A switchover of PostgreSQL to its synchronous standby, and a failover of Redis.
pub fn moves_roles_by_hand(lab: &Lab) {
    write_rows(lab, "moved");
    let leader = lab.postgres_leader().unwrap();
    let standby = lab.sync_standby().unwrap();
    let primary = lab.redis_primary().unwrap();
    // The leader is not named: what that option is called depends on Patroni's version.
    lab.patroni("node1", &["switchover", "--candidate", &standby, "--force"]);
    assert_ne!(standby, leader);
    assert_eq!(lab.postgres_leader(), Some(standby));
    assert_eq!(lab.sentinel("node1", &["sentinel", "failover", "redis-cluster"]), "OK");
    lab.healthy_within(Duration::from_secs(90));
    assert_ne!(lab.redis_primary(), Some(primary));
    lab.psql("5432", "INSERT INTO moved VALUES (43)").unwrap();
    rows_exist(lab, "moved", 2);
}

/// A clean shutdown of Redis' primary: it fails over before it stops, so that clients do not wait for Sentinel's timeout.
pub fn fails_over_at_a_clean_shutdown(lab: &Lab) {
    let load = lab.load();
    let primary = lab.redis_primary().unwrap();
    let from = load.now();
    lab.driver().shutdown(&primary).unwrap();
    eventually(Duration::from_secs(60), || lab.redis_set("shut", "down"));
    let gap = load.longest_gap(Service::RedisWait, from).seconds;
    eprintln!("Redis' primary shut down: {gap:.1} s without a confirmed write");
    // Sentinel's down-after alone takes this long.
    assert!(gap < 5.0, "{gap} s without a confirmed write while {primary} shut down");
    lab.up(&[]);
    let verdict = no_acknowledged_write_is_lost(load);
    let (postgres, redis) = (verdict.postgres.acknowledged, verdict.redis_wait.acknowledged);
    assert!(postgres > 100 && redis > 100, "too few writes to prove anything");
}

/// A power cut of PostgreSQL's leader and of Redis' primary, which restart with their disks.
pub fn fails_over_at_a_power_cut(lab: &Lab) {
    write_rows(lab, "cut");
    let load = lab.load();
    let leader = lab.postgres_leader().unwrap();
    let primary = lab.redis_primary().unwrap();
    lab.psql("5432", "INSERT INTO cut VALUES (44)").unwrap();
    lab.kill(&[&leader]);
    let start = Instant::now();
    eventually(Duration::from_secs(90), || lab.psql("5432", "INSERT INTO cut VALUES (45)"));
    eprintln!("PostgreSQL writable {:.1} s after its leader's power cut", start.elapsed().as_secs_f64());
    lab.up(&[]);
    if primary != leader {
        lab.kill(&[&primary]);
        let start = Instant::now();
        eventually(Duration::from_secs(60), || lab.redis_set("after-cut", "2"));
        eprintln!("Redis writable {:.1} s after its primary's power cut", start.elapsed().as_secs_f64());
        lab.up(&[]);
    }
    rows_exist(lab, "cut", 3);
    no_acknowledged_write_is_lost(load);
}

pub fn survives_a_power_cut_of_all_nodes(lab: &Lab) {
    write_rows(lab, "all_cut");
    // Redis syncs its log each second.
    std::thread::sleep(Duration::from_secs(2));
    let load = lab.load();
    lab.kill(&NODES);
    lab.up(&[]);
    for node in NODES {
        let since = |unit: &str| {
            let show = ["systemctl", "show", "--value", "-p", "ActiveEnterTimestampMonotonic", unit];
            lab.output(node, &show).parse::<u64>().unwrap()
        };
        let unit = if nftables(lab) { "hanode-firewall.service" } else { "ufw.service" };
        let (firewall, network) = (since(unit), since("network-pre.target"));
        assert!(0 < firewall && firewall < network, "{node}: the firewall came after the network");
    }
    rows_exist(lab, "all_cut", 1);
    no_acknowledged_write_is_lost(load);
}

/// Three faults from a fixed seed, of kinds that no other test here has; `make chaos` runs many of all kinds.
pub fn passes_a_short_chaos_run(lab: &Lab) {
    let faults = ["--faults", "partition,pause-haproxy,pause-redis"];
    let arguments = ["--rounds", "3", "--seed", "5", "--timeout-scale", "2"];
    let result = lab.hanode(&["lab", "chaos"], &[&arguments[..], &faults].concat());
    eprintln!("{}", String::from_utf8_lossy(&result.stderr));
    output("chaos", result);
}

/// The worst nodes to lose, with their disks: PostgreSQL's leader, then Redis' primary.
pub fn replaces_lost_disks(lab: &Lab) {
    write_rows(lab, "replaced");
    let load = lab.load();
    lab.reprovision(&lab.postgres_leader().unwrap());
    lab.reprovision(&lab.redis_primary().unwrap());
    rows_exist(lab, "replaced", 1);
    no_acknowledged_write_is_lost(load);
}
