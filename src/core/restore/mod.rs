//! Restoring a cluster at its bootstrap: what is requested, what the repository has for it, and what was restored. Pure.

mod choice;
mod request;
mod wal;

use crate::backup::time;
use serde::{Deserialize, Serialize};
use std::fmt;

pub use choice::{Lacking, NotRestorable, RestoreChoice, choose, choose_snapshot, part_of, snapshot_time};
pub use request::{Moment, PartOf, RestoreRequest, position_of};
pub use wal::{ArchivedWal, WalPosition};

/// What etcd has about the restore with which this cluster began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRecord {
    pub choice: RestoreChoice,
    /// Set once PostgreSQL has been restored.
    #[serde(default)]
    pub postgres: Option<PostgresRestored>,
    /// Set before Redis starts for the first time.
    #[serde(default)]
    pub redis: Option<RedisRestored>,
    /// Set once a replica has the snapshot. Until then it is loaded again if the first primary loses its disk.
    #[serde(default)]
    pub redis_replicated: bool,
}

/// Where PostgreSQL's recovery ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresRestored {
    /// The time of the last transaction, in seconds since 1970; that of the backup's end if there was none since.
    pub reached: i64,
    pub lsn: String,
}

/// The snapshot that Redis was started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisRestored {
    /// `None` if there was none at that moment: Redis starts empty.
    pub snapshot: Option<RedisSnapshot>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisSnapshot {
    /// In the repository.
    pub path: String,
    /// When it was complete, in seconds since 1970.
    pub at: i64,
}

/// In one line: what was requested, and to which moments both servers were restored.
impl fmt::Display for RestoreRecord {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let RestoreRecord { choice, postgres, redis, redis_replicated: _ } = self;
        write!(f, "to {} from {}: ", choice.request.moment, choice.part)?;
        match postgres {
            None => write!(f, "PostgreSQL is not restored yet (backup {})", choice.backup)?,
            Some(restored) => {
                let PostgresRestored { reached, lsn } = restored;
                write!(f, "PostgreSQL's last transaction is of {}, {lsn}", time::text(*reached))?;
            }
        }
        match redis.as_ref().map(|restored| &restored.snapshot) {
            None => write!(f, "; Redis is not restored yet"),
            Some(None) => write!(f, "; Redis started empty, since there was no snapshot"),
            Some(Some(snapshot)) => write!(f, "; Redis' snapshot is of {}", time::text(snapshot.at)),
        }
    }
}

#[cfg(test)]
mod tests;
