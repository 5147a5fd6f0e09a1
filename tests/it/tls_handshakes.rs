//! Handshakes in memory: the cluster's certificates with rustls, which the nodes use among themselves.

use crate::common::loopback::with_loopback;
use hanode_admin::cluster_dir::{ClusterDir, change::revoke};
use hanode_cluster::client::tls::{Credentials, TlsIdentity};
use hanode_cluster::peer::{self, JoinPort};
use hanode_core::bundle::Bundle;
use hanode_core::peer::NodeReport;
use hanode_core::pki::coverage::check_bundle;
use hanode_core::plan::FOREIGN_CERTIFICATE;
use hanode_core::spec::STARTER;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

const DAY: i64 = 86400;

fn cluster() -> (tempfile::TempDir, ClusterDir) {
    let home = tempfile::tempdir().expect("a directory");
    let cluster = ClusterDir::init(&home.path().join("demo"), STARTER).expect("a cluster");
    (home, cluster)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(cert: &[u8], key: &[u8]) -> Identity {
    let cert = CertificateDer::from_pem_slice(cert).expect("a certificate");
    (vec![cert], PrivateKeyDer::from_pem_slice(key).expect("a key"))
}

fn member(bundle: &Bundle, cert: &str, key: &str) -> Identity {
    identity(bundle.file(cert).expect("a certificate"), bundle.file(key).expect("a key"))
}

fn node(bundle: &Bundle) -> Identity {
    member(bundle, "/etc/ssl/hanode/node.crt", "/etc/ssl/hanode/node.key")
}

fn roots(bundle: &Bundle, path: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let pem = bundle.file(path).expect("a CA");
    roots.add(CertificateDer::from_pem_slice(pem).expect("a certificate")).expect("a usable CA");
    Arc::new(roots)
}

/// A mutual handshake under the cluster CA, as on the join port.
fn handshake(bundle: &Bundle, server: Identity, client: Identity, name: &str) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = roots(bundle, "/etc/ssl/hanode/ca.crt");
    let client_verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .expect("a verifier");
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(client_verifier)
        .with_single_cert(server.0, server.1)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(client.0, client.1)?;
    let name = ServerName::try_from(name.to_string()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("writing");
        server.read_tls(&mut wire.as_slice()).expect("reading");
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).expect("writing");
        client.read_tls(&mut wire.as_slice()).expect("reading");
        client.process_new_packets()?;
    }
    Ok(())
}

fn credentials(bundle: &Bundle) -> Credentials {
    let member = |name: &str| bundle.file(&format!("/etc/ssl/hanode/{name}")).expect("a file").to_vec();
    let identity = TlsIdentity { certificate: member("node.crt"), key: member("node.key") };
    Credentials { ca: member("ca.crt"), identity: Some(identity) }
}

#[test]
fn a_node_of_another_cluster_is_named_as_such() {
    with_loopback("tls_handshakes::a_node_of_another_cluster_is_named_as_such", || {
        let ((_home, ours), (_other_home, theirs)) = (cluster(), cluster());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let server = credentials(&theirs.bundle);
        let limit = Duration::from_secs(10);
        let serving = std::thread::spawn(move || {
            let (socket, _) = listener.accept().expect("a connection");
            let report = || Ok(NodeReport::blank(&theirs.spec, "node1", 1, "a disk"));
            JoinPort::new(&server, None).expect("a server").serve(socket, limit, report).is_ok()
        });
        let fetched = peer::fetch_report(&credentials(&ours.bundle), address.ip(), address.port(), limit);
        assert_eq!(fetched.expect_err("an error").to_string(), FOREIGN_CERTIFICATE);
        assert!(!serving.join().expect("the server"), "the report was sent");
    });
}

/// A handshake with the join port, by a client that resumes sessions if it can.
fn connect_again(port: &JoinPort, client: &Arc<ClientConfig>, cluster: &ClusterDir) -> Option<HandshakeKind> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut socket = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    let (accepted, _) = listener.accept().expect("the connection");
    std::thread::scope(|threads| {
        let report = || Ok(NodeReport::blank(&cluster.spec, "node1", 1, "a disk"));
        let serving = threads.spawn(move || port.serve(accepted, Duration::from_secs(10), report));
        let name = ServerName::try_from("node1").expect("a name");
        let mut connection = ClientConnection::new(client.clone(), name).expect("a client");
        let read = rustls::Stream::new(&mut connection, &mut socket).read_to_end(&mut Vec::new());
        let served = serving.join().expect("the server");
        assert_eq!(read.is_ok(), served.is_ok(), "{read:?}, {served:?}");
        served.is_ok().then(|| connection.handshake_kind().expect("a handshake"))
    })
}

