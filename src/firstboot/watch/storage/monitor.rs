//! From the results of probes to a fault of the storage (pure).

use super::probe::Outcome;
use hanode_core::peer::StorageFault;
use std::time::Duration;

/// A probe that takes longer hangs. A block that is overwritten in place does not wait for other writes, so even a
/// busy disk completes it in a fraction of this time. Less than the lifetime of Patroni's lease, after which a hanging
/// etcd would revoke it.
pub(super) const HANG_LIMIT: Duration = Duration::from_secs(10);
/// For errors and a file system without space, which may pass.
pub(super) const FAILURE_LIMIT: Duration = Duration::from_secs(5);
/// A probe that takes longer is slow.
const SLOW: Duration = Duration::from_secs(3);
/// Without a single probe that was not slow.
const SLOW_LIMIT: Duration = Duration::from_secs(60);
/// After a fault, the number of probes in a row that are not slow until the storage counts as usable: once a second.
const GOOD_PROBES: u32 = 5;
/// After slow storage: without the load of the servers it is fast again at once, and with it slow again. Doubles with
/// each repetition, up to [`MAX_SLOW_GOOD_PROBES`].
const SLOW_GOOD_PROBES: u32 = 60;
const MAX_SLOW_GOOD_PROBES: u32 = 1800;
/// Slow storage after this time is no repetition.
const SLOW_MEMORY: Duration = Duration::from_secs(3600);
/// The part of a long tick that counts: the process itself was suspended, not the storage.
const MAX_TICK: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Monitor {
    fault: Option<StorageFault>,
    /// Since a probe last ended.
    since_probe: Duration,
    /// Since a probe last succeeded.
    since_write: Duration,
    /// Since a probe last succeeded that was not slow.
    since_fast: Duration,
    /// The fault of the last probe, and how long all have failed.
    failing: Option<(StorageFault, Duration)>,
    good_probes: u32,
    /// The good probes that the last slow storage needed, and the time since it was usable again.
    slow: Option<(u32, Duration)>,
}

impl Monitor {
    /// `ended`: the result of a probe that ended since the last tick. Returns the current fault.
    pub(super) fn tick(&mut self, passed: Duration, ended: Option<Outcome>) -> Option<StorageFault> {
        let passed = passed.min(MAX_TICK);
        self.since_probe += passed;
        self.since_write += passed;
        self.since_fast += passed;
        if let Some((_, since)) = &mut self.failing {
            *since += passed;
        }
        if let Some((_, since)) = &mut self.slow {
            *since = if self.fault.is_none() { *since + passed } else { Duration::ZERO };
        }
        self.slow = self.slow.filter(|(_, since)| *since < SLOW_MEMORY);
        if let Some(outcome) = ended {
            self.add(outcome);
        }
        if let Some(fault) = self.current() {
            // In one incident the fault may alternate between this and a hang.
            let is_new = self.fault.is_none() || self.slow.is_none();
            if fault == StorageFault::Slow && is_new {
                let needed = self.slow.map_or(SLOW_GOOD_PROBES, |(before, _)| before.saturating_mul(2));
                self.slow = Some((needed.min(MAX_SLOW_GOOD_PROBES), Duration::ZERO));
            }
            (self.fault, self.good_probes) = (Some(fault), 0);
        } else if self.good_probes >= self.good_probes_needed() {
            self.fault = None;
        }
        self.fault
    }

    fn good_probes_needed(&self) -> u32 {
        match (self.fault, self.slow) {
            (Some(StorageFault::Slow), Some((needed, _))) => needed,
            _ => GOOD_PROBES,
        }
    }

    fn add(&mut self, outcome: Outcome) {
        self.since_probe = Duration::ZERO;
        match outcome {
            Outcome::Written(took) => {
                (self.since_write, self.failing) = (Duration::ZERO, None);
                if took < SLOW {
                    self.since_fast = Duration::ZERO;
                    self.good_probes = self.good_probes.saturating_add(1);
                } else {
                    self.good_probes = 0;
                }
            }
            Outcome::Failed(fault) => {
                let since = self.failing.map_or(Duration::ZERO, |(_, since)| since);
                self.failing = Some((fault, since));
                self.good_probes = 0;
            }
            // It is no evidence against the storage; a failure before it still counts.
            Outcome::Prevented => (self.since_write, self.since_fast) = (Duration::ZERO, Duration::ZERO),
        }
    }

    fn current(&self) -> Option<StorageFault> {
        if self.since_probe > HANG_LIMIT {
            return Some(StorageFault::Hangs);
        }
        if let Some((fault, _)) = self.failing.filter(|(_, since)| *since > FAILURE_LIMIT) {
            return Some(fault);
        }
        (self.since_fast > SLOW_LIMIT).then_some(StorageFault::Slow)
    }

    pub(super) fn fault(&self) -> Option<StorageFault> {
        self.fault
    }

    /// Whether the last probes were good, though a slow storage may need more of them.
    pub(super) fn works_now(&self) -> bool {
        self.fault.is_none() || self.fault == Some(StorageFault::Slow) && self.good_probes >= GOOD_PROBES
    }

    /// Since a write last reached the storage.
    pub(super) fn since_write(&self) -> Duration {
        self.since_write
    }

    /// How long the current probe has taken.
    pub(super) fn since_probe(&self) -> Duration {
        self.since_probe
    }

