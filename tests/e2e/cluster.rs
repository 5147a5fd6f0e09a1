//! The main purpose: one image, three machines, one cluster. Everything is real: cloud-init, systemd, etcd,
//! PostgreSQL, Redis, HAProxy and Keepalived in the lab; psql, redis-cli, curl and openssl outside of it.
//!
//! Each test leaves a healthy cluster behind, and all but the first share one. What they do is in functions of a lab,
//! since clusters of other targets do the same.

use crate::support::lab::{Lab, NODES, eventually, no_acknowledged_write_is_lost, outcome, output};
use crate::support::schedule::{self, Shared};
use crate::support::{ImageSetup, workdir_alone, workdir_without_turn};
use hanode_lab::load::Service;
use serde_json::Value;
use std::time::{Duration, Instant};

/// The lab's own side is in neither list: it takes addresses that are, as machines elsewhere would have.
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

/// The first node alone, then a second that is still too few, then all.
pub fn bootstraps_one_after_the_other(lab: &Lab) {
    waits_alone(lab);
    lab.up(&["--node", "node3"]);
    lab.up(&[]);
    for node in NODES {
        let primary = lab.sentinel(node, &["sentinel", "get-master-addr-by-name", "redis-cluster"]);
        assert_eq!(primary, "192.168.18.22\n6378", "the spec's initial primary");
    }
}

/// Launched minutes before the others, a node knows its name and writes its files; no server runs.
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
    // The firewall is there before any of them.
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

/// Which firewall the image's target names.
fn nftables(lab: &Lab) -> bool {
    let image = hanode_image::inspect(&lab.image).unwrap().image;
    image.target.starts_with("debian")
}

/// The tutorial's Post-Installation page.
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

