//! The lab's network: a network namespace with one bridge, not connected to the host's network. A thread or command in
//! it is a client outside the nodes.

use anyhow::{Context, Result};
use hanode_util::command::{command, run_to_end};
use hanode_util::user_error::UserError;
use ipnet::IpNet;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

/// Without a fixed MAC address a bridge uses that of a port, and changes it when the port is removed: hosts with the
/// old one in their ARP cache cannot reach it for half a minute.
const BRIDGE_MAC: &str = "02:68:61:6e:6f:64";
pub(crate) const BRIDGE: &str = "br0";

#[derive(Debug, Clone)]
pub(crate) struct Net {
    name: String,
}

impl Net {
    pub(crate) fn of_lab(id: &str) -> Net {
        Net { name: format!("hanode-{id}") }
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Creates what is missing, also after an interrupted call.
    pub(crate) fn create(&self, subnet: &IpNet, own: IpAddr) -> Result<()> {
        // A killed `ip netns add` can leave a name without a namespace.
        if self.exists() && self.ip(&["link"]).is_err() {
            self.remove()?;
        }
        if !self.exists() {
            run_to_end(command("ip").args(["netns", "add", &self.name]))?;
        }
        self.ip(&["link", "set", "lo", "up"])?;
        if self.ip(&["link", "show", BRIDGE]).is_err() {
            self.ip(&["link", "add", BRIDGE, "address", BRIDGE_MAC, "type", "bridge"])?;
        }
        let address = format!("{own}/{}", subnet.prefix_len());
        let mut arguments = vec!["address", "replace", &address, "dev", BRIDGE];
        if own.is_ipv6() {
            arguments.push("nodad");
        }
        self.ip(&arguments)?;
        self.ip(&["link", "set", BRIDGE, "up"])
    }

    /// Sends packets for `to` from the address `from`, like a machine outside the subnet.
    pub(crate) fn set_source(&self, to: &IpNet, from: IpAddr) -> Result<()> {
        let (to, from) = (to.to_string(), from.to_string());
        self.ip(&["address", "replace", &from, "dev", BRIDGE])?;
        self.ip(&["route", "replace", &to, "dev", BRIDGE, "src", &from])
    }

    /// Creates a tap device on the bridge, for a virtual machine.
    pub(crate) fn create_tap(&self, device: &str) -> Result<()> {
        if self.ip(&["link", "show", device]).is_err() {
            self.ip(&["tuntap", "add", "dev", device, "mode", "tap"])?;
        }
        self.ip(&["link", "set", device, "master", BRIDGE, "up"])
    }

    pub(crate) fn set_link(&self, device: &str, up: bool) -> Result<()> {
        self.ip(&["link", "set", device, if up { "up" } else { "down" }])
    }

    /// Drops all packets that leave the bridge through the device, by a queue of one byte.
    pub(crate) fn drop_packets(&self, device: &str, drop: bool) -> Result<()> {
        let arguments: &[&str] = match drop {
            true => &["qdisc", "replace", "dev", device, "root", "bfifo", "limit", "1"],
            false => &["qdisc", "delete", "dev", device, "root"],
        };
        run_to_end(command("tc").args(["-n", &self.name]).args(arguments)).map(|_| ())
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        run_to_end(command("ip").args(["-n", &self.name]).args(arguments)).map(|_| ())
    }

    /// All processes in the namespace: hypervisors and clients.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let Ok(output) = run_to_end(command("ip").args(["netns", "pids", &self.name])) else {
            return Vec::new();
        };
        output.text_lossy().lines().filter_map(|l| l.trim().parse().ok()).collect()
    }

    pub(crate) fn remove(&self) -> Result<()> {
        if self.exists() {
            run_to_end(command("ip").args(["netns", "delete", &self.name]))?;
        }
        Ok(())
    }

    /// A command that runs in the namespace.
    pub(crate) fn command(&self, argv: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").args(argv);
        command
    }

    /// Moves the calling thread, and everything it starts from now on, into the namespace.
    pub(crate) fn enter(&self) -> Result<()> {
        let namespace = std::fs::File::open(self.path()).map_err(|error| {
            let what = format!("the lab's network {} is gone: {error}", self.name);
            UserError::with_help(what, "run `hanode lab down`, then `hanode lab up`")
        })?;
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("entering the network namespace {}", self.name))
    }

    /// Calls `work` on a new thread in the namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.enter().map(|()| work()));
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
