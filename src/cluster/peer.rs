//! The protocol of the join port: mutual TLS under the cluster CA, no request; the server sends one [`NodeReport`] as
//! JSON and closes the connection.

use crate::client::deadline::Deadline;
use crate::client::tls::Credentials;
use anyhow::{Context, Result, ensure};
use hanode_core::peer::{MAX_REPORT, NodeReport, pack, parse};
use hanode_core::plan::FOREIGN_CERTIFICATE;
use rustls::CertificateError;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Fetches the report of one node. `timeout` limits connecting, and then the handshake with the transfer.
pub fn fetch_report(
    credentials: &Credentials,
    address: IpAddr,
    port: u16,
    timeout: Duration,
) -> Result<NodeReport> {
    let stream = credentials.connect(address, port, timeout)?;
    let mut text = Vec::new();
    let read = stream.take(MAX_REPORT as u64 + 1).read_to_end(&mut text).or_else(accept_missing_close_notify);
    ensure!(!read.as_ref().is_err_and(is_from_another_ca), FOREIGN_CERTIFICATE);
    read?;
    ensure!(text.len() <= MAX_REPORT, "the answer of the join port is longer than {} KiB", MAX_REPORT >> 10);
    parse(&text)
}

/// Whether the server's certificate is signed by another CA, which may have the same name as ours.
fn is_from_another_ca(error: &std::io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let other = [CertificateError::UnknownIssuer, CertificateError::BadSignature];
    matches!(tls, Some(rustls::Error::InvalidCertificate(error)) if other.contains(error))
}

/// A connection may end without TLS' close_notify: parsing detects a truncated report.
fn accept_missing_close_notify(error: std::io::Error) -> std::io::Result<usize> {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Ok(0),
        _ => Err(error),
    }
}

/// Sends the report on an accepted connection. `timeout` limits the whole exchange.
pub fn serve(
    credentials: &Credentials,
    crl: Option<&[u8]>,
    socket: TcpStream,
    timeout: Duration,
    report: impl FnOnce() -> Result<NodeReport>,
) -> Result<()> {
    let mut socket = Deadline::within(socket, timeout);
    let mut tls = rustls::ServerConnection::new(Arc::new(credentials.server_config(crl)?))?;
    // The report is for authenticated peers only.
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).context("handshake")?;
    }
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    stream.write_all(&pack(report()?)?)?;
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}
