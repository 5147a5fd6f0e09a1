//! The servers of one node: what they answer, and the checks of it. `hanode status`, the watcher on each node and the
//! lab use the same list.

use super::{
    EtcdStatus, HaproxyStatus, PostgresState, PostgresStatus, Problem, ProblemKind, RedisStatus, Role,
    SentinelStatus,
};
use crate::access::Access;
use crate::client::patroni::{Member, PatroniStatus};
use crate::client::sentinel::MonitoredPrimary;
use crate::client::{etcd, haproxy};
use anyhow::{Context, Result};
use hanode_core::sentinel::Settings;
use hanode_core::spec::Node;
use hanode_core::state::Component;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::thread::{ScopedJoinHandle, scope};
use std::time::Duration;

/// The status of each server of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Servers {
    pub etcd: EtcdStatus,
    pub postgres: PostgresStatus,
    pub redis: RedisStatus,
    pub sentinel: SentinelStatus,
    pub haproxy: HaproxyStatus,
}

type Check = fn(&Servers) -> Option<Problem>;

/// The checks of a node's servers, in the order in which they start.
const CHECKS: [(Component, Check); 5] = [
    (Component::Etcd, |servers| {
        let etcd = &servers.etcd;
        (!etcd.healthy).then(|| failed(Component::Etcd, etcd.error.as_deref().unwrap_or("unhealthy")))
    }),
    (Component::Postgres, |servers| {
        let PostgresStatus { role, state, error, .. } = &servers.postgres;
        let kind = match (state, error) {
            (_, Some(error)) => return Some(failed(Component::Postgres, error)),
            (PostgresState::Running, None) if *role != Some(Role::Leader) => ProblemKind::NotStreaming,
            (state, None) if state.is_up() => return None,
            _ => ProblemKind::PostgresDown,
        };
        Some(Problem::new(kind, state.to_string()))
    }),
    (Component::Redis, |servers| match &servers.redis {
        RedisStatus { error: Some(error), .. } => Some(failed(Component::Redis, error)),
        RedisStatus { link_up: false, .. } => Some(Problem::new(ProblemKind::RedisLinkDown, "")),
        _ => None,
    }),
    (Component::Sentinel, |servers| {
        servers.sentinel.error.as_ref().map(|error| failed(Component::Sentinel, error))
    }),
    (Component::Haproxy, |servers| {
        let HaproxyStatus { error, refused, .. } = &servers.haproxy;
        let refused = refused.map(|status| Problem::new(ProblemKind::ProbeRefused, status.to_string()));
        refused.or_else(|| Some(Problem::new(ProblemKind::ProbeUnanswered, error.as_deref()?)))
    }),
];

fn failed(component: Component, error: &str) -> Problem {
    Problem::check_failed(component, error)
}

impl Servers {
    /// One problem for each failed check.
    pub fn problems(&self) -> Vec<Problem> {
        let failed = CHECKS.iter().filter_map(|(component, check)| Some((*component, check(self)?)));
        failed.map(|(component, problem)| problem.component(component)).collect()
    }
}

/// What the servers of one node answered.
pub(super) struct Answers {
    pub(super) servers: Servers,
    /// The primary that its Sentinel monitors.
    pub(super) monitored: Option<IpAddr>,
}

/// Queries all servers of a node in parallel.
pub(super) fn query(access: &Access, node: &Node, timeout: Duration) -> Answers {
    scope(|threads| {
        let etcd = threads.spawn(|| etcd(access, node, timeout));
        let postgres = threads.spawn(|| postgres(access, node, timeout));
        let redis = threads.spawn(|| redis(access, node, timeout));
        let sentinel = threads.spawn(|| sentinel(access, node, timeout));
        let port = access.spec.haproxy.stats_port;
        let haproxy = threads.spawn(move || haproxy::probe(node.address, port, timeout));
        let (monitored, sentinel) = match joined(sentinel) {
            Ok((primary, error)) => {
                let (own, expected) = (primary.settings, Settings::of(&access.spec));
                let changed_settings = own.map(|own| own.differences(&expected)).unwrap_or_default();
                (Some(primary.address), SentinelStatus { changed_settings, error })
            }
            Err(error) => {
                let error = Some(format!("{error:#}"));
                (None, SentinelStatus { error, ..SentinelStatus::default() })
            }
        };
        let servers = Servers {
            etcd: joined(etcd),
            postgres: joined(postgres),
            redis: joined(redis),
            sentinel,
            haproxy: haproxy_status(joined(haproxy)),
        };
        Answers { servers, monitored }
    })
}

