//! The network of this machine: probes for a duplicate of an address, and its removal.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::net::IpAddr;
use std::process::{Child, Command};

/// A running arping.
pub(crate) struct AddressProbe(Option<Child>);

impl AddressProbe {
    /// Duplicate address detection (RFC 5227) with arping; for IPv6 the kernel does it. It takes two seconds,
    /// since a busy machine may receive the reply late.
    pub(crate) fn start(interface: &str, address: IpAddr) -> Result<AddressProbe> {
        if address.is_ipv6() {
            return Ok(AddressProbe(None));
        }
        let mut arping = Command::new("arping");
        arping.args(["-D", "-q", "-c", "2", "-w", "2", "-I", interface, &address.to_string()]);
        Ok(AddressProbe(Some(arping.spawn().context("running arping")?)))
    }

    /// Whether another machine has the address.
    pub(crate) fn finish(self) -> Result<bool> {
        let Some(mut arping) = self.0 else { return Ok(false) };
        let status = arping.wait()?;
        match status.code() {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            _ => bail!("arping -D failed ({status})"),
        }
    }
}

/// Writes the address and the routes of its interface to two files, for [`restore`].
pub(crate) fn save_address(interface: &str, address: IpAddr, addresses: File, routes: File) -> Result<()> {
    let address = address.to_string();
    ip(Command::new("ip")
        .args(["-4", "address", "save", "dev", interface, "to", &address])
        .stdout(addresses))?;
    ip(Command::new("ip").args(["-4", "route", "save", "dev", interface]).stdout(routes))
}

pub(crate) fn remove_address(interface: &str, address: IpAddr) -> Result<()> {
    ip(Command::new("ip").args(["-4", "address", "flush", "dev", interface, "to", &address.to_string()]))
}

/// Restores an `address` or a `route` that was saved.
pub(crate) fn restore(what: &str, saved: File) -> Result<()> {
    ip(Command::new("ip").args([what, "restore"]).stdin(saved))
}

fn ip(command: &mut Command) -> Result<()> {
    hanode_util::command::run_to_end(command).map(drop)
}
