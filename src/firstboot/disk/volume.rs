//! The data volume: found by what the spec calls it, formatted only if there is nothing at all on it, and mounted
//! where the servers and hanode itself keep what must outlive the root disk.
//!
//! The node's identity, its install-id and how far it came lie there too: a new image on a volume that survived
//! goes on where the old one stopped, and the volume of another node is known as that.

mod device;

use crate::selinux;
use anyhow::{Context, Result, bail, ensure};
use device::{Content, Found};
use hanode_core::spec::Spec;
use hanode_core::target::Target;
use hanode_util::command::{capture, run_to_end};
use hanode_util::file_tree::{Ids, below, replace};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Where the whole volume is seen.
const MOUNT: &str = "/var/lib/hanode-data";
/// Says whose volume this is.
const MARK: &str = "hanode-volume.json";
/// On the root disk, below what is mounted there: this machine had its volume once.
const HAD: &str = "had-volume";
/// The label of a volume that the spec names by its path.
const LABEL: &str = "hanode-data";
const PAUSE: Duration = Duration::from_millis(500);
/// Such a part of the patience is the volume's alone.
const BLANK_AFTER: u32 = 4;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Mark {
    schema: u32,
    cluster: String,
}

/// A part of the volume: its directory there, where the system has it, and whose it is.
struct Part {
    name: &'static str,
    at: String,
    owner: String,
}

/// Mounts the volume that the spec names, waiting for it so long; does nothing where the spec names none.
pub fn mount(root: &Path, spec: &Spec, target: &Target, patience: Duration) -> Result<()> {
    let Some(name) = &spec.storage.data else { return Ok(()) };
    let home = below(root, MOUNT);
    if !mounted(&home)? {
        let device = awaited(name, patience)?;
        if device::content(&device)? == Content::Blank {
            ensure!(
                !home.join(HAD).exists(),
                "this machine had a volume, and {} is blank: attach the volume; if its data is to be config up, remove {MOUNT}/{HAD}",
                device.display()
            );
            tracing::info!("{} is blank: formatting it as {name}", device.display());
            device::format(&device, name.strip_prefix("LABEL=").unwrap_or(LABEL))?;
        }
        if device::content(&device)? == Content::FileSystem("ext4".into()) {
            check(&device, &["-p"])?;
            grow(&device)?;
        }
        std::fs::create_dir_all(&home)?;
        replace(&home.join(HAD), b"", 0o600, None)?;
        run_to_end(Command::new("mount").args(["-o", "noatime,nodev,nosuid"]).arg(&device).arg(&home))?;
        if let Err(error) = own(&home, &spec.name).with_context(|| format!("{name} ({})", device.display())) {
            let _ = run_to_end(Command::new("umount").arg(&home));
            return Err(error);
        }
    }
    let (ids, parts) = (Ids::read(root)?, parts(target)?);
    parts.iter().try_for_each(|part| bind(root, &home, part, &ids))?;
    // A new file system has no labels; what is made below these directories later takes theirs.
    let places: Vec<String> = parts.into_iter().map(|part| part.at).chain([MOUNT.to_string()]).collect();
    selinux::restore(root, &places)
}

fn parts(target: &Target) -> Result<Vec<Part>> {
    let user = |component: &str| {
        let user = target.users.get(component).cloned();
        user.with_context(|| format!("target {} names no user of {component}", target.name))
    };
    Ok(vec![
        Part { name: "etcd", at: target.path("etcd_home")?.into(), owner: user("etcd")? },
        Part { name: "postgres", at: target.path("postgres_home")?.into(), owner: user("postgres")? },
        Part { name: "redis", at: target.path("redis_data")?.into(), owner: user("redis")? },
        // Last: where the identity is, all else is there too.
        Part { name: "hanode", at: "/var/lib/hanode".into(), owner: "root".into() },
    ])
}

