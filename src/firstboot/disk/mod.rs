//! What this disk holds: its install-id, the pinned identity, how far it came, whose data.

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
use hanode_util::file_tree::{below, replace};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;

const INSTALL_ID: &str = "/var/lib/hanode/install-id";
const IDENTITY: &str = "/var/lib/hanode/identity.json";
const HOME: &str = "/var/lib/hanode";
const DISK_STATE: &str = "/var/lib/hanode/state.json";
/// Within the name of what was moved out of the way.
pub(crate) const ASIDE: &str = ".aside-";
/// Lies in memory: it means this boot only, and only until the node is in service.
const BOOTSTRAPPING: &str = "/run/hanode/bootstrapping";

/// How far this disk came; versioned, since a newer image may find an older one's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskState {
    pub(crate) schema: u32,
    pub(crate) bootstrap_id: Option<String>,
    /// Set, durably, before any service that takes clients' data is let go for the first time.
    pub(crate) served: bool,
    /// How often it was booted, and for how many half minutes it was in service: see `age.rs`.
    pub(crate) generation: u64,
    /// The member that etcd's log on this disk belongs to.
    #[serde(default)]
    pub(crate) etcd_member: Option<String>,
    /// Data of a restored snapshot: as good as lost, and not yet cleared or set aside.
    #[serde(default)]
    pub(crate) stale: DiskData,
    /// The operator's word that this disk's data becomes the cluster's; spent once it is in service.
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

/// The disk's install-id, made on its first boot.
pub(crate) fn ensure_install_id(root: &Path) -> Result<String> {
    if let Some(id) = install_id(root)? {
        return Ok(id);
    }
    let id = random_hex(16)?;
    save(root, INSTALL_ID, id.as_bytes())?;
    Ok(id)
}

/// As a Sentinel gives itself one.
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

pub(crate) fn save_pin(root: &Path, pin: &Pin) -> Result<()> {
    save(root, IDENTITY, &serde_json::to_vec_pretty(pin)?)
}

pub(crate) fn record(root: &Path) -> Result<DiskState> {
    Ok(load(root, DISK_STATE)?.unwrap_or(DiskState { schema: 1, ..DiskState::default() }))
}

/// Changes the record, one process at a time: the services' gates, the plan and the watch all keep theirs in it, and
/// a gate that wrote what another had not yet changed would take that back.
pub(crate) fn update_state(root: &Path, change: impl FnOnce(&mut DiskState)) -> Result<()> {
    let dir = below(root, HOME);
    std::fs::create_dir_all(&dir)?;
    let turn = std::fs::File::open(&dir)?;
    turn.lock().with_context(|| format!("locking {}", dir.display()))?;
    let before = record(root)?;
    let mut after = before.clone();
    change(&mut after);
    if after == before { Ok(()) } else { save(root, DISK_STATE, &serde_json::to_vec_pretty(&after)?) }
}

/// From here on this disk is one that clients' data may be on.
pub(crate) fn mark_served(root: &Path) -> Result<()> {
    update_state(root, |disk| disk.served = true)
}

/// A snapshot from before the last boot that etcd knows of was restored: all data on it is a lost disk's.
pub(crate) fn mark_stale(root: &Path, target: &Target, generation: u64) -> Result<()> {
    let held = held(root, target)?;
    update_state(root, |disk| {
        tracing::warn!(
            "etcd has counted this node to {generation}, this disk to {}: an older snapshot",
            disk.generation
        );
        disk.generation = generation;
        disk.stale = DiskData { sentinel: false, ..held };
        disk.etcd_member = None;
    })
}

/// Stale data of one service is out of the way.
pub(crate) fn unmark_stale(root: &Path, clear: impl FnOnce(&mut DiskData)) -> Result<()> {
    update_state(root, |disk| clear(&mut disk.stale))
}

/// In service as this member: by its id a disk is known that comes back after it was replaced. The operator's
/// word, where there was one, has done its work; and so has the bootstrap_id: what is lost from now on is lost.
pub(crate) fn mark_in_service(root: &Path, member: &str) -> Result<()> {
    update_state(root, |disk| {
        disk.recovery_source = false;
        disk.etcd_member = Some(member.into());
    })?;
    match std::fs::remove_file(below(root, BOOTSTRAPPING)) {
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

/// Whose data counts: what is stale does not.
pub(crate) fn data(root: &Path, target: &Target) -> Result<DiskData> {
    let (held, stale) = (held(root, target)?, record(root)?.stale);
    Ok(DiskData {
        etcd: held.etcd && !stale.etcd,
        postgres: held.postgres && !stale.postgres,
        redis: held.redis && !stale.redis,
        ..held
    })
}

fn held(root: &Path, target: &Target) -> Result<DiskData> {
    let dir = |name: &str| {
        let path = target.paths.get(name).with_context(|| format!("target names no path {name}"))?;
        Ok::<_, anyhow::Error>(below(root, path))
    };
    let (etcd, postgres, redis) = (dir("etcd_data")?, dir("postgres_data")?, dir("redis_data")?);
    let sentinel = std::fs::read_to_string(dir("redis_live")?.join("sentinel.conf")).unwrap_or_default();
    Ok(DiskData {
        etcd: has_entries(&etcd.join("member/wal")),
        postgres: postgres.join("PG_VERSION").exists(),
        redis: redis_rdb::holds(&redis),
        sentinel: sentinel::intact(&sentinel),
    })
}

/// What was moved out of a service's way and is still there: `NAME.aside-TIME` beside its data directory.
pub(crate) fn moved_aside(root: &Path, target: &Target) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for place in ["postgres_data", "redis_data"] {
        let data = Path::new(target.path(place)?);
        // PostgreSQL's directory is moved whole, of Redis' only what is in it.
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

pub(crate) fn classify(data: DiskData, record: &DiskState) -> DiskStage {
    match (disk.served, data.etcd || data.postgres || data.redis) {
        (true, _) => DiskStage::Served,
        (false, true) => DiskStage::Data,
        (false, false) => DiskStage::Blank,
    }
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
    let at = below(root, path);
    if let Some(parent) = at.parent() {
        std::fs::create_dir_all(parent)?;
    }
    replace(&at, content, 0o600, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_at_the_same_time_are_all_kept() {
        let root = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| (0..25).for_each(|_| update_state(root.path(), |r| r.generation += 1).unwrap()));
            }
            threads.spawn(|| mark_served(root.path()).unwrap());
            threads.spawn(|| mark_in_service(root.path(), "1234").unwrap());
        });
        let kept = record(root.path()).unwrap();
        mark_bootstrapping(root.path(), "agreed").unwrap();
        mark_in_service(root.path(), "1234").unwrap();
        assert!(!bootstrapping(root.path()), "a bootstrap is over once its node is in service");
        assert_eq!((kept.generation, kept.served, kept.etcd_member.as_deref()), (100, true, Some("1234")));
    }
}
