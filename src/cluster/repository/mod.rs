//! The repository of the backups, read with pgBackRest on a node or on the admin machine: its content ([`list()`]), whether
//! all of it can be read ([`verify()`]), and what it has for a restore ([`Found`], [`preview()`]).

mod list;
mod preview;
mod verify;

use crate::client::pgbackrest::PgBackRest;
use anyhow::{Context, Result};
use hanode_core::backup::{PartInfo, snapshot_dir};
use hanode_core::restore::{
    ArchivedWal, Moment, NotRestorable, RedisRestored, RestoreChoice, RestoreRequest, choose_snapshot,
    part_of,
};
use hanode_core::spec::Spec;
use hanode_util::user_error::UserError;

pub use list::list;
pub use preview::preview;
pub use verify::verify;

/// The repository of a cluster.
pub struct Repository<'a> {
    pub pgbackrest: PgBackRest,
    pub spec: &'a Spec,
}

impl Repository<'_> {
    fn url(&self) -> Result<String> {
        let backup = self.spec.backup.as_ref();
        Ok(backup.with_context(no_backup)?.repository.to_string())
    }
}

/// The error of a command about backups without `[backup]`.
pub fn no_backup() -> UserError {
    UserError::with_help("cluster.toml has no [backup]".to_string(), "set it up first: docs/backup.md")
}

/// The part of the repository that a request means.
pub struct Found {
    pub part: String,
    pub info: PartInfo,
    pub wal: ArchivedWal,
}

impl Found {
    pub fn look_up(repository: &Repository, request: &RestoreRequest) -> Result<Found> {
        let Repository { pgbackrest, spec } = repository;
        let mut parts = pgbackrest.info()?;
        let part = part_of(request, &spec.name, &repository.url()?, &parts)?;
        let info = parts.remove(&part).context("the part is gone")?;
        let archive = info.backups.iter().rev().find_map(|backup| backup.archive.as_ref());
        let wal = match archive {
            Some(archive) => archived_wal(pgbackrest, &part, archive)?,
            None => ArchivedWal::default(),
        };
        Ok(Found { part, info, wal })
    }

    /// `now`: in seconds since 1970.
    pub fn choose(&self, request: &RestoreRequest, now: i64) -> Result<RestoreChoice, NotRestorable> {
        hanode_core::restore::choose(request, &self.part, &self.info, &self.wal, now)
    }
}

fn archived_wal(pgbackrest: &PgBackRest, part: &str, archive: &str) -> Result<ArchivedWal> {
    let dir = format!("archive/{part}/{archive}");
    let files = pgbackrest.list_all(&dir)?;
    let wal = ArchivedWal::new(files.iter().map(|(path, at)| (path.as_str(), *at)));
    match wal.history_file() {
        None => Ok(wal),
        Some(name) => {
            let text = pgbackrest.read_archived(part, &format!("{dir}/{name}"))?;
            Ok(wal.with_history(&String::from_utf8_lossy(&text)))
        }
    }
}

/// The snapshot of Redis that belongs to a moment. `reached`: where PostgreSQL's recovery ended, in seconds since 1970,
/// if the moment is none of the clock.
pub fn snapshot(pgbackrest: &PgBackRest, part: &str, moment: &Moment, reached: i64) -> Result<RedisRestored> {
    let moment = match moment {
        Moment::Latest => i64::MAX,
        Moment::Time(micros) => micros.div_euclid(1_000_000),
        Moment::Lsn(_) | Moment::Name(_) => reached,
    };
    let dir = snapshot_dir(part);
    let names = pgbackrest.list(&dir)?;
    Ok(choose_snapshot(&dir, names.keys().map(String::as_str), moment))
}
