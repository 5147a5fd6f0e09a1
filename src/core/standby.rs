//! A standby that does not stream: the reason, and whether it must be cloned again.

use crate::peer::StorageFault;
use std::time::Duration;

/// How long a standby must not move before it is cloned: it may still get WAL from an archive.
const STALLED: Duration = Duration::from_secs(10);

/// A standby that runs but does not stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StalledStandby {
    pub timeline: Option<u32>,
    /// Up to where it has received or replayed WAL.
    pub position: u64,
    /// Where the newest WAL segment on its disk starts, which it may not have replayed yet; `None` if unknown.
    pub newest_wal: Option<u64>,
    /// Up to where its data or its disk may have changes that it cannot replay now: a rewound server has pages and WAL of
    /// the leader from which it was rewound. `None` if it can replay all that it has.
    pub contains: Option<u64>,
    /// How long it has been at this position.
    pub stalled: Duration,
}

/// The leader, which holds the leader lock and accepts writes.
#[derive(Debug, Clone, PartialEq)]
pub struct Leader {
    pub name: String,
    pub timeline: u32,
    /// Where the oldest WAL on its disk starts; `None` if it does not report that.
    pub oldest_wal: Option<u64>,
    /// The fault of its storage: it may be about to stop, and could not send a clone.
    pub storage_fault: Option<StorageFault>,
    /// The earlier timelines of the cluster, each with the position at which it ended.
    pub history: Vec<(u32, u64)>,
}

/// What else prevents a clone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Blockers {
    /// Patroni is in maintenance mode: the operator decides.
    pub paused: bool,
    /// Another node that is being cloned.
    pub cloning: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The data stays; the reason is for the operator.
    Keep(String),
    /// The data is an old part of what the leader has, and cannot catch up.
    Clone,
}

/// Whether the standby must be cloned from the leader again.
pub fn decide(own: &StalledStandby, leader: &Leader, blockers: &Blockers) -> Decision {
    let name = &leader.name;
    let Some(oldest) = leader.oldest_wal else {
        return Decision::Keep(format!("replica is not streaming; {name} does not report which WAL it has"));
    };
    if own.position >= oldest {
        return Decision::Keep("replica is not streaming yet".into());
    }
    if own.end() >= oldest {
        return Decision::Keep("replica is not streaming yet: it replays the WAL on its disk".into());
    }
    let gone = format!("replica is not streaming: {name} no longer has the WAL that it needs");
    if !leader.has_all_of(own) {
        return Decision::Keep(format!(
            "{gone}, and its data has diverged: Patroni must rewind it or move it aside"
        ));
    }
    if let Some(fault) = leader.storage_fault {
        return Decision::Keep(format!(
            "{gone}; it is not cloned again while storage of {name} {}",
            fault.describe()
        ));
    }
    if blockers.paused {
        return Decision::Keep(format!("{gone}; it is not cloned again while Patroni is paused"));
    }
    if let Some(other) = &blockers.cloning {
        return Decision::Keep(format!("{gone}; it is cloned again after {other}"));
    }
    match own.stalled < STALLED {
        true => Decision::Keep(gone),
        false => Decision::Clone,
    }
}

impl StalledStandby {
    /// Up to where it has WAL, as far as that is known.
    fn end(&self) -> u64 {
        self.newest_wal.map_or(self.position, |newest| newest.max(self.position))
    }
}

