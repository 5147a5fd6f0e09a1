//! The machine as the kernel reports it: host name, UUID, addresses and resources.

use anyhow::{Context, Result};
use hanode_core::machine::MachineFacts;
use hanode_util::user_error::UserError;
use std::net::IpAddr;
use std::path::Path;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Machine {
    pub(crate) hostname: String,
    /// The firmware's UUID; in a container the one from the container manager.
    pub(crate) uuid: Option<String>,
    pub(crate) interfaces: Vec<Interface>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
}

impl Machine {
    pub(crate) fn read() -> Result<Machine> {
        let hostname = nix::unistd::gethostname().context("reading the host name")?;
        Ok(Machine {
            hostname: hostname.to_string_lossy().into_owned(),
            uuid: uuid(),
            interfaces: interfaces()?,
        })
    }

    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        self.interfaces.iter().any(|i| i.address == address)
    }

    /// `interface`: the one from the spec, if it names one. `data`: a path on the file system of the servers'
    /// data.
    pub(crate) fn facts(
        &self,
        address: IpAddr,
        interface: Option<&str>,
        data: &Path,
    ) -> Result<MachineFacts> {
        let held = self.interfaces.iter().find(|i| i.address == address).ok_or_else(|| {
            UserError::with_help(
                format!("no interface of this machine has the node's address {address}"),
                "check its network configuration",
            )
        })?;
        Ok(MachineFacts {
            interface: interface.unwrap_or(&held.name).to_string(),
            prefix: held.prefix,
            memory_mib: memory_mib()?,
            data_mib: data_mib(data)?,
            process_events: !is_container(),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        })
    }
}

fn interfaces() -> Result<Vec<Interface>> {
    let addresses = nix::ifaddrs::getifaddrs().context("reading the interfaces")?;
    Ok(addresses
        .filter_map(|a| {
            let ip = |s: &nix::sys::socket::SockaddrStorage| {
                s.as_sockaddr_in()
                    .map(|v4| IpAddr::V4(v4.ip()))
                    .or_else(|| s.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            };
            let address = ip(&a.address?)?;
            let prefix = a.netmask.as_ref().and_then(ip).map_or(0, prefix_length);
            Some(Interface { name: a.interface_name, address, prefix })
        })
        .collect())
}

fn prefix_length(mask: IpAddr) -> u8 {
    match mask {
        IpAddr::V4(m) => u32::from(m).count_ones() as u8,
        IpAddr::V6(m) => u128::from(m).count_ones() as u8,
    }
}

/// Containers share the kernel and its devices.
pub(crate) fn is_container() -> bool {
    Path::new("/run/systemd/container").exists()
}

pub(crate) fn set_hostname(name: &str) -> Result<()> {
    nix::unistd::sethostname(name).context("setting the host name")
}

fn uuid() -> Option<String> {
    // All containers see the host's firmware; the container manager has a UUID for each.
    let container = std::fs::read_to_string("/run/host/container-uuid").ok();
    let firmware = || {
        if is_container() {
            return None;
        }
        std::fs::read_to_string("/sys/class/dmi/id/product_uuid").ok()
    };
    container.or_else(firmware).map(|u| u.trim().to_ascii_lowercase()).filter(|u| !u.is_empty())
}

fn data_mib(data: &Path) -> Result<u64> {
    let existing = data.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let volume =
        nix::sys::statvfs::statvfs(existing).with_context(|| format!("statvfs {}", existing.display()))?;
    Ok((volume.blocks() * volume.fragment_size()) >> 20)
}

/// Usable memory: the kernel's total, or the control group's limit if that is less.
fn memory_mib() -> Result<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let total = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let total = total.context("/proc/meminfo has no MemTotal")? / 1024;
    let limit =
        std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|t| t.trim().parse::<u64>().ok());
    Ok(limit.map_or(total, |bytes| total.min(bytes >> 20)))
}
