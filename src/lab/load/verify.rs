//! Verifies that every acknowledged write is stored.

use super::{Client, Ledger, Service, Written, redis};
use anyhow::{Context, Result};
use hanode_util::interrupt;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the cluster may take to answer the queries that read the writes back.
const READ_BACK_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    pub postgres: WriteCounts,
    pub redis_wait: WriteCounts,
    /// May be lost at a failover.
    pub redis_plain: WriteCounts,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WriteCounts {
    pub(crate) attempted: u64,
    pub acknowledged: usize,
    /// Acknowledged, but not stored.
    pub lost: Vec<u64>,
    /// Not acknowledged, but stored.
    pub(crate) stored_unacknowledged: usize,
}

/// How a service was restored to a moment during the load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RestoredWrites {
    /// The number of writes that were acknowledged before the moment.
    pub acknowledged: usize,
    /// Those of them that are not stored.
    pub lost: Vec<u64>,
    /// Stored, but written after the moment.
    pub later: Vec<u64>,
}

impl Verification {
    /// The number of lost writes among those that the cluster guarantees to keep.
    pub fn lost(&self) -> usize {
        self.postgres.lost.len() + self.redis_wait.lost.len()
    }
}

/// The line of a report about lost or unverified writes.
pub(crate) fn verification_failure(
    writes: Option<&Verification>,
    unverified: Option<&str>,
) -> Option<String> {
    if let Some(why) = unverified {
        return Some(format!("FAIL: writes could not be verified: {why}"));
    }
    match writes.map_or(0, Verification::lost) {
        0 => None,
        1 => Some("FAIL: 1 acknowledged write lost".into()),
        lost => Some(format!("FAIL: {lost} acknowledged writes lost")),
    }
}

/// One line for each kind of write.
impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (what, counts, guarantee) in [
            ("PostgreSQL commits", &self.postgres, "guaranteed"),
            ("Redis, WAIT", &self.redis_wait, "guaranteed"),
            ("Redis, plain", &self.redis_plain, "not guaranteed"),
        ] {
            write!(
                f,
                "{what:<20}{:>8} acknowledged, {} lost ({guarantee})",
                counts.acknowledged,
                counts.lost.len()
            )?;
            let first: Vec<_> = counts.lost.iter().take(10).map(u64::to_string).collect();
            let which =
                if first.is_empty() { String::new() } else { format!(": numbers {} …", first.join(", ")) };
            writeln!(f, "{which}")?;
        }
        Ok(())
    }
}

impl Written {
    /// Reads everything back through the virtual IP. Removes the data unless a guaranteed write is lost.
    pub fn verify(&self) -> Result<Verification> {
        self.client.net.run(|| {
            let client = &self.client;
            let list =
                |kind| move || redis::numbers(&mut client.connect_redis()?, &redis::key(&client.run, kind));
            let table = || client.postgres.numbers(&client.run);
            let writes = Verification {
                postgres: self.counts(Service::Postgres, read_back("PostgreSQL", table)?),
                redis_wait: self.counts(Service::RedisWait, read_back("Redis", list(redis::WAIT))?),
                redis_plain: self.counts(Service::RedisPlain, read_back("Redis", list(redis::PLAIN))?),
            };
            if writes.lost() == 0 {
                remove_data(client)?;
            }
            Ok(writes)
        })?
    }

    /// What of PostgreSQL's commits, and of Redis' writes without `WAIT`, was restored to `moment` since the load started.
    pub fn verify_restored(&self, moment: Duration) -> Result<[RestoredWrites; 2]> {
        self.client.net.run(|| {
            let client = &self.client;
            let list =
                || redis::numbers(&mut client.connect_redis()?, &redis::key(&client.run, redis::PLAIN));
            let table = || client.postgres.numbers(&client.run);
            let of = |service, stored: BTreeSet<u64>| {
                let ledger = self.ledgers.iter().find(|(s, _)| *s == service).map(|(_, ledger)| ledger);
                ledger.map(|ledger| restored(ledger, &stored, moment)).context("the load has no such writer")
            };
            Ok([
                of(Service::Postgres, read_back("PostgreSQL", table)?)?,
                of(Service::RedisPlain, read_back("Redis", list)?)?,
            ])
        })?
    }

    fn counts(&self, service: Service, stored: BTreeSet<u64>) -> WriteCounts {
        let ledger = self.ledgers.iter().find(|(s, _)| *s == service).map(|(_, ledger)| ledger);
        ledger.map_or_else(|| count(&Ledger::default(), &stored), |ledger| count(ledger, &stored))
    }
}

fn count(ledger: &Ledger, stored: &BTreeSet<u64>) -> WriteCounts {
    let acknowledged: BTreeSet<u64> = ledger.acknowledged.iter().map(|(number, _)| *number).collect();
    WriteCounts {
        attempted: ledger.attempted,
        acknowledged: acknowledged.len(),
        lost: acknowledged.difference(stored).copied().collect(),
        stored_unacknowledged: stored.difference(&acknowledged).count(),
    }
}

/// One write follows the other: those after the first one that was acknowledged later were started later, too.
fn restored(ledger: &Ledger, stored: &BTreeSet<u64>, moment: Duration) -> RestoredWrites {
    let split = ledger.acknowledged.partition_point(|(_, at)| *at <= moment);
    let (before, after) = ledger.acknowledged.split_at(split);
    let lost = before.iter().map(|(number, _)| *number).filter(|number| !stored.contains(number));
    let first_after = after.first().map_or(u64::MAX, |(number, _)| *number);
    RestoredWrites {
        acknowledged: before.len(),
        lost: lost.collect(),
        later: stored.iter().copied().filter(|number| *number > first_after).collect(),
    }
}

fn read_back<T>(what: &str, read: impl Fn() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match read() {
            Err(error) if start.elapsed() > READ_BACK_LIMIT => {
                return Err(error).with_context(|| format!("reading back from {what}"));
            }
            Err(_) => sleep(Duration::from_secs(1)),
            Ok(found) => return Ok(found),
        }
        interrupt::check()?;
    }
}

fn remove_data(client: &Client) -> Result<()> {
    client.postgres.drop_table(&client.run).context("removing the table of the load")?;
    redis::delete_keys(&mut client.connect_redis()?, &client.run).context("removing the keys of the load")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_acknowledged_writes_count_as_lost() {
        let mut ledger = Ledger::default();
        for number in 1..=4 {
            assert_eq!(ledger.attempt(), number);
        }
        ledger.answered(1, true, Duration::ZERO);
        ledger.answered(2, true, Duration::ZERO);
        ledger.answered(3, false, Duration::ZERO);
        let found = count(&ledger, &BTreeSet::from([1, 4]));
        assert_eq!(
            found,
            WriteCounts { attempted: 4, acknowledged: 2, lost: vec![2], stored_unacknowledged: 1 }
        );
    }
}
