//! What this disk has: its install-id, the pinned identity, its state and the services' data.

mod aside;
mod etcd_log;
mod postgres_temporary;
pub(crate) mod postgres_wal;
mod redis_log;
mod redis_rdb;
pub(crate) mod space;
pub mod volume;

use crate::host::random_hex;
use anyhow::{Context, Result};
use hanode_core::peer::{DiskData, DiskStage};
use hanode_core::render::sentinel;
use hanode_core::restore::{RestoreChoice, RestoreRequest};
use hanode_core::target::Target;
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use hanode_util::user_error::UserError;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const INSTALL_ID: &str = "/var/lib/hanode/install-id";
pub(crate) const IDENTITY: &str = "/var/lib/hanode/identity.json";
const STATE_DIR: &str = "/var/lib/hanode";
const DISK_STATE: &str = "/var/lib/hanode/disk.json";
/// In the name of data that was moved aside: `NAME.aside-TIME`.
pub(crate) const ASIDE: &str = ".aside-";
/// In memory: what this machine's metadata request in this boot.
const RESTORE_KEY: &str = "/run/hanode/restore-key";
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
    /// Grows by one at each boot and each 30 s in service.
    pub(crate) generation: u64,
    /// The member to which etcd's log on this disk belongs.
    #[serde(default)]
    pub(crate) etcd_member: Option<String>,
    /// Data of a restored snapshot: counts as lost, and is not yet cleared or moved aside.
    #[serde(default)]
    pub(crate) stale: DiskData,
    /// The etcd cluster for which Patroni starts without data; reset once that cluster has registered its data. An older
    /// release can read the file again then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) postgres_init: Option<String>,
    /// The operator chose this disk with `hanode recover`; reset once the node is in service.
    #[serde(default)]
    pub(crate) recovery_source: bool,
    /// The restore with which the cluster of this disk began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restore: Option<RestoreRequest>,
    /// What Patroni restores if it initializes PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restore_choice: Option<RestoreChoice>,
}

/// The identity that is pinned on the disk before any service directory is touched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pin {
    pub(crate) schema: u32,
    pub(crate) node: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) machine_uuid: Option<String>,
}

/// The disk of this machine: what hanode records on it, and the services' data.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    root: PathBuf,
    paths: DataPaths,
}

/// Where the services keep their data in this target.
#[derive(Debug, Clone)]
struct DataPaths {
    etcd: String,
    postgres: String,
    postgres_bin: String,
    redis: String,
    redis_log: String,
    sentinel_conf: String,
}

impl Disk {
    pub(crate) fn new(root: &Path, target: &Target) -> Result<Disk> {
        let path = |name: &str| target.path(name).map(String::from);
        let paths = DataPaths {
            etcd: path("etcd_data")?,
            postgres: path("postgres_data")?,
            postgres_bin: path("postgres_bin")?,
            redis: path("redis_data")?,
            redis_log: path("redis_log")?,
            sentinel_conf: format!("{}/sentinel.conf", target.path("redis_live")?),
        };
        Ok(Disk { root: root.into(), paths })
    }

    fn at(&self, path: &str) -> PathBuf {
        below(&self.root, path)
    }

    fn tree(&self) -> Result<SafeTree> {
        Ok(SafeTree::open(&self.root)?)
    }

