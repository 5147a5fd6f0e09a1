//! The main job: one image, three machines, one cluster. Everything is real: cloud-init, systemd, etcd,
//! PostgreSQL, Redis, HAProxy and Keepalived in the lab; psql, redis-cli, curl and openssl outside of it.
//! One test, since one cluster goes through it all. Needs root.
#![allow(clippy::unwrap_used)]

mod common;

use common::Ground;
use common::lab::{Lab, NODES, eventually, outcome, said};
use hanode::lab::load::{Load, Service};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn one_image_becomes_a_cluster_and_stays_one() {
    from_the_first_boot_to_a_lost_disk(&Ground::debian());
}

/// PostgreSQL 12, Patroni 2.1.0, Redis 6.0, HAProxy 2.2, Keepalived 2.1 and systemd 247 under Ubuntu 20.04's names.
#[test]
#[ignore = "a quarter of an hour: make test-targets"]
fn the_same_on_ubuntu_20_04() {
    from_the_first_boot_to_a_lost_disk(&common::fixture::ubuntu_20_04());
}

fn from_the_first_boot_to_a_lost_disk(ground: &Ground) {
    let dir = common::place();
    // The lab's own side is in neither list: it takes addresses that are, as machines elsewhere would have.
    let lists = [
        ("clients = [\"192.168.18.0/24\"]", "clients = [\"10.1.0.0/16\"]"),
        ("# operators = [\"192.168.18.5/32\"]", "operators = [\"10.2.0.5/32\"]"),
    ];
    let (cluster, image) = ground.cluster(dir.path(), "node.tar", &lists);
    let before = common::Traces::now(&cluster.dir);
    let lab = Lab { cluster, image };
    a_node_alone_waits(&lab);
    lab.up(&["--node", "node3"]);
    lab.up(&[]);
    what_an_operator_checks(&lab);
    what_a_client_sees(&lab);
    strangers_are_kept_out(&lab);
    no_secret_is_readable(&lab);
    roles_move_by_hand(&lab);
    let load = lab.load();
    a_clean_shutdown_hands_over(&lab, &load);
    a_power_cut_is_survived(&lab);
    all_at_once(&lab);
    a_lost_disk_is_replaced(&lab);
    no_promised_write_is_missing(load);
    a_short_chaos(&lab);
    let dir = lab.cluster.dir.clone();
    drop(lab);
    assert_eq!(common::Traces::now(&dir), before);
}

/// Launched minutes before the others: identity known, files laid down, no server running, nothing guessed.
fn a_node_alone_waits(lab: &Lab) {
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
    lab.said("node1", &["test", "-s", "/etc/haproxy/haproxy.cfg"]);
    lab.said("node1", &["test", "-s", "/etc/patroni/config.yml"]);
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
    lab.said("node1", rules);
    assert!(
        !lab.on("node1", &["test", "-e", "/var/lib/etcd/hanode"]).status.success(),
        "etcd has a directory"
    );
}

/// Which firewall the image's target names.
fn nftables(lab: &Lab) -> bool {
    let image = hanode::image::inspect(&lab.image).unwrap().image;
    image.target.starts_with("debian")
}

