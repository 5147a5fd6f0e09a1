//! Reads all that a part of the repository has, and checks it against its checksums.

use super::{Found, Repository};
use anyhow::Result;
use hanode_core::backup::snapshot_dir;
use hanode_core::restore::{Lacking, Moment, PartOf, RestoreRequest};
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Verification {
    schema: u32,
    part: String,
    pub intact: bool,
    /// What is damaged or missing.
    faults: Vec<String>,
    /// Moments that cannot be restored, since the repository was away for too long.
    gaps: Vec<String>,
    backups: usize,
    snapshots: usize,
}

/// `part`: the newest one of the cluster if `None`. `now`: in seconds since 1970.
pub fn verify(repository: &Repository, part: Option<&str>, now: i64) -> Result<Verification> {
    let pgbackrest = &repository.pgbackrest;
    let part = part.map_or(PartOf::ThisCluster, |name| PartOf::Part(name.into()));
    let request = RestoreRequest { part, moment: Moment::Latest };
    let found = Found::look_up(repository, &request)?;
    let part = found.part.clone();
    let Lacking { useless, gaps } = Lacking::of(&part, &found.info, &found.wal);
    let mut faults: Vec<String> = useless.iter().map(|lacking| lacking.to_string()).collect();
    let latest = found.choose(&request, now).err().map(|error| error.to_string());
    faults.extend(latest.filter(|error| !faults.contains(error)));
    let gaps: Vec<String> =
        gaps.iter().map(|gap| gap.to_string()).filter(|gap| !faults.contains(gap)).collect();
    faults.extend(pgbackrest.verify(&part)?);
    let dir = snapshot_dir(&part);
    let snapshots = pgbackrest.list(&dir)?;
    for name in snapshots.keys() {
        let checked = pgbackrest.check_snapshot(&format!("{dir}/{name}"));
        // A backup that is made meanwhile deletes snapshots that have expired.
        let expired = || pgbackrest.list(&dir).is_ok_and(|now| !now.contains_key(name));
        faults.extend(checked.err().filter(|_| !expired()).map(|error| format!("{name}: {error:#}")));
    }
    let (backups, snapshots) = (found.info.backups.len(), snapshots.len());
    Ok(Verification { schema: 1, part, intact: faults.is_empty(), faults, gaps, backups, snapshots })
}

impl Verification {
    pub fn text(&self) -> String {
        let Verification { part, backups, snapshots, faults, gaps, .. } = self;
        let checked =
            format!("{part}: {backups} backups of PostgreSQL, their WAL, {snapshots} snapshots of Redis");
        let verdict = if faults.is_empty() { "intact" } else { "damaged" };
        let text = faults.iter().fold(format!("{checked}: {verdict}"), |text, fault| text + "\n  - " + fault);
        gaps.iter().fold(text, |text, gap| text + "\n  gap: " + gap)
    }
}
