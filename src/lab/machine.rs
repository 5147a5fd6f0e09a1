//! What differs between a node as a container and as a virtual machine.

use super::Lab;
use super::layout::{LabNode, NodeDisk};
use super::process::Process;
use anyhow::Result;
use std::ffi::OsStr;
use std::process::Command;

pub(crate) trait Machine: Sync {
    /// The programs of this host that it needs.
    fn tools(&self) -> &'static [&'static str];

    /// By how much longer a boot may take than on real hardware.
    fn slowdown(&self) -> f64;

    /// The first part of the name of the node's bridge port.
    fn device_prefix(&self) -> &'static str;

    /// The file with the node's disk, in the node's directory.
    fn disk_file(&self) -> &'static str;

    /// Prepares disk, seed and network device for a start.
    fn prepare(&self, lab: &Lab, node: &LabNode, disk: &NodeDisk) -> Result<()>;

    /// The command that runs the node, in the mounts and the network of the calling process.
    fn boot_command(&self, lab: &Lab, node: &str) -> Result<Command>;

    /// Whether the node has started, that is, not necessarily booted.
    fn has_started(&self, lab: &Lab, node: &str) -> bool;

    /// The process id, on this host, of the node's process 1.
    fn init_pid(&self, lab: &Lab, node: &str) -> Result<i32>;

    fn cut_power(&self, process: &Process);

    /// Requests a clean shutdown.
    fn request_shutdown(&self, lab: &Lab, node: &str) -> Result<()>;

    /// A command that runs in the node, as root.
    fn command(&self, lab: &Lab, node: &LabNode, argv: &[&OsStr]) -> Result<Command>;

    /// Fails if the files of a stopped node cannot be mounted on this host.
    fn require_mountable(&self, node: &str) -> Result<()>;

    /// Calls `work` while the disk of a running node does not change.
    fn while_frozen(
        &self,
        lab: &Lab,
        node: &str,
        process: &Process,
        work: &dyn Fn() -> Result<()>,
    ) -> Result<()>;
}
