//! One connection to the join port, handed over by systemd on standard input.

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

/// A client that has not finished by then is not a peer.
const TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) fn serve(root: &Path) -> Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("standard input is no socket")?;
    let config = NodeConfig::active(root).with_context(|| format!("reading {}", bundle::BAKED_PATH))?;
    let crl = config.cluster_crl()?;
    let revoked = (!read::crl(crl)?.entries.is_empty()).then_some(crl);
    hanode_cluster::peer::serve(&config.credentials()?, revoked, TcpStream::from(socket), TIMEOUT, || {
        let pin = disk::pin(root)?.context("this machine does not know yet which node it is")?;
        self_report::own_report(root, &config, &pin.node)
    })
}
