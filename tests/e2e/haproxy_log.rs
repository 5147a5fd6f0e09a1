//! HAProxy logs each health check once, although standard output and standard error both end in the journal. Needs root.

use crate::cases::Case;
use crate::support::{ImageSetup, fixture, sandbox::sandboxed};

const CERTIFICATES: &str = include_str!("../validators/certificates.sh");

/// Without servers every health check fails, and HAProxy logs two lines about each server.
fn each_line_is_logged_once(setup: &ImageSetup) {
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
    let entries = Case::of(3).on(setup.target).render("node1");
    sandboxed(&setup.tree(), &setup.program, &entries, &script);
}

#[test]
fn haproxy_logs_each_health_check_once() {
    each_line_is_logged_once(&ImageSetup::debian());
}

/// HAProxy 2.2.
#[test]
fn haproxy_logs_each_health_check_once_on_ubuntu_20_04() {
    each_line_is_logged_once(&fixture::ubuntu_20_04());
}
