//! Which of a node's servers still show another certificate than the bundle's: a reload is done when none does.

use super::Access;
use crate::client::tls::{Credentials, connect};
use anyhow::{Context, Result, ensure};
use hanode_core::bundle::Bundle;
use hanode_core::pki::Leaf;
use hanode_core::spec::{ETCD_CLIENT_PORT, Node};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(3);

struct Server {
    name: &'static str,
    leaf: &'static str,
    port: u16,
    /// Speaks in clear until asked for TLS.
    asked: bool,
}

/// A sentence for each; empty once all show what they should.
pub fn servers_with_old_certificates(access: &Access, bundle: &Bundle, node: &Node) -> Vec<String> {
    let found = servers(access).into_iter().filter_map(|server| {
        let name = server.name;
        match shows_the_bundles(access, bundle, node, &server) {
            Ok(true) => None,
            Ok(false) => Some(format!("{name} still shows its earlier certificate")),
            Err(error) => Some(format!("{name}: {error:#}")),
        }
    });
    found.collect()
}

fn servers(access: &Access) -> Vec<Server> {
    let spec = &access.spec;
    let server = |name, leaf, port| Server { name, leaf, port, asked: false };
    let mut servers = vec![
        server("etcd", "etcd", ETCD_CLIENT_PORT),
        server("Patroni", "patroni", spec.patroni.restapi_port),
    ];
    if spec.postgres.tls {
        servers.push(Server { asked: true, ..server("PostgreSQL", "pgsql", spec.postgres.port) });
    }
    if spec.redis.tls {
        servers.push(server("Redis", "redis", spec.redis.port));
        servers.push(server("Sentinel", "redis", spec.redis.sentinel_port));
        servers.push(server("HAProxy", "haproxy", spec.redis.vip_port));
    }
    servers
}

fn shows_the_bundles(access: &Access, bundle: &Bundle, node: &Node, server: &Server) -> Result<bool> {
    let leaf = Leaf::find(server.leaf).context("no such leaf")?;
    let (path, _) = leaf.paths.context("a leaf that no server has")?;
    let file = |path: &str| bundle.file(path).with_context(|| format!("the bundle holds no {path}"));
    let ca = file(leaf.ca.certificate_path())?.to_vec();
    let credentials =
        Credentials { ca, identity: access.cluster.identity.clone().filter(|_| server.leaf == "etcd") };
    let mut socket = connect(node.address, server.port, TIMEOUT)?;
    if server.asked {
        ask_for_tls(&mut socket)?;
    }
    credentials.serves_certificate(node.address, socket, file(path)?)
}

/// PostgreSQL's own way into TLS.
fn ask_for_tls(socket: &mut TcpStream) -> Result<()> {
    socket.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    ensure!(answer == *b"S", "it has no TLS");
    Ok(())
}
