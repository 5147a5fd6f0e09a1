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
