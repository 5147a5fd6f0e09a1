//! A node as a virtual machine: QEMU in the lab's network namespace, with a disk backed by the image.

use super::image::Format;
use super::layout::{LabNode, NodeDisk};
use super::machine::Machine;
use super::process::Process;
use super::{Lab, lab_dir};
use anyhow::{Context, Result, bail, ensure};
use hanode_admin::seed::InterfaceMatch;
use hanode_util::command;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const MEMORY_MIB: u32 = 1280;
const DISK: &str = "disk.qcow2";
/// Slowdown of an emulated processor.
const EMULATION_FACTOR: f64 = 5.0;

/// Whether KVM is usable. A /dev/kvm without the processor flags is emulated, and guests crash on it.
fn accelerated() -> bool {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = processor.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    let supported = flags.split_whitespace().any(|f| f == "vmx" || f == "svm");
    supported && std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

pub(crate) struct VirtualMachine;

impl Machine for VirtualMachine {
    fn tools(&self) -> &'static [&'static str] {
        &["qemu-system-x86_64", "qemu-img", "xorriso", "ssh", "ssh-keygen"]
    }

    fn slowdown(&self) -> f64 {
        if accelerated() { 1.0 } else { EMULATION_FACTOR }
    }

    fn device_prefix(&self) -> &'static str {
        "tap"
    }

    fn disk_file(&self) -> &'static str {
        DISK
    }

    /// Creates the disk if missing.
    fn prepare(&self, lab: &Lab, node: &LabNode, disk: &NodeDisk) -> Result<()> {
        let home = lab.node_dir(&node.name);
        let overlay = home.join(DISK);
        if !overlay.exists() {
            let image = &disk.image.path;
            let format = Format::of(image)?.qemu().context("--vm needs a disk image")?;
            let new = home.join("disk.new");
            let mut create = command::command("qemu-img");
            create.args(["create", "-q", "-f", "qcow2", "-F", format, "-b"]).arg(image).arg(&new);
            command::run_to_end(&mut create)?;
            std::fs::rename(&new, &overlay)?;
        }
        let interface = InterfaceMatch::Mac(mac(&node.name));
        lab.layout.seed(node, disk, interface, Some(ssh_key(lab)?)).write(&home.join("seed.iso"))?;
        lab.net.create_tap(&lab.device(&node.name))
    }

    fn boot_command(&self, lab: &Lab, node: &str) -> Result<Command> {
        let disk = lab.disk(node)?;
        lab.net.enter()?;
        std::env::set_current_dir(lab.node_dir(node))?;
        let accelerator = if accelerated() { ["kvm", "host"] } else { ["tcg", "max"] };
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-display", "none", "-machine", "q35", "-accel", accelerator[0]]);
        qemu.args(["-cpu", accelerator[1], "-smp", "2", "-m", &MEMORY_MIB.to_string()]);
        qemu.args(["-uuid", &disk.machine_uuid, "-name", node, "-device", "virtio-rng-pci"]);
        // Relative paths: a comma in the home directory would end the option, and the path of a socket is limited.
        qemu.args(["-drive", &format!("file={DISK},format=qcow2,if=virtio,discard=unmap")]);
        qemu.args(["-drive", "file=seed.iso,format=raw,if=virtio,readonly=on"]);
        let net = format!("tap,id=lan,ifname={},script=no,downscript=no", lab.device(node));
        qemu.args(["-netdev", &net, "-device", &format!("virtio-net-pci,netdev=lan,mac={}", mac(node))]);
        qemu.args(["-serial", "stdio", "-qmp", "unix:qmp.sock,server=on,wait=off"]);
        Ok(qemu)
    }

    fn has_started(&self, lab: &Lab, node: &str) -> bool {
        qmp(lab, node, "query-status").is_ok()
    }

    fn init_pid(&self, _lab: &Lab, node: &str) -> Result<i32> {
        bail!("{node} is a virtual machine: its processes are not visible on this host")
    }

    fn cut_power(&self, process: &Process) {
        process.kill();
    }

    fn request_shutdown(&self, lab: &Lab, node: &str) -> Result<()> {
        qmp(lab, node, "system_powerdown")
    }

    fn command(&self, lab: &Lab, node: &LabNode, argv: &[&OsStr]) -> Result<Command> {
        ensure!(lab.running(&node.name), "{} is not running", node.name);
        let mut ssh: Vec<std::ffi::OsString> =
            ["ssh", "-q", "-F", "none", "-o", "BatchMode=yes"].map(Into::into).into();
        // Host keys change with every disk, and the network is private.
        for option in ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=5"] {
            ssh.extend(["-o".into(), option.into()]);
        }
        ssh.extend(["-i".into(), lab_dir(&lab.dir).join("ssh_key").into()]);
        ssh.extend([format!("root@{}", node.address).into(), "--".into()]);
        ssh.extend(argv.iter().map(|word| shell_quoted(word).into()));
        Ok(lab.net.command(&ssh))
    }

    fn require_mountable(&self, node: &str) -> Result<()> {
        bail!("the disk of {node} cannot be mounted: the node is a virtual machine")
    }

    fn while_frozen(
        &self,
        _lab: &Lab,
        node: &str,
        _process: &Process,
        _work: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        bail!("{node} is a virtual machine: shut it down first")
    }
}

fn mac(node: &str) -> String {
    let hash = Sha256::digest(node.as_bytes());
    format!("52:54:00:{:02x}:{:02x}:{:02x}", hash[0], hash[1], hash[2])
}

fn qmp(lab: &Lab, node: &str, verb: &str) -> Result<()> {
    // The path of a socket is limited, so open its directory first.
    let home = std::fs::File::open(lab.node_dir(node))?;
    let path = format!("/proc/self/fd/{}/qmp.sock", home.as_raw_fd());
    let socket =
        UnixStream::connect(path).with_context(|| format!("connecting to the QEMU monitor of {node}"))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut replies = BufReader::new(socket.try_clone()?).lines();
    replies.next().context("no greeting from the QEMU monitor")??;
    for verb in ["qmp_capabilities", verb] {
        writeln!(&socket, "{{\"execute\":\"{verb}\"}}")?;
        loop {
            let line = replies.next().context("the QEMU monitor closed the connection")??;
            let reply: serde_json::Value = serde_json::from_str(&line)?;
            if let Some(error) = reply.get("error") {
                bail!("{node}: {verb}: {error}");
            }
            // Skip events.
            if reply.get("return").is_some() {
                break;
            }
        }
    }
    Ok(())
}

/// The public key of the lab for `exec`; created if missing.
fn ssh_key(lab: &Lab) -> Result<String> {
    let key = lab_dir(&lab.dir).join("ssh_key");
    if !key.exists() {
        let mut keygen = command::command("ssh-keygen");
        command::run_to_end(
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "hanode-lab", "-f"]).arg(&key),
        )?;
    }
    Ok(std::fs::read_to_string(key.with_extension("pub"))?)
}

/// Quoted for the shell at the other end, which splits the joined arguments of ssh.
fn shell_quoted(word: &OsStr) -> String {
    format!("'{}'", Path::new(word).to_string_lossy().replace('\'', r"'\''"))
}