/// The tutorial's Post-Installation page.
fn what_an_operator_checks(lab: &Lab) {
    let members: Value = serde_json::from_str(&lab.patroni("node1", &["list", "--format", "json"])).unwrap();
    let members = members.as_array().unwrap();
    let count = |role: &str| members.iter().filter(|m| m["Role"] == role).count();
    assert_eq!((count("Leader"), count("Sync Standby"), count("Replica")), (1, 1, 1), "{members:?}");
    for node in NODES {
        assert!(
            lab.sentinel(node, &["sentinel", "ckquorum", "redis-cluster"])
                .starts_with("OK 3 usable Sentinels")
        );
        assert_eq!(
            lab.sentinel(node, &["sentinel", "get-master-addr-by-name", "redis-cluster"]),
            "192.168.18.22\n6378"
        );
        let failed = lab.said(node, &["systemctl", "--failed", "--no-legend", "--plain"]);
        assert_eq!(failed, "", "failed units on {node}");
        let journal = lab.said(node, &["journalctl", "-b", "--no-pager"]);
        assert!(!journal.contains("SECURITY VIOLATION"), "Keepalived's script security");
        assert!(!journal.contains("ordering cycle"), "systemd found a cycle");
        // On a node as at the desk.
        lab.said(node, &["hanode", "status"]);
    }
    let stats = "http://192.168.18.20:7000/;csv";
    assert!(
        outcome(lab.client(&["curl", "-sSf", stats])).is_err(),
        "the statistics page without its password"
    );
    let login = format!("stats:{}", lab.cluster.secrets.stats);
    let page = said("statistics", lab.client(&["curl", "-sSf", "-u", &login, stats]));
    let up = |backend: &str| {
        page.lines().filter(|l| l.starts_with(&format!("{backend},node")) && l.contains(",UP,")).count()
    };
    assert_eq!((up("postgres_primary"), up("redis_primary")), (1, 1), "{page}");
    every_node_tells_prometheus(lab, &login);
}

/// Each node's own metrics, behind the statistics page's password, read by Prometheus' own reader for Python.
fn every_node_tells_prometheus(lab: &Lab, login: &str) {
    const SCRIPT: &str = "import sys; from prometheus_client.parser import text_string_to_metric_families as read; \
        [print(s.name, *s.labels.values(), s.value) for f in read(sys.stdin.read()) for s in f.samples]";
    let mut told = String::new();
    for node in &lab.cluster.spec.nodes {
        let at = format!("http://{}:7000/metrics", node.address);
        assert!(outcome(lab.client(&["curl", "-sSf", &at])).is_err(), "metrics without the password");
        let script = format!("curl -sSf -u {login} {at} | /usr/bin/python3 -c '{SCRIPT}'");
        // Others may see that all is well before the node itself does.
        told += &eventually(Duration::from_secs(30), || {
            let told = said("metrics", lab.client(&["bash", "-o", "pipefail", "-c", &script]));
            for well in
                ["node_healthy", "etcd_healthy", "postgres_up", "redis_up", "sentinel_quorum", "haproxy_up"]
            {
                let line = format!("hanode_{well} {} 1.0", node.name);
                if !told.lines().any(|l| l == line) {
                    return Err(format!("{line:?} is not in\n{told}"));
                }
            }
            Ok(told)
        });
        told += "\n";
    }
    let of = |name: &str| told.lines().filter(|l| l.starts_with(name) && l.ends_with(" 1.0")).count();
    let roles = ["hanode_vip_held", "hanode_etcd_leader", "hanode_redis_primary"];
    assert_eq!(roles.map(of), [1, 1, 1], "{told}");
    let ends = told.lines().find_map(|l| {
        l.strip_prefix("hanode_certificate_not_after_timestamp_seconds /etc/ssl/pgsql/server.crt ")
    });
    let ends: f64 = ends.and_then(|e| e.parse().ok()).unwrap_or_else(|| panic!("{told}"));
    assert!(ends > hanode::pki::now() as f64, "{ends}");
    assert!(!told.contains("hanode_cluster_"), "a node speaks for itself alone");
}

/// From outside: verified TLS to both through the virtual IP, and a revocation list that verifies.
fn what_a_client_sees(lab: &Lab) {
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
    said("revocation list", lab.client(&["sh", "-c", &script]));
}

