//! The data volume: found by its name in the spec, formatted only if it is completely blank, and mounted
//! where the servers and hanode keep what must outlive the root disk.
//!
//! The node's identity, its install-id and the state of the disk are on it too: a new image resumes with an
//! existing volume, and recognises the volume of another node.

mod device;

use crate::host::mounts::mounted;
use crate::selinux;
use anyhow::{Context, Result, bail, ensure};
use device::{DeviceContent, DeviceLookup};
use hanode_core::spec::Spec;
use hanode_core::target::Target;
use hanode_util::command::{capture, run_to_end};
use hanode_util::file_tree::{Ids, below};
use hanode_util::safe_path::SafeTree;
use hanode_util::user_error::UserError;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Mount point of the whole volume.
pub(crate) const MOUNT: &str = "/var/lib/hanode-data";
/// On the volume: the cluster to which it belongs.
const MARKER_FILE: &str = "hanode-volume.json";
/// On the root disk, hidden by the mount: this machine had its volume before.
const HAD_VOLUME: &str = "had-volume";
/// Label of a volume that the spec names by a path.
const DEFAULT_LABEL: &str = "hanode-data";
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// A blank disk counts only after this fraction (1/4) of the timeout: the labelled volume may still appear.
const BLANK_AFTER: u32 = 4;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct VolumeMarker {
    schema: u32,
    cluster: String,
}

/// A directory of the volume, the path where it is mounted, and its owner.
struct VolumeDir {
    name: &'static str,
    at: String,
    owner: String,
}

/// Mounts the volume that the spec names, and waits up to `timeout` for it; does nothing if the spec names
/// none.
pub fn mount(root: &Path, spec: &Spec, target: &Target, timeout: Duration) -> Result<()> {
    let Some(name) = &spec.storage.data else { return Ok(()) };
    let mount_point = below(root, MOUNT);
    if !mounted(&mount_point)? {
        let device = wait_for_device(name, timeout)?;
        let is_blank = device::content(&device)? == DeviceContent::Blank;
        if is_blank {
            ensure!(
                !mount_point.join(HAD_VOLUME).exists(),
                UserError::with_help(
                    format!("this machine had a data volume before, and {} is blank", device.display()),
                    format!("attach the volume; to give up its data, remove {MOUNT}/{HAD_VOLUME}"),
                )
            );
            tracing::info!("{} is blank: formatting it as {name}", device.display());
            device::format(&device, name.strip_prefix("LABEL=").unwrap_or(DEFAULT_LABEL))?;
        }
        if device::content(&device)? == DeviceContent::FileSystem("ext4".into()) {
            check(&device, &["-p"])?;
            grow(&device)?;
        }
        SafeTree::open(root)?.replace(format!("{MOUNT}/{HAD_VOLUME}"), b"", 0o600, None)?;
        run_to_end(
            Command::new("mount").args(["-o", "noatime,nodev,nosuid"]).arg(&device).arg(&mount_point),
        )?;
        if is_blank {
            // A new file system has no labels, and what is created in it inherits that of its top.
            selinux::restore(root, &[MOUNT.to_string(), format!("{MOUNT}/lost+found")])?;
        }
        if let Err(error) = claim(root, &spec.name).with_context(|| format!("{name} ({})", device.display()))
        {
            let _ = run_to_end(Command::new("umount").arg(&mount_point));
            return Err(error);
        }
    }
    let (ids, parts) = (Ids::read(root)?, parts(target)?);
    parts.iter().try_for_each(|part| bind(root, part, &ids))?;
    // Files created below these directories later inherit their labels.
    let paths: Vec<String> = parts.into_iter().map(|part| part.at).chain([MOUNT.to_string()]).collect();
    selinux::restore(root, &paths)
}

fn parts(target: &Target) -> Result<Vec<VolumeDir>> {
    let user = |component: &str| {
        let user = target.users.get(component).cloned();
        user.with_context(|| format!("target {} has no user for {component}", target.name))
    };
    Ok(vec![
        VolumeDir { name: "etcd", at: target.path("etcd_home")?.into(), owner: user("etcd")? },
        VolumeDir { name: "postgres", at: target.path("postgres_home")?.into(), owner: user("postgres")? },
        VolumeDir { name: "redis", at: target.path("redis_data")?.into(), owner: user("redis")? },
        // Last: a volume with an identity is complete.
        VolumeDir { name: "hanode", at: "/var/lib/hanode".into(), owner: "root".into() },
    ])
}

