//! HAProxy's health probe, which it answers in its own event loop.

use super::deadline::Deadline;
use super::tls::connect;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::time::Duration;

/// The HTTP status of the probe. `timeout` limits connecting, and then the exchange.
pub fn probe(address: IpAddr, stats_port: u16, timeout: Duration) -> Result<u16> {
    let socket = connect(address, stats_port, timeout)?;
    exchange(Deadline::within(socket, timeout))
}

/// Fails unless HAProxy reports that its node can serve clients.
pub fn require_healthy(address: IpAddr, stats_port: u16, timeout: Duration) -> Result<()> {
    let status = probe(address, stats_port, timeout)?;
    ensure!(status == 200, "its health probe returns status {status}");
    Ok(())
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