/// Each node's own metrics, behind the statistics page's password, read by Prometheus' own parser for Python.
pub fn exports_metrics(lab: &Lab) {
    const SCRIPT: &str = "import sys; from prometheus_client.parser import text_string_to_metric_families as read; \
        [print(s.name, *s.labels.values(), s.value) for f in read(sys.stdin.read()) for s in f.samples]";
    let login = format!("stats:{}", lab.cluster.secrets.stats);
    let mut metrics = String::new();
    for node in &lab.cluster.spec.nodes {
        let at = format!("http://{}:7000/metrics", node.address);
        assert!(outcome(lab.client(&["curl", "-sSf", &at])).is_err(), "metrics without the password");
        let script = format!("curl -sSf -u {login} {at} | /usr/bin/python3 -c '{SCRIPT}'");
        // The cluster may be healthy before a node has noticed it.
        metrics += &eventually(Duration::from_secs(30), || {
            let metrics = output("metrics", lab.client(&["bash", "-o", "pipefail", "-c", &script]));
            for well in
                ["node_healthy", "etcd_healthy", "postgres_up", "redis_up", "sentinel_quorum", "haproxy_up"]
            {
                let line = format!("hanode_{well} {} 1.0", node.name);
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
    assert!(!metrics.contains("hanode_cluster_"), "a node reports of itself only");
}

/// From outside: verified TLS to both through the virtual IP, and a revocation list that verifies.
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

/// Who reaches what: a stranger in the nodes' own network no more than one elsewhere.
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
    // On the virtual IP listens what listens everywhere; on the first node everything.
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
    // The distribution's own rules flush all others; hanode's stay when an admin enables them.
    lab.output("node3", &["systemctl", "restart", "nftables"]);
    lab.output("node3", &["nft", "list", "chain", "inet", "hanode", "clients"]);
    lab.output("node3", &["systemctl", "reload", "nftables"]);
    lab.output("node3", &["nft", "list", "chain", "inet", "hanode", "clients"]);
    lab.output("node3", &["systemctl", "stop", "hanode-firewall"]);
    eventually(Duration::from_secs(30), || {
        let problems = lab.status()["problems"].to_string();
        let told = problems.contains("hanode-firewall.service is inactive");
        if told { Ok(()) } else { Err(format!("a node without its firewall: {problems}")) }
    });
    lab.output("node3", &["systemctl", "start", "hanode-firewall"]);
    lab.healthy_within(Duration::from_secs(30));
}

/// Every password and key, looked for as an ordinary user wherever such a user may look.
pub fn hides_secrets(lab: &Lab) {
    let secrets = toml::from_str::<toml::Table>(&lab.cluster.secrets.to_toml()).unwrap();
    let mut needles: Vec<String> = secrets.values().map(|v| v.as_str().unwrap().to_string()).collect();
    needles.push("PRIVATE KEY-----".into());
    let look = "printf '%s\\n' \"$NEEDLES\" > /tmp/needles; chmod 644 /tmp/needles; \
        runuser -u nobody -- grep -rlsIF -f /tmp/needles /etc /run /var /usr/lib/hanode /home /root /srv /opt --exclude-dir=needles; \
        for p in /proc/[0-9]*; do runuser -u nobody -- sh -c \"tr '\\\\0' '\\\\n' < $p/cmdline; tr '\\\\0' '\\\\n' < $p/environ\" 2>/dev/null; done | grep -vF needles | grep -cF -f /tmp/needles; \
        journalctl -b --no-pager | grep -cF -f /tmp/needles; rm /tmp/needles";
    let found = |node: &str, script: &str| {
        let needles = format!("NEEDLES={}", needles.join("\n"));
        lab.output(node, &["env", &needles, "sh", "-c", script])
    };
    for node in NODES {
        assert_eq!(
            found(node, &format!("{look}; true")),
            "0\n0",
            "an ordinary user of {node} finds secrets (files, then processes, then journal)"
        );
    }
    // That it would be found: one in a file, one in a process, one in the journal.
    let plant = "needle=${NEEDLES%%[[:space:]]*}; echo \"$needle\" > /var/tmp/planted; \
        env -i CONTROL=$needle setpriv --reuid=65534 --regid=65534 --clear-groups sleep 60 > /dev/null 2>&1 & \
        echo \"$needle\" | systemd-cat; journalctl --sync";
    let planted = found("node3", &format!("{plant}; {look}; kill $!; rm /var/tmp/planted"));
    assert_eq!(planted, "/var/tmp/planted\n1\n1", "what was planted on node3 is not all that is found");
}

/// A row and an item that must outlive what follows.
fn write_marks(lab: &Lab, name: &str) {
    lab.psql("5432", &format!("CREATE TABLE {name} (n int); INSERT INTO {name} VALUES (42)")).unwrap();
    lab.redis_set(name, "42").unwrap();
}

/// All rows since [`write_marks`], and its item.
#[track_caller]
fn marks_are_there(lab: &Lab, name: &str, rows: usize) {
    let count = lab.psql("5432", &format!("SELECT count(*) FROM {name} WHERE n >= 42"));
    assert_eq!(count, Ok(rows.to_string()));
    assert_eq!(lab.redis(&["get", name]).as_deref(), Ok("42"));
}

/// A switchover of PostgreSQL to its synchronous standby, and a failover of Redis.
pub fn moves_roles_by_hand(lab: &Lab) {
    write_marks(lab, "moved");
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
    marks_are_there(lab, "moved", 2);
}

/// Redis' primary shuts down in order: it is replaced before it stops, so no client waits until Sentinels miss it.
pub fn fails_over_at_a_clean_shutdown(lab: &Lab) {
    let load = lab.load();
    let primary = lab.redis_primary().unwrap();
    let from = load.now();
    lab.driver().shutdown(&primary).unwrap();
    eventually(Duration::from_secs(60), || lab.redis_set("shut", "down"));
    let gap = load.longest_gap(Service::RedisWait, from).seconds;
    eprintln!("Redis' primary shut down: {gap:.1} s without a confirmed write");
    // Sentinel's down-after alone.
    assert!(gap < 5.0, "{gap} s without a confirmed write while {primary} shut down");
    lab.up(&[]);
    let verdict = no_acknowledged_write_is_lost(load);
    let (postgres, redis) = (verdict.postgres.acknowledged, verdict.redis_wait.acknowledged);
    assert!(postgres > 100 && redis > 100, "too few writes to prove anything");
}

/// The leader of PostgreSQL and the primary of Redis lose power, and come back on their disks.
pub fn fails_over_at_a_power_cut(lab: &Lab) {
    write_marks(lab, "cut");
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
    marks_are_there(lab, "cut", 3);
    no_acknowledged_write_is_lost(load);
}

pub fn survives_a_power_cut_of_all_nodes(lab: &Lab) {
    write_marks(lab, "all_cut");
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
    marks_are_there(lab, "all_cut", 1);
    no_acknowledged_write_is_lost(load);
}

/// Three faults from a fixed seed, of kinds that no other test here has; `make chaos` has them all, and many.
pub fn passes_a_short_chaos_run(lab: &Lab) {
    let faults = ["--faults", "partition,pause-haproxy,pause-redis"];
    let arguments = ["--rounds", "3", "--seed", "5", "--timeout-scale", "2"];
    let result = lab.hanode(&["lab", "chaos"], &[&arguments[..], &faults].concat());
    eprintln!("{}", String::from_utf8_lossy(&result.stderr));
    output("chaos", result);
}

/// The worst nodes to lose, with their disks: PostgreSQL's leader, then Redis' primary.
pub fn replaces_lost_disks(lab: &Lab) {
    write_marks(lab, "replaced");
    let load = lab.load();
    lab.reprovision(&lab.postgres_leader().unwrap());
    lab.reprovision(&lab.redis_primary().unwrap());
    marks_are_there(lab, "replaced", 1);
    no_acknowledged_write_is_lost(load);
}
