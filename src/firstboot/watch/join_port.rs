//! Serves one connection to the join port, which systemd passes on standard input.

use crate::disk;
use crate::node_config::NodeConfig;
use crate::start::self_report;
use anyhow::{Context, Result};
use hanode_core::bundle;
use hanode_core::pki::read;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// For one connection, including the handshake.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) fn serve(root: &Path) -> Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("standard input is not a socket")?;
    let config = NodeConfig::active(root).with_context(|| format!("reading {}", bundle::BAKED_PATH))?;
    let crl = config.cluster_crl()?;
    let revoked = (!read::crl(crl)?.entries.is_empty()).then_some(crl);
    hanode_cluster::peer::serve(
        &config.credentials()?,
        revoked,
        TcpStream::from(socket),
        CONNECTION_TIMEOUT,
        || self_report::own_report(root, &config, &disk::pinned_node(root)?),
    )
}
