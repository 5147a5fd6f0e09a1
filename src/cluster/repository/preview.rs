//! What a restore would fetch, and whether the repository covers the moment: the same decision as on the node that restores.

use super::{Found, Repository, snapshot};
use anyhow::{Context, Result};
use hanode_core::backup::time;
use hanode_core::restore::{Moment, RedisRestored, RestoreChoice, RestoreRequest};
use hanode_util::bytes;
use hanode_util::user_error::UserError;
use serde::Serialize;

/// All times are seconds since 1970.
#[derive(Debug, Serialize)]
pub struct Preview {
    schema: u32,
    choice: RestoreChoice,
    backup: Fetched,
    first_wal: String,
    last_wal: String,
    wal_segments: usize,
    redis: RedisRestored,
}

#[derive(Debug, Serialize)]
struct Fetched {
    started: i64,
    finished: i64,
    fetched_bytes: u64,
    restored_bytes: u64,
}

/// Fails if the moment cannot be restored. `now`: in seconds since 1970.
pub fn preview(repository: &Repository, request: &RestoreRequest, now: i64) -> Result<Preview> {
    let refused = |error: String| {
        let help = "see what there is with hanode backup list";
        UserError::with_help(format!("{request} cannot be restored: {error}"), help)
    };
    let found = Found::look_up(repository, request).map_err(|e| refused(format!("{e:#}")))?;
    let choice = found.choose(request, now).map_err(|error| refused(error.to_string()))?;
    let backup = found.info.backups.iter().find(|backup| backup.label == choice.backup);
    let backup = backup.context("the backup is gone")?;
    let start = backup.start_wal.context("the backup names no WAL")?;
    let moment = match request.moment {
        Moment::Time(micros) => micros.div_euclid(1_000_000),
        _ => i64::MAX,
    };
    let wal = found.wal.needed(start, moment);
    let redis = match request.moment {
        // Only the restore finds when that was.
        Moment::Lsn(_) | Moment::Name(_) => RedisRestored { snapshot: None },
        Moment::Time(_) | Moment::Latest => {
            snapshot(&repository.pgbackrest, &found.part, &request.moment, now)?
        }
    };
    let last = wal.last().context("the archive lacks the WAL of the backup")?;
    Ok(Preview {
        schema: 1,
        backup: Fetched {
            started: backup.started,
            finished: backup.finished,
            fetched_bytes: backup.fetched_bytes,
            restored_bytes: backup.restored_bytes,
        },
        first_wal: start.name(),
        last_wal: last.name(),
        wal_segments: wal.len(),
        choice,
        redis,
    })
}

impl Preview {
    pub fn text(&self) -> String {
        let Preview { choice, backup, first_wal, last_wal, wal_segments, .. } = self;
        let (fetched, written) = (bytes::text(backup.fetched_bytes), bytes::text(backup.restored_bytes));
        let redis = match &self.redis.snapshot {
            _ if matches!(choice.request.moment, Moment::Lsn(_) | Moment::Name(_)) => {
                "the newest snapshot from before that moment, which only the restore finds".into()
            }
            Some(snapshot) => format!("{}, complete at {}", snapshot.path, time::text(snapshot.at)),
            None => "no snapshot from before that moment: Redis would start empty".into(),
        };
        format!(
            "{} can be restored from {}:\n\
             backup  {}, complete at {}: {fetched} to fetch, {written} to write\n\
             WAL     {first_wal} to {last_wal} ({wal_segments})\n\
             Redis   {redis}",
            choice.request.moment,
            choice.part,
            choice.backup,
            time::text(backup.finished)
        )
    }
}
