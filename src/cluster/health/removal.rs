//! May this node be taken away now? Pure, over what the whole cluster says of itself.

use super::{PostgresStatus, Status};
use hanode_core::spec::{Spec, VipMode};

/// Why taking `node` away now would cost more than that node; empty when it may go.
pub fn blockers(spec: &Spec, status: &Status, node: &str) -> Vec<String> {
    let address = spec.node(node).map(|n| n.address);
    let mut found = Vec::new();
    etcd(spec, status, node, &mut found);
    postgres(spec, status, node, &mut found);
    redis(spec, status, node, &mut found);
    let sentinels = spec.peers(node).filter(|n| !status.sentinel.faults.contains_key(&n.name)).count();
    if sentinels < spec.majority() {
        found.push(format!(
            "only {sentinels} other Sentinels are well, {} must agree on a primary",
            spec.majority()
        ));
    }
    if status.sentinel.primary.is_none() {
        found.push("no majority of Sentinels names a Redis primary".into());
    } else if status.sentinel.primary == address && sentinels < spec.majority() {
        found.push(format!("{node} is Redis' primary, and the others could not choose a new one"));
    }
    let others =
        status.nodes.iter().filter(|n| n.name != node && n.haproxy && n.phase == "in-service").count();
    if others == 0 {
        let what =
            if spec.network.vip_mode == VipMode::Vrrp { "hold the virtual IP" } else { "take the clients" };
        found.push(format!("no other node could {what}"));
    }
    found
}

fn etcd(spec: &Spec, status: &Status, node: &str, found: &mut Vec<String>) {
    let others = status.etcd.iter().filter(|m| m.healthy && m.name != node).count();
    if others < spec.majority() {
        let needed = spec.majority();
        found.push(format!("etcd would have {others} healthy members, {needed} are needed for its quorum"));
    }
}

fn postgres(spec: &Spec, status: &Status, node: &str, found: &mut Vec<String>) {
    let role = |name: &str| status.postgres.iter().find(|m| m.name == name).map_or("", |m| m.role.as_str());
    let streams = || status.postgres.iter().filter(|m| m.name != node && m.state == "streaming");
    let in_step = |m: &PostgresStatus| matches!(m.role.as_str(), "sync_standby" | "quorum_standby");
    let follows = streams().next().is_some();
    let takes_over = if spec.postgres.synchronous { streams().any(in_step) } else { follows };
    match role(node) {
        "leader" | "master" if !takes_over => {
            let kind = if spec.postgres.synchronous { "synchronous standby" } else { "replica" };
            found.push(format!("{node} leads PostgreSQL, and no {kind} could take over"));
        }
        "sync_standby" | "quorum_standby" if !follows => found.push(format!(
            "{node} is the only synchronous standby: until it is back a second loss costs data"
        )),
        _ => {}
    }
    if !status.postgres.iter().any(|m| m.name != node && matches!(m.state.as_str(), "running" | "streaming"))
    {
        found.push("no other node runs PostgreSQL".into());
    }
}

fn redis(spec: &Spec, status: &Status, node: &str, found: &mut Vec<String>) {
    let linked = |name: &str| status.redis.iter().any(|r| r.name == name && r.role == "slave" && r.link_up);
    let replicas = spec.peers(node).filter(|n| linked(&n.name)).count();
    let primary = status.redis.iter().any(|r| r.name == node && r.role == "master");
    // Once gone, whoever is the primary then still needs its replicas to acknowledge writes.
    let needed = spec.redis.min_replicas as usize + usize::from(primary);
    if replicas < needed {
        let then = if primary {
            "it is the primary: one is promoted, and that one needs the rest"
        } else {
            "they must acknowledge writes"
        };
        found.push(format!("Redis would have {replicas} replicas with a link, {needed} are needed ({then})"));
    }
}

#[cfg(test)]
mod tests;
