//! The lab: runs a built image as a whole cluster on this machine, in an isolated network.
//!
//! Every node is a systemd-nspawn container with a disk mounted over the image, or a virtual machine whose disk is
//! backed by the image. All state is in `.lab` of the cluster directory. The network namespace and the control groups
//! are named after that directory, so that [`down`] finds them without the state. Tests, chaos and roll control nodes
//! through [`Lab`].

#![forbid(unsafe_code)]

mod cgroup;
pub mod chaos;
mod container;
mod diagnose;
mod disk;
mod down;
pub mod drill;
mod fault;
mod image;
mod layout;
pub mod load;
mod machine;
mod net;
pub mod node;
mod node_disk;
mod process;
mod process_tag;
pub mod restore_drill;
pub mod roll;
mod up;
mod vm;

pub use down::down;
pub(crate) use layout::{LabNode, Layout};
pub use process_tag::tag_this_process;
pub(crate) use up::Unhealthy;
pub use up::{Probe, UpOptions, UpReport, up};

use anyhow::{Context, Result, bail, ensure};
use container::Container;
use hanode_util::user_error::UserError;
use machine::Machine;
use net::Net;
use process::{Process, wait_until};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;
use vm::VirtualMachine;

/// How long the host may take for operations without a boot.
const HOST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a node may take to shut down cleanly.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(60);

pub struct Lab {
    /// The cluster directory.
    dir: PathBuf,
    pub layout: Layout,
    net: Net,
    /// The program with the hidden verb `lab-node`.
    program: PathBuf,
}

impl Lab {
    /// Opens the lab that `up` created in this cluster directory.
    pub fn open(dir: &Path) -> Result<Lab> {
        let dir = dir.canonicalize().with_context(|| format!("no directory {}", dir.display()))?;
        match layout::read(&lab_dir(&dir).join("lab.json"))? {
            Some(layout) => Lab::with(dir, layout),
            None => bail!(UserError::with_help(
                format!("no lab in {}", dir.display()),
                format!("create one with `hanode lab up {} --image FILE`", dir.display())
            )),
        }
    }

    fn with(dir: PathBuf, layout: Layout) -> Result<Lab> {
        let net = Net::of_lab(&layout::id(&dir));
        let program = std::env::current_exe().context("finding the file of this program")?;
        Ok(Lab { dir, layout, net, program })
    }

