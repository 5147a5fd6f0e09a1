//! Connections to the other nodes come from this node's address.
//!
//! If an interface has several addresses in the nodes' network, the kernel takes the first one for new connections. The peers'
//! firewalls refuse it, and etcd refuses it, too, because it is not in the certificate. Neither etcd, Patroni nor PostgreSQL can
//! bind a connection to an address, so each peer gets a route of its own with this node's address as the source. It is more
//! specific than those that DHCP or the network's configuration change, and the watcher restores it.

use crate::host::network;
use crate::node::NodeContext;
use anyhow::{Result, anyhow};
use std::net::{IpAddr, UdpSocket};

/// A connected UDP socket sends nothing; any port will do.
const PORT: u16 = 9;

/// The peers to which connections come from another address. A peer without any route is none of them.
pub(crate) fn wrong_sources(node: &NodeContext) -> Vec<IpAddr> {
    let own = node.own().address;
    let has_other = |peer: &IpAddr| source(*peer).is_ok_and(|source| source != own);
    node.peers().map(|peer| peer.address).filter(has_other).collect()
}

/// The source address of new connections to this address.
fn source(peer: IpAddr) -> Result<IpAddr> {
    let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect((peer, PORT))?;
    Ok(socket.local_addr()?.ip())
}

/// Adds the missing routes. Fails if one could not be added, or has no effect.
pub(crate) fn correct(node: &NodeContext) -> Result<()> {
    let own = node.own().address;
    for peer in wrong_sources(node) {
        tracing::info!("connections to {peer} would not come from {own}: adding a route");
        network::add_source_route(peer, own)?;
    }
    match wrong_sources(node).first() {
        None => Ok(()),
        Some(peer) => Err(anyhow!("connections to {peer} still do not come from {own}")),
    }
}
