//! A cluster of the image that [`crate::build_centos`] builds: CentOS 8's names, versions and paths.

use crate::cluster;
use crate::support::lab::{Lab, NODES, eventually};
use crate::support::target_build::TargetBuild;
use crate::support::{centos, fixture::CENTOS_VERSIONS, workdir_alone};
use std::time::{Duration, Instant};

#[test]
#[ignore = "a quarter of an hour: make test-targets"]
fn three_machines_bootstrap_fail_over_and_replace_lost_disks() {
    let build = TargetBuild::new(workdir_alone(), "centos-8", CENTOS_VERSIONS, false);
    build.build("node.tar", &centos::sources()).unwrap();
    let lab = build.into_lab("node.tar");
    lab.up(&[]);
    every_node_is_centos(&lab);
    cluster::creates_a_database_in_an_english_locale(&lab);
    lab.psql("5432", "CREATE TABLE seen (n int PRIMARY KEY)").unwrap();
    lab.psql("5432", "INSERT INTO seen VALUES (1)").unwrap();
    lab.redis_set("seen", "1").unwrap();

    let leader = lab.postgres_leader().unwrap();
    let standby = lab.sync_standby().unwrap();
    lab.patroni("node1", &["switchover", "--master", &leader, "--candidate", &standby, "--force"]);
    assert_eq!(lab.postgres_leader(), Some(standby));
    assert_eq!(lab.sentinel("node1", &["sentinel", "failover", "redis-cluster"]), "OK");
    lab.healthy_within(Duration::from_secs(120));
    lab.psql("5432", "INSERT INTO seen VALUES (2)").unwrap();
    assert_eq!(lab.redis(&["get", "seen"]).as_deref(), Ok("1"));

    let leader = lab.postgres_leader().unwrap();
    lab.kill(&[&leader]);
    let start = Instant::now();
    eventually(Duration::from_secs(90), || lab.psql("5432", "INSERT INTO seen VALUES (3)"));
    eprintln!("PostgreSQL writable {:.1} s after its leader's power cut", start.elapsed().as_secs_f64());
    eventually(Duration::from_secs(60), || lab.redis_set("cut", "1"));
    lab.up(&[]);

    lab.reprovision(&lab.postgres_leader().unwrap());
    lab.reprovision(&lab.redis_primary().unwrap());
    assert_eq!(lab.psql("5432", "SELECT count(*) FROM seen").as_deref(), Ok("3"));
    assert_eq!(lab.redis(&["get", "seen"]).as_deref(), Ok("1"));
}

/// Names and paths are those of CentOS, and the target's units are active.
fn every_node_is_centos(lab: &Lab) {
    let members: serde_json::Value =
        serde_json::from_str(&lab.patroni("node1", &["list", "--format", "json"])).unwrap();
    let running = members.as_array().unwrap().iter().filter(|member| member["State"] == "running").count();
    assert_eq!(running, 3, "{members:#}");
    for node in NODES {
        for unit in ["etcd", "patroni", "redis", "redis-sentinel", "haproxy", "keepalived", "firewalld"] {
            assert_eq!(lab.output(node, &["systemctl", "is-active", unit]), "active", "{unit} on {node}");
        }
        assert_eq!(lab.output(node, &["readlink", "/etc/redis.conf"]), "/var/lib/redis/hanode/redis.conf");
        let data = "/var/lib/pgsql/12/hanode/PG_VERSION";
        assert_eq!(lab.output(node, &["cat", data]), "12");
        assert_eq!(lab.output(node, &["stat", "-c", "%u", data]), "26");
        assert_eq!(lab.output(node, &["systemctl", "--failed", "--no-legend", "--plain"]), "", "{node}");
        let journal = lab.output(node, &["journalctl", "-b", "--no-pager"]);
        assert!(!journal.contains("SECURITY VIOLATION") && !journal.contains("ordering cycle"), "{node}");
    }
}