    /// Whether the next ticks may find a fault.
    pub(super) fn is_suspect(&self) -> bool {
        self.since_probe > HANG_LIMIT / 4 || self.failing.is_some() || self.since_fast > SLOW_LIMIT / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Option<Outcome> = Some(Outcome::Written(Duration::from_millis(5)));
    const TICK: Duration = Duration::from_millis(250);

    /// Ticks for this many seconds; a probe ends with `outcome` every `interval` seconds.
    fn run(
        monitor: &mut Monitor,
        seconds: u32,
        interval: u32,
        outcome: Option<Outcome>,
    ) -> Option<StorageFault> {
        let mut fault = None;
        for tick in 1..=seconds * 4 {
            fault = monitor.tick(TICK, outcome.filter(|_| tick % (interval * 4) == 0));
        }
        fault
    }

    #[test]
    fn storage_that_answers_has_no_fault() {
        let mut monitor = Monitor::default();
        assert_eq!(run(&mut monitor, 300, 1, OK), None);
        assert!(!monitor.is_suspect());
        // A busy disk: most writes last nine seconds, but some are fast.
        let slow = Some(Outcome::Written(Duration::from_secs(9)));
        for _ in 0..20 {
            assert_eq!(run(&mut monitor, 45, 9, slow), None);
            assert_eq!(run(&mut monitor, 2, 1, OK), None);
        }
    }

    #[test]
    fn a_write_that_does_not_complete_is_a_fault_until_several_do() {
        let mut monitor = Monitor::default();
        run(&mut monitor, 5, 1, OK);
        assert_eq!(run(&mut monitor, 10, 1, None), None);
        assert!(monitor.is_suspect());
        assert_eq!(run(&mut monitor, 1, 1, None), Some(StorageFault::Hangs));
        assert_eq!(monitor.since_write(), Duration::from_secs(11));
        assert_eq!(run(&mut monitor, 4, 1, OK), Some(StorageFault::Hangs));
        assert_eq!(run(&mut monitor, 1, 1, OK), None);
    }

    #[test]
    fn writes_that_are_always_slow_are_a_fault() {
        let mut monitor = Monitor::default();
        let slow = Some(Outcome::Written(Duration::from_secs(4)));
        assert_eq!(run(&mut monitor, 60, 4, slow), None);
        assert_eq!(run(&mut monitor, 4, 4, slow), Some(StorageFault::Slow));
        assert_eq!(run(&mut monitor, 59, 1, OK), Some(StorageFault::Slow));
        assert_eq!(run(&mut monitor, 1, 1, OK), None);
    }

    #[test]
    fn storage_that_is_slow_only_under_load_does_not_come_and_go() {
        let mut monitor = Monitor::default();
        let slow = Some(Outcome::Written(Duration::from_secs(4)));
        for usable_after in [60, 120, 240, 480, 960, 1800, 1800] {
            assert_eq!(run(&mut monitor, 64, 4, slow), Some(StorageFault::Slow));
            assert_eq!(run(&mut monitor, usable_after - 1, 1, OK), Some(StorageFault::Slow));
            assert_eq!(run(&mut monitor, 1, 1, OK), None, "{usable_after}");
        }
        assert_eq!(run(&mut monitor, 3600, 1, OK), None);
        assert_eq!(run(&mut monitor, 64, 4, slow), Some(StorageFault::Slow));
        assert_eq!(run(&mut monitor, 60, 1, OK), None, "an hour later");
    }

    /// Probes of 13 s: each hangs for a moment, and is slow once it ends.
    #[test]
    fn a_fault_that_alternates_in_one_incident_needs_no_longer_proof() {
        let mut monitor = Monitor::default();
        let slow = Some(Outcome::Written(Duration::from_secs(13)));
        run(&mut monitor, 130, 13, slow);
        assert_eq!(monitor.fault(), Some(StorageFault::Slow));
        assert!(!monitor.works_now());
        run(&mut monitor, GOOD_PROBES, 1, OK);
        assert!(monitor.works_now());
        assert_eq!(run(&mut monitor, SLOW_GOOD_PROBES, 1, OK), None);
    }

    #[test]
    fn a_probe_that_something_else_prevents_is_no_fault() {
        let mut monitor = Monitor::default();
        assert_eq!(run(&mut monitor, 300, 1, Some(Outcome::Prevented)), None);
        assert!(!monitor.is_suspect());
        run(&mut monitor, 1, 1, Some(Outcome::Failed(StorageFault::Errors)));
        assert_eq!(run(&mut monitor, 6, 1, Some(Outcome::Prevented)), Some(StorageFault::Errors));
    }

    #[test]
    fn failures_count_once_they_last() {
        let failed = |fault| Some(Outcome::Failed(fault));
        for fault in [StorageFault::ReadOnly, StorageFault::Errors, StorageFault::Full] {
            let mut monitor = Monitor::default();
            run(&mut monitor, 5, 1, OK);
            assert_eq!(run(&mut monitor, 5, 1, failed(fault)), None, "{fault:?}");
            assert_eq!(run(&mut monitor, 2, 1, failed(fault)), Some(fault));
            assert_eq!(run(&mut monitor, 4, 1, OK), Some(fault));
            assert_eq!(run(&mut monitor, 1, 1, failed(fault)), Some(fault), "it comes and goes");
            assert_eq!(run(&mut monitor, 5, 1, OK), None);
        }
        // The fault changes: the time counts from the first.
        let mut monitor = Monitor::default();
        run(&mut monitor, 5, 1, failed(StorageFault::Errors));
        assert_eq!(run(&mut monitor, 2, 1, failed(StorageFault::ReadOnly)), Some(StorageFault::ReadOnly));
    }

    #[test]
    fn time_in_which_the_machine_was_suspended_does_not_count() {
        let mut monitor = Monitor::default();
        run(&mut monitor, 5, 1, OK);
        assert_eq!(monitor.tick(Duration::from_secs(600), None), None);
        assert_eq!(run(&mut monitor, 5, 1, OK), None);
    }
}