fn haproxy_status(probe: Result<u16>) -> HaproxyStatus {
    let refused = probe.as_ref().ok().copied().filter(|status| *status != 200);
    HaproxyStatus {
        error: probe.err().map(|error| format!("{error:#}")),
        refused,
        ..HaproxyStatus::default()
    }
}

pub(super) fn joined<T>(thread: ScopedJoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn etcd(access: &Access, node: &Node, timeout: Duration) -> EtcdStatus {
    let query = || -> Result<etcd::MemberStatus> {
        let etcd = access.etcd(node, timeout)?;
        let status = etcd.status()?;
        // A learner answers no other query.
        if !status.learner {
            etcd.members().context("no quorum")?;
        }
        Ok(status)
    };
    match query() {
        Ok(status) => EtcdStatus {
            healthy: status.errors.is_empty(),
            leader: !status.leader.is_empty() && status.leader == status.id,
            alarms: status.alarms(),
            version: status.version,
            db_bytes: status.db_bytes,
            revision: status.revision,
            learner: status.learner,
            kv_hash: None,
            hash_error: None,
            error: (!status.errors.is_empty()).then(|| status.errors.join("; ")),
        },
        Err(error) => EtcdStatus { error: Some(format!("{error:#}")), ..EtcdStatus::default() },
    }
}

/// By the node's own Patroni, whose answer is newer than its key in etcd.
fn postgres(access: &Access, node: &Node, timeout: Duration) -> PostgresStatus {
    let query = || -> Result<PostgresStatus> {
        let status = access.patroni(node, timeout)?.status()?;
        let state = match status.state {
            PostgresState::Running if streams(access, node, &status, timeout)? => PostgresState::Streaming,
            state => state,
        };
        let PatroniStatus { role, awaits_restart, failsafe, tags, .. } = status;
        Ok(PostgresStatus { role, state, awaits_restart, failsafe, tags, ..PostgresStatus::unlisted(None) })
    };
    query().unwrap_or_else(|error| PostgresStatus::unlisted(Some(format!("{error:#}"))))
}

/// Whether the node's server is a replica that streams. Patroni before 3.0 does not report that of itself, only of the
/// standbys of the leader, and no release reports it while nothing streams. A leader that does not answer has no standby
/// that streams.
fn streams(access: &Access, node: &Node, status: &PatroniStatus, timeout: Duration) -> Result<bool> {
    if status.role == Some(Role::Leader) {
        return Ok(false);
    }
    if let Some(streams) = status.streams {
        return Ok(streams);
    }
    let members = access.patroni(node, timeout)?.members()?;
    let leader = members.iter().find(|member| member.role == Some(Role::Leader));
    let leader =
        leader.and_then(|leader| access.spec.node(&leader.name)).context("PostgreSQL has no leader")?;
    let Ok(leader) = access.patroni(leader, timeout)?.status() else { return Ok(false) };
    Ok(leader.standbys.iter().any(|standby| standby.streams && standby.name == node.name))
}

impl PostgresStatus {
    fn unlisted(error: Option<String>) -> PostgresStatus {
        PostgresStatus {
            role: None,
            state: PostgresState::Unlisted,
            timeline: None,
            lag: None,
            awaits_restart: None,
            failsafe: false,
            tags: Vec::new(),
            error,
        }
    }

    /// Adds what only the list of members has: which standby is synchronous, lag and timeline.
    pub(super) fn with_members(self, node: &str, members: &Result<Vec<Member>>) -> PostgresStatus {
        let members = match members {
            Ok(members) => members,
            Err(error) => {
                let error = self.error.unwrap_or_else(|| format!("{error:#}"));
                return PostgresStatus { error: Some(error), ..self };
            }
        };
        let Some(member) = members.iter().find(|member| member.name == node) else { return self };
        let unlisted = self.state == PostgresState::Unlisted;
        let state = if unlisted { member.state.clone() } else { self.state.clone() };
        PostgresStatus {
            role: member.role.or(self.role),
            state,
            timeline: member.timeline,
            lag: member.lag,
            ..self
        }
    }
}

fn redis(access: &Access, node: &Node, timeout: Duration) -> RedisStatus {
    let query = || -> Result<_> {
        let mut redis = access.redis(node.address, timeout)?;
        Ok((redis.replication()?, redis.is_paused()?))
    };
    match query() {
        Ok((replication, paused)) => RedisStatus {
            role: replication.role,
            link_up: replication.is_primary() || replication.linked,
            replicas: replication.replicas,
            paused,
            never_promoted: replication.never_promoted,
            error: None,
        },
        Err(error) => RedisStatus { error: Some(format!("{error:#}")), ..RedisStatus::default() },
    }
}

/// The primary that it monitors, and why it sees no usable quorum.
fn sentinel(access: &Access, node: &Node, timeout: Duration) -> Result<(MonitoredPrimary, Option<String>)> {
    let mut sentinel = access.sentinel(node, timeout)?;
    let quorum_error = sentinel.quorum_error()?;
    Ok((sentinel.primary()?, quorum_error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::testing;

    fn failed(change: impl Fn(&mut Servers)) -> Vec<String> {
        let spec = testing::spec();
        let mut servers = testing::healthy(&spec).nodes.remove(2).servers;
        change(&mut servers);
        servers.problems().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn each_server_has_a_check() {
        assert_eq!(failed(|_| {}), Vec::<String>::new());
        let refused = || Some("refused".to_string());
        assert_eq!(failed(|s| (s.etcd.healthy, s.etcd.error) = (false, refused())), ["etcd: refused"]);
        assert_eq!(failed(|s| s.postgres.error = refused()), ["PostgreSQL: refused"]);
        let starting = PostgresState::Other("starting".into());
        assert_eq!(failed(|s| s.postgres.state = starting.clone()), ["PostgreSQL is starting"]);
        let not_streaming = "PostgreSQL: replica is not streaming yet";
        assert_eq!(failed(|s| s.postgres.state = PostgresState::Running), [not_streaming]);
        let leads = |s: &mut Servers| {
            (s.postgres.state, s.postgres.role) = (PostgresState::Running, Some(Role::Leader));
        };
        assert_eq!(failed(leads), Vec::<String>::new());
        assert_eq!(failed(|s| s.redis.error = refused()), ["Redis: refused"]);
        assert_eq!(failed(|s| s.redis.link_up = false), ["Redis has no link to its primary"]);
        assert_eq!(failed(|s| s.sentinel.error = refused()), ["Sentinel: refused"]);
        let probe = ["HAProxy does not answer its health probe"];
        assert_eq!(failed(|s| s.haproxy.error = refused()), probe);
        let refuses = ["HAProxy takes no clients: its health probe returns status 503"];
        assert_eq!(failed(|s| s.haproxy = haproxy_status(Ok(503))), refuses);
        assert_eq!(failed(|s| s.haproxy = haproxy_status(Ok(200))), Vec::<String>::new());
    }

    #[test]
    fn the_own_answer_is_newer_than_the_list_and_an_error_is_kept() {
        let own = |state| PostgresStatus { state, ..PostgresStatus::unlisted(None) };
        let listed = |role, state| {
            let name = "node3".to_string();
            Ok(vec![Member { name, role: Some(role), state, timeline: Some(2), lag: Some(0) }])
        };
        let members = listed(Role::SyncStandby, PostgresState::Running);
        let merged = own(PostgresState::Streaming).with_members("node3", &members);
        assert_eq!((merged.role, &merged.state), (Some(Role::SyncStandby), &PostgresState::Streaming));
        let mute = PostgresStatus::unlisted(Some("timed out".into())).with_members("node3", &members);
        assert_eq!((mute.state, mute.error.as_deref()), (PostgresState::Running, Some("timed out")));
        let no_list = own(PostgresState::Streaming).with_members("node3", &Err(anyhow::anyhow!("no list")));
        assert_eq!(no_list.error.as_deref(), Some("no list"));
    }
}
