//! An attack by clients that open connections and hold them: HAProxy under its rendered file, in a network namespace,
//! with servers that are imitated. Bounded in count and time. Needs root.

use crate::cases::Case;
use crate::support::{ImageSetup, fixture, sandbox::sandboxed};

const CERTIFICATES: &str = include_str!("../validators/certificates.sh");
const ATTACK: &str = include_str!("../validators/held.py");

fn others_are_served(ground: &ImageSetup) {
    let script = format!(
        "{CERTIFICATES}
runtime
cat > /tmp/held.py <<'END-OF-ATTACK'
{ATTACK}
END-OF-ATTACK
python3 /tmp/held.py '' haproxy -W -f /etc/haproxy/haproxy.cfg"
    );
    let entries = Case::of(3).on(ground.target).render("node1");
    sandboxed(&ground.tree(), &ground.program, &entries, &script);
}

#[test]
fn who_holds_connections_keeps_nobody_out() {
    others_are_served(&ImageSetup::debian());
}

/// HAProxy 2.2, and an older Python.
#[test]
fn who_holds_connections_keeps_nobody_out_on_ubuntu_20_04() {
    others_are_served(&fixture::ubuntu_20_04());
}
