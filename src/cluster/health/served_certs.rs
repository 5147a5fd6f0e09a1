//! Servers of a node that do not serve the bundle's certificate yet: a reload is complete when there are none.

use super::{Access, Problem, ProblemKind};
use crate::client::tls::{Credentials, connect};
use anyhow::{Context, Result, ensure};
use hanode_core::bundle::Bundle;
use hanode_core::pki::Leaf;
use hanode_core::spec::{ETCD_CLIENT_PORT, Node};
use hanode_core::state::Component;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Time limit for one server.
const SERVER_TIMEOUT: Duration = Duration::from_secs(3);

struct Server {
    component: Component,
    leaf: &'static str,
    port: u16,
    /// Requires a request before the TLS handshake.
    starttls: bool,
}

/// One problem per server; empty once all serve the bundle's certificates.
pub fn servers_with_old_certificates(access: &Access, bundle: &Bundle, node: &Node) -> Vec<Problem> {
    let found = servers(access).into_iter().filter_map(|server| {
        let component = server.component;
        match serves_bundle_certificate(access, bundle, node, &server) {
            Ok(true) => None,
            Ok(false) => Some(Problem::new(ProblemKind::OldCertificate, "").component(component)),
            Err(error) => Some(Problem::check_failed(component, format!("{error:#}"))),
        }
    });
    found.collect()
}

fn servers(access: &Access) -> Vec<Server> {
    let spec = &access.spec;
    let server = |component, leaf, port| Server { component, leaf, port, starttls: false };
    let mut servers = vec![
        server(Component::Etcd, "etcd", ETCD_CLIENT_PORT),
        server(Component::Patroni, "patroni", spec.patroni.restapi_port),
    ];
    if spec.postgres.tls {
        servers.push(Server { starttls: true, ..server(Component::Postgres, "pgsql", spec.postgres.port) });
    }
    if spec.redis.tls {
        servers.push(server(Component::Redis, "redis", spec.redis.port));
        servers.push(server(Component::Sentinel, "redis", spec.redis.sentinel_port));
        servers.push(server(Component::Haproxy, "haproxy", spec.redis.vip_port));
    }
    servers
}

fn serves_bundle_certificate(access: &Access, bundle: &Bundle, node: &Node, server: &Server) -> Result<bool> {
    let leaf = Leaf::find(server.leaf).context("unknown certificate")?;
    let (path, _) = leaf.paths.context("not a server's certificate")?;
    let file = |path: &str| bundle.file(path).with_context(|| format!("the bundle has no {path}"));
    let ca = file(leaf.ca.certificate_path())?.to_vec();
    let credentials =
        Credentials { ca, identity: access.cluster.identity.clone().filter(|_| server.leaf == "etcd") };
    let mut socket = connect(node.address, server.port, SERVER_TIMEOUT)?;
    if server.starttls {
        request_tls(&mut socket)?;
    }
    credentials.serves_certificate(node.address, socket, file(path)?)
}

/// PostgreSQL's SSLRequest message.
fn request_tls(socket: &mut TcpStream) -> Result<()> {
    socket.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])?;
    let mut response = [0];
    socket.read_exact(&mut response)?;
    ensure!(response == *b"S", "TLS is disabled");
    Ok(())
}