/// A volume may be attached while the machine boots. Never is there a start without it. Until it has had its time, a blank
/// disk beside it (an instance's own, say) is not taken for a new one.
fn awaited(name: &str, patience: Duration) -> Result<PathBuf> {
    let began = Instant::now();
    loop {
        let (found, waited) = (device::find(name)?, began.elapsed());
        match found {
            Found::Named(device) => return Ok(device),
            Found::Nothing(why) if waited >= patience => bail!("no data volume: {why}; attach it"),
            Found::Blank(disks) if waited >= patience / BLANK_AFTER => match disks.as_slice() {
                [one] => return Ok(one.clone()),
                several => bail!(
                    "no volume is {name}, and {} are blank: nobody says which one is meant; detach the others, or format it: mkfs.ext4 -L {} DEVICE",
                    several.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(" and "),
                    name.strip_prefix("LABEL=").unwrap_or(LABEL)
                ),
            },
            _ => sleep(PAUSE),
        }
    }
}

/// A journal is replayed and small damage mended; more is for a person to look at.
fn check(device: &Path, how: &[&str]) -> Result<()> {
    let output = capture(Command::new("e2fsck").args(how).arg(device))?;
    ensure!(
        matches!(output.status.code(), Some(0 | 1)),
        "the file system on {} is damaged; look at `e2fsck -n {0}`, and mend it, or replace the volume: {}",
        device.display(),
        output.text_lossy().trim()
    );
    Ok(())
}

/// Marks a new volume as this cluster's; one that is not is refused.
fn own(home: &Path, cluster: &str) -> Result<()> {
    let at = home.join(MARK);
    match std::fs::read(&at) {
        Ok(text) => {
            let mark: Mark = serde_json::from_slice(&text).context("its mark is damaged")?;
            ensure!(
                mark.cluster == cluster,
                "it is a volume of cluster {:?}, not of {cluster:?}; attach the right one",
                mark.cluster
            );
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let entries = std::fs::read_dir(home)?.collect::<std::io::Result<Vec<_>>>()?;
            let foreign = entries.iter().find(|e| e.file_name() != "lost+found");
            if let Some(entry) = foreign {
                bail!(
                    "it holds {:?} and no mark of hanode: somebody else's data; attach another volume, or empty this one",
                    entry.file_name()
                );
            }
            let mark = Mark { schema: 1, cluster: cluster.into() };
            replace(&at, &serde_json::to_vec_pretty(&mark)?, 0o644, None)
        }
        Err(error) => Err(error).context("reading its mark"),
    }
}

/// A volume that was made larger is used in full; the tool wants a thorough check before, and only then.
fn grow(device: &Path) -> Result<()> {
    let resize = || run_to_end(Command::new("resize2fs").arg(device)).map(drop);
    resize().or_else(|_| check(device, &["-f", "-p"]).and_then(|()| resize()))
}

fn bind(root: &Path, home: &Path, part: &Part, ids: &Ids) -> Result<()> {
    let (from, at) = (home.join(part.name), below(root, &part.at));
    if !from.exists() {
        std::fs::DirBuilder::new().mode(0o700).create(&from)?;
    }
    belongs_to(&from, ids.uid(&part.owner)?, ids.gid(&part.owner)?)?;
    if mounted(&at)? {
        return Ok(());
    }
    std::fs::create_dir_all(&at)?;
    run_to_end(Command::new("mount").arg("--bind").arg(&from).arg(&at)).map(drop)
}

/// Users have other numbers in another image: what was the old number's is the new one's. The directory itself
/// comes last, so a run that was cut is completed by the next.
fn belongs_to(dir: &Path, uid: u32, gid: u32) -> Result<()> {
    let (old_uid, old_gid) = (dir.metadata()?.uid(), dir.metadata()?.gid());
    if (old_uid, old_gid) == (uid, gid) {
        return Ok(());
    }
    tracing::info!("{}: from user {old_uid} to {uid}", dir.display());
    change(dir, &|entry| {
        let of = |old: u32, now: u32, it: u32| (it == old).then_some(now);
        lchown(
            entry,
            of(old_uid, uid, entry.symlink_metadata()?.uid()),
            of(old_gid, gid, entry.symlink_metadata()?.gid()),
        )
    })
    .with_context(|| format!("giving {} to user {uid}", dir.display()))
}

fn change(dir: &Path, act: &impl Fn(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => change(&entry.path(), act)?,
            false => act(&entry.path())?,
        }
    }
    act(dir)
}

/// Whether something is mounted exactly here.
fn mounted(at: &Path) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    let escaped = at.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(&escaped)))
}