    /// Sets the `hanode` program, for a test.
    pub fn run_by(mut self, program: impl Into<PathBuf>) -> Lab {
        self.program = program.into();
        self
    }

    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.layout.nodes.iter().map(|n| n.name.as_str())
    }

    pub fn node(&self, name: &str) -> Result<&LabNode> {
        let found = self.layout.nodes.iter().find(|n| n.name == name);
        Ok(found.ok_or_else(|| {
            let help = format!("use one of {}", self.nodes().collect::<Vec<_>>().join(", "));
            UserError::with_help(format!("no node {name:?} in this lab"), help)
        })?)
    }

    /// The directory with all files of a node.
    fn node_dir(&self, node: &str) -> PathBuf {
        lab_dir(&self.dir).join("nodes").join(node)
    }

    /// A short name for the machine, and for network devices, whose names the kernel limits to 15 characters.
    fn machine(&self, node: &str) -> String {
        let number = self.layout.nodes.iter().position(|n| n.name == node).map_or(0, |index| index + 1);
        format!("n{number}")
    }

    fn group(&self, node: &str) -> String {
        format!("{}-{}", name(&self.dir), self.machine(node))
    }

    /// The bridge port of the node.
    fn device(&self, node: &str) -> String {
        format!("{}-{}", self.layout.machine().device_prefix(), self.machine(node))
    }

    fn process(&self, node: &str) -> Option<Process> {
        let recorded: Option<Process> = layout::read(&self.node_dir(node).join("process.json")).ok()?;
        recorded.filter(Process::alive)
    }

    pub fn running(&self, node: &str) -> bool {
        self.process(node).is_some()
    }

    /// The process id, on this host, of the node's process 1.
    pub fn init_pid(&self, node: &str) -> Result<i32> {
        self.layout.machine().init_pid(self, node)
    }

    /// Held while creating or removing shared files and devices.
    fn lock(&self) -> Result<std::fs::File> {
        let file =
            std::fs::File::options().create(true).append(true).open(lab_dir(&self.dir).join("lock"))?;
        file.lock().context("waiting for another `hanode lab` on this directory")?;
        Ok(file)
    }

    /// Starts a node on its disk, or on a new one if it has none. Does nothing if the node runs.
    pub fn start(&self, name: &str) -> Result<()> {
        let node = self.node(name)?;
        let _lock = self.lock()?;
        if self.running(name) {
            return Ok(());
        }
        // The node may have crashed or been killed.
        self.clean_up(name)?;
        let home = self.node_dir(name);
        let disk = self.disk(name)?;
        image::require_unchanged(&disk.image, self.layout.vm)?;
        let recorded = home.join("process.json");
        let _ = std::fs::remove_file(&recorded);
        self.layout.machine().prepare(self, node, &disk)?;
        let errors = std::fs::File::options().create(true).append(true).open(self.console(name))?;
        let mut supervisor = Command::new("setsid");
        supervisor.arg("--fork").arg(&self.program).args(["lab-node", "supervise"]).arg(&self.dir).arg(name);
        supervisor.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).current_dir("/");
        let status = supervisor.status().context("starting setsid (Debian package util-linux)")?;
        ensure!(status.success(), "setsid could not start {}", self.program.display());

        let up = || self.layout.machine().has_started(self, name);
        let mut alive = true;
        wait_until(HOST_TIMEOUT, || {
            alive = !recorded.exists() || self.running(name);
            up() || !alive
        });
        if up() {
            return Ok(());
        }
        let what = if alive { "does not start" } else { "stopped immediately" };
        bail!("{name} {what}; end of {}:\n{}", self.console(name).display(), self.console_end(name))
    }

    /// Adds a second machine with the identity of `node` and a new disk. Does not start it.
    pub fn add_duplicate(&mut self, node: &str) -> Result<String> {
        let duplicate = LabNode {
            name: format!("{node}-duplicate"),
            duplicate_of: Some(node.into()),
            ..self.node(node)?.clone()
        };
        let _lock = self.lock()?;
        ensure!(self.node(&duplicate.name).is_err(), "{} already exists", duplicate.name);
        self.layout.nodes.push(duplicate.clone());
        layout::write(&lab_dir(&self.dir).join("lab.json"), &self.layout)?;
        Ok(duplicate.name)
    }

    /// Sets the image of all disks created from now on.
    pub fn use_image(&mut self, image: &Path) -> Result<()> {
        let image = layout::Image::at(image)?;
        let _lock = self.lock()?;
        image::prepare(&image, &lab_dir(&self.dir), self.layout.vm)?;
        self.layout.image = image;
        layout::write(&lab_dir(&self.dir).join("lab.json"), &self.layout)
    }

    /// Cuts the power. The cable is unplugged first: the kernel would close the connections of killed processes.
    pub fn power_off(&self, node: &str) -> Result<()> {
        self.node(node)?;
        if let Some(process) = self.process(node) {
            let _ = self.link(node, false);
            self.layout.machine().cut_power(&process);
            // Processes that wait for a frozen disk would never end. Fails if it is not frozen.
            let _ = self.freeze_disk(node, false);
            if !process.ended_within(HOST_TIMEOUT) {
                process.kill();
                ensure!(
                    process.ended_within(HOST_TIMEOUT),
                    "{node} (process {}) survives SIGKILL",
                    process.pid
                );
            }
        }
        self.clean_up(node)
    }

    /// Removes the control groups of a stopped node, and waits until its disk is free.
    fn clean_up(&self, node: &str) -> Result<()> {
        cgroup::remove_all(&self.group(node))?;
        ensure!(
            disk::wait_released(&self.node_dir(node), HOST_TIMEOUT),
            "the disk of {node} is still in use"
        );
        Ok(())
    }

    pub fn shutdown(&self, node: &str) -> Result<()> {
        self.node(node)?;
        if let Some(process) = self.process(node) {
            self.layout.machine().request_shutdown(self, node)?;
            let limit = SHUTDOWN_LIMIT;
            ensure!(process.ended_within(limit), "{node} has not shut down within {} s", limit.as_secs());
        }
        self.clean_up(node)
    }

    /// Plugs the node's network cable in, or unplugs it.
    pub fn link(&self, node: &str, up: bool) -> Result<()> {
        self.node(node)?;
        self.net.set_link(&self.device(node), up)
    }

    /// Drops all packets to the node, or stops dropping them. Packets from the node still pass.
    fn drop_incoming(&self, node: &str, drop: bool) -> Result<()> {
        self.node(node)?;
        self.net.drop_packets(&self.device(node), drop)
    }

    /// A command that runs in the node, as root.
    pub fn node_command(&self, node: &str, argv: &[impl AsRef<OsStr>]) -> Result<Command> {
        ensure!(!argv.is_empty(), "no command to run in the node");
        let argv: Vec<&OsStr> = argv.iter().map(AsRef::as_ref).collect();
        self.layout.machine().command(self, self.node(node)?, &argv)
    }

    pub fn exec_output(&self, node: &str, argv: &[impl AsRef<OsStr>]) -> Result<Output> {
        let mut command = self.node_command(node, argv)?;
        command.stdin(Stdio::null()).output().with_context(|| format!("running a command in {node}"))
    }

    /// A command that runs in the lab's network, as a client outside the nodes.
    pub fn client_command(&self, argv: &[impl AsRef<OsStr>]) -> Command {
        self.net.command(argv)
    }

    pub fn client_output(&self, argv: &[impl AsRef<OsStr>]) -> Result<Output> {
        self.client_command(argv)
            .stdin(Stdio::null())
            .output()
            .context("running a command in the lab's network")
    }

    /// Calls `work` on a new thread in the lab's network. Threads that it starts are in that network, too.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.net.run(work)
    }

    /// The journal of the current boot, or the console output if the node does not answer.
    pub fn logs(&self, node: &str) -> Result<String> {
        self.node(node)?;
        let journal = ["journalctl", "--boot", "--no-pager", "--output=short-monotonic"];
        match self.exec_output(node, &journal) {
            Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            _ => {
                let console = std::fs::read(self.console(node)).unwrap_or_default();
                Ok(String::from_utf8_lossy(&console).into_owned())
            }
        }
    }

    fn console(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("console.log")
    }

    fn console_end(&self, node: &str) -> String {
        let text = std::fs::read(self.console(node)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().rev().take(8).collect();
        lines.into_iter().rev().map(|l| format!("  {l}\n")).collect()
    }
}

impl Layout {
    pub(crate) fn machine(&self) -> &'static dyn Machine {
        if self.vm { &VirtualMachine } else { &Container }
    }
}

/// `hanode lab kill`: cuts the power. `lab up` starts the node again on its disk.
pub fn kill(dir: &Path, node: &str) -> Result<()> {
    Lab::open(dir)?.power_off(node)
}

/// `hanode lab exec`: runs a command in the node, with the input and output of this process.
pub fn exec(dir: &Path, node: &str, argv: &[impl AsRef<OsStr>]) -> Result<ExitStatus> {
    Lab::open(dir)?.node_command(node, argv)?.status().with_context(|| format!("running a command in {node}"))
}

/// Calls `work` in the network of the lab of `dir`.
pub fn in_network_of<T: Send>(dir: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    Lab::open(dir)?.in_network(work)
}

fn lab_dir(dir: &Path) -> PathBuf {
    dir.join(".lab")
}

/// The name, on this host, of everything that belongs to the lab of a directory.
pub fn name(dir: &Path) -> String {
    format!("hanode-{}", layout::id(dir))
}
