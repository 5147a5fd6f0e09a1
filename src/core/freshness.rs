//! How old the data of each standby is, and which of them may serve reads.
//!
//! The leader's position is sampled; a standby that has replayed a sample has all data up to the time of that sample. So
//! no clock of another machine is involved, and a standby need not have replayed the newest position.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// At the start, how long it may take until all is known: then a standby that has not caught up is too old.
const FIRST_OBSERVATION: Duration = Duration::from_secs(10);
/// Upper bound on the samples that are kept.
const MAX_SAMPLES: usize = 600;

/// One round of queries.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Round {
    /// When the round started, by a monotonic clock.
    pub at: Duration,
    pub leader: LeaderState,
    /// The position that each standby has replayed; without those that do not answer.
    pub replayed: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub enum LeaderState {
    /// There may be a leader that does not answer, so the data of the standbys grows older.
    #[default]
    Unknown,
    /// No node accepts writes, so no data grows older.
    None,
    Known {
        name: String,
        timeline: u32,
        position: u64,
        /// The standbys to which it sends WAL.
        streaming: BTreeSet<String>,
    },
}

/// What is known about the standbys from all rounds so far.
#[derive(Debug, Clone, Default)]
pub struct Freshness {
    /// The first round.
    start: Option<Duration>,
    /// The last round.
    at: Duration,
    /// The time during which there was no leader.
    stopped: Duration,
    /// Name and timeline of the leader to which the samples belong.
    leader: (String, u32),
    samples: VecDeque<(Duration, u64)>,
    /// Up to which time each standby has all data.
    complete: BTreeMap<String, Duration>,
    /// The standbys that streamed when the leader last answered.
    streaming: BTreeSet<String>,
}

impl Freshness {
    pub fn add(&mut self, round: &Round) {
        if round.leader == LeaderState::None {
            self.stopped += round.at.saturating_sub(self.at);
        }
        self.start.get_or_insert(round.at);
        self.at = round.at;
        let now = self.now();
        if let LeaderState::Known { name, timeline, position, streaming } = &round.leader {
            let leader = (name.clone(), *timeline);
            if leader != self.leader {
                self.samples.clear();
                self.leader = leader;
            }
            self.samples.push_back((now, *position));
            self.streaming.clone_from(streaming);
        }
        if self.samples.len() > MAX_SAMPLES {
            self.samples.pop_front();
        }
        for (standby, replayed) in &round.replayed {
            // Positions on another timeline are not comparable.
            let comparable = self.streaming.contains(standby);
            if let Some((sampled, _)) = self.samples.iter().rev().find(|(_, p)| comparable && replayed >= p) {
                self.complete.insert(standby.clone(), *sampled);
            }
        }
    }

    /// The clock that stops while there is no leader.
    fn now(&self) -> Duration {
        self.at.saturating_sub(self.stopped)
    }

    /// The age of a standby's data at the last round; `None` if it is unknown.
    pub fn age(&self, standby: &str) -> Option<Duration> {
        Some(self.now().saturating_sub(*self.complete.get(standby)?))
    }