impl Leader {
    /// Whether the leader's history contains everything up to the end of the standby's WAL.
    fn has_all_of(&self, own: &StalledStandby) -> bool {
        let ended = |timeline| self.history.iter().find(|(ended, _)| *ended == timeline).map(|(_, at)| *at);
        match own.timeline {
            Some(timeline) if timeline == self.timeline => true,
            Some(timeline) if timeline < self.timeline => {
                ended(timeline).is_some_and(|at| own.end() <= at && own.contains.is_none_or(|end| end <= at))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn leader() -> Leader {
        Leader {
            name: "node1".into(),
            timeline: 3,
            oldest_wal: Some(1024 * MB),
            storage_fault: None,
            history: vec![(1, 100 * MB), (2, 500 * MB)],
        }
    }

    fn standby(timeline: u32, position: u64) -> StalledStandby {
        StalledStandby {
            timeline: Some(timeline),
            position,
            newest_wal: None,
            contains: None,
            stalled: STALLED,
        }
    }

    #[track_caller]
    fn keeps(own: &StalledStandby, leader: &Leader, blockers: &Blockers, reason: &str) {
        match decide(own, leader, blockers) {
            Decision::Keep(found) => assert!(found.contains(reason), "{found}"),
            Decision::Clone => panic!("cloned: {own:?}"),
        }
    }

    #[test]
    fn a_standby_is_cloned_if_the_leader_lacks_its_next_wal() {
        let free = Blockers::default();
        assert_eq!(decide(&standby(3, 1000 * MB), &leader(), &free), Decision::Clone);
        assert_eq!(decide(&standby(2, 500 * MB), &leader(), &free), Decision::Clone, "it never diverged");
        keeps(&standby(3, 1024 * MB), &leader(), &free, "not streaming yet");
        let older = Leader { oldest_wal: None, ..leader() };
        keeps(&standby(3, 0), &older, &free, "does not report which WAL it has");
    }

    #[test]
    fn a_standby_that_still_replays_its_own_wal_is_kept() {
        let free = Blockers::default();
        let replays = |newest| StalledStandby { newest_wal: Some(newest), ..standby(3, 1000 * MB) };
        keeps(&replays(1024 * MB), &leader(), &free, "replays the WAL on its disk");
        assert_eq!(decide(&replays(1008 * MB), &leader(), &free), Decision::Clone, "all it has is too old");
        assert_eq!(decide(&replays(16 * MB), &leader(), &free), Decision::Clone);
        let diverged = StalledStandby { newest_wal: Some(512 * MB), ..standby(2, 400 * MB) };
        keeps(&diverged, &leader(), &free, "diverged");
    }

    /// The leader from which it was rewound, on timeline 2, failed before it had replayed that leader's WAL.
    #[test]
    fn a_rewound_server_is_cloned_from_a_later_leader_that_has_all_it_contains() {
        let free = Blockers::default();
        let rewound = |contains| StalledStandby { contains: Some(contains), ..standby(2, 90 * MB) };
        assert_eq!(decide(&rewound(500 * MB), &leader(), &free), Decision::Clone);
        keeps(&rewound(501 * MB), &leader(), &free, "diverged");
    }

    #[test]
    fn a_standby_is_not_cloned_from_storage_with_a_fault() {
        let full = Leader { storage_fault: Some(StorageFault::Full), ..leader() };
        keeps(&standby(3, 0), &full, &Blockers::default(), "while storage of node1 is full");
    }

    #[test]
    fn data_that_the_leader_does_not_have_is_kept() {
        let free = Blockers::default();
        keeps(&standby(2, 501 * MB), &leader(), &free, "diverged");
        keeps(&standby(4, 500 * MB), &leader(), &free, "diverged");
        let unknown = Leader { history: vec![], ..leader() };
        keeps(&standby(2, 400 * MB), &unknown, &free, "diverged");
        let own = StalledStandby { timeline: None, ..standby(3, 0) };
        keeps(&own, &leader(), &free, "diverged");
    }

    #[test]
    fn a_standby_is_not_cloned_while_another_is_or_patroni_is_paused() {
        let cloning = Blockers { cloning: Some("node3".into()), ..Blockers::default() };
        keeps(&standby(3, 0), &leader(), &cloning, "after node3");
        keeps(&standby(3, 0), &leader(), &Blockers { paused: true, cloning: None }, "paused");
        let moving = StalledStandby { stalled: STALLED / 2, ..standby(3, 0) };
        keeps(&moving, &leader(), &Blockers::default(), "no longer has the WAL");
    }
}
