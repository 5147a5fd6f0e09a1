//! What this disk has: its install-id, the pinned identity, its state and the services' data.

pub(crate) mod aside;
pub(crate) mod etcd_log;
pub(crate) mod generation;
pub(crate) mod postgres_wal;
pub(crate) mod redis_log;
mod redis_rdb;
pub mod volume;

use crate::identity::Pin;
use anyhow::{Context, Result};
use hanode_core::peer::{DiskData, DiskStage};
use hanode_core::render::sentinel;
use hanode_core::target::Target;
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use hanode_util::user_error::UserError;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;

const INSTALL_ID: &str = "/var/lib/hanode/install-id";
const IDENTITY: &str = "/var/lib/hanode/identity.json";
const STATE_DIR: &str = "/var/lib/hanode";
const DISK_STATE: &str = "/var/lib/hanode/disk.json";
/// In the name of data that was moved aside: `NAME.aside-TIME`.
pub(crate) const ASIDE: &str = ".aside-";
/// In memory: valid for this boot only, and only until the node is in service.
const BOOTSTRAPPING: &str = "/run/hanode/bootstrapping";

/// The state of this disk; versioned, since a newer image may find the file of an older one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskState {
    pub(crate) schema: u32,
    pub(crate) bootstrap_id: Option<String>,
    /// Set, durably, before any service that accepts clients' data starts for the first time.
    pub(crate) served: bool,
    /// Grows by one at each boot and each 30 s in service, see [`generation`].
    pub(crate) generation: u64,
    /// The member to which etcd's log on this disk belongs.
    #[serde(default)]
    pub(crate) etcd_member: Option<String>,
    /// Data of a restored snapshot: counts as lost, and is not yet cleared or moved aside.
    #[serde(default)]
    pub(crate) stale: DiskData,
    /// The operator chose this disk with `hanode recover`; reset once the node is in service.
    #[serde(default)]
    pub(crate) recovery_source: bool,
}

pub(crate) fn install_id(root: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(below(root, INSTALL_ID)) {
        Ok(id) => Ok(Some(id.trim().to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(INSTALL_ID),
    }
}

/// The disk's install-id, created on its first boot.
pub(crate) fn ensure_install_id(root: &Path) -> Result<String> {
    if let Some(id) = install_id(root)? {
        return Ok(id);
    }
    let id = random_hex(16)?;
    save(root, INSTALL_ID, id.as_bytes())?;
    Ok(id)
}

/// An id in the format that Sentinel generates for itself.
pub(crate) fn sentinel_id() -> Result<String> {
    random_hex(20)
}

fn random_hex(length: usize) -> Result<String> {
    let mut bytes = vec![0; length];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex::encode(bytes))
}

pub(crate) fn pin(root: &Path) -> Result<Option<Pin>> {
    load(root, IDENTITY)
}

/// The name of the node to which this disk is pinned.
pub(crate) fn pinned_node(root: &Path) -> Result<String> {
    let pin = pin(root)?.ok_or_else(|| {
        let help = "see `journalctl -u hanode-plan`; that unit assigns the identity at boot";
        UserError::with_help("this disk has no identity yet", help)
    })?;
    Ok(pin.node)
}

pub(crate) fn save_pin(root: &Path, pin: &Pin) -> Result<()> {
    save(root, IDENTITY, &serde_json::to_vec_pretty(pin)?)
}

pub(crate) fn read_state(root: &Path) -> Result<DiskState> {
    Ok(load(root, DISK_STATE)?.unwrap_or(DiskState { schema: 1, ..DiskState::default() }))
}

/// Changes the disk's state under a lock: the gates, the plan unit and the watcher all write it, and without
/// the lock one could overwrite the change of another.
pub(crate) fn update_state(root: &Path, change: impl FnOnce(&mut DiskState)) -> Result<()> {
    let tree = SafeTree::open(root)?;
    tree.create_dir_all(STATE_DIR)?;
    let lock = tree.open_dir(STATE_DIR)?;
    lock.lock().with_context(|| format!("locking {STATE_DIR}"))?;
    let before = read_state(root)?;
    let mut after = before.clone();
    change(&mut after);
    if after == before { Ok(()) } else { save(root, DISK_STATE, &serde_json::to_vec_pretty(&after)?) }
}

/// From here on this disk may have clients' data.
pub(crate) fn mark_served(root: &Path) -> Result<()> {
    update_state(root, |disk| disk.served = true)
}

/// An older snapshot of this disk was restored, since etcd has a higher `generation`: all its data counts as
/// lost.
pub(crate) fn mark_stale(root: &Path, target: &Target, generation: u64) -> Result<()> {
    let present = data_on_disk(root, target)?;
    update_state(root, |disk| {
        tracing::warn!(
            "etcd has generation {generation} of this node, this disk {}: it is an older snapshot",
            disk.generation
        );
        disk.generation = generation;
        disk.stale = DiskData { sentinel: false, ..present };
        disk.etcd_member = None;
    })
}

/// The stale data of one service was cleared or moved aside.
pub(crate) fn unmark_stale(root: &Path, clear: impl FnOnce(&mut DiskData)) -> Result<()> {
    update_state(root, |disk| clear(&mut disk.stale))
}

/// The node is in service as this etcd member; a disk that returns after it was replaced is recognised by the
/// member id. A recovery and a bootstrap are complete now.
pub(crate) fn mark_in_service(root: &Path, member: &str) -> Result<()> {
    update_state(root, |disk| {
        disk.recovery_source = false;
        disk.etcd_member = Some(member.into());
    })?;
    match SafeTree::open(root)?.remove_file(BOOTSTRAPPING) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(BOOTSTRAPPING),
        _ => Ok(()),
    }
}

