//! Attacks with the passwords of an application, from a network of clients: code that takes over the application, or an
//! injected statement. The tests use the cluster of [`super::config_reload`].

use crate::config_reload::cluster;
use crate::support::lab::Lab;

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