    /// Whether a standby streams, and its data is not older than the limit; `None` if that is not known yet.
    pub fn may_serve(&self, standby: &str, limit: Duration) -> Option<bool> {
        let streams = self.streaming.contains(standby);
        let is_first = self.start.is_none_or(|start| self.at.saturating_sub(start) < FIRST_OBSERVATION);
        match self.age(standby) {
            Some(age) => Some(streams && age <= limit),
            // A leader was seen, and this is not its standby.
            None if !self.leader.0.is_empty() && !streams => Some(false),
            None if is_first => None,
            None => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn leads(position: u64, streaming: &[&str]) -> LeaderState {
        leads_as("node1", 1, position, streaming)
    }

    fn leads_as(name: &str, timeline: u32, position: u64, streaming: &[&str]) -> LeaderState {
        let streaming = streaming.iter().map(|s| s.to_string()).collect();
        LeaderState::Known { name: name.into(), timeline, position, streaming }
    }

    fn add(freshness: &mut Freshness, seconds: u64, leader: LeaderState, replayed: &[(&str, u64)]) {
        let replayed = replayed.iter().map(|(n, p)| (n.to_string(), *p)).collect();
        freshness.add(&Round { at: Duration::from_secs(seconds), leader, replayed });
    }

    #[test]
    fn a_standby_that_falls_behind_is_excluded_at_the_limit() {
        let mut f = Freshness::default();
        assert_eq!(f.may_serve("node2", LIMIT), None, "nothing is known yet");
        add(&mut f, 0, leads(100, &["node2"]), &[("node2", 100)]);
        assert!(f.may_serve("node2", LIMIT) == Some(true));
        // It replays, but never reaches the position of the last 30 s.
        for second in 1..=30 {
            add(&mut f, second, leads(100 + second * 100, &["node2"]), &[("node2", 100 + second)]);
        }
        assert!(f.may_serve("node2", LIMIT) == Some(true));
        add(&mut f, 31, leads(3200, &["node2"]), &[("node2", 131)]);
        assert_eq!(f.age("node2"), Some(Duration::from_secs(31)));
        assert!(f.may_serve("node2", LIMIT) == Some(false));
        add(&mut f, 32, leads(3300, &["node2"]), &[("node2", 3200)]);
        assert_eq!(f.age("node2"), Some(Duration::from_secs(1)), "it has the sample of the last round");
    }

    #[test]
    fn a_new_observer_decides_once_it_knows() {
        let mut f = Freshness::default();
        add(&mut f, 0, LeaderState::Unknown, &[("node2", 90)]);
        assert_eq!(f.may_serve("node2", LIMIT), None, "it may stream");
        add(&mut f, 2, leads(100, &["node2"]), &[("node2", 90), ("node3", 90)]);
        assert_eq!(f.may_serve("node2", LIMIT), None, "it may have the position of a second ago");
        assert_eq!(f.may_serve("node3", LIMIT), Some(false), "it does not stream");
        add(&mut f, 4, leads(200, &["node2"]), &[("node2", 150)]);
        assert_eq!(f.may_serve("node2", LIMIT), Some(true));
        let mut late = Freshness::default();
        for second in [0, 5, 10] {
            add(&mut late, second, leads(100 + second, &["node2"]), &[("node2", 90)]);
        }
        assert_eq!(late.may_serve("node2", LIMIT), Some(false), "it does not catch up");
        let mut unknown = Freshness::default();
        for second in [0, 5, 10] {
            add(&mut unknown, second, LeaderState::Unknown, &[("node2", 90)]);
        }
        assert_eq!(unknown.may_serve("node2", LIMIT), Some(false), "nothing is known for too long");
    }

    #[test]
    fn a_standby_that_does_not_stream_is_excluded_at_once() {
        let mut f = Freshness::default();
        add(&mut f, 0, leads(100, &["node2", "node3"]), &[("node2", 100), ("node3", 100)]);
        add(&mut f, 2, leads(100, &["node3"]), &[("node2", 100), ("node3", 100)]);
        assert!(f.may_serve("node2", LIMIT) == Some(false) && f.may_serve("node3", LIMIT) == Some(true));
    }

    #[test]
    fn data_grows_older_only_while_there_may_be_a_leader() {
        let mut f = Freshness::default();
        add(&mut f, 0, leads(100, &["node2"]), &[("node2", 100)]);
        add(&mut f, 100, LeaderState::None, &[("node2", 100)]);
        assert!(f.may_serve("node2", LIMIT) == Some(true), "reads continue during a failover");
        add(&mut f, 131, LeaderState::Unknown, &[("node2", 100)]);
        assert!(f.may_serve("node2", LIMIT) == Some(false));
    }

    #[test]
    fn samples_of_a_former_leader_do_not_count() {
        let mut f = Freshness::default();
        add(&mut f, 0, leads(100, &["node2", "node3"]), &[("node2", 100), ("node3", 100)]);
        // node3 has replayed WAL of node1 that node2 does not have.
        add(&mut f, 1, leads_as("node2", 2, 90, &[]), &[("node3", 100)]);
        add(&mut f, 2, leads_as("node2", 2, 95, &["node3"]), &[("node3", 94)]);
        assert_eq!(f.age("node3"), Some(Duration::from_secs(1)));
        assert!(f.may_serve("node3", LIMIT) == Some(true));
    }
}
