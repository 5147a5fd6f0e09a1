//! What the queries of a PostgreSQL that was killed left on its disk.

use super::Disk;
use crate::host::process;
use anyhow::{Context, Result};
use std::path::Path;

/// PostgreSQL's name for what a query writes to disk; the files are deleted when it ends.
const TEMPORARY: &str = "pgsql_tmp";

impl Disk {
    /// Whether a server runs on this disk.
    pub(crate) fn postgres_runs(&self) -> bool {
        process::postgres_server(&self.at(&self.paths.postgres)).is_some()
    }

    /// Removes the temporary files of a PostgreSQL that does not run, and nothing else.
    pub(crate) fn remove_postgres_temporary_files(&self) -> Result<()> {
        let directory = format!("{}/base/{TEMPORARY}", self.paths.postgres);
        let tree = self.tree()?;
        for entry in std::fs::read_dir(self.at(&directory)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(TEMPORARY) {
                let path = Path::new(&directory).join(&name);
                tree.remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
                tracing::warn!("removed {}: the query that wrote it has ended", path.display());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::disk::tests::{debian, empty};

    #[test]
    fn only_temporary_files_are_removed() {
        let (root, disk) = empty(&debian());
        disk.remove_postgres_temporary_files().expect("without data");
        let base = root.path().join(disk.paths.postgres.trim_start_matches('/')).join("base");
        std::fs::create_dir_all(base.join("pgsql_tmp/pgsql_tmp7.0.fileset")).expect("a directory");
        std::fs::create_dir_all(base.join("5")).expect("a directory");
        let files =
            ["pgsql_tmp/pgsql_tmp7.1", "pgsql_tmp/pgsql_tmp7.0.fileset/0.0", "pgsql_tmp/other", "5/16384"];
        for file in files {
            std::fs::write(base.join(file), "data").expect("a file");
        }
        disk.remove_postgres_temporary_files().expect("removing");
        let left = files.map(|file| base.join(file).exists());
        assert_eq!(left, [false, false, true, true]);
    }
}
