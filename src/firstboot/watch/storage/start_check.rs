//! The storage's part of a start gate: a server does not start on a disk that does not work.

use super::probe::Outcome;
use super::saved::{is_full, is_stopped, problems};
use super::{Disk, disks, monitor};
use crate::host::process;
use crate::node::NodeContext;
use anyhow::Result;
use hanode_core::peer::StorageFault;
use hanode_core::state::{Component, Problem};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::spawn;

#[derive(Default)]
pub(crate) struct StartCheck {
    /// A probe that has not ended yet; another one would hang, too.
    pending: Option<Receiver<Option<String>>>,
}

impl StartCheck {
    /// The reason why this server must not start now.
    pub(crate) fn blocked(&mut self, root: &Path, server: Component) -> Option<String> {
        if is_stopped(root, server) {
            return Some(Problem::list(&problems(root)));
        }
        let pending = self.pending.take().unwrap_or_else(|| {
            let (send, receive) = channel();
            let root = root.to_path_buf();
            spawn(move || send.send(probe_all(&root)));
            receive
        });
        match pending.recv_timeout(monitor::HANG_LIMIT) {
            Ok(reason) => reason,
            Err(RecvTimeoutError::Disconnected) => Some("the probe of the storage failed".into()),
            Err(RecvTimeoutError::Timeout) => {
                self.pending = Some(pending);
                Some(format!("the storage {}", StorageFault::Hangs.describe()))
            }
        }
    }
}

fn probe_all(root: &Path) -> Option<String> {
    let disks = match disks(root) {
        Ok(disks) => disks,
        Err(error) => return Some(format!("the storage cannot be probed: {error:#}")),
    };
    let fault = |disk: &Disk| match disk.file.probe() {
        Outcome::Written(_) | Outcome::Prevented => None,
        // PostgreSQL and Redis remove temporary files when they start.
        Outcome::Failed(StorageFault::Full) => None,
        Outcome::Failed(fault) => Some(format!("{} {}", disk.mount, fault.describe())),
    };
    disks.iter().find_map(fault)
}

/// Removes what the queries of a stopped PostgreSQL left on a full disk. PostgreSQL does that when it starts, but its
/// gate is closed while the disk is full.
pub(crate) fn free_space(node: &NodeContext) -> Result<()> {
    let unit = node.target().unit(Component::Patroni)?;
    let runs = process::unit_runs(unit, "postgres") || node.disk.postgres_runs();
    match runs || !is_full(node.root()) {
        true => Ok(()),
        false => node.disk.remove_postgres_temporary_files(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::saved::tests::saved;
    use super::super::saved::{Saved, save};
    use super::*;

    #[test]
    fn a_server_starts_only_on_storage_that_works() {
        let root = tempfile::tempdir().expect("a directory");
        let blocked = |server| StartCheck::default().blocked(root.path(), server);
        let (redis, patroni) = (Component::Redis, Component::Patroni);
        assert_eq!(blocked(redis), None, "before the watcher runs");
        std::fs::create_dir_all(root.path().join("run/hanode")).expect("a directory");
        save(root.path(), &saved(Some(StorageFault::Hangs), &[redis])).expect("saving");
        assert_eq!(blocked(redis).as_deref(), Some("/ does not complete writes"));
        assert_eq!(blocked(patroni), None, "no other node can take over from PostgreSQL");
        save(root.path(), &saved(Some(StorageFault::Hangs), &[])).expect("saving");
        assert_eq!(blocked(redis), None, "the other nodes cannot take over");
        let old = Saved { saved_ms: 0, ..saved(Some(StorageFault::Hangs), &[redis]) };
        save(root.path(), &old).expect("saving");
        assert_eq!(blocked(redis), None, "the watcher does not run any more");
        let file = root.path().join("var/cache/hanode/storage-probe");
        std::fs::remove_file(&file).expect("removing");
        std::fs::create_dir(&file).expect("a directory in its place");
        assert!(blocked(redis).is_some_and(|reason| reason.starts_with("the storage cannot be probed: ")));
    }
}
