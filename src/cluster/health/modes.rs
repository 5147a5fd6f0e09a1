//! Modes and settings that a command set on a running server, and that hanode does not: the servers run, but a failover
//! or a client may fail (pure).

use super::{NodeStatus, Problem, ProblemKind, Status};
use hanode_core::state::Component;
use serde_json::Value;

pub(super) fn problems(status: &Status) -> Vec<Problem> {
    let mut problems = patroni(status);
    for node in &status.nodes {
        problems.extend(of_node(node).into_iter().map(|problem| problem.node(&node.name)));
    }
    problems
}

fn patroni(status: &Status) -> Vec<Problem> {
    let Some(config) = &status.patroni else { return Vec::new() };
    let problem = |kind, detail: String| Problem::new(kind, detail).component(Component::Patroni);
    let paused = config.paused.then(|| problem(ProblemKind::PatroniPaused, String::new()));
    let changed = config.changed.iter().map(|setting| {
        let name = &setting.name;
        let detail = match &setting.value {
            Value::Null => format!("{name} is missing, but hanode wrote {}", setting.written),
            value => format!("{name} is {value}, but hanode wrote {}", setting.written),
        };
        problem(ProblemKind::PatroniSetting, format!("Patroni's setting {detail}"))
    });
    paused.into_iter().chain(changed).collect()
}

fn of_node(node: &NodeStatus) -> Vec<Problem> {
    let servers = &node.servers;
    let mut problems = Vec::new();
    let mut add = |component, kind, detail: String| {
        problems.push(Problem::new(kind, detail).component(component));
    };
    if servers.etcd.learner {
        add(Component::Etcd, ProblemKind::EtcdLearner, String::new());
    }
    if let Some(parameters) = &servers.postgres.awaits_restart {
        add(Component::Postgres, ProblemKind::AwaitsRestart, parameters.join(", "));
    }
    if servers.postgres.failsafe {
        add(Component::Patroni, ProblemKind::PatroniFailsafe, String::new());
    }
    for tag in &servers.postgres.tags {
        add(Component::Patroni, ProblemKind::PatroniTag, tag.clone());
    }
    if servers.redis.paused {
        add(Component::Redis, ProblemKind::RedisPaused, String::new());
    }
    if servers.redis.never_promoted {
        add(Component::Redis, ProblemKind::RedisNeverPromoted, String::new());
    }
    for setting in &servers.sentinel.changed_settings {
        add(Component::Sentinel, ProblemKind::SentinelSetting, setting.clone());
    }
    for name in &servers.haproxy.maintenance {
        add(Component::Haproxy, ProblemKind::HaproxyMaintenance, name.clone());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::patroni_config::{ChangedSetting, PatroniConfig};
    use super::super::testing;
    use super::*;
    use serde_json::json;

    fn found(change: impl Fn(&mut Status)) -> Vec<String> {
        let mut status = testing::healthy(&testing::spec());
        change(&mut status);
        problems(&status).iter().map(Problem::to_string).collect()
    }

    #[test]
    fn modes_of_patroni_are_problems() {
        assert!(found(|_| {}).is_empty());
        let paused = PatroniConfig { paused: true, changed: vec![] };
        assert_eq!(
            found(|s| s.patroni = Some(paused.clone())),
            ["Patroni is paused: no automatic failover; `patronictl resume` on a node ends it"]
        );
        let changed =
            |value: Value| ChangedSetting { name: "synchronous_mode".into(), value, written: json!(true) };
        let config =
            PatroniConfig { paused: false, changed: vec![changed(json!(false)), changed(Value::Null)] };
        assert_eq!(
            found(|s| s.patroni = Some(config.clone())),
            [
                "Patroni's setting synchronous_mode is false, but hanode wrote true; `patronictl edit-config` on a \
                 node changes it",
                "Patroni's setting synchronous_mode is missing, but hanode wrote true; `patronictl edit-config` on a \
                 node changes it"
            ]
        );
        let failsafe = found(|s| s.nodes[0].servers.postgres.failsafe = true);
        assert!(
            failsafe[0].starts_with("node1: Patroni is in failsafe mode: it leads without etcd; "),
            "{failsafe:?}"
        );
        let tag = found(|s| s.nodes[1].servers.postgres.tags.push("nofailover".into()));
        assert!(tag[0].starts_with("node2: Patroni has the tag nofailover; "), "{tag:?}");
    }

    #[test]
    fn a_pending_restart_names_its_parameters() {
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            found(|s| s.nodes[0].servers.postgres.awaits_restart = Some(names.clone()))
        };
        let named = of(&["max_connections", "wal_level"]);
        let expected = "node1: PostgreSQL awaits a restart, so that max_connections, wal_level take effect; ";
        assert!(named[0].starts_with(expected), "{named:?}");
        assert!(
            of(&["wal_level"])[0]
                .contains("so that wal_level takes effect; run `hanode restart postgres DIR`")
        );
        assert!(of(&[])[0].starts_with("node1: PostgreSQL awaits a restart for changed parameters; "));
    }

    #[test]
    fn modes_of_the_other_servers_are_problems() {
        assert!(found(|s| s.nodes[2].servers.etcd.learner = true)[0].starts_with("node3: etcd is a learner"));
        let paused = found(|s| s.nodes[1].servers.redis.paused = true);
        assert!(paused[0].starts_with("node2: Redis: clients that write are paused; "), "{paused:?}");
        assert!(found(|s| s.nodes[0].servers.redis.never_promoted = true)[0].contains("replica-priority 0"));
        let quorum =
            found(|s| s.nodes[0].servers.sentinel.changed_settings = vec!["quorum 3 instead of 2".into()]);
        assert!(quorum[0].starts_with("node1: Sentinel has quorum 3 instead of 2; "), "{quorum:?}");
        let out = found(|s| s.nodes[0].servers.haproxy.maintenance = vec!["postgres_primary/node2".into()]);
        assert!(out[0].starts_with("node1: HAProxy forwards nothing to postgres_primary/node2"), "{out:?}");
    }
}
