//! What an operator sees on terminals of three widths.

use super::*;
use crate::health::testing::{healthy, spec};

fn shown(width: usize, change: impl Fn(&mut Status)) -> String {
    let spec = spec();
    let mut status = healthy(&spec);
    change(&mut status);
    let text = table(&status, Some(width));
    let too_long = |l: &&str| l.chars().count() > width;
    assert_eq!(text.lines().find(too_long), None, "longer than {width}:\n{text}");
    text
}

fn ails(status: &mut Status) {
    status.healthy = false;
    status.problems = vec!["node3: PostgreSQL is creating replica".into(), "node3: Sentinel: NOQUORUM 1 usable Sentinels. Not enough available Sentinels to reach the majority and authorize a failover".into()];
    status.postgres[2].lag = Some(123_456_789);
}

#[test]
fn a_wide_terminal_shows_one_row_a_node() {
    let text = shown(200, |_| {});
    assert!(text.starts_with("NODE   ADDRESS        PHASE       ETCD"), "{text}");
    assert_eq!(text.lines().count(), 8, "{text}");
    for change in [|_: &mut Status| {}, ails] {
        assert!(shown(80, change).starts_with("NODE   PHASE       ETCD"), "without addresses");
    }
    let wide = shown(200, ails);
    assert!(
        wide.contains(
            "node3  192.168.18.23  in-service  ok      replica       123456789  replica  ok       held\n"
        ),
        "{wide}"
    );
    assert!(wide.contains("  - node3: Sentinel: NOQUORUM 1 usable Sentinels. Not enough available Sentinels to reach the majority and authorize a failover\n"), "{wide}");
}

#[test]
fn a_narrow_terminal_shows_the_same_in_paragraphs() {
    assert_eq!(
        shown(60, ails),
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
first to expire  /etc/ssl/hanode/etcd.crt in 1824 days
NOT HEALTHY: 2 problem(s)
  - node3: PostgreSQL is creating replica
  - node3: Sentinel: NOQUORUM 1 usable Sentinels. Not enough
    available Sentinels to reach the majority and authorize
    a failover
"
    );
}

#[test]
fn output_that_is_no_terminal_is_not_folded() {
    let spec = spec();
    let mut status = healthy(&spec);
    ails(&mut status);
    assert_eq!(table(&status, None), table(&status, Some(200)));
}