/// Who reaches what: a stranger in the nodes' own network no more than one elsewhere.
fn strangers_are_kept_out(lab: &Lab) {
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
        said(address, lab.client(&["ip", "address", "add", address, "dev", "br0"]));
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
    let found = said("trying ports", lab.client(&[&["/usr/bin/python3", "-c", TRY], &sources[..]].concat()));
    assert_eq!(found, expected.trim());

    if !nftables(lab) {
        return;
    }
    // Whoever enables the distribution's own rules, which flush all others, keeps hanode's.
    lab.said("node3", &["systemctl", "restart", "nftables"]);
    lab.said("node3", &["nft", "list", "chain", "inet", "hanode", "clients"]);
    lab.said("node3", &["systemctl", "reload", "nftables"]);
    lab.said("node3", &["nft", "list", "chain", "inet", "hanode", "clients"]);
    lab.said("node3", &["systemctl", "stop", "hanode-firewall"]);
    eventually(Duration::from_secs(30), || {
        let problems = lab.status()["problems"].to_string();
        let told = problems.contains("hanode-firewall.service is inactive");
        if told { Ok(()) } else { Err(format!("a node without its firewall: {problems}")) }
    });
    lab.said("node3", &["systemctl", "start", "hanode-firewall"]);
    lab.healthy_within(Duration::from_secs(30));
}

