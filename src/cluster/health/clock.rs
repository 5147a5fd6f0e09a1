//! How far the clocks of the nodes differ (pure).
//!
//! A report arrives some time after the node has read its clock, so an offset has a range. Two clocks differ at least by
//! the distance of their ranges, however slow the network is.

use super::{NodeStatus, Problem, ProblemKind};
use serde::{Deserialize, Serialize};

/// Logs and the moments of restores are compared between nodes. An NTP client keeps clocks within milliseconds.
const LIMIT_MS: i64 = 1000;

/// A node's clock minus this machine's, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClockOffset {
    pub(crate) least: i64,
    pub(crate) most: i64,
}

impl ClockOffset {
    /// From a request that this machine sent and got an answer to at these times.
    pub(super) fn of(clock_ms: i64, sent_ms: i64, received_ms: i64) -> ClockOffset {
        ClockOffset { least: clock_ms.saturating_sub(received_ms), most: clock_ms.saturating_sub(sent_ms) }
    }

    /// By how much the clocks differ at least.
    fn distance(self, other: ClockOffset) -> i64 {
        self.least.saturating_sub(other.most).max(other.least.saturating_sub(self.most)).max(0)
    }
}

/// The nodes whose clock differs from half of the others or more.
pub(super) fn problems(nodes: &[NodeStatus]) -> Vec<Problem> {
    let clocks: Vec<(&str, ClockOffset)> =
        nodes.iter().filter_map(|node| Some((node.name.as_str(), node.clock?))).collect();
    let of = |(name, own): &(&str, ClockOffset)| {
        let distances = clocks.iter().map(|(_, other)| own.distance(*other));
        let far: Vec<i64> = distances.filter(|distance| *distance > LIMIT_MS).collect();
        let nearest = far.iter().min().filter(|_| 2 * far.len() >= clocks.len())?;
        let detail = format!("at least {:.1} s", *nearest as f64 / 1000.0);
        Some(Problem::new(ProblemKind::ClockDiffers, detail).node(name))
    };
    clocks.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    /// Offsets in milliseconds; each answer took 300 ms.
    fn found(offsets: [Option<i64>; 3]) -> Vec<String> {
        let mut status = testing::healthy(&testing::spec());
        for (node, offset) in status.nodes.iter_mut().zip(offsets) {
            node.clock = offset.map(|offset| ClockOffset::of(10_000 + offset, 9_900, 10_200));
        }
        problems(&status.nodes).iter().map(Problem::to_string).collect()
    }

    #[test]
    fn a_clock_that_differs_from_the_majority_is_named() {
        assert!(found([Some(0), Some(40), Some(-40)]).is_empty());
        assert!(found([None, None, Some(9_000)]).is_empty());
        let ahead = found([Some(5_000), Some(0), Some(0)]);
        let [problem] = ahead.as_slice() else { panic!("{ahead:?}") };
        assert!(
            problem.starts_with("node1: its clock differs by at least 4.7 s from those of other nodes; "),
            "{problem}"
        );
        assert_eq!(found([Some(0), Some(-3_600_000), Some(0)]).len(), 1);
        assert_eq!(found([Some(0), Some(5_000), None]).len(), 2, "no majority tells which one is right");
    }

    #[test]
    fn a_slow_answer_proves_no_difference() {
        assert!(found([Some(0), Some(1_250), Some(0)]).is_empty());
        let hostile = ClockOffset::of(i64::MIN, 0, 100);
        assert!(hostile.distance(ClockOffset::of(i64::MAX, 0, 100)) > LIMIT_MS);
    }
}
