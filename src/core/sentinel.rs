//! How the Sentinels monitor the Redis primary: rendered into their configuration, and compared with what they report.

use crate::spec::Spec;
use serde::Serialize;
use std::time::Duration;

/// Without an answer for this time, a Sentinel regards a server as down.
pub const DOWN_AFTER: Duration = Duration::from_secs(5);
/// After a failed failover the next attempt is delayed by twice this time.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// The Sentinels that must regard the primary as down before a failover.
    pub quorum: u64,
    pub down_after_ms: u64,
    pub failover_timeout_ms: u64,
    /// The replicas that load the data of a new primary at the same time.
    pub parallel_syncs: u64,
}

impl Settings {
    pub fn of(spec: &Spec) -> Settings {
        Settings {
            quorum: spec.majority() as u64,
            down_after_ms: DOWN_AFTER.as_millis() as u64,
            failover_timeout_ms: FAILOVER_TIMEOUT.as_millis() as u64,
            parallel_syncs: 1,
        }
    }

    /// The settings that differ from the `expected` ones, such as `quorum 3 instead of 2`.
    pub fn differences(&self, expected: &Settings) -> Vec<String> {
        let pairs = [
            ("quorum", self.quorum, expected.quorum),
            ("down-after-milliseconds", self.down_after_ms, expected.down_after_ms),
            ("failover-timeout", self.failover_timeout_ms, expected.failover_timeout_ms),
            ("parallel-syncs", self.parallel_syncs, expected.parallel_syncs),
        ];
        let differing = pairs.into_iter().filter(|(_, is, expected)| is != expected);
        differing.map(|(name, is, expected)| format!("{name} {is} instead of {expected}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_differs_is_named() {
        let spec = crate::spec::parse(crate::spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let expected = Settings::of(&spec);
        assert!(expected.differences(&expected).is_empty());
        let changed = Settings { quorum: 3, down_after_ms: 60_000, ..expected.clone() };
        assert_eq!(
            changed.differences(&expected),
            ["quorum 3 instead of 2", "down-after-milliseconds 60000 instead of 5000"]
        );
    }
}
