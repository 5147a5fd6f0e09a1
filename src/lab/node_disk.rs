//! The disk of a node, as a container or a virtual machine.

use super::layout::{self, NodeDisk};
use super::{Lab, disk};
use anyhow::{Context, Result, ensure};
use hanode_core::restore::RestoreRequest;
use hanode_util::command::{command, run_to_end};
use hanode_util::user_error::UserError;
use std::path::{Path, PathBuf};

/// The identity of a node's disk, in the node's directory.
const DISK_IDENTITY: &str = "node-disk.json";

impl Lab {
    /// The identity of the node's disk; creates one if the node has none.
    pub(super) fn disk(&self, node: &str) -> Result<NodeDisk> {
        let at = self.node_dir(node).join(DISK_IDENTITY);
        if let Some(disk) = layout::read(&at)? {
            return Ok(disk);
        }
        std::fs::create_dir_all(self.node_dir(node))?;
        let disk = NodeDisk::new(self.layout.image.clone());
        layout::write(&at, &disk)?;
        Ok(disk)
    }

    /// Gives a node without a disk a new one, on a machine whose metadata request this restore.
    pub fn request_restore(&self, node: &str, request: &RestoreRequest) -> Result<()> {
        self.node(node)?;
        ensure!(
            layout::read::<NodeDisk>(&self.node_dir(node).join(DISK_IDENTITY))?.is_none(),
            UserError::with_help(
                format!("{node} has a disk, and only blank machines are restored"),
                "replace it with `hanode lab reprovision --restore`",
            )
        );
        let disk = NodeDisk { restore: Some(request.clone()), ..self.disk(node)? };
        layout::write(&self.node_dir(node).join(DISK_IDENTITY), &disk)
    }

    /// Calls `work` with the files that a stopped container node has written over the image.
    pub fn on_disk<T: Send>(&self, node: &str, work: impl FnOnce(&Path) -> Result<T> + Send) -> Result<T> {
        ensure!(!self.running(node), "the disk of {node} cannot be mounted: the node runs");
        self.layout.machine().require_mountable(node)?;
        self.disk(node)?;
        disk::with_mounted(&self.node_dir(node), work)
    }

    /// Copies the disk of a running or stopped node, like a hypervisor's snapshot.
    pub fn snapshot(&self, node: &str) -> Result<()> {
        let [from, to] = self.snapshot_files(node)?;
        let copy = || run_to_end(command("cp").arg("--sparse=always").arg(&from).arg(&to)).map(drop);
        match self.process(node) {
            None => copy(),
            Some(process) => self.layout.machine().while_frozen(self, node, &process, &copy),
        }
    }

    /// Replaces the disk of a stopped node with the snapshot.
    pub fn restore(&self, node: &str) -> Result<()> {
        ensure!(!self.running(node), "{node} is running: stop it before replacing its disk");
        let [disk, snapshot] = self.snapshot_files(node)?;
        ensure!(snapshot.exists(), "{node} has no snapshot");
        run_to_end(command("cp").args(["--sparse=always"]).arg(snapshot).arg(disk)).map(drop)
    }

    /// Freezes the disk of a running container node, or thaws it. Frozen, it answers reads, and writers wait.
    pub fn freeze_disk(&self, node: &str, frozen: bool) -> Result<()> {
        ensure!(!self.layout.vm, "{node} is a virtual machine: its disk is not mounted on this host");
        let process = self.process(node).with_context(|| format!("{node} is not running"))?;
        disk::freeze(&self.node_dir(node), process.pid, frozen)
    }

    /// Makes the disk of a running container node read-only until the node starts again.
    pub fn make_disk_read_only(&self, node: &str) -> Result<()> {
        ensure!(!self.layout.vm, "{node} is a virtual machine: its disk is not mounted on this host");
        disk::make_read_only(&self.node_dir(node))
    }

    /// Makes all reads and writes of a running container node's disk fail until it is discarded.
    pub fn fail_disk(&self, node: &str) -> Result<()> {
        ensure!(!self.layout.vm, "{node} is a virtual machine: its disk is not mounted on this host");
        disk::fail(&self.node_dir(node))
    }

    fn snapshot_files(&self, node: &str) -> Result<[PathBuf; 2]> {
        self.node(node)?;
        let disk = self.node_dir(node).join(self.layout.machine().disk_file());
        Ok([disk.clone(), disk.with_extension("snapshot")])
    }

    /// Removes the disk of a stopped node: it starts next as a new machine on a new disk.
    pub fn discard_disk(&self, node: &str) -> Result<()> {
        self.node(node)?;
        let _lock = self.lock()?;
        ensure!(!self.running(node), "{node} is running: stop it before replacing its disk");
        let home = self.node_dir(node);
        for file in [DISK_IDENTITY, self.layout.machine().disk_file(), "seed.iso"] {
            match std::fs::remove_file(home.join(file)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("discarding the disk of {node}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