/// Every password and key, looked for as an ordinary user wherever such a user may look.
fn no_secret_is_readable(lab: &Lab) {
    let secrets = toml::from_str::<toml::Table>(&lab.cluster.secrets.to_toml()).unwrap();
    let mut needles: Vec<String> = secrets.values().map(|v| v.as_str().unwrap().to_string()).collect();
    needles.push("PRIVATE KEY-----".into());
    let look = "printf '%s\\n' \"$NEEDLES\" > /tmp/needles; chmod 644 /tmp/needles; \
        runuser -u nobody -- grep -rlsIF -f /tmp/needles /etc /run /var /usr/lib/hanode /home /root /srv /opt --exclude-dir=needles; \
        for p in /proc/[0-9]*; do runuser -u nobody -- sh -c \"tr '\\\\0' '\\\\n' < $p/cmdline; tr '\\\\0' '\\\\n' < $p/environ\" 2>/dev/null; done | grep -vF needles | grep -cF -f /tmp/needles; \
        journalctl -b --no-pager | grep -cF -f /tmp/needles; rm /tmp/needles";
    let found = |node: &str, script: &str| {
        let needles = format!("NEEDLES={}", needles.join("\n"));
        lab.said(node, &["env", &needles, "sh", "-c", script])
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

/// Every commit acknowledged since the load began, and every Redis write that `WAIT 1` confirmed.
fn no_promised_write_is_missing(load: Load) {
    let verdict = load.stop().verify().unwrap();
    eprintln!("{}", serde_json::to_string(&verdict).unwrap());
    let (postgres, redis) = (&verdict.postgres, &verdict.redis_wait);
    assert!(postgres.acknowledged > 100 && redis.acknowledged > 100, "too few writes to prove anything");
    assert!(verdict.promises_kept(), "promised writes are missing");
}

/// A switchover of PostgreSQL to its synchronous standby, and a failover of Redis.
fn roles_move_by_hand(lab: &Lab) {
    let leader = lab.holder("postgres", "leader").unwrap();
    let standby = lab.holder("postgres", "sync_standby").unwrap();
    // The leader is not named: what that option is called depends on Patroni's version.
    lab.patroni("node1", &["switchover", "--candidate", &standby, "--force"]);
    assert_ne!(standby, leader);
    assert_eq!(lab.holder("postgres", "leader"), Some(standby));
    assert_eq!(lab.sentinel("node1", &["sentinel", "failover", "redis-cluster"]), "OK");
    lab.healthy_within(Duration::from_secs(90));
    assert_ne!(lab.holder("redis", "master").as_deref(), Some("node2"));
    lab.psql("5432", "INSERT INTO seen VALUES (43)").unwrap();
    assert_eq!(lab.redis(&["get", "seen"]).as_deref(), Ok("42"));
}

/// Redis' primary shuts down in order: another is promoted before it stops, so nobody waits until Sentinels miss it.
fn a_clean_shutdown_hands_over(lab: &Lab, load: &Load) {
    let primary = lab.holder("redis", "master").unwrap();
    let from = load.now();
    lab.inner().shutdown(&primary).unwrap();
    eventually(Duration::from_secs(60), || lab.redis(&["set", "handed", "over"]).and_then(ok));
    let gap = load.longest_gap(Service::RedisWait, from).seconds;
    eprintln!("Redis' primary shut down: {gap:.1} s without a confirmed write");
    // Sentinel's down-after alone.
    assert!(gap < 5.0, "{gap} s without a confirmed write while {primary} shut down");
    lab.up(&[]);
}

/// The leader of PostgreSQL and the primary of Redis lose power, and come back on their disks.
fn a_power_cut_is_survived(lab: &Lab) {
    let leader = lab.holder("postgres", "leader").unwrap();
    let primary = lab.holder("redis", "master").unwrap();
    lab.psql("5432", "INSERT INTO seen VALUES (44)").unwrap();
    lab.redis(&["set", "cut", "1"]).unwrap();
    lab.kill(&[&leader]);
    let begun = Instant::now();
    eventually(Duration::from_secs(90), || lab.psql("5432", "INSERT INTO seen VALUES (45)"));
    eprintln!("PostgreSQL writable {:.1} s after its leader's power cut", begun.elapsed().as_secs_f64());
    lab.up(&[]);
    if primary != leader {
        lab.kill(&[&primary]);
        let begun = Instant::now();
        eventually(Duration::from_secs(60), || lab.redis(&["set", "cut", "2"]).and_then(ok));
        eprintln!("Redis writable {:.1} s after its primary's power cut", begun.elapsed().as_secs_f64());
        lab.up(&[]);
    }
    assert_eq!(lab.psql("5432", "SELECT count(*) FROM seen WHERE n >= 42").as_deref(), Ok("4"));
    assert_eq!(lab.redis(&["get", "seen"]).as_deref(), Ok("42"));
}

fn ok(answer: String) -> Result<String, String> {
    if answer == "OK" { Ok(answer) } else { Err(answer) }
}

fn all_at_once(lab: &Lab) {
    lab.kill(&NODES);
    lab.up(&[]);
    for node in NODES {
        let since = |unit: &str| {
            let asked = ["systemctl", "show", "--value", "-p", "ActiveEnterTimestampMonotonic", unit];
            lab.said(node, &asked).parse::<u64>().unwrap()
        };
        let (firewall, network) = (
            since(if nftables(lab) { "hanode-firewall.service" } else { "ufw.service" }),
            since("network-pre.target"),
        );
        assert!(0 < firewall && firewall < network, "{node}: the firewall came after the network");
    }
    assert_eq!(lab.psql("5432", "SELECT count(*) FROM seen WHERE n >= 42").as_deref(), Ok("4"));
    assert_eq!(lab.redis(&["get", "seen"]).as_deref(), Ok("42"));
}

/// Three faults from a fixed seed, of kinds that nothing above has had; `make chaos` has them all, and many.
fn a_short_chaos(lab: &Lab) {
    let faults = ["--faults", "partition,pause-haproxy,pause-redis"];
    let arguments = ["--rounds", "3", "--seed", "5", "--timeout-scale", "2"];
    let output = lab.hanode(&["lab", "chaos"], &[&arguments[..], &faults].concat());
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    said("chaos", output);
}

/// The worst node to lose: whoever leads PostgreSQL, with its disk.
fn a_lost_disk_is_replaced(lab: &Lab) {
    let leader = lab.holder("postgres", "leader").unwrap();
    let output = lab.hanode(&["lab", "reprovision"], &["--node", &leader, "--timeout-scale", "2"]);
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "replacing {leader}");
    let primary = lab.holder("redis", "master").unwrap();
    let output = lab.hanode(&["lab", "reprovision"], &["--node", &primary, "--timeout-scale", "2"]);
    assert!(output.status.success(), "replacing {primary}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(lab.psql("5432", "SELECT count(*) FROM seen WHERE n >= 42").as_deref(), Ok("4"));
    assert_eq!(lab.redis(&["get", "seen"]).as_deref(), Ok("42"));
    assert!(Path::new(&lab.cluster.dir).join(".lab").exists());
}