/// A resumed session would not check the revocation list again.
#[test]
fn the_join_port_checks_each_connection() {
    with_loopback("tls_handshakes::the_join_port_checks_each_connection", || {
        let (_home, cluster) = cluster();
        let own = credentials(&cluster.bundle);
        let port = JoinPort::new(&own, None).expect("a server");
        revoke(&cluster.dir, "node").expect("a new bundle");
        let revoking = ClusterDir::load(&cluster.dir).expect("the cluster");
        let crl = revoking.bundle.file("/etc/ssl/hanode/ca.crl").expect("a list");
        let stricter = JoinPort::new(&own, Some(crl)).expect("a server");
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let (chain, key) = node(&cluster.bundle);
            let client = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_protocol_versions(&[version])
                .expect("a version")
                .with_root_certificates(roots(&cluster.bundle, "/etc/ssl/hanode/ca.crt"))
                .with_client_auth_cert(chain, key)
                .expect("a certificate");
            let client = Arc::new(client);
            for _ in 0..3 {
                let kind = connect_again(&port, &client, &cluster);
                assert!(matches!(kind, Some(HandshakeKind::Full)), "{kind:?}");
            }
            assert!(connect_again(&stricter, &client, &cluster).is_none(), "a revoked client was served");
        }
    });
}

/// The service CA signed PostgreSQL's certificate too, for the same nodes: it must not collect the passwords of Redis.
#[test]
fn postgres_does_not_pass_for_redis() {
    with_loopback("tls_handshakes::postgres_does_not_pass_for_redis", || {
        let (_home, cluster) = cluster();
        for (leaf, is_redis) in [("redis", true), ("pgsql", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let mut access = hanode_admin::access::access(&cluster.dir).expect("access");
            access.spec.redis.port = listener.local_addr().expect("its address").port();
            let path = |ending: &str| format!("/etc/ssl/{leaf}/server.{ending}");
            let (chain, key) = member(&cluster.bundle, &path("crt"), &path("key"));
            let config = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .expect("a certificate");
            let serving = std::thread::spawn(move || {
                let (mut socket, _) = listener.accept().expect("a connection");
                let mut server = ServerConnection::new(config.into()).expect("a server");
                let mut received = [0; 1024];
                let count = rustls::Stream::new(&mut server, &mut socket).read(&mut received).unwrap_or(0);
                String::from_utf8_lossy(&received[..count]).into_owned()
            });
            let error = access.redis([127, 0, 0, 1].into(), Duration::from_secs(10)).err().expect("no Redis");
            let received = serving.join().expect("the server");
            assert_eq!(received.contains("AUTH"), is_redis, "{leaf}: {received:?}");
            let named = "the server presents the certificate of \"pgsql\", not of \"redis\"";
            assert_eq!(format!("{error:#}").contains(named), !is_redis, "{leaf}: {error:#}");
        }
    });
}

#[test]
fn nodes_and_operator_trust_each_other_and_nobody_else() {
    let (_home, cluster) = cluster();
    let bundle = &cluster.bundle;
    for name in ["192.168.18.21", "192.168.18.23", "192.168.18.20", "node2", "localhost", "127.0.0.1", "::1"]
    {
        handshake(bundle, node(bundle), node(bundle), name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["192.168.18.99", "node4", "pgsql.demo.lab"] {
        assert!(handshake(bundle, node(bundle), node(bundle), name).is_err(), "{name} was accepted");
    }
    let (cert, key) = cluster.operator().expect("the operator's leaf");
    let operator = || identity(cert.as_bytes(), key.as_bytes());
    handshake(bundle, node(bundle), operator(), "node1").expect("the operator may connect");
    assert!(
        handshake(bundle, operator(), node(bundle), "node1").is_err(),
        "the operator's leaf is accepted as a server's"
    );
    let application = member(bundle, "/etc/ssl/pgsql/server.crt", "/etc/ssl/pgsql/server.key");
    assert!(
        handshake(bundle, node(bundle), application, "node1").is_err(),
        "a service leaf is accepted as a client's"
    );
}

#[test]
fn certificates_are_checked_against_the_date() {
    let (_home, cluster) = cluster();
    let examined = |days: i64| {
        let report = check_bundle(&cluster.bundle, &cluster.spec, hanode_core::pki::now() + days * DAY);
        let words = |list: &[hanode_util::user_error::UserError]| {
            list.iter().map(|t| t.what.clone()).collect::<Vec<_>>().join("\n")
        };
        (words(&report.faults), words(&report.warnings))
    };
    assert_eq!(examined(0), Default::default());
    assert_eq!(examined(1730), Default::default());
    let (faults, warnings) = examined(1740);
    assert!(
        faults.is_empty() && warnings.contains("the node certificate expires on"),
        "{faults}\n{warnings}"
    );
    let (faults, warnings) = examined(1826);
    assert!(faults.contains("the pgsql certificate expired on"), "{faults}");
    assert!(warnings.contains("the service CA's revocation list expires on"), "{warnings}");
    assert!(examined(3651).0.contains("the cluster CA's revocation list expired on"));
    let (faults, _) = examined(-1);
    assert!(faults.contains("the etcd certificate is not valid before"), "{faults}");
}
