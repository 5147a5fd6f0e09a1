//! What one writer wrote, and which writes were acknowledged.

use serde::Serialize;
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The last number written; the first is 1.
    pub(crate) attempted: u64,
    /// Number and time of each acknowledged write.
    pub(crate) acknowledged: Vec<(u64, Duration)>,
    /// Answered, but not confirmed: `WAIT` found too few replicas in time.
    pub(crate) unconfirmed: u64,
    pub(crate) failures: u64,
    pub(crate) last_failure: String,
}

/// A time without an acknowledged write; `from` is in seconds since the load started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Gap {
    pub(crate) from: f64,
    pub seconds: f64,
}

impl Ledger {
    pub(crate) fn attempt(&mut self) -> u64 {
        self.attempted += 1;
        self.attempted
    }

    pub(crate) fn answered(&mut self, number: u64, confirmed: bool, at: Duration) {
        match confirmed {
            true => self.acknowledged.push((number, at)),
            false => self.unconfirmed += 1,
        }
    }

    pub(crate) fn failed(&mut self, error: &anyhow::Error) {
        self.failures += 1;
        self.last_failure = format!("{error:#}");
    }

    /// All gaps of at least this length.
    pub(crate) fn gaps(&self, at_least: Duration, until: Duration) -> Vec<Gap> {
        let mut last = Duration::ZERO;
        let mut found = Vec::new();
        for at in self.acknowledged.iter().map(|(_, at)| *at).chain([until]) {
            let length = at.saturating_sub(last);
            if length >= at_least {
                found.push(Gap { from: last.as_secs_f64(), seconds: length.as_secs_f64() });
            }
            last = at;
        }
        found
    }

    /// The longest gap that ends after `from`; one that has not ended counts up to `until`.
    pub(crate) fn longest_gap(&self, from: Duration, until: Duration) -> Gap {
        let first = self.acknowledged.partition_point(|(_, at)| *at <= from);
        let before = first.checked_sub(1).map_or(Duration::ZERO, |i| self.acknowledged[i].1);
        let times = self.acknowledged[first..].iter().map(|(_, at)| *at).take_while(|at| *at < until);
        let mut longest = Gap::default();
        let mut last = before;
        for at in times.chain([until]) {
            let seconds = at.saturating_sub(last).as_secs_f64();
            if seconds > longest.seconds {
                longest = Gap { from: last.as_secs_f64(), seconds };
            }
            last = at;
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_gap_ends_after_from() {
        let s = Duration::from_secs;
        let mut ledger = Ledger::default();
        for at in [1, 2, 9, 10, 14, 15] {
            ledger.answered(at, true, s(at));
        }
        assert_eq!(ledger.longest_gap(s(0), s(16)), Gap { from: 2.0, seconds: 7.0 });
        // The write at 2 was the last before 5.
        assert_eq!(ledger.longest_gap(s(5), s(16)), Gap { from: 2.0, seconds: 7.0 });
        assert_eq!(ledger.longest_gap(s(9), s(16)), Gap { from: 10.0, seconds: 4.0 });
        assert_eq!(ledger.longest_gap(s(15), s(25)), Gap { from: 15.0, seconds: 10.0 });
        let gap = |from, seconds| Gap { from, seconds };
        assert_eq!(ledger.gaps(s(4), s(25)), [gap(2.0, 7.0), gap(10.0, 4.0), gap(15.0, 10.0)]);
        assert_eq!(Ledger::default().longest_gap(s(3), s(8)), Gap { from: 0.0, seconds: 8.0 });
    }
}
