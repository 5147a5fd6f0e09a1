//! Warnings about settings that are valid but risky.

use super::*;

/// The warnings for a valid spec.
pub fn warnings(spec: &Spec) -> Vec<Fault> {
    let all = [network(spec), postgres(spec), redis(spec), cluster(spec)];
    all.into_iter().flatten().flatten().collect()
}

fn warning(applies: bool, what: impl Into<String>, help: impl Into<String>) -> Option<Fault> {
    applies.then(|| Fault { line: 0, what: what.into(), help: help.into() })
}

fn network(spec: &Spec) -> Vec<Option<Fault>> {
    vec![
        warning(
            spec.network.clients.iter().any(|net| net.prefix_len() == 0),
            "network.clients allows every address to reach the ports on the vip",
            "list the networks of your applications",
        ),
        warning(
            spec.network.operators().iter().any(|net| net.prefix_len() == 0),
            "network.operators allows every address to reach etcd, Patroni, Redis and Sentinel on the nodes",
            "list the machines on which you run `hanode status`",
        ),
        warning(
            spec.network.clients.is_empty(),
            "network.clients is empty: only the nodes can reach the ports on the vip",
            "list the networks of your applications",
        ),
    ]
}

fn postgres(spec: &Spec) -> Vec<Option<Fault>> {
    let set = |name: &str| spec.postgres.parameters.get(name).map(String::as_str);
    let off = |name: &str| set(name).is_some_and(|value| ["off", "false", "no", "0"].contains(&value));
    vec![
        warning(
            !spec.postgres.tls,
            "postgres.tls is off: data crosses the network in clear text, passwords only hashed",
            "set tls = true",
        ),
        warning(
            !spec.postgres.synchronous,
            "postgres.synchronous is off: a failover may lose acknowledged commits",
            "set synchronous = true",
        ),
        warning(
            spec.postgres.synchronous && spec.postgres.maximum_lag_on_failover.is_some(),
            "postgres.maximum_lag_on_failover has no effect with synchronous = true",
            "remove it: only the synchronous standby is promoted, and it has every acknowledged commit",
        ),
        warning(
            off("synchronous_commit") || set("synchronous_commit") == Some("local"),
            "synchronous_commit does not wait for a standby: a failover may lose acknowledged commits",
            "remove it, and set it per session where loss is acceptable",
        ),
        warning(
            off("fsync") || off("full_page_writes"),
            "fsync or full_page_writes is off: a power cut may corrupt the database",
            "remove both",
        ),
    ]
}

fn redis(spec: &Spec) -> Vec<Option<Fault>> {
    let (has, wants) = (spec.redis.min_replicas as usize, spec.confirming_replicas());
    vec![
        warning(
            !spec.redis.tls,
            "redis.tls is off: passwords and data cross the network in clear text",
            "set tls = true",
        ),
        warning(
            spec.redis.min_replicas == 0,
            "redis.min_replicas is 0: an isolated former primary acknowledges writes that will be lost",
            "set min_replicas = 1",
        ),
        warning(
            (1..wants).contains(&has),
            format!(
                "redis.min_replicas is {has} with {} nodes: a primary that is isolated together with that many replicas \
             acknowledges writes that will be lost",
                spec.nodes.len()
            ),
            format!("remove it or set min_replicas = {wants}, and let clients use WAIT {wants}"),
        ),
    ]
}

fn cluster(spec: &Spec) -> Vec<Option<Fault>> {
    vec![
        warning(
            spec.backup.is_none(),
            "there is no [backup]: a mistake such as DROP TABLE reaches every replica at once and cannot be undone",
            "add a [backup] table with a repository",
        ),
        warning(
            spec.nodes.len() > 7,
            "more than seven nodes: each one slows down every write to etcd",
            "use three, five or seven",
        ),
        warning(
            spec.pki.crl_days < 30,
            "pki.crl_days is less than 30: an expired CRL with entries locks every client out",
            "remove it, or renew the CRL on a schedule",
        ),
    ]
}
