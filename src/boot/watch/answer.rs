//! One connection to the join port, handed over by systemd on standard input.

use crate::boot::disk;
use crate::boot::given::Given;
use crate::boot::start::observe;
use crate::bundle;
use crate::join;
use crate::pki::read;
use anyhow::{Context, Result};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// A client that has not finished by then is not a peer.
const TIMEOUT: Duration = Duration::from_secs(3);

pub fn serve(root: &Path) -> Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("standard input is no socket")?;
    let given = Given::load(root).with_context(|| format!("reading {}", bundle::BAKED))?;
    let crl = given.cluster_crl()?;
    let revoked = (!read::crl(crl)?.entries.is_empty()).then_some(crl);
    join::serve(&given.credentials()?, revoked, TcpStream::from(socket), TIMEOUT, || {
        let pin = disk::pin(root)?.context("this machine does not know yet which node it is")?;
        observe::own_answer(root, &given, &pin.node)
    })
}
