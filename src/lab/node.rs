//! The hidden verb `hanode lab-node supervise|boot DIR NODE`, which `Lab::start` runs detached.
//!
//! *supervise* runs as long as the node and writes its console to a file of bounded size. *boot*, its child, enters the
//! node's mounts, control group and network, and executes systemd-nspawn or QEMU there.

use super::process::Process;
use super::{Lab, cgroup, image, lab_dir, layout, vm};
use anyhow::{Context, Result, bail};
use hanode_util::command::{command, run_to_end};
use nix::mount::{MsFlags, mount};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A larger console file is rotated; one old file is kept.
const CONSOLE_LIMIT: u64 = 1 << 20;

pub fn main(role: &str, dir: &Path, node: &str) -> Result<()> {
    let lab = Lab::open(dir)?;
    lab.node(node)?;
    match role {
        "supervise" => supervise(&lab, node),
        "boot" => Err(boot(&lab, node)?).with_context(|| format!("starting {node}")),
        _ => bail!("unknown role {role:?}: expected supervise or boot"),
    }
}

fn supervise(lab: &Lab, node: &str) -> Result<()> {
    let mut console = Console::open(lab.console(node))?;
    let (mut output, input) = std::io::pipe()?;
    let mut boot = cgroup::in_scope(&lab.group(node), &lab.program);
    boot.args(["lab-node", "boot"]).arg(&lab.dir).arg(node).stdin(Stdio::null());
    boot.stdout(input.try_clone()?).stderr(input);
    let mut child = boot.spawn().context("starting the node's process")?;
    // Close our write end of the pipe, so that reading ends with the child.
    drop(boot);
    let mut buffer = [0; 4096];
    loop {
        match output.read(&mut buffer)? {
            0 => break,
            n => console.write(&buffer[..n])?,
        }
    }
    child.wait()?;
    Ok(())
}

struct Console {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Console {
    fn open(path: PathBuf) -> Result<Console> {
        let file = File::options().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Console { path, file, bytes })
    }

    fn write(&mut self, text: &[u8]) -> Result<()> {
        if self.bytes > CONSOLE_LIMIT {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = Console::open(self.path.clone())?;
        }
        self.file.write_all(text)?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}

/// Returns only if the program could not be executed.
fn boot(lab: &Lab, node: &str) -> Result<std::io::Error> {
    layout::write(&lab.node_dir(node).join("process.json"), &Process::current()?)?;
    let mut command = match lab.layout.vm {
        true => vm::qemu_command(lab, node)?,
        false => container(lab, node)?,
    };
    Ok(command.exec())
}

fn container(lab: &Lab, node: &str) -> Result<Command> {
    let home = lab.node_dir(node);
    cgroup::private_mounts()?;
    cgroup::enter(&lab.group(node))?;
    // systemd-nspawn keeps host-wide files by machine name here; two labs use the same names.
    let shared = Path::new("/run/systemd/nspawn");
    std::fs::create_dir_all(shared)?;
    mount(Some("tmpfs"), shared, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?;
    let disk = lab.disk(node)?;
    overlay(lab, &home, &disk)?;
    lab.net.enter()?;
    let mut nspawn = Command::new("systemd-nspawn");
    nspawn.args([
        "--quiet",
        "--boot",
        "--console=read-only",
        "--settings=no",
        "--register=no",
        "--keep-unit",
    ]);
    nspawn.args(["--resolv-conf=off", "--timezone=off", "--link-journal=no"]);
    nspawn.arg(format!("--network-bridge={}", super::net::BRIDGE));
    // Like a machine in a cloud, the node gets its host name from cloud-init.
    nspawn.arg(format!("--machine={}", lab.machine(node))).arg("--hostname=localhost");
    nspawn.arg(format!("--uuid={}", disk.machine_uuid)).arg("--directory").arg(home.join("root"));
    // The image's fstab names a disk that a container does not have. In a container systemd reads these options from
    // its arguments, not from the kernel command line.
    nspawn.args(["fstab=no", "systemd.mask=systemd-remount-fs.service"]);
    nspawn.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1").env("SYSTEMD_NSPAWN_LOCK", "0").env("TERM", "dumb");
    Ok(nspawn)
}

/// Mounts the node's disk over the image on `root`.
fn overlay(lab: &Lab, home: &Path, disk: &layout::NodeDisk) -> Result<()> {
    std::fs::create_dir_all(home.join("root"))?;
    super::disk::mount(home)?;
    image::mount(&disk.image, &lab_dir(&lab.dir), &home.join("lower"))?;
    // Relative paths: a comma or colon in the home directory would end the option.
    let layers = "lowerdir=lower,upperdir=disk/upper,workdir=disk/work";
    let mut mount = command("mount");
    mount.args(["--types", "overlay", "--options", layers, "overlay", "root"]).current_dir(home);
    run_to_end(&mut mount).map(drop).context("mounting the node's disk over the image")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_file_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut console = Console::open(dir.path().join("console.log")).unwrap();
        let line = [b'x'; 4096];
        for _ in 0..5 * CONSOLE_LIMIT / 4096 {
            console.write(&line).unwrap();
        }
        let sizes: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|s| *s <= CONSOLE_LIMIT + 4096), "{sizes:?}");
    }
}