pub(crate) fn bootstrapping(root: &Path) -> bool {
    below(root, BOOTSTRAPPING).exists()
}

pub(crate) fn mark_bootstrapping(root: &Path, bootstrap_id: &str) -> Result<()> {
    save(root, BOOTSTRAPPING, bootstrap_id.as_bytes())
}

/// Which services have data on this disk that counts: stale data does not.
pub(crate) fn valid_data(root: &Path, target: &Target) -> Result<DiskData> {
    let (present, stale) = (data_on_disk(root, target)?, read_state(root)?.stale);
    Ok(DiskData {
        etcd: present.etcd && !stale.etcd,
        postgres: present.postgres && !stale.postgres,
        redis: present.redis && !stale.redis,
        ..present
    })
}

fn data_on_disk(root: &Path, target: &Target) -> Result<DiskData> {
    let dir = |name: &str| {
        let path = target.paths.get(name).with_context(|| format!("the target has no path {name}"))?;
        Ok::<_, anyhow::Error>(below(root, path))
    };
    let (etcd, postgres, redis) = (dir("etcd_data")?, dir("postgres_data")?, dir("redis_data")?);
    let sentinel = sentinel_conf(root, target)?;
    Ok(DiskData {
        etcd: has_entries(&etcd.join("member/wal")),
        postgres: postgres.join("PG_VERSION").exists(),
        redis: redis_rdb::has_data(&redis),
        sentinel: sentinel::is_intact(&sentinel),
    })
}

/// Data that was moved aside and still exists: `NAME.aside-TIME` next to the data directory.
pub(crate) fn moved_aside(root: &Path, target: &Target) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for place in ["postgres_data", "redis_data"] {
        let data = Path::new(target.path(place)?);
        // PostgreSQL's directory is moved as a whole, for Redis only its content.
        let parent = if place == "redis_data" { Some(data) } else { data.parent() };
        let Some(parent) = parent.and_then(Path::to_str) else { continue };
        for entry in std::fs::read_dir(below(root, parent)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(ASIDE) {
                found.push(format!("{parent}/{name}"));
            }
        }
    }
    found.sort();
    Ok(found)
}

pub(crate) fn classify(data: DiskData, disk: &DiskState) -> DiskStage {
    match (disk.served, data.etcd || data.postgres || data.redis) {
        (true, _) => DiskStage::Served,
        (false, true) => DiskStage::Data,
        (false, false) => DiskStage::Blank,
    }
}

/// The file that Sentinel rewrites; empty if it is not readable.
pub(crate) fn sentinel_conf(root: &Path, target: &Target) -> Result<String> {
    let content = SafeTree::open(root)?.read(sentinel_conf_path(target)?);
    Ok(content.ok().and_then(|content| String::from_utf8(content).ok()).unwrap_or_default())
}

pub(crate) fn sentinel_conf_path(target: &Target) -> Result<String> {
    Ok(format!("{}/sentinel.conf", target.path("redis_live")?))
}

fn has_entries(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

fn load<T: serde::de::DeserializeOwned>(root: &Path, path: &str) -> Result<Option<T>> {
    match std::fs::read(below(root, path)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{path} is damaged"))?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {path}")),
    }
}

fn save(root: &Path, path: &str, content: &[u8]) -> Result<()> {
    Ok(SafeTree::open(root)?.replace(path, content, 0o600, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrent_changes_are_all_kept() {
        let root = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    (0..25).for_each(|_| update_state(root.path(), |r| r.generation += 1).unwrap())
                });
            }
            threads.spawn(|| mark_served(root.path()).unwrap());
            threads.spawn(|| mark_in_service(root.path(), "1234").unwrap());
        });
        let state = read_state(root.path()).unwrap();
        mark_bootstrapping(root.path(), "agreed").unwrap();
        mark_in_service(root.path(), "1234").unwrap();
        assert!(!bootstrapping(root.path()), "a bootstrap ends once its node is in service");
        assert_eq!((state.generation, state.served, state.etcd_member.as_deref()), (100, true, Some("1234")));
    }
}