    pub(crate) fn install_id(&self) -> Result<Option<String>> {
        match std::fs::read_to_string(self.at(INSTALL_ID)) {
            Ok(id) => Ok(Some(id.trim().to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(INSTALL_ID),
        }
    }

    /// The disk's install-id, created on its first boot.
    pub(crate) fn ensure_install_id(&self) -> Result<String> {
        if let Some(id) = self.install_id()? {
            return Ok(id);
        }
        let id = random_hex(16)?;
        self.save(INSTALL_ID, id.as_bytes())?;
        Ok(id)
    }

    pub(crate) fn pin(&self) -> Result<Option<Pin>> {
        self.load(IDENTITY)
    }

    /// The name of the node to which this disk is pinned.
    pub(crate) fn pinned_node(&self) -> Result<String> {
        let pin = self.pin()?.ok_or_else(|| {
            let help = "see `journalctl -u hanode-plan`; that unit assigns the identity at boot";
            UserError::with_help("this disk has no identity yet", help)
        })?;
        Ok(pin.node)
    }

    /// Cloud-init does not write the network's configuration of a known instance again: a pinned disk without it, after a
    /// fault of the storage, would never be reached again. So all that this boot has written is on the disk first.
    pub(crate) fn save_pin(&self, pin: &Pin) -> Result<()> {
        nix::unistd::syncfs(std::fs::File::open(&self.root)?)
            .context("writing the root file system to the disk")?;
        self.save(IDENTITY, &serde_json::to_vec_pretty(pin)?)
    }

    pub(crate) fn read_state(&self) -> Result<DiskState> {
        Ok(self.load(DISK_STATE)?.unwrap_or(DiskState { schema: 1, ..DiskState::default() }))
    }

    /// Changes the disk's state under a lock: the gates, the plan unit and the watcher all write it, and without
    /// the lock one could overwrite the change of another.
    pub(crate) fn update_state(&self, change: impl FnOnce(&mut DiskState)) -> Result<()> {
        let tree = self.tree()?;
        tree.create_dir_all(STATE_DIR)?;
        let lock = tree.open_dir(STATE_DIR)?;
        lock.lock().with_context(|| format!("locking {STATE_DIR}"))?;
        let before = self.read_state()?;
        let mut after = before.clone();
        change(&mut after);
        if after == before { Ok(()) } else { self.save(DISK_STATE, &serde_json::to_vec_pretty(&after)?) }
    }

    /// From here on this disk may have clients' data.
    pub(crate) fn mark_served(&self) -> Result<()> {
        self.update_state(|disk| disk.served = true)
    }

    /// An older snapshot of this disk was restored, since etcd has a higher `generation`: all its data counts as
    /// lost.
    pub(crate) fn mark_stale(&self, generation: u64) -> Result<()> {
        let present = self.data_on_disk()?;
        self.update_state(|disk| {
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
    pub(crate) fn unmark_stale(&self, clear: impl FnOnce(&mut DiskData)) -> Result<()> {
        self.update_state(|disk| clear(&mut disk.stale))
    }

    /// The node is in service as this etcd member; a disk that returns after it was replaced is recognised by the
    /// member id. A recovery and a bootstrap are complete now.
    pub(crate) fn mark_in_service(&self, member: &str) -> Result<()> {
        self.update_state(|disk| {
            disk.recovery_source = false;
            disk.etcd_member = Some(member.into());
        })?;
        match self.tree()?.remove_file(BOOTSTRAPPING) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(BOOTSTRAPPING),
            _ => Ok(()),
        }
    }

    pub(crate) fn bootstrapping(&self) -> bool {
        self.at(BOOTSTRAPPING).exists()
    }

    pub(crate) fn mark_bootstrapping(&self, bootstrap_id: &str) -> Result<()> {
        self.save(BOOTSTRAPPING, bootstrap_id.as_bytes())
    }

    /// The request in this machine's metadata, for this boot.
    pub(crate) fn restore_key(&self) -> Result<Option<RestoreRequest>> {
        Ok(self.load::<Option<RestoreRequest>>(RESTORE_KEY)?.flatten())
    }

    pub(crate) fn save_restore_key(&self, key: Option<&RestoreRequest>) -> Result<()> {
        self.save(RESTORE_KEY, &serde_json::to_vec(&key)?)
    }

    /// Which services have data on this disk that counts: stale data does not.
    pub(crate) fn valid_data(&self) -> Result<DiskData> {
        let (present, stale) = (self.data_on_disk()?, self.read_state()?.stale);
        Ok(DiskData {
            etcd: present.etcd && !stale.etcd,
            postgres: present.postgres && !stale.postgres,
            redis: present.redis && !stale.redis,
            ..present
        })
    }

    fn data_on_disk(&self) -> Result<DiskData> {
        Ok(DiskData {
            etcd: has_entries(&self.at(&self.paths.etcd).join("member/wal")),
            postgres: self.at(&self.paths.postgres).join("PG_VERSION").exists()
                && !self.clone_is_incomplete(),
            redis: redis_rdb::has_data(&self.at(&self.paths.redis)),
            sentinel: sentinel::is_intact(&self.sentinel_conf()?),
        })
    }

    /// Whether the marker exists that `clone_replica` and `restore_backup` create before they copy PostgreSQL's data. It
    /// is removed once the data is complete and on disk.
    pub(crate) fn clone_is_incomplete(&self) -> bool {
        self.clone_marker().exists()
    }

    pub(crate) fn clone_marker(&self) -> PathBuf {
        self.at(&format!("{}.cloning", self.paths.postgres))
    }

    /// Data that was moved aside and still exists: `NAME.aside-TIME` next to the data directory.
    pub(crate) fn moved_aside(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        // PostgreSQL's directory is moved as a whole, for Redis only its content.
        let parents = [Path::new(&self.paths.postgres).parent(), Some(Path::new(&self.paths.redis))];
        for parent in parents.into_iter().flatten().filter_map(Path::to_str) {
            for entry in std::fs::read_dir(self.at(parent)).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.contains(ASIDE) {
                    found.push(format!("{parent}/{name}"));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// The file that Sentinel rewrites; empty if it is not readable.
    pub(crate) fn sentinel_conf(&self) -> Result<String> {
        let content = self.tree()?.read(self.sentinel_conf_path());
        Ok(content.ok().and_then(|content| String::from_utf8(content).ok()).unwrap_or_default())
    }

    pub(crate) fn sentinel_conf_path(&self) -> &str {
        &self.paths.sentinel_conf
    }

    fn load<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        match std::fs::read(self.at(path)) {
            Ok(bytes) => {
                Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{path} is damaged"))?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {path}")),
        }
    }

    fn save(&self, path: &str, content: &[u8]) -> Result<()> {
        Ok(self.tree()?.replace(path, content, 0o600, None)?)
    }
}

/// An id in the format that Sentinel generates for itself.
pub(crate) fn sentinel_id() -> Result<String> {
    random_hex(20)
}

pub(crate) fn classify(data: DiskData, disk: &DiskState) -> DiskStage {
    match (disk.served, data.etcd || data.postgres || data.redis) {
        (true, _) => DiskStage::Served,
        (false, true) => DiskStage::Data,
        (false, false) => DiskStage::Blank,
    }
}

fn has_entries(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An empty disk, and the directory to keep.
    pub(crate) fn empty(target: &Target) -> (tempfile::TempDir, Disk) {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path(), target).unwrap();
        (root, disk)
    }

    pub(crate) fn debian() -> Target {
        let (own, files) = (
            include_str!("../../../image/targets/debian-13.toml"),
            include_str!("../../../image/files.toml"),
        );
        Target::parse(&format!("{own}\n{files}")).unwrap()
    }

    #[test]
    fn the_request_of_this_boot_is_kept_and_may_be_none() {
        let (_root, disk) = empty(&debian());
        assert_eq!(disk.restore_key().unwrap(), None);
        let key: RestoreRequest = "latest".parse().unwrap();
        for key in [Some(&key), None] {
            disk.save_restore_key(key).unwrap();
            assert_eq!(disk.restore_key().unwrap().as_ref(), key);
        }
    }

    #[test]
    fn concurrent_changes_are_all_kept() {
        let (_root, disk) = empty(&debian());
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| (0..25).for_each(|_| disk.update_state(|r| r.generation += 1).unwrap()));
            }
            threads.spawn(|| disk.mark_served().unwrap());
            threads.spawn(|| disk.mark_in_service("1234").unwrap());
        });
        let state = disk.read_state().unwrap();
        disk.mark_bootstrapping("agreed").unwrap();
        disk.mark_in_service("1234").unwrap();
        assert!(!disk.bootstrapping(), "a bootstrap ends once its node is in service");
        assert_eq!((state.generation, state.served, state.etcd_member.as_deref()), (100, true, Some("1234")));
    }
}
