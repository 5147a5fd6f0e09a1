//! What a spec allows but will bite later.

use super::*;

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
        "network.clients lets the whole world reach the ports on the vip",
        "list the networks your applications are in",
    );
    warn(
        spec.network.operators().iter().any(|net| net.prefix_len() == 0),
        "network.operators lets the whole world reach etcd, Patroni, Redis and Sentinel on the nodes",
        "list the machines that `hanode status` is run on",
    );
    warn(
        spec.network.clients.is_empty(),
        "network.clients is empty: nothing but the nodes reaches the ports on the vip",
        "list the networks your applications are in",
    );
    warn(
        !spec.postgres.tls,
        "postgres.tls is off: passwords are hashed on the wire, data is not protected at all",
        "set tls = true",
    );
    warn(
        !spec.redis.tls,
        "redis.tls is off: passwords and data cross the network in the clear",
        "set tls = true",
    );
    warn(
        !spec.postgres.synchronous,
        "postgres.synchronous is off: a failover may lose commits that were acknowledged",
        "set synchronous = true",
    );
    warn(
        spec.postgres.synchronous && spec.postgres.maximum_lag_on_failover.is_some(),
        "postgres.maximum_lag_on_failover has no effect with synchronous = true",
        "leave it out: only the synchronous standby is promoted, and it has every acknowledged commit",
    );
    warn(
        off("synchronous_commit")
            || spec.postgres.parameters.get("synchronous_commit").is_some_and(|v| v == "local"),
        "synchronous_commit does not wait for a standby: a failover may lose commits that were acknowledged",
        "leave it out, and set it per session where loss is acceptable",
    );
    warn(
        off("fsync") || off("full_page_writes"),
        "fsync or full_page_writes is off: a power cut may corrupt the database",
        "leave both out",
    );
    warn(
        spec.redis.min_replicas == 0,
        "redis.min_replicas is 0: an isolated old primary goes on acknowledging writes that will be lost",
        "set min_replicas = 1",
    );
    let (has, wants) = (spec.redis.min_replicas as usize, spec.confirming_replicas());
    warn(
        (1..wants).contains(&has),
        &format!(
            "redis.min_replicas is {has} with {} nodes: a primary that is cut off with as many replicas goes on \
             acknowledging writes that will be lost",
            spec.nodes.len()
        ),
        &format!("leave it out or set min_replicas = {wants}, and have clients WAIT {wants}"),
    );
    warn(
        spec.nodes.len() > 7,
        "more than seven nodes: each one slows etcd's every write",
        "use three, five or seven",
    );
    warn(
        spec.pki.crl_days < 30,
        "pki.crl_days is under a month: once it has entries, an expired CRL locks every client out",
        "leave it out, or have it renewed on a schedule",
    );
    found
}
