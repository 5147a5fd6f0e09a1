//! What HAProxy prints under systemd's flag ends in the journal, from both of its outputs: each line once. Needs root.

use crate::cases::Case;
use crate::support::{ImageSetup, fixture, sandbox::sandboxed};

const CERTIFICATES: &str = include_str!("../validators/certificates.sh");

/// No server is there: every health check fails, and the two lines about each are printed.
fn each_line_is_printed_once(ground: &ImageSetup) {
    let script = format!(
        "{CERTIFICATES}
runtime
timeout 8 haproxy -Ws -f /etc/haproxy/haproxy.cfg > /tmp/out 2>&1 || true
grep redis_primary/node2 /tmp/out
for line in 'Health check for server redis_primary/node2 failed' 'Server redis_primary/node2 is DOWN'; do
    [ $(grep -c \"$line\" /tmp/out) = 1 ]
done
echo CHECKED"
    );
    let entries = Case::of(3).on(ground.target).render("node1");
    sandboxed(&ground.tree(), &ground.program, &entries, &script);
}

#[test]
fn haproxy_prints_each_health_check_once() {
    each_line_is_printed_once(&ImageSetup::debian());
}

/// HAProxy 2.2.
#[test]
fn haproxy_prints_each_health_check_once_on_ubuntu_20_04() {
    each_line_is_printed_once(&fixture::ubuntu_20_04());
}
