//! Warnings about settings that are valid but risky.

use super::*;

/// The warnings for a valid spec.
pub fn warnings(spec: &Spec) -> Vec<Fault> {
    let mut found = Vec::new();
    let mut warn = |when: bool, what: &str, help: &str| {
        if when {
            found.push(Fault { line: 0, what: what.into(), help: help.into() });
        }
    };
    let off = |name: &str| {
        spec.postgres.parameters.get(name).is_some_and(|v| ["off", "false", "no", "0"].contains(&v.as_str()))
    };
    warn(
        spec.network.clients.iter().any(|net| net.prefix_len() == 0),
        "network.clients allows every address to reach the ports on the vip",
        "list the networks of your applications",
    );
    warn(
        spec.network.operators().iter().any(|net| net.prefix_len() == 0),
        "network.operators allows every address to reach etcd, Patroni, Redis and Sentinel on the nodes",
        "list the machines on which you run `hanode status`",
    );
    warn(
        spec.network.clients.is_empty(),
        "network.clients is empty: only the nodes can reach the ports on the vip",
        "list the networks of your applications",
    );
    warn(
        !spec.postgres.tls,
        "postgres.tls is off: data crosses the network in clear text, passwords only hashed",
        "set tls = true",
    );
    warn(
        !spec.redis.tls,
        "redis.tls is off: passwords and data cross the network in clear text",
        "set tls = true",
    );
    warn(
        !spec.postgres.synchronous,
        "postgres.synchronous is off: a failover may lose acknowledged commits",
        "set synchronous = true",
    );
    warn(
        spec.postgres.synchronous && spec.postgres.maximum_lag_on_failover.is_some(),
        "postgres.maximum_lag_on_failover has no effect with synchronous = true",
        "remove it: only the synchronous standby is promoted, and it has every acknowledged commit",
    );
    warn(
        off("synchronous_commit")
            || spec.postgres.parameters.get("synchronous_commit").is_some_and(|v| v == "local"),
        "synchronous_commit does not wait for a standby: a failover may lose acknowledged commits",
        "remove it, and set it per session where loss is acceptable",
    );
    warn(
        off("fsync") || off("full_page_writes"),
        "fsync or full_page_writes is off: a power cut may corrupt the database",
        "remove both",
    );
    warn(
        spec.redis.min_replicas == 0,
        "redis.min_replicas is 0: an isolated former primary acknowledges writes that will be lost",
        "set min_replicas = 1",
    );
    let (has, wants) = (spec.redis.min_replicas as usize, spec.confirming_replicas());
    warn(
        (1..wants).contains(&has),
        &format!(
            "redis.min_replicas is {has} with {} nodes: a primary that is isolated together with that many replicas \
             acknowledges writes that will be lost",
            spec.nodes.len()
        ),
        &format!("remove it or set min_replicas = {wants}, and let clients use WAIT {wants}"),
    );
    warn(
        spec.backup.is_none(),
        "there is no [backup]: a mistake such as DROP TABLE reaches every replica at once and cannot be undone",
        "add a [backup] table with a repository",
    );
    warn(
        spec.nodes.len() > 7,
        "more than seven nodes: each one slows down every write to etcd",
        "use three, five or seven",
    );
    warn(
        spec.pki.crl_days < 30,
        "pki.crl_days is less than 30: an expired CRL with entries locks every client out",
        "remove it, or renew the CRL on a schedule",
    );
    found
}
