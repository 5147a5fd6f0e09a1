//! Attacks with the passwords of an application, from a network of clients: code that takes over the application, or an
//! injected statement. The tests use the cluster of [`super::config_reload`].

use crate::config_reload::cluster;
use crate::support::lab::Lab;
use std::time::Duration;

/// A superuser's statement runs programs as the user `postgres`, who has the keys of Patroni.
#[test]
fn an_application_runs_no_program_on_a_node() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let attack = "COPY (SELECT 1) TO PROGRAM 'touch /var/lib/postgresql/owned'";
    for port in ["5432", "5434"] {
        let refused = lab.psql(port, attack).unwrap_err();
        assert!(refused.contains("permission denied"), "{refused}");
        for read in [
            "SELECT pg_read_file('/etc/ssl/hanode/patroni.key')",
            "SELECT rolpassword FROM pg_authid",
            "CREATE ROLE own SUPERUSER",
        ] {
            let refused = lab.psql(port, read).unwrap_err();
            assert!(
                refused.contains("permission denied") || refused.contains("read-only"),
                "{read}: {refused}"
            );
        }
        // The password of the superuser, which an application had to use before.
        let target = lab.psql_target(port).replace("user=app dbname=app", "user=dbadmin dbname=postgres");
        let target = format!("{target} password={}", lab.cluster.secrets.postgres_dbadmin);
        let refused = lab.bounded(&["psql", "-XAtqc", attack, &target]).unwrap_err();
        assert!(refused.contains("requires a valid client certificate"), "{refused}");
    }
    // The same statement of a superuser on the node succeeds.
    lab.superuser_sql("COPY (SELECT 1) TO PROGRAM 'touch /var/lib/postgresql/control'");
    let leader = lab.postgres_leader().unwrap();
    assert_eq!(
        lab.sh(&leader, "cd /var/lib/postgresql; ls -d owned control 2> /dev/null || true"),
        "control"
    );
    lab.sh(&leader, "rm /var/lib/postgresql/control");
}

/// The application's password of Redis reads and writes data, and administers nothing.
#[test]
fn an_application_does_not_administer_redis() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let attacks: [&[&str]; 6] = [
        &["CONFIG", "SET", "requirepass", "x"],
        &["CONFIG", "GET", "masterauth"],
        &["REPLICAOF", "192.168.18.66", "6666"],
        &["ACL", "SETUSER", "eve", "on", ">p", "~*", "+@all"],
        &["CLIENT", "KILL", "TYPE", "normal"],
        &["SHUTDOWN", "NOSAVE"],
    ];
    for attack in attacks {
        let answer = lab.redis(attack).unwrap();
        assert!(answer.starts_with("NOPERM"), "{attack:?}: {answer}");
    }
    lab.redis_set("own", "data").unwrap();
    assert_eq!(lab.redis(&["EVAL", "return redis.call('get', KEYS[1])", "1", "own"]).as_deref(), Ok("data"));
    assert!(lab.health().healthy);
}

/// Declared roles and databases appear on a running cluster; what is changed by hand is reported until the next apply.
#[test]
fn declared_roles_are_created_and_differences_are_reported() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let before = lab.cluster.spec_text.clone();
    let declared = format!(
        "{before}\n[[role]]\nname = \"reports\"\nconnection_limit = 7\n[[database]]\nname = \"shop\"\nowner = \"reports\"\n"
    );
    let file = lab.cluster.dir.join("cluster.toml");
    std::fs::write(&file, &declared).unwrap();
    lab.certs("issue", &[]);
    lab.apply_everywhere();
    let secrets = hanode_admin::cluster_dir::ClusterDir::load(&lab.cluster.dir).unwrap().secrets;
    let target = lab.psql_target("5432").replace("user=app dbname=app", "user=reports dbname=shop");
    let target = format!("{target} password={}", secrets.of_role("reports").unwrap());
    lab.eventually("the role logs in", 60, || {
        lab.bounded(&["psql", "-XAtqc", "CREATE TABLE IF NOT EXISTS own (n int)", &target]).is_ok()
    });
    lab.healthy_within(Duration::from_secs(60));

    lab.superuser_sql("ALTER ROLE reports CONNECTION LIMIT 9");
    let difference = "PostgreSQL differs from cluster.toml: role reports has another connection limit";
    lab.eventually("the status names the difference", 60, || {
        lab.health().problems.iter().any(|problem| problem.to_string().contains(difference))
    });
    lab.apply_everywhere();
    lab.healthy_within(Duration::from_secs(90));
    assert_eq!(lab.superuser_sql("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'reports'"), "7");
    let journals = "journalctl -b --no-pager | grep -c SCRAM-SHA || true";
    assert_eq!(lab.sh("node1", journals), "0", "verifiers are in no journal");
}

