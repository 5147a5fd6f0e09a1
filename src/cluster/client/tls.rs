//! Mutual TLS as all parts use it: the CA that must have signed the other side, and one's own leaf.

use super::deadline::Deadline;
use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// PEM texts: the CA to trust, and, where the other side asks for it, one's own certificate and key.
#[derive(Clone)]
pub struct Credentials {
    pub ca: Vec<u8>,
    pub identity: Option<TlsIdentity>,
}

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
        store.add(certificate.context("CA certificate is no PEM")?)?;
    }
    Ok(store)
}

fn parse_identity(identity: &TlsIdentity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_slice_iter(&identity.certificate)
        .collect::<Result<Vec<_>, _>>()
        .context("certificate is no PEM")?;
    let key = PrivateKeyDer::from_pem_slice(&identity.key).context("key is no PEM")?;
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

    /// A server that admits only clients of the same CA; `crl` counts once it has entries.
    pub(crate) fn server_config(&self, crl: Option<&[u8]>) -> Result<ServerConfig> {
        let identity = self.identity.as_ref().context("a server needs a certificate of its own")?;
        let mut verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&self.ca)?), provider());
        if let Some(crl) = crl {
            verifier = verifier.with_crls([CertificateRevocationListDer::from_pem_slice(crl)?]);
        }
        let (chain, key) = parse_identity(identity)?;
        Ok(ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier.build()?)
            .with_single_cert(chain, key)?)
    }

    /// Whether the server at the other end of `socket` shows this certificate.
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
        let wanted = CertificateDer::from_pem_slice(certificate).context("certificate is no PEM")?;
        Ok(connection.peer_certificates().is_some_and(|shown| shown.first() == Some(&wanted)))
    }

    /// Connects; `timeout` bounds that, and then the handshake and all that is read and written.
    pub(crate) fn connect(&self, address: IpAddr, port: u16, timeout: Duration) -> Result<TlsStream> {
        let socket = connect(address, port, timeout)?;
        let connection =
            ClientConnection::new(Arc::new(self.client_config()?), ServerName::IpAddress(address.into()))?;
        Ok(StreamOwned::new(connection, Deadline::within(socket, timeout)))
    }
}

pub fn connect(address: IpAddr, port: u16, timeout: Duration) -> Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&SocketAddr::new(address, port), timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}
