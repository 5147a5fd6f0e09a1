//! TLS connections, with client certificates where the server requires them.

use super::deadline::Deadline;
use anyhow::{Context, Result, ensure};
use hanode_core::pki::read;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// The CA to trust (PEM), and a certificate with its key for mutual TLS.
#[derive(Clone)]
pub struct Credentials {
    pub ca: Vec<u8>,
    pub identity: Option<TlsIdentity>,
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct TlsIdentity {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

pub(crate) type TlsStream = StreamOwned<ClientConnection, Deadline>;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(ca: &[u8]) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        store.add(certificate.context("CA certificate is not PEM")?)?;
    }
    Ok(store)
}

fn parse_identity(identity: &TlsIdentity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_slice_iter(&identity.certificate)
        .collect::<Result<Vec<_>, _>>()
        .context("certificate is not PEM")?;
    let key = PrivateKeyDer::from_pem_slice(&identity.key).context("key is not PEM")?;
    Ok((chain, key))
}

impl Credentials {
    pub(crate) fn client_config(&self) -> Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(&self.ca)?);
        Ok(match &self.identity {
            Some(identity) => {
                let (chain, key) = parse_identity(identity)?;
                builder.with_client_auth_cert(chain, key)?
            }
            None => builder.with_no_client_auth(),
        })
    }

    /// For a server that accepts only clients whose certificate is signed by the same CA and not listed in `crl`.
    pub(crate) fn server_config(&self, crl: Option<&[u8]>) -> Result<ServerConfig> {
        let identity = self.identity.as_ref().context("a server needs a certificate")?;
        let mut verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&self.ca)?), provider());
        if let Some(crl) = crl {
            verifier = verifier.with_crls([CertificateRevocationListDer::from_pem_slice(crl)?]);
        }
        let (chain, key) = parse_identity(identity)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier.build()?)
            .with_single_cert(chain, key)?;
        // A resumed session would skip the check of the client's certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Whether the server at the other end of `socket` presents this certificate.
    pub(crate) fn serves_certificate(
        &self,
        address: IpAddr,
        mut socket: TcpStream,
        certificate: &[u8],
    ) -> Result<bool> {
        let name = ServerName::IpAddress(address.into());
        let mut connection = ClientConnection::new(Arc::new(self.client_config()?), name)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        let expected = CertificateDer::from_pem_slice(certificate).context("certificate is not PEM")?;
        Ok(connection.peer_certificates().is_some_and(|chain| chain.first() == Some(&expected)))
    }

    /// Connects to a server that presents this leaf certificate: the servers of a CA run as different users, and one must
    /// not pass for another.
    pub(crate) fn connect_to(
        &self,
        leaf: &str,
        address: IpAddr,
        port: u16,
        timeout: Duration,
    ) -> Result<TlsStream> {
        let mut stream = self.connect(address, port, timeout)?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let presented = stream.conn.peer_certificates().and_then(|chain| chain.first());
        let name = read::common_name(presented.context("the server presents no certificate")?)?;
        ensure!(name == leaf, "the server presents the certificate of {name:?}, not of {leaf:?}");
        Ok(stream)
    }

    /// `timeout` limits connecting, and then the handshake with everything that is read and written.
    pub(crate) fn connect(&self, address: IpAddr, port: u16, timeout: Duration) -> Result<TlsStream> {
        let socket = connect(address, port, timeout)?;
        let connection =
            ClientConnection::new(Arc::new(self.client_config()?), ServerName::IpAddress(address.into()))?;
        Ok(StreamOwned::new(connection, Deadline::within(socket, timeout)))
    }
}

/// `timeout` limits connecting, and each read and write.
pub fn connect(address: IpAddr, port: u16, timeout: Duration) -> Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&SocketAddr::new(address, port), timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}
