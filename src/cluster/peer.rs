//! The protocol of the join port: mutual TLS under the cluster CA, no request; the server sends one [`NodeReport`] as
//! JSON and closes the connection.

use crate::client::deadline::Deadline;
use crate::client::tls::Credentials;
use anyhow::{Context, Result, ensure};
use hanode_core::peer::{MAX_REPORT, NodeReport, pack, parse};
use hanode_core::plan::FOREIGN_CERTIFICATE;
use rustls::{CertificateError, ServerConfig, ServerConnection};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Of a client: a hello, its certificate and a signature are a tenth of this.
const MAX_HANDSHAKE: usize = 32 << 10;

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

/// The server: accepts clients whose certificate the cluster CA signed and has not revoked.
pub struct JoinPort {
    config: Arc<ServerConfig>,
}

impl JoinPort {
    pub fn new(credentials: &Credentials, crl: Option<&[u8]>) -> Result<JoinPort> {
        Ok(JoinPort { config: Arc::new(credentials.server_config(crl)?) })
    }

    /// Sends the report on an accepted connection. `timeout` limits the whole exchange.
    pub fn serve(
        &self,
        socket: TcpStream,
        timeout: Duration,
        report: impl FnOnce() -> Result<NodeReport>,
    ) -> Result<()> {
        let mut socket = Deadline::within(socket, timeout);
        let mut tls = ServerConnection::new(self.config.clone())?;
        // The report is for authenticated peers only.
        shake_hands(&mut tls, &mut socket).context("handshake")?;
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        stream.write_all(&pack(report()?)?)?;
        stream.conn.send_close_notify();
        stream.flush()?;
        Ok(())
    }
}

/// Refuses a client that sends more than a handshake needs.
fn shake_hands(tls: &mut ServerConnection, socket: &mut Deadline) -> Result<()> {
    let mut received = 0;
    while tls.is_handshaking() {
        while tls.wants_write() {
            tls.write_tls(socket)?;
        }
        let count = tls.read_tls(socket)?;
        ensure!(count > 0, "the client closed the connection");
        received += count;
        ensure!(received <= MAX_HANDSHAKE, "the client sent more than {} KiB", MAX_HANDSHAKE >> 10);
        if let Err(error) = tls.process_new_packets() {
            // The client learns why.
            let _ = tls.write_tls(socket);
            return Err(error.into());
        }
    }
    Ok(())
}
