//! The network of this machine: probes for a duplicate of an address, and its removal.

use anyhow::{Context, Result, bail};
use hanode_util::command::run_to_end;
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

/// A route to one address like the present one, with this source.
pub(crate) fn add_source_route(to: IpAddr, source: IpAddr) -> Result<()> {
    let family = if to.is_ipv4() { "-4" } else { "-6" };
    let mut get = Command::new("ip");
    let present = run_to_end(get.args([family, "route", "get", &to.to_string()]))?.text_lossy();
    // Network managers remove routes of others, but not those of the kernel.
    let mut replace = Command::new("ip");
    replace.args([family, "route", "replace", &to.to_string()]).args(next_hop(&present)?);
    ip(replace.args(["proto", "kernel", "src", &source.to_string()]))
}

/// Gateway and interface in the output of `ip route get`.
fn next_hop(route: &str) -> Result<Vec<String>> {
    let words: Vec<&str> = route.split_whitespace().collect();
    let after = |key: &str| words.iter().position(|w| *w == key).and_then(|at| words.get(at + 1));
    let device = after("dev").with_context(|| format!("no interface in {route:?}"))?;
    let gateway = after("via").map(|gateway| ["via".to_string(), gateway.to_string()]);
    Ok(gateway.into_iter().flatten().chain(["dev".to_string(), device.to_string()]).collect())
}

fn ip(command: &mut Command) -> Result<()> {
    run_to_end(command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_keeps_its_gateway_and_interface() {
        let hop = |text: &str| next_hop(text).expect("a route").join(" ");
        assert_eq!(hop("192.168.18.22 dev eth0 src 192.168.18.99 uid 0 \n    cache \n"), "dev eth0");
        assert_eq!(hop("10.0.0.2 via 10.0.0.1 dev ens4 src 10.0.0.9 uid 0\n"), "via 10.0.0.1 dev ens4");
        assert!(next_hop("RTNETLINK answers: Network is unreachable").is_err());
    }
}