/// A volume may be attached while the machine boots; no service starts without it. A blank disk next to it
/// (such as an instance's local disk) does not count as the volume at first.
fn wait_for_device(name: &str, timeout: Duration) -> Result<PathBuf> {
    let start = Instant::now();
    loop {
        let (found, waited) = (device::find(name)?, start.elapsed());
        match found {
            DeviceLookup::Named(device) => return Ok(device),
            DeviceLookup::Nothing(why) if waited >= timeout => {
                bail!(UserError::with_help(format!("no data volume: {why}"), "attach it to this machine"))
            }
            DeviceLookup::Blank(disks) if waited >= timeout / BLANK_AFTER => match disks.as_slice() {
                [one] => return Ok(one.clone()),
                several => bail!(UserError::with_help(
                    format!("no device is {name}, and {} are all blank", device::join_names(several)),
                    format!(
                        "detach the disks that are not the data volume, or format the one that is: mkfs.ext4 -L {} DEVICE",
                        name.strip_prefix("LABEL=").unwrap_or(DEFAULT_LABEL)
                    ),
                )),
            },
            _ => sleep(POLL_INTERVAL),
        }
    }
}

/// Replays the journal and repairs minor damage; the operator decides about anything else.
fn check(device: &Path, how: &[&str]) -> Result<()> {
    let output = capture(Command::new("e2fsck").args(how).arg(device))?;
    ensure!(
        matches!(output.status.code(), Some(0 | 1)),
        UserError::with_help(
            format!("the file system on {} is damaged: {}", device.display(), output.text_lossy().trim()),
            format!("see `e2fsck -n {}`, then repair it or replace the volume", device.display()),
        )
    );
    Ok(())
}

/// Marks an empty volume as this cluster's; refuses any other that has no mark of this cluster.
fn claim(root: &Path, cluster: &str) -> Result<()> {
    let (tree, marker) = (SafeTree::open(root)?, format!("{MOUNT}/{MARKER_FILE}"));
    match tree.read(&marker) {
        Ok(text) => {
            let mark: VolumeMarker =
                serde_json::from_slice(&text).with_context(|| format!("{MARKER_FILE} is damaged"))?;
            ensure!(
                mark.cluster == cluster,
                UserError::with_help(
                    format!("it is a volume of cluster {:?}, not of {cluster:?}", mark.cluster),
                    "attach the right one",
                )
            );
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let entries = std::fs::read_dir(below(root, MOUNT))?.collect::<std::io::Result<Vec<_>>>()?;
            let foreign = entries.iter().find(|e| e.file_name() != "lost+found");
            if let Some(entry) = foreign {
                bail!(UserError::with_help(
                    format!(
                        "it has {:?} but no {MARKER_FILE}: it is not a volume of hanode",
                        entry.file_name()
                    ),
                    "attach another volume, or empty this one",
                ));
            }
            let mark = VolumeMarker { schema: 1, cluster: cluster.into() };
            Ok(tree.replace(&marker, &serde_json::to_vec_pretty(&mark)?, 0o644, None)?)
        }
        Err(error) => Err(error).with_context(|| format!("reading {MARKER_FILE}")),
    }
}

/// Grows the file system to the size of the volume; resize2fs wants a forced check only if there is something
/// to do.
fn grow(device: &Path) -> Result<()> {
    let resize = || run_to_end(Command::new("resize2fs").arg(device)).map(drop);
    resize().or_else(|_| check(device, &["-f", "-p"]).and_then(|()| resize()))
}

fn bind(root: &Path, part: &VolumeDir, ids: &Ids) -> Result<()> {
    let (tree, path) = (SafeTree::open(root)?, format!("{MOUNT}/{}", part.name));
    let (from, at) = (below(root, &path), below(root, &part.at));
    if !tree.exists(&path)? {
        tree.dir(&path, 0o700, None)?;
    }
    // User ids differ between images.
    if let Some(old) = tree.change_owner(&path, (ids.uid(&part.owner)?, ids.gid(&part.owner)?))? {
        tracing::info!("{path}: changed the owner from user id {old} to {}", part.owner);
    }
    if mounted(&at)? {
        return Ok(());
    }
    tree.create_dir_all(&part.at)?;
    run_to_end(Command::new("mount").arg("--bind").arg(&from).arg(&at)).map(drop)
}
