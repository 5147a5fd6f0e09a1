//! The lab: the built image, booted on this machine as a whole cluster, in a network nothing leaves.
//!
//! Every node is the image itself below a disk of its own, started by systemd-nspawn, or a virtual
//! machine with the image as its disk's backing file. All state is in `.lab` of the cluster directory; what
//! the kernel holds (network namespace, control groups) is named after that directory, so that [`down`]
//! finds it even without the state. [`Lab`] is what tests and drills drive the nodes with.

#![forbid(unsafe_code)]

mod cgroup;
pub mod chaos;
mod diagnose;
mod disk;
mod down;
mod image;
mod layout;
pub mod load;
mod net;
pub mod node;
mod process;
mod process_tag;
pub mod roll;
mod up;
mod vm;

pub use down::down;
pub(crate) use layout::{Layout, Node};
pub use process_tag::bear as bear_mark;
pub use up::{Options, Probe, Report, up};

use anyhow::{Context, Result, bail, ensure};
use hanode_admin::seed::Interface;
use hanode_util::command::{command, run_to_end};
use layout::Disk;
use net::Net;
use process::{Process, init_below, wait_until};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

/// How long the host may take for what needs no booting.
const SHORTLY: Duration = Duration::from_secs(20);
/// How long a node may take to shut down cleanly.
const SHUTDOWN: Duration = Duration::from_secs(60);

pub struct Lab {
    /// The cluster directory.
    dir: PathBuf,
    pub layout: Layout,
    net: Net,
    /// What runs the hidden verb `lab-node`: this program.
    program: PathBuf,
}

impl Lab {
    /// The lab that `up` made from this cluster directory.
    pub fn open(dir: &Path) -> Result<Lab> {
        let dir = dir.canonicalize().with_context(|| format!("no directory {}", dir.display()))?;
        match layout::read(&state(&dir).join("lab.json"))? {
            Some(layout) => Lab::with(dir, layout),
            None => bail!("no lab in {0}: `hanode lab up {0} --image FILE` makes one", dir.display()),
        }
    }

    fn with(dir: PathBuf, layout: Layout) -> Result<Lab> {
        let net = Net::of_lab(&layout::id(&dir));
        let program = std::env::current_exe().context("finding this program's own file")?;
        Ok(Lab { dir, layout, net, program })
    }

