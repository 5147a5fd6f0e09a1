//! Backups from the admin machine: the repository, read with this machine's own pgBackRest so that it also answers when no
//! node is left, and a backup at once ([`request`]).

pub mod request;

use crate::cluster_dir::ClusterDir;
use crate::embedded;
use anyhow::{Context, Result, bail};
use hanode_cluster::client::pgbackrest::PgBackRest;
use hanode_cluster::repository::{Repository, no_backup};
use hanode_core::render::pgbackrest_settings;
use hanode_core::spec;
use hanode_util::command;
use hanode_util::scratch::Scratch;
use hanode_util::user_error::UserError;
use std::path::Path;

/// The repository of a cluster directory.
pub struct AdminRepository<'a> {
    pub repository: Repository<'a>,
    /// The CA of the endpoint, if it is one of the cluster's.
    _ca: Option<Scratch>,
}

/// `mount`: where this machine has the file system of a `file://` repository, if elsewhere than the nodes.
pub fn repository<'a>(cluster: &'a ClusterDir, mount: Option<&Path>) -> Result<AdminRepository<'a>> {
    let backup = cluster.spec.backup.as_ref().with_context(no_backup)?;
    command::require(&["pgbackrest"])?;
    let key = cluster.secrets.backup_key.clone().context("secrets.toml has no backup_key")?;
    let settings = pgbackrest_settings(&embedded::templates(), backup, &cluster.secrets)?;
    let mut pgbackrest = PgBackRest::with_settings(&settings, key);
    match (&backup.repository, mount) {
        (spec::Repository::File { path }, mount) => {
            pgbackrest.set("repo1-path", mounted(mount.unwrap_or(Path::new(path)), path)?);
        }
        (spec::Repository::S3 { .. }, Some(_)) => {
            let what = format!("{} is not on a file system", backup.repository);
            bail!(UserError::with_help(what, "leave out --mount"));
        }
        (spec::Repository::S3 { .. }, None) => {}
    }
    let mut ca = None;
    if let Some(pem) = backup.ca_file.as_deref().and_then(|path| cluster.bundle.file(path)) {
        let scratch = Scratch::within(&std::env::temp_dir(), ".hanode-backup-")?;
        let file = scratch.write("ca.crt", pem)?;
        pgbackrest.set("repo1-storage-ca-file", &file.display().to_string());
        ca = Some(scratch);
    }
    Ok(AdminRepository { repository: Repository { pgbackrest, spec: &cluster.spec }, _ca: ca })
}

fn mounted<'a>(at: &'a Path, path: &str) -> Result<&'a str> {
    if !at.is_dir() {
        let what = format!("{} is not a directory on this machine", at.display());
        let help = format!("mount what the nodes have at {path}, and name its place with --mount");
        bail!(UserError::with_help(what, help));
    }
    at.to_str().filter(|path| path.starts_with('/')).with_context(|| {
        UserError::with_help(format!("{} is not an absolute path", at.display()), "write the whole path")
    })
}
