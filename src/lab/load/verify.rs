//! At the end: is everything there that was acknowledged?

use super::{Client, Ledger, Record, Service, redis};
use anyhow::{Context, Result};
use hanode_util::interrupt;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the cluster may take to answer whoever reads back.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    pub postgres: Kept,
    pub redis_wait: Kept,
    /// Nothing of it was promised.
    pub redis_plain: Kept,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kept {
    pub(crate) attempted: u64,
    pub acknowledged: usize,
    /// Acknowledged, and not there.
    pub lost: Vec<u64>,
    /// Never answered, and there all the same.
    pub(crate) kept_unanswered: usize,
}

impl Verdict {
    pub fn promises_kept(&self) -> bool {
        self.postgres.lost.is_empty() && self.redis_wait.lost.is_empty()
    }
}

/// A line for each kind of write.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (what, kept, promise) in [
            ("PostgreSQL commits", &self.postgres, "promised"),
            ("Redis, WAIT", &self.redis_wait, "promised"),
            ("Redis, plain", &self.redis_plain, "not promised"),
        ] {
            write!(
                f,
                "{what:<20}{:>8} acknowledged, {} lost ({promise})",
                kept.acknowledged,
                kept.lost.len()
            )?;
            let some: Vec<_> = kept.lost.iter().take(10).map(u64::to_string).collect();
            let which =
                if some.is_empty() { String::new() } else { format!(": numbers {} …", some.join(", ")) };
            writeln!(f, "{which}")?;
        }
        Ok(())
    }
}

impl Record {
    /// Reads everything back through the virtual IP; the data is removed again when no promise was broken.
    pub fn verify(&self) -> Result<Verdict> {
        self.client.net.inside(|| {
            let client = &self.client;
            let list = |kind| move || redis::numbers(&mut client.redis()?, &redis::key(&client.run, kind));
            let table = || client.postgres.numbers(&client.run);
            let verdict = Verdict {
                postgres: self.kept(Service::Postgres, read_back("PostgreSQL", table)?),
                redis_wait: self.kept(Service::RedisWait, read_back("Redis", list(redis::WAIT))?),
                redis_plain: self.kept(Service::RedisPlain, read_back("Redis", list(redis::PLAIN))?),
            };
            if verdict.promises_kept() {
                forget(client)?;
            }
            Ok(verdict)
        })?
    }

    fn kept(&self, service: Service, there: BTreeSet<u64>) -> Kept {
        let ledger = self.ledgers.iter().find(|(s, _)| *s == service).map(|(_, ledger)| ledger);
        ledger.map_or_else(|| kept(&Ledger::default(), &there), |ledger| kept(ledger, &there))
    }
}

fn kept(ledger: &Ledger, there: &BTreeSet<u64>) -> Kept {
    let told: BTreeSet<u64> = ledger.acknowledged.iter().map(|(number, _)| *number).collect();
    Kept {
        attempted: ledger.attempted,
        acknowledged: told.len(),
        lost: told.difference(there).copied().collect(),
        kept_unanswered: there.difference(&told).count(),
    }
}

fn read_back<T>(what: &str, read: impl Fn() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match read() {
            Err(error) if begun.elapsed() > LIMIT => {
                return Err(error).with_context(|| format!("reading back from {what}"));
            }
            Err(_) => sleep(Duration::from_secs(1)),
            Ok(found) => return Ok(found),
        }
        interrupt::check()?;
    }
}

fn forget(client: &Client) -> Result<()> {
    client.postgres.forget(&client.run).context("removing the load's table")?;
    redis::forget(&mut client.redis()?, &client.run).context("removing the load's keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_acknowledged_can_be_lost() {
        let mut ledger = Ledger::default();
        for number in 1..=4 {
            assert_eq!(ledger.attempt(), number);
        }
        ledger.answered(1, true, Duration::ZERO);
        ledger.answered(2, true, Duration::ZERO);
        ledger.answered(3, false, Duration::ZERO);
        let found = kept(&ledger, &BTreeSet::from([1, 4]));
        assert_eq!(found, Kept { attempted: 4, acknowledged: 2, lost: vec![2], kept_unanswered: 1 });
    }
}
