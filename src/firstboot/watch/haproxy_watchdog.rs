//! Restarts a HAProxy that runs but does not answer.
//!
//! Keepalived moves the virtual IP away from such a node at once, but systemd still sees a running process, and the
//! connections that the kernel has accepted for it never end.

use crate::host::systemd::Systemd;
use anyhow::Result;
use hanode_cluster::client::haproxy;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const PROBE_TIMEOUT: Duration = Duration::from_millis(900);
/// The number of failed probes in a row before a restart: 10 to 15 s, longer than a busy machine or a reload takes.
const FAILED_PROBES: u32 = 5;

/// Probes HAProxy on its statistics port; never returns.
pub(crate) fn watch(unit: &str, port: u16) {
    let mut failed = 0;
    loop {
        sleep(PROBE_INTERVAL);
        failed = match probe(port) {
            Ok(_) => 0,
            Err(_) => failed + 1,
        };
        if failed < FAILED_PROBES {
            continue;
        }
        failed = 0;
        if let Err(error) = restart(unit) {
            tracing::warn!("{unit} does not answer and could not be restarted: {error:#}; retrying");
        }
    }
}

/// Kills the processes of an active unit, and its `Restart=` starts it again. A stop would wait for a process that does
/// not answer. A unit that is not active is left to systemd and the operator.
fn restart(unit: &str) -> Result<()> {
    let systemd = Systemd::connect()?;
    if systemd.states(&[unit])?.iter().all(|u| u.state == "active") {
        tracing::warn!("{unit} has not answered {FAILED_PROBES} health probes in a row: restarting it");
        systemd.kill(unit)?;
    }
    Ok(())
}

/// The HTTP status of HAProxy's health probe at the loopback address.
pub(crate) fn probe(port: u16) -> Result<u16> {
    haproxy::probe(Ipv4Addr::LOCALHOST.into(), port, PROBE_TIMEOUT)
}
