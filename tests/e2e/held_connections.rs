//! Clients that hold many connections open, against HAProxy with its rendered configuration and simulated servers in a
//! network namespace. Other clients are served all the time. Needs root.

use crate::cases::Case;
use crate::support::{ImageSetup, fixture, sandbox::sandboxed};

const CERTIFICATES: &str = include_str!("../validators/certificates.sh");
const ATTACK: &str = include_str!("../validators/held.py");

fn other_clients_are_served(setup: &ImageSetup, case: &Case) {
    let script = format!(
        "{CERTIFICATES}
runtime
cat > /tmp/held.py <<'END-OF-ATTACK'
{ATTACK}
END-OF-ATTACK
python3 /tmp/held.py '' haproxy -W -f /etc/haproxy/haproxy.cfg"
    );
    let entries = case.render("node1");
    sandboxed(&setup.tree(), &setup.program, &entries, &script);
}

#[test]
fn held_connections_do_not_block_other_clients() {
    other_clients_are_served(&ImageSetup::debian(), &Case::of(3));
}

/// HAProxy 2.2, and an older Python.
#[test]
fn held_connections_do_not_block_other_clients_on_ubuntu_20_04() {
    other_clients_are_served(&fixture::ubuntu_20_04(), &fixture::ubuntu_case());
}
