//! Which PostgreSQL restarts next, so that changed parameters take effect (pure).

use super::{NodeStatus, Problem, Role, Status};
use serde::Serialize;
use std::collections::BTreeSet;

/// What happens to a node's PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum RestartStep {
    /// Of a standby.
    Restart { node: String },
    /// Of the leader, which stays the leader: nothing is written meanwhile.
    RestartLeader { node: String },
    /// The leader becomes a standby, and restarts as one.
    SwitchOver { node: String, to: String },
}

impl RestartStep {
    pub fn node(&self) -> &str {
        match self {
            RestartStep::Restart { node }
            | RestartStep::RestartLeader { node }
            | RestartStep::SwitchOver { node, .. } => node,
        }
    }
}

/// The nodes that have been restarted since the leader was restarted in place.
#[derive(Debug, Default)]
pub struct Restarted(BTreeSet<String>);

impl Restarted {
    pub fn add(&mut self, step: &RestartStep) {
        match step {
            RestartStep::Restart { node } => self.0.insert(node.clone()),
            RestartStep::RestartLeader { node } => {
                self.0.clear();
                self.0.insert(node.clone())
            }
            RestartStep::SwitchOver { node, .. } => self.0.remove(node),
        };
    }

    fn has(&self, node: &NodeStatus) -> bool {
        self.0.contains(&node.name)
    }
}

/// What prevents a restart now, as sentences.
pub fn restart_blockers(status: &Status) -> Vec<String> {
    let blocking = status.problems.iter().filter(|problem| problem.kind.blocks_restart());
    blocking.map(Problem::to_string).collect()
}

/// The next step in a cluster without blockers; `None` if no PostgreSQL awaits a restart. The error is a node that still
/// awaits one after its restart.
pub fn next_restart(status: &Status, restarted: &Restarted) -> Result<Option<RestartStep>, String> {
    let awaiting = || status.nodes.iter().filter(|node| node.servers.postgres.awaits_restart.is_some());
    let leads = |node: &&NodeStatus| node.servers.postgres.role == Some(Role::Leader);
    let standbys = || awaiting().filter(|node| !leads(node));
    // While the synchronous standby restarts, commits wait.
    let synchronous = |node: &&NodeStatus| node.servers.postgres.role.is_some_and(Role::is_synchronous);
    let next = standbys().filter(|node| !restarted.has(node)).min_by_key(synchronous);
    if let Some(standby) = next {
        return Ok(Some(RestartStep::Restart { node: standby.name.clone() }));
    }
    let left = standbys().next();
    let name = |node: &NodeStatus| node.name.clone();
    let Some(leader) = awaiting().find(leads) else { return left.map_or(Ok(None), |node| Err(name(node))) };
    let node = name(leader);
    if restarted.has(leader) {
        return Err(node);
    }
    if let Some(other) = standbys().find(|node| !waits_for_leader(node)) {
        return Err(name(other));
    }
    Ok(Some(match (left, candidate(status)) {
        (None, Some(to)) => RestartStep::SwitchOver { node, to },
        _ => RestartStep::RestartLeader { node },
    }))
}

/// A standby does not start with less than its leader has of these: when one shrinks, the leader restarts in place, and
/// then the standbys once more.
const LIMITED_BY_LEADER: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];

/// Whether a standby that restarted may still await a restart because of its leader. Old releases of Patroni do not name
/// the parameters.
fn waits_for_leader(standby: &NodeStatus) -> bool {
    let parameters = standby.servers.postgres.awaits_restart.iter().flatten();
    let mut parameters = parameters.map(String::as_str).peekable();
    parameters.peek().is_none() || parameters.any(|name| LIMITED_BY_LEADER.contains(&name))
}

/// The standby that can lead without a lost commit: a synchronous one, if there is any.
fn candidate(status: &Status) -> Option<String> {
    let streaming = status.nodes.iter().filter(|node| node.servers.postgres.is_streaming());
    let best = streaming.min_by_key(|node| {
        let postgres = &node.servers.postgres;
        (!postgres.role.is_some_and(Role::is_synchronous), postgres.lag.unwrap_or(i64::MAX))
    });
    best.map(|node| node.name.clone())
}