    /// For a caller that is not `hanode` itself (a test): the program that is.
    pub fn run_by(mut self, program: impl Into<PathBuf>) -> Lab {
        self.program = program.into();
        self
    }

    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.layout.nodes.iter().map(|n| n.name.as_str())
    }

    pub fn node(&self, name: &str) -> Result<&Node> {
        let all = || self.nodes().collect::<Vec<_>>().join(", ");
        let found = self.layout.nodes.iter().find(|n| n.name == name);
        found.with_context(|| format!("no node {name:?} in this lab: there are {}", all()))
    }

    /// Where everything of one node lies.
    fn home(&self, node: &str) -> PathBuf {
        state(&self.dir).join("nodes").join(node)
    }

    /// A short name for what the kernel limits to 15 characters, and for the node's machine.
    fn machine(&self, node: &str) -> String {
        let place = self.layout.nodes.iter().position(|n| n.name == node).map_or(0, |at| at + 1);
        format!("n{place}")
    }

    fn group(&self, node: &str) -> String {
        format!("{}-{}", name(&self.dir), self.machine(node))
    }

    /// The node's end of the network cable on the bridge.
    fn device(&self, node: &str) -> String {
        format!("{}-{}", if self.layout.vm { "tap" } else { "vb" }, self.machine(node))
    }

    fn process(&self, node: &str) -> Option<Process> {
        let recorded: Option<Process> = layout::read(&self.home(node).join("process.json")).ok()?;
        recorded.filter(Process::alive)
    }

    pub fn running(&self, node: &str) -> bool {
        self.process(node).is_some()
    }

    /// The process on this host that is process 1 of the node.
    pub fn leader_pid(&self, node: &str) -> Result<i32> {
        ensure!(!self.layout.vm, "{node} is a virtual machine: its processes are its own");
        let process = self.process(node).with_context(|| format!("{node} is not running"))?;
        init_below(process.pid).with_context(|| format!("{node} has no init process yet"))
    }

    /// Held while something is made that two commands at once would make twice.
    fn lock(&self) -> Result<std::fs::File> {
        let file = std::fs::File::options().create(true).append(true).open(state(&self.dir).join("lock"))?;
        file.lock().context("waiting for another `hanode lab` on this directory")?;
        Ok(file)
    }

    /// Switches a node on, on its own disk or, where it has none, on a fresh one. A running node is left alone.
    pub fn start(&self, name: &str) -> Result<()> {
        let node = self.node(name)?;
        let _lock = self.lock()?;
        if self.running(name) {
            return Ok(());
        }
        // Of a node that died by itself, or was killed while nobody looked.
        self.gone(name)?;
        let home = self.home(name);
        let disk = self.disk(name)?;
        image::still_there(&disk.image, self.layout.vm)?;
        let recorded = home.join("process.json");
        let _ = std::fs::remove_file(&recorded);
        if self.layout.vm {
            vm::prepare(self, node, &disk)?;
        } else {
            let seed = self.layout.seed(node, &disk, Interface::Name("host0".into()), None);
            self.on_disk(name, |root| seed.write_directory(&root.join("var/lib/cloud/seed/nocloud")))?;
        }
        let errors = std::fs::File::options().create(true).append(true).open(self.console(name))?;
        let mut keeper = Command::new("setsid");
        keeper.arg("--fork").arg(&self.program).args(["lab-node", "keep"]).arg(&self.dir).arg(name);
        keeper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).current_dir("/");
        let status = keeper.status().context("starting setsid (Debian package util-linux)")?;
        ensure!(status.success(), "setsid could not start {}", self.program.display());

        let up = || self.layout.vm && vm::answers(self, name) || self.leader_pid(name).is_ok();
        let mut alive = true;
        wait_until(SHORTLY, || {
            alive = !recorded.exists() || self.running(name);
            up() || !alive
        });
        if up() {
            return Ok(());
        }
        let what = if alive { "does not come up" } else { "ended at once" };
        bail!("{name} {what}; the end of {}:\n{}", self.console(name).display(), self.console_end(name))
    }

    fn disk(&self, node: &str) -> Result<Disk> {
        let at = self.home(node).join("disk.json");
        if let Some(disk) = layout::read(&at)? {
            return Ok(disk);
        }
        std::fs::create_dir_all(self.home(node))?;
        let disk = Disk::fresh(self.layout.image.clone());
        layout::write(&at, &disk)?;
        Ok(disk)
    }

    /// Works on the disk of a node that is off, which is a container: what it wrote over the image.
    pub fn on_disk<T: Send>(&self, node: &str, work: impl FnOnce(&Path) -> Result<T> + Send) -> Result<T> {
        ensure!(!self.running(node) && !self.layout.vm, "{node}: its disk is not ours to read now");
        self.disk(node)?;
        disk::visit(&self.home(node), work)
    }

    /// A copy of the disk as it is at this moment, the node running or not: what a hypervisor's snapshot holds.
    pub fn snapshot(&self, node: &str) -> Result<()> {
        let [from, to] = self.snapshot_files(node)?;
        let copy = || run_to_end(command("cp").arg("--sparse=always").arg(&from).arg(&to)).map(drop);
        match self.process(node) {
            None => copy(),
            Some(_) if self.layout.vm => bail!("{node} is a virtual machine: shut it down first"),
            Some(process) => disk::frozen(&self.home(node), process.pid, copy),
        }
    }

    /// Puts the snapshot in the place of the disk of a node that is off.
    pub fn restore(&self, node: &str) -> Result<()> {
        ensure!(!self.running(node), "{node} is running: its disk cannot be taken from it");
        let [disk, snapshot] = self.snapshot_files(node)?;
        ensure!(snapshot.exists(), "{node} has no snapshot");
        run_to_end(command("cp").args(["--sparse=always"]).arg(snapshot).arg(disk)).map(drop)
    }

    fn snapshot_files(&self, node: &str) -> Result<[PathBuf; 2]> {
        self.node(node)?;
        let file = if self.layout.vm { vm::DISK } else { disk::FILE };
        let disk = self.home(node).join(file);
        Ok([disk.clone(), disk.with_extension("snapshot")])
    }

    /// A second machine, blank, that claims to be `node`: added to the lab, not started.
    pub fn add_duplicate(&mut self, node: &str) -> Result<String> {
        let duplicate = Node {
            name: format!("{node}-duplicate"),
            twin_of: Some(node.into()),
            ..self.node(node)?.clone()
        };
        let _lock = self.lock()?;
        ensure!(self.node(&duplicate.name).is_err(), "{} is there already", duplicate.name);
        self.layout.nodes.push(duplicate.clone());
        layout::write(&state(&self.dir).join("lab.json"), &self.layout)?;
        Ok(duplicate.name)
    }

    /// What disks are made from that are new from now on.
    pub fn use_image(&mut self, image: &Path) -> Result<()> {
        let image = layout::Image::at(image)?;
        let _lock = self.lock()?;
        image::prepare(&image, &state(&self.dir), self.layout.vm)?;
        self.layout.image = image;
        layout::write(&state(&self.dir).join("lab.json"), &self.layout)
    }

    /// Power loss: the cable first, as a dying kernel would still say goodbye to its peers.
    pub fn power_off(&self, node: &str) -> Result<()> {
        self.node(node)?;
        if let Some(process) = self.process(node) {
            let _ = self.link(node, false);
            match init_below(process.pid) {
                Some(init) if !self.layout.vm => {
                    let init = nix::unistd::Pid::from_raw(init);
                    let _ = nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGKILL);
                }
                _ => process.kill(),
            }
            if !process.gone_within(SHORTLY) {
                process.kill();
                ensure!(process.gone_within(SHORTLY), "{node} (process {}) does not die", process.pid);
            }
        }
        self.gone(node)
    }

    /// What is left of a node whose processes are.
    fn gone(&self, node: &str) -> Result<()> {
        cgroup::sweep(&self.group(node))?;
        ensure!(disk::released(&self.home(node), SHORTLY), "the disk of {node} stays in use");
        Ok(())
    }

    /// A clean shutdown.
    pub fn shutdown(&self, node: &str) -> Result<()> {
        self.node(node)?;
        if let Some(process) = self.process(node) {
            match self.layout.vm {
                true => vm::power_button(self, node)?,
                false => drop(self.exec_output(node, &["systemctl", "poweroff", "--no-block"])?),
            }
            let limit = SHUTDOWN;
            ensure!(process.gone_within(limit), "{node} has not shut down within {} s", limit.as_secs());
        }
        self.gone(node)
    }

    /// The node's next start is on a fresh disk, as another machine: what a re-provisioned node is.
    pub fn discard_disk(&self, node: &str) -> Result<()> {
        self.node(node)?;
        let _lock = self.lock()?;
        ensure!(!self.running(node), "{node} is running: its disk cannot be taken from it");
        let home = self.home(node);
        for part in ["disk.json", disk::FILE, vm::DISK, "seed.iso"] {
            match std::fs::remove_file(home.join(part)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("discarding the disk of {node}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Plugs the node's network cable in or out.
    pub fn link(&self, node: &str, up: bool) -> Result<()> {
        self.node(node)?;
        self.net.set_link(&self.device(node), up)
    }

    /// Whether the network's frames reach the node; its own still reach the others.
    fn deafen(&self, node: &str, deaf: bool) -> Result<()> {
        self.node(node)?;
        self.net.swallow(&self.device(node), deaf)
    }

    /// A command that will run inside the node, as root.
    pub fn inside(&self, node: &str, argv: &[impl AsRef<OsStr>]) -> Result<Command> {
        ensure!(!argv.is_empty(), "no command given: `hanode lab exec DIR NODE -- COMMAND …`");
        let node = self.node(node)?;
        if self.layout.vm {
            return vm::command(self, node, argv);
        }
        let leader = self.leader_pid(&node.name)?;
        let root = format!("/proc/{leader}/root");
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        command.arg(format!("--target={leader}")).arg(format!("--root={root}")).arg(format!("--wd={root}"));
        command.args(["--", "env", "--ignore-environment", "--chdir=/", "HOME=/root", "LANG=C.UTF-8"]);
        command.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.arg(format!("TERM={}", std::env::var("TERM").unwrap_or_else(|_| "dumb".into()))).args(argv);
        Ok(command)
    }

    pub fn exec_output(&self, node: &str, argv: &[impl AsRef<OsStr>]) -> Result<Output> {
        let mut command = self.inside(node, argv)?;
        command.stdin(Stdio::null()).output().with_context(|| format!("running a command in {node}"))
    }

    /// A command that will run in the lab's network as a client outside the nodes.
    pub fn outside(&self, argv: &[impl AsRef<OsStr>]) -> Command {
        self.net.command(argv)
    }

    pub fn run_outside(&self, argv: &[impl AsRef<OsStr>]) -> Result<Output> {
        self.outside(argv).stdin(Stdio::null()).output().context("running a command in the lab's network")
    }

    /// Runs `work` in the lab's network, on a thread of its own; so do the threads that it starts.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.net.inside(work)
    }

    /// The journal of this boot; of a node that does not answer, what its console showed.
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
        self.home(node).join("console.log")
    }

    fn console_end(&self, node: &str) -> String {
        let text = std::fs::read(self.console(node)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().rev().take(8).collect();
        lines.into_iter().rev().map(|l| format!("  {l}\n")).collect()
    }
}

/// `hanode lab kill DIR NODE`: power loss. `lab up` starts it again, on its disk.
pub fn kill(dir: &Path, node: &str) -> Result<()> {
    Lab::open(dir)?.power_off(node)
}

/// `hanode lab exec DIR NODE -- COMMAND …`, with this process's input and output.
pub fn exec(dir: &Path, node: &str, argv: &[impl AsRef<OsStr>]) -> Result<ExitStatus> {
    Lab::open(dir)?.inside(node, argv)?.status().with_context(|| format!("running a command in {node}"))
}

/// `hanode lab status DIR`: `work` is what `hanode status` does, here from inside the lab's network.
pub fn status<T: Send>(dir: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    Lab::open(dir)?.in_network(work)
}

fn state(dir: &Path) -> PathBuf {
    dir.join(".lab")
}

/// What everything on this machine that belongs to the lab of a directory is named by.
pub fn name(dir: &Path) -> String {
    format!("hanode-{}", layout::id(dir))
}
