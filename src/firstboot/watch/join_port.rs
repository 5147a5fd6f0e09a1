//! Serves one connection to the join port, which systemd passes on standard input.

use crate::node::NodeContext;
use crate::start::self_report;
use anyhow::{Context, Result};
use hanode_core::pki::read;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

/// For one connection, including the handshake.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) fn serve(node: &NodeContext) -> Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("standard input is not a socket")?;
    let crl = node.config.cluster_crl()?;
    let revoked = (!read::crl(crl)?.entries.is_empty()).then_some(crl);
    hanode_cluster::peer::serve(
        &node.access().cluster,
        revoked,
        TcpStream::from(socket),
        CONNECTION_TIMEOUT,
        || self_report::own_report(node),
    )
}
