//! The lab's network: a namespace of its own with one bridge in it. Nothing in it reaches the host's
//! network, and a thread or command that enters it is a client outside the nodes.

use anyhow::{Context, Result};
use hanode_util::command::{command, run_to_end};
use ipnet::IpNet;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

/// A bridge without one of its own takes a port's, and another when that port goes: whoever had heard of the first would
/// answer into the void for half a minute.
const HARDWARE: &str = "02:68:61:6e:6f:64";
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

    /// Makes what is missing of it; an interrupted run is completed by the next.
    pub(crate) fn make(&self, subnet: &IpNet, own: IpAddr) -> Result<()> {
        // One that was killed while it made this left a name without a namespace.
        if self.exists() && self.ip(&["link"]).is_err() {
            self.remove()?;
        }
        if !self.exists() {
            run_to_end(command("ip").args(["netns", "add", &self.name]))?;
        }
        self.ip(&["link", "set", "lo", "up"])?;
        if self.ip(&["link", "show", BRIDGE]).is_err() {
            self.ip(&["link", "add", BRIDGE, "address", HARDWARE, "type", "bridge"])?;
        }
        let address = format!("{own}/{}", subnet.prefix_len());
        let mut words = vec!["address", "replace", &address, "dev", BRIDGE];
        if own.is_ipv6() {
            words.push("nodad");
        }
        self.ip(&words)?;
        self.ip(&["link", "set", BRIDGE, "up"])
    }

    /// What goes there comes from this address, as if from a machine outside the subnet.
    pub(crate) fn speak(&self, to: &IpNet, from: IpAddr) -> Result<()> {
        let (to, from) = (to.to_string(), from.to_string());
        self.ip(&["address", "replace", &from, "dev", BRIDGE])?;
        self.ip(&["route", "replace", &to, "dev", BRIDGE, "src", &from])
    }

    /// A tap device on the bridge, for a virtual machine.
    pub(crate) fn make_tap(&self, device: &str) -> Result<()> {
        if self.ip(&["link", "show", device]).is_err() {
            self.ip(&["tuntap", "add", "dev", device, "mode", "tap"])?;
        }
        self.ip(&["link", "set", device, "master", BRIDGE, "up"])
    }

    pub(crate) fn set_link(&self, device: &str, up: bool) -> Result<()> {
        self.ip(&["link", "set", device, if up { "up" } else { "down" }])
    }

    /// Drops what leaves the bridge through this device: its queue gets room for nothing.
    pub(crate) fn swallow(&self, device: &str, all: bool) -> Result<()> {
        let words: &[&str] = match all {
            true => &["qdisc", "replace", "dev", device, "root", "bfifo", "limit", "1"],
            false => &["qdisc", "delete", "dev", device, "root"],
        };
        run_to_end(command("tc").args(["-n", &self.name]).args(words)).map(|_| ())
    }

    fn ip(&self, words: &[&str]) -> Result<()> {
        run_to_end(command("ip").args(["-n", &self.name]).args(words)).map(|_| ())
    }

    /// Every process that is in it: the nodes' hypervisors and any client.
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

    /// A command that will run inside.
    pub(crate) fn command(&self, argv: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").args(argv);
        command
    }

    /// Moves the calling thread, and whatever it starts from now on, inside.
    pub(crate) fn enter(&self) -> Result<()> {
        let namespace = std::fs::File::open(self.path()).with_context(|| {
            format!("the lab's network {} is gone: `hanode lab down`, then `up`", self.name)
        })?;
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("entering the network namespace {}", self.name))
    }

    /// Runs `work` on a thread of its own that is inside.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.enter().map(|()| work()));
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
