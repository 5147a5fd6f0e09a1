//! The join port: a node reports to its peers over mutual TLS under the cluster CA.
//!
//! A connection carries no request: the server sends one [`NodeReport`] as JSON and closes.

use crate::client::deadline::Deadline;
use crate::client::tls::Credentials;
use anyhow::{Context, Result};
use hanode_core::peer::{NodeReport, parse};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Upper bound on untrusted input.
const MAX_ANSWER: u64 = 64 << 10;

/// Asks one node. `timeout` bounds connecting, and all that follows.
pub fn fetch_report(
    credentials: &Credentials,
    address: IpAddr,
    port: u16,
    timeout: Duration,
) -> Result<NodeReport> {
    let stream = credentials.connect(address, port, timeout)?;
    let mut text = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut text).or_else(closed_without_notice)?;
    parse(&text)
}

/// A peer that ends without TLS' closing notice is judged by whether its answer is whole.
fn closed_without_notice(error: std::io::Error) -> std::io::Result<usize> {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Ok(0),
        _ => Err(error),
    }
}

/// Serves one connection that is already accepted.
pub fn serve(
    credentials: &Credentials,
    crl: Option<&[u8]>,
    socket: TcpStream,
    timeout: Duration,
    answer: impl FnOnce() -> Result<NodeReport>,
) -> Result<()> {
    let mut socket = Deadline::within(socket, timeout);
    let mut tls = rustls::ServerConnection::new(Arc::new(credentials.server_config(crl)?))?;
    // The other side must have proved who it is before it hears anything.
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).context("handshake")?;
    }
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    stream.write_all(&serde_json::to_vec(&answer()?)?)?;
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}
