//! An interrupted initialization of PostgreSQL: Patroni marks it by an empty `initialize` key in etcd. If the
//! node that set the key fails, every other Patroni waits without end.

use super::{Effect, Round};
use crate::plan::{Initialize, Observations};
use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub struct InitGuard {
    /// The revision of the key, and since when no Patroni has been seen to work on it. Another revision is another
    /// initialization, which a Patroni reports only some time after it began.
    abandoned: Option<(String, Duration)>,
}

/// What must be known before an initialization is repeated.
#[derive(Debug, Clone, Default)]
pub struct InitFacts {
    /// The revision of the key if it is still empty: it tells it from the key of a later initialization.
    pub revision: Option<String>,
    /// Whether a Patroni leads or initializes. Those that only wait for a leader do neither.
    pub any_works: bool,
    /// The same without this node's name: its key may still exist though its Patroni does not run.
    pub another_works: bool,
}

/// Ends the mark of an initialization, also that of a clone, once etcd's cluster has registered this data. Within
/// seconds, for a node whose Patroni runs.
pub fn registered(seen: &Observations) -> Option<Effect> {
    seen.is_registered().then_some(Effect::UnmarkInit)
}

impl InitGuard {
    /// Whether the decisions need [`InitFacts`].
    pub fn concerns(seen: &Observations) -> bool {
        seen.etcd.as_ref().is_ok_and(|etcd| etcd.initialize == Initialize::InProgress)
    }

    /// Before this node's Patroni starts: its own initialization was interrupted if there is data and the key
    /// is still empty.
    pub(super) fn before_patroni(&mut self, round: &Round, facts: &InitFacts) -> Vec<Effect> {
        if !InitGuard::concerns(round.seen) || !round.seen.own.data.postgres {
            return self.abandoned(round, facts);
        }
        let Some(revision) = &facts.revision else { return Vec::new() };
        let mut effects = vec![Effect::StopLeftoverServer, Effect::MovePostgresAside];
        if !facts.another_works {
            effects.push(Effect::DeleteInitializeKey(revision.clone()));
        }
        effects
    }

    /// Deletes the key once no Patroni has worked on it for as long as Patroni's keys live; then one of them
    /// initializes. Also for a Patroni that runs and waits.
    pub fn abandoned(&mut self, round: &Round, facts: &InitFacts) -> Vec<Effect> {
        if !InitGuard::concerns(round.seen) || facts.any_works {
            self.abandoned = None;
            return Vec::new();
        }
        // A restore takes long. A node that is cut off may still be at it, and two nodes that complete it have data with
        // the same identity, which no server tells apart.
        if round.seen.restore().is_some() && round.seen.all_peers().is_none() {
            self.abandoned = None;
            return Vec::new();
        }
        let Some(revision) = &facts.revision else { return Vec::new() };
        let patroni = &round.spec.patroni;
        let key_lifetime = Duration::from_secs(u64::from(patroni.ttl + patroni.loop_wait));
        if self.abandoned.as_ref().is_none_or(|(of, _)| of != revision) {
            self.abandoned = Some((revision.clone(), round.now));
        }
        let since = self.abandoned.as_ref().map_or(round.now, |(_, since)| *since);
        match round.now.saturating_sub(since) < key_lifetime {
            true => Vec::new(),
            false => vec![Effect::DeleteInitializeKey(revision.clone())],
        }
    }
}
