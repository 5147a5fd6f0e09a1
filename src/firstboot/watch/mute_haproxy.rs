//! Restarts a HAProxy that runs and does not answer.
//!
//! Keepalived moves the virtual IP away from such a node at once. That does not repair HAProxy: systemd sees a process
//! that runs, and connections that the kernel has accepted for it never end.

use crate::units::Systemd;
use anyhow::{Context, Result};
use hanode_cluster::client::tls;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

const ROUND: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_millis(900);
/// Failed probes in a row, 10 to 15 s: longer than a busy machine or a reload takes.
const FAILED_PROBES: u32 = 5;

/// For good, on a thread of its own.
pub(crate) fn watch(unit: &str, port: u16) {
    let mut failed = 0;
    loop {
        sleep(ROUND);
        failed = match probe(port) {
            Ok(_) => 0,
            Err(_) => failed + 1,
        };
        if failed < FAILED_PROBES {
            continue;
        }
        failed = 0;
        if let Err(error) = restart(unit) {
            tracing::warn!("{unit} does not answer and could not be restarted: {error:#}; trying again");
        }
    }
}

/// Kills it: what does not answer does not stop either, and systemd would wait for that. A unit that is not active is
/// systemd's to start, or the operator's.
fn restart(unit: &str) -> Result<()> {
    let systemd = Systemd::connect()?;
    if systemd.states(&[unit])?.iter().all(|u| u.state == "active") {
        tracing::warn!("{unit} has not answered {FAILED_PROBES} health probes in a row: restarting it");
        systemd.kill(unit)?;
    }
    Ok(())
}

/// What HAProxy's own event loop answers to the health probe, on the port that only this machine reaches.
pub(crate) fn probe(port: u16) -> Result<u16> {
    let mut socket = tls::connect(Ipv4Addr::LOCALHOST.into(), port, TIMEOUT)?;
    socket.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
    let mut head = [0; 12];
    socket.read_exact(&mut head)?;
    let status = std::str::from_utf8(&head[9..])?;
    status.parse().with_context(|| format!("status {status:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_answer_counts_whatever_it_says_and_silence_does_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            let (mut first, _) = listener.accept().expect("a probe");
            first.write_all(b"HTTP/1.0 503 Service Unavailable\r\n\r\n").expect("an answer");
            // The kernel takes the second one, and nobody answers it.
            std::thread::park();
        });
        assert_eq!(probe(port).expect("an answer"), 503);
        assert!(probe(port).is_err());
    }
}