#[cfg(test)]
mod tests {
    use super::super::{ProblemKind, testing};
    use super::*;

    /// node1 is the leader, node2 the synchronous standby.
    fn awaiting(nodes: &[&str]) -> Status {
        let mut status = testing::healthy(&testing::spec());
        for node in &mut status.nodes {
            let awaits = nodes.contains(&node.name.as_str());
            node.servers.postgres.awaits_restart = awaits.then(|| vec!["max_connections".to_string()]);
        }
        status
    }

    fn next(nodes: &[&str], restarted: &[&str]) -> Result<Option<RestartStep>, String> {
        next_restart(&awaiting(nodes), &Restarted(restarted.iter().map(|node| node.to_string()).collect()))
    }

    fn restart(node: &str) -> Result<Option<RestartStep>, String> {
        Ok(Some(RestartStep::Restart { node: node.into() }))
    }

    #[test]
    fn standbys_restart_first_the_synchronous_one_last_and_the_leader_by_a_switchover() {
        assert_eq!(next(&["node1", "node2", "node3"], &[]), restart("node3"));
        assert_eq!(next(&["node1", "node2"], &["node3"]), restart("node2"));
        let switch = RestartStep::SwitchOver { node: "node1".into(), to: "node2".into() };
        assert_eq!(next(&["node1"], &["node2", "node3"]), Ok(Some(switch.clone())));
        assert_eq!(next(&["node1"], &[]), Ok(Some(switch)), "after an interrupted run");
        assert_eq!(next(&[], &["node2", "node3"]), Ok(None));
    }

    #[test]
    fn the_leader_does_not_restart_in_place_for_another_parameter() {
        let mut status = awaiting(&["node1", "node2"]);
        for node in &mut status.nodes {
            let postgres = &mut node.servers.postgres;
            postgres.awaits_restart = postgres.awaits_restart.as_ref().map(|_| vec!["shared_buffers".into()]);
        }
        let restarted = Restarted(["node2".to_string(), "node3".to_string()].into());
        assert_eq!(next_restart(&status, &restarted), Err("node2".into()));
    }

    #[test]
    fn for_a_smaller_value_the_leader_restarts_in_place_before_the_standbys() {
        let in_place = RestartStep::RestartLeader { node: "node1".into() };
        assert_eq!(next(&["node1", "node2", "node3"], &["node2", "node3"]), Ok(Some(in_place.clone())));
        let mut restarted = Restarted(["node2".to_string(), "node3".to_string()].into());
        restarted.add(&in_place);
        assert_eq!(restarted.0.iter().collect::<Vec<_>>(), ["node1"]);
        assert_eq!(next(&["node2", "node3"], &["node1"]), restart("node3"));
        assert_eq!(next(&["node2", "node3"], &["node1", "node2", "node3"]), Err("node2".into()));
        assert_eq!(next(&["node1"], &["node1"]), Err("node1".into()));
    }

    #[test]
    fn only_a_problem_that_a_restart_would_make_worse_blocks_it() {
        let mut status = awaiting(&["node1"]);
        let found = |kind| vec![Problem::new(kind, "max_connections").node("node1")];
        status.problems = found(ProblemKind::AwaitsRestart);
        assert!(restart_blockers(&status).is_empty());
        status.problems = found(ProblemKind::ConnectionsUsed);
        assert!(restart_blockers(&status).is_empty(), "more connections may be what the restart is for");
        for kind in [ProblemKind::BackupFailed, ProblemKind::BackupOverdue, ProblemKind::WalNotArchived] {
            status.problems = found(kind);
            assert!(
                restart_blockers(&status).is_empty(),
                "archive_mode may be what the restart is for: {kind:?}"
            );
        }
        for kind in [ProblemKind::PatroniPaused, ProblemKind::NotStreaming, ProblemKind::NoSyncStandby] {
            status.problems = found(kind);
            assert_eq!(restart_blockers(&status).len(), 1, "{kind:?}");
        }
    }
}
