//! The status on terminals of different widths.

use super::*;
use crate::health::testing::{healthy, spec};
use crate::health::{Problem, ProblemKind};
use hanode_core::state::Component;

fn table_of(width: usize, change: impl Fn(&mut Status)) -> String {
    let spec = spec();
    let mut status = healthy(&spec);
    change(&mut status);
    let text = table(&status, Some(width));
    let too_long = |l: &&str| l.chars().count() > width;
    assert_eq!(text.lines().find(too_long), None, "longer than {width} columns:\n{text}");
    text
}

fn make_unhealthy(status: &mut Status) {
    status.healthy = false;
    let no_quorum = "NOQUORUM 1 usable Sentinels. Not enough available Sentinels to reach the majority and authorize a failover";
    status.problems = vec![
        Problem::new(ProblemKind::PostgresDown, "creating replica").node("node3"),
        Problem::check_failed(Component::Sentinel, no_quorum).node("node3"),
    ];
    status.nodes[2].servers.postgres.lag = Some(123_456_789);
}

#[test]
fn a_wide_terminal_has_one_row_per_node() {
    let text = table_of(200, |_| {});
    assert!(text.starts_with("NODE   ADDRESS        PHASE       ETCD"), "{text}");
    assert_eq!(text.lines().count(), 8, "{text}");
    for change in [|_: &mut Status| {}, make_unhealthy] {
        assert!(table_of(80, change).starts_with("NODE   PHASE       ETCD"), "without addresses");
    }
    let wide = table_of(200, make_unhealthy);
    assert!(
        wide.contains(
            "node3  192.168.18.23  in-service  ok      replica       123456789  replica  ok       held\n"
        ),
        "{wide}"
    );
    assert!(wide.contains("  - node3: Sentinel: NOQUORUM 1 usable Sentinels. Not enough available Sentinels to reach the majority and authorize a failover\n"), "{wide}");
}

#[test]
fn a_narrow_terminal_has_one_paragraph_per_node() {
    assert_eq!(
        table_of(60, make_unhealthy),
        "\
node1 192.168.18.21 in-service
  etcd leader, PostgreSQL leader, Redis replica, HAProxy ok
node2 192.168.18.22 in-service
  etcd ok, PostgreSQL sync_standby, Redis primary, HAProxy
  ok
node3 192.168.18.23 in-service, holds the virtual IP
  etcd ok, PostgreSQL replica (lag 123456789), Redis
  replica, HAProxy ok

virtual IP  192.168.18.20 answers
first certificate to expire: /etc/ssl/hanode/etcd.crt on
  every node, in 1824 days
unhealthy: 2 problems
  - node3: PostgreSQL is creating replica
  - node3: Sentinel: NOQUORUM 1 usable Sentinels. Not enough
    available Sentinels to reach the majority and authorize
    a failover
"
    );
}

#[test]
fn output_to_a_file_is_not_wrapped() {
    let spec = spec();
    let mut status = healthy(&spec);
    make_unhealthy(&mut status);
    assert_eq!(table(&status, None), table(&status, Some(200)));
}