/// Users of Redis appear, change and disappear on a running cluster, and are there after a restart; what is changed by hand
/// is reported until the next reload.
#[test]
fn declared_users_of_redis_are_created_changed_and_deleted() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let (before, file) = (lab.cluster.spec_text.clone(), lab.cluster.dir.join("cluster.toml"));
    let declare = |text: &str| {
        std::fs::write(&file, format!("{before}\n{text}")).unwrap();
        lab.certs("issue", &[]);
        lab.apply_everywhere();
    };
    declare("[[redis_user]]\nname = \"cache\"\nkeys = [\"cache:*\"]\n");
    let secrets = hanode_admin::cluster_dir::ClusterDir::load(&lab.cluster.dir).unwrap().secrets;
    let password = format!("REDISCLI_AUTH={}", secrets.redis_users["cache"]);
    let as_cache = |words: &[&str]| {
        let ca = lab.cluster.dir.join("pki/service/ca.crt");
        let tls = ["--tls", "--cacert", ca.to_str().unwrap(), "-h", "192.168.18.20", "-p", "6379"];
        let client = [&["env", &password, "redis-cli", "--user", "cache"][..], &tls].concat();
        lab.bounded(&[&client[..], words].concat()).unwrap_or_else(|error| error)
    };
    assert_eq!(as_cache(&["SET", "cache:1", "one"]), "OK");
    assert!(as_cache(&["SET", "other", "one"]).starts_with("NOPERM"));

    declare("[[redis_user]]\nname = \"cache\"\naccess = \"read\"\n");
    assert!(as_cache(&["SET", "cache:1", "two"]).starts_with("NOPERM"));
    assert_eq!(as_cache(&["GET", "cache:1"]), "one");

    let primary = lab.redis_primary().unwrap();
    lab.redis_administrator(&primary, &["ACL", "SETUSER", "eve", "on", ">eves-password", "~*", "+@all"]);
    lab.redis_administrator(&primary, &["ACL", "SETUSER", "cache", "off"]);
    for difference in ["user eve is not in cluster.toml", "user cache was changed"] {
        lab.eventually(difference, 60, || {
            let problems = lab.health().problems;
            problems.iter().any(|p| p.to_string().contains(difference) && p.to_string().contains(&primary))
        });
    }
    lab.sh(&primary, "systemctl reload redis-server");
    assert_eq!(as_cache(&["GET", "cache:1"]), "one");
    assert!(!lab.redis_administrator(&primary, &["ACL", "USERS"]).contains("eve"));
    lab.healthy_within(Duration::from_secs(90));

    lab.sh(&primary, "systemctl restart redis-server");
    lab.healthy_within(Duration::from_secs(90));
    assert_eq!(as_cache(&["GET", "cache:1"]), "one");
    declare("");
    let deleted = as_cache(&["GET", "cache:1"]);
    assert!(deleted.contains("NOAUTH") || deleted.contains("WRONGPASS"), "{deleted}");
    lab.healthy_within(Duration::from_secs(90));
}

impl Lab {
    fn redis_administrator(&self, node: &str, words: &[&str]) -> String {
        let address = self.cluster.spec.node(node).unwrap().address.to_string();
        let password = format!("REDISCLI_AUTH={}", self.cluster.secrets.redis_admin.as_deref().unwrap());
        let tls = ["--tls", "--cacert", "/etc/ssl/myca/root.crt", "-h", &address, "-p", "6378"];
        let client = [&["env", &password, "redis-cli", "--user", "hanode"][..], &tls].concat();
        self.output(node, &[&client[..], words].concat())
    }
}

/// By port 5432 or 6379 of any node: libpq tries the nodes one after the other; a client of Redis does the same, or finds the primary by the Sentinels.
#[test]
fn an_application_connects_without_the_virtual_ip() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    lab.sh("node1", "systemctl stop haproxy redis-sentinel");
    let secrets = &lab.cluster.secrets;
    let ca = lab.cluster.dir.join("pki/service/ca.crt");
    let settings = [
        format!("CA={}", ca.display()),
        format!("PGPASSWORD={}", secrets.app().unwrap()),
        format!("REDIS={}", secrets.redis),
        format!("SENTINEL={}", secrets.sentinel),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    for client in [POSTGRES_CLIENT, REDIS_CLIENT, SENTINEL_CLIENT] {
        let output = lab.bounded(&[&["env"][..], &settings, &["/usr/bin/python3", "-c", client]].concat());
        assert_eq!(output.as_deref(), Ok("written"), "{client}");
    }
    lab.sh("node1", "systemctl start haproxy redis-sentinel");
    lab.healthy_within(Duration::from_secs(90));
}

/// As in docs/applications.md.
const POSTGRES_CLIENT: &str = r#"
import os, psycopg2
connection = psycopg2.connect(
    host="192.168.18.21,192.168.18.22,192.168.18.23", port=5432, target_session_attrs="read-write",
    user="app", dbname="app", sslmode="verify-full", sslrootcert=os.environ["CA"], connect_timeout=5)
with connection, connection.cursor() as cursor:
    cursor.execute("CREATE TABLE IF NOT EXISTS without_vip (n int); INSERT INTO without_vip VALUES (1)")
print("written")
"#;

const REDIS_CLIENT: &str = r#"
import os, redis
def connect():
    for host in ["192.168.18.21", "192.168.18.22", "192.168.18.23"]:
        client = redis.Redis(host=host, port=6379, password=os.environ["REDIS"], socket_connect_timeout=5,
                             ssl=True, ssl_ca_certs=os.environ["CA"], ssl_check_hostname=True)
        try:
            client.ping()
            return client
        except redis.ConnectionError as error:
            last = error
    raise last
connect().set("without_vip", 1)
print("written")
"#;

const SENTINEL_CLIENT: &str = r#"
import os
from redis.sentinel import Sentinel
tls = dict(ssl=True, ssl_ca_certs=os.environ["CA"], ssl_check_hostname=True, socket_connect_timeout=5)
sentinels = Sentinel([(host, 26378) for host in ["192.168.18.21", "192.168.18.22", "192.168.18.23"]],
                     sentinel_kwargs=dict(tls, password=os.environ["SENTINEL"]), password=os.environ["REDIS"], **tls)
sentinels.master_for("redis-cluster").set("without_vip", 2)
print("written")
"#;
