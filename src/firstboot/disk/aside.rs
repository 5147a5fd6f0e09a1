//! Moves data of the services aside, or removes it. The directories belong to other users.

use super::{ASIDE, Disk, redis_log};
use anyhow::{Context, Result};
use hanode_core::render::sentinel;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

impl Disk {
    /// The whole data directory, if there is one.
    pub(crate) fn move_postgres_aside(&self) -> Result<()> {
        self.move_aside(&self.paths.postgres)?;
        self.update_state(|disk| (disk.stale.postgres, disk.postgres_init) = (false, None))
    }

    /// The files in the data directory: the directory itself also has the live configuration.
    pub(crate) fn move_redis_aside(&self) -> Result<()> {
        let data = &self.paths.redis;
        redis_log::DATA_FILES.iter().try_for_each(|part| self.move_aside(&format!("{data}/{part}")))?;
        self.unmark_stale(|stale| stale.redis = false)
    }

    /// Removes etcd's data, including an incomplete directory.
    pub(crate) fn clear_etcd(&self) -> Result<()> {
        let path = &self.paths.etcd;
        match self.tree()?.remove_dir_all(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("clearing {path}"));
            }
            _ => {}
        }
        self.unmark_stale(|stale| stale.etcd = false)
    }

    /// Removes a Sentinel's file that a power cut has truncated.
    pub(crate) fn remove_torn_sentinel_conf(&self) -> Result<()> {
        let (tree, path) = (self.tree()?, self.sentinel_conf_path());
        if tree.exists(path)? && !sentinel::is_intact(&self.sentinel_conf()?) {
            tracing::warn!("{path} is truncated; this Sentinel gets its state from the others");
            tree.remove_file(path).with_context(|| format!("removing {path}"))?;
        }
        Ok(())
    }

    /// Renames to `NAME.aside-TIME`; does nothing if the path does not exist.
    fn move_aside(&self, path: &str) -> Result<()> {
        let tree = self.tree()?;
        if !tree.exists(path)? {
            return Ok(());
        }
        let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let name = Path::new(path).file_name().and_then(|name| name.to_str());
        let aside = format!("{}{ASIDE}{stamp}", name.context("a path without a name")?);
        tracing::warn!("{path} does not belong to this cluster: moved aside to {aside}");
        tree.rename(path, &aside).with_context(|| format!("moving {path} aside"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::peer::DiskData;
    use hanode_core::target::Target;
    use hanode_util::file_tree::below;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// What root does in a directory of another user: the directory, a path in it, and the act.
    type Act = (&'static str, String, fn(&Disk));

    fn acts(target: &Target) -> Vec<Act> {
        let path = |name: &str| target.paths[name].clone();
        let redis = redis_log::DATA_FILES.map(|part| -> Act {
            ("redis_data", format!("{}/{part}", path("redis_data")), |disk| {
                let _ = disk.move_redis_aside();
            })
        });
        let others: [Act; 3] = [
            ("postgres_home", path("postgres_data"), |disk| {
                let _ = disk.move_postgres_aside();
            }),
            ("etcd_home", path("etcd_data"), |disk| {
                let _ = disk.clear_etcd();
            }),
            ("redis_data", format!("{}/sentinel.conf", path("redis_live")), |disk| {
                assert_eq!(disk.sentinel_conf().unwrap(), "", "a file of root is not read");
            }),
        ];
        redis.into_iter().chain(others).collect()
    }

    #[test]
    fn data_that_was_moved_aside_is_not_stale_any_more() {
        let root = tempfile::tempdir().unwrap();
        let target = targets().into_iter().find(|target| target.name == "debian-13").unwrap();
        let disk = Disk::new(root.path(), &target).unwrap();
        let all = DiskData { etcd: true, postgres: true, redis: true, sentinel: false };
        disk.update_state(|state| state.stale = all).unwrap();
        let stale = || disk.read_state().unwrap().stale;
        disk.move_postgres_aside().unwrap();
        assert_eq!(stale(), DiskData { postgres: false, ..all });
        disk.move_redis_aside().unwrap();
        disk.clear_etcd().unwrap();
        assert_eq!(stale(), DiskData::default());
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        let below = |entry: fs::DirEntry| {
            let inner = if entry.path().is_dir() { names(&entry.path()) } else { vec![] };
            inner.into_iter().chain([entry.path().display().to_string()])
        };
        let mut names: Vec<String> = entries.flat_map(below).collect();
        names.sort();
        names
    }

    fn targets() -> Vec<Target> {
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image");
        let common = fs::read_to_string(image.join("files.toml")).unwrap();
        let files = fs::read_dir(image.join("targets")).unwrap().map(|file| file.unwrap().path());
        files
            .map(|f| Target::parse(&format!("{}\n{common}", fs::read_to_string(f).unwrap())).unwrap())
            .collect()
    }

    #[test]
    fn a_link_in_a_service_s_directory_leads_nowhere() {
        for target in targets() {
            for (home, path, act) in acts(&target) {
                let home = Path::new(&target.paths[home]);
                // The home itself is in a directory of root.
                for link in Path::new(&path).ancestors().take_while(|part| *part != home) {
                    let dir = tempfile::tempdir().unwrap();
                    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
                    let home = below(&root, home.to_str().unwrap());
                    let at = below(&root, link.to_str().unwrap());
                    fs::create_dir_all(at.parent().unwrap()).unwrap();
                    fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).unwrap();
                    // The rest of the path exists where the link leads.
                    let rest = Path::new(&path).strip_prefix(link).unwrap();
                    let found: std::path::PathBuf =
                        outside.join("target").components().chain(rest.components()).collect();
                    fs::create_dir_all(found.parent().unwrap()).unwrap();
                    match path.ends_with(".conf") {
                        true => fs::write(&found, "sentinel myid of-root\n").unwrap(),
                        false => fs::create_dir_all(found.join("file")).unwrap(),
                    }
                    symlink(outside.join("target"), &at).unwrap();
                    let before = names(&outside);
                    act(&Disk::new(&root, &target).unwrap());
                    assert_eq!(before, names(&outside), "{}: {} in {path}", target.name, link.display());
                }
            }
        }
    }

    #[test]
    fn data_is_moved_aside_in_its_directory() {
        let (_root, disk) = crate::disk::tests::empty(&targets()[0]);
        let data = disk.at(&disk.paths.postgres);
        disk.move_postgres_aside().unwrap();
        fs::create_dir_all(&data).unwrap();
        disk.move_postgres_aside().unwrap();
        let moved = disk.moved_aside().unwrap();
        assert!(!data.exists() && moved.len() == 1 && moved[0].contains(".aside-"), "{moved:?}");
    }
}
