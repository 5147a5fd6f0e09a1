//! Restarts a HAProxy that runs but does not answer.
//!
//! Keepalived moves the virtual IP away from such a node at once, but systemd still sees a running process, and the
//! connections that the kernel has accepted for it never end.

use crate::host::systemd::Systemd;
use anyhow::{Context, Result};
use hanode_cluster::client::tls;
use std::io::{Read, Write};
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

/// The HTTP status of HAProxy's health check at the loopback address. HAProxy answers it in its own event loop.
pub(crate) fn probe(port: u16) -> Result<u16> {
    exchange(tls::connect(Ipv4Addr::LOCALHOST.into(), port, PROBE_TIMEOUT)?)
}

fn exchange(mut socket: impl Read + Write) -> Result<u16> {
    socket.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
    let mut head = [0; 12];
    socket.read_exact(&mut head)?;
    let status = std::str::from_utf8(&head[9..])?;
    status.parse().with_context(|| format!("HTTP status {status:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_probe_succeeds_with_any_status_and_fails_without_an_answer() {
        let (probe, mut haproxy) = UnixStream::pair().expect("a pair of sockets");
        haproxy.write_all(b"HTTP/1.0 503 Service Unavailable\r\n\r\n").expect("answer the probe");
        assert_eq!(exchange(probe).expect("a status"), 503);

        let (probe, _mute) = UnixStream::pair().expect("a pair of sockets");
        probe.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        assert!(exchange(probe).is_err());
    }
}
