//! A node as a container: systemd-nspawn, with a disk mounted over the image.

use super::layout::{self, LabNode, NodeDisk};
use super::machine::Machine;
use super::process::{Process, container_init};
use super::{Lab, cgroup, disk, image, lab_dir};
use anyhow::{Context, Result};
use hanode_admin::seed::InterfaceMatch;
use hanode_util::command::{command, run_to_end};
use nix::mount::{MsFlags, mount};
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct Container;

impl Machine for Container {
    fn tools(&self) -> &'static [&'static str] {
        &["systemd-nspawn", "mke2fs"]
    }

    fn slowdown(&self) -> f64 {
        1.0
    }

    fn device_prefix(&self) -> &'static str {
        "vb"
    }

    fn disk_file(&self) -> &'static str {
        disk::FILE
    }

    fn prepare(&self, lab: &Lab, node: &LabNode, disk: &NodeDisk) -> Result<()> {
        let seed = lab.layout.seed(node, disk, InterfaceMatch::Name("host0".into()), None);
        lab.on_disk(&node.name, |root| seed.write_directory(&root.join("var/lib/cloud/seed/nocloud")))
    }

    fn boot_command(&self, lab: &Lab, node: &str) -> Result<Command> {
        container(lab, node)
    }

    fn has_started(&self, lab: &Lab, node: &str) -> bool {
        self.init_pid(lab, node).is_ok()
    }

    fn init_pid(&self, lab: &Lab, node: &str) -> Result<i32> {
        let process = lab.process(node).with_context(|| format!("{node} is not running"))?;
        container_init(process.pid).with_context(|| format!("{node} has no init process yet"))
    }

    fn cut_power(&self, process: &Process) {
        match container_init(process.pid) {
            Some(init) => {
                let init = nix::unistd::Pid::from_raw(init);
                let _ = nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGKILL);
            }
            None => process.kill(),
        }
    }

    fn request_shutdown(&self, lab: &Lab, node: &str) -> Result<()> {
        lab.exec_output(node, &["systemctl", "poweroff", "--no-block"]).map(drop)
    }

    fn command(&self, lab: &Lab, node: &LabNode, argv: &[&OsStr]) -> Result<Command> {
        let init = self.init_pid(lab, &node.name)?;
        let root = format!("/proc/{init}/root");
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        command.arg(format!("--target={init}")).arg(format!("--root={root}")).arg(format!("--wd={root}"));
        command.args(["--", "env", "--ignore-environment", "--chdir=/", "HOME=/root", "LANG=C.UTF-8"]);
        command.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.arg(format!("TERM={}", std::env::var("TERM").unwrap_or_else(|_| "dumb".into()))).args(argv);
        Ok(command)
    }

    fn require_mountable(&self, _node: &str) -> Result<()> {
        Ok(())
    }

    fn while_frozen(
        &self,
        lab: &Lab,
        node: &str,
        process: &Process,
        work: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        disk::while_frozen(&lab.node_dir(node), process.pid, work)
    }
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
    if let Some(path) = &lab.layout.repository {
        nspawn.arg(format!("--bind={}:{path}", repository(lab)?.display()));
    }
    // The image's fstab names a disk that a container does not have. In a container systemd reads these options from
    // its arguments, not from the kernel command line.
    nspawn.args(["fstab=no", "systemd.mask=systemd-remount-fs.service"]);
    nspawn.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1").env("SYSTEMD_NSPAWN_LOCK", "0").env("TERM", "dumb");
    Ok(nspawn)
}

/// The directory that all nodes mount as the repository of the backups, like one on a file server.
fn repository(lab: &Lab) -> Result<PathBuf> {
    let dir = repository_of(&lab.dir);
    std::fs::create_dir_all(&dir)?;
    std::fs::set_permissions(&dir, Permissions::from_mode(0o1777))?;
    Ok(dir)
}

pub(crate) fn repository_of(dir: &Path) -> PathBuf {
    lab_dir(dir).join("repository")
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
