//! Whether a node can be removed now (pure).

use super::{PostgresStatus, Status};
use hanode_core::spec::{Spec, VipMode};

/// The reasons against removing `node` now; empty if that would cause neither data loss nor downtime.
pub fn blockers(spec: &Spec, status: &Status, node: &str) -> Vec<String> {
    let address = spec.node(node).map(|n| n.address);
    let mut blockers = Vec::new();
    etcd(spec, status, node, &mut blockers);
    postgres(spec, status, node, &mut blockers);
    redis(spec, status, node, &mut blockers);
    let sentinels = spec.peers(node).filter(|n| !status.sentinel.faults.contains_key(&n.name)).count();
    if sentinels < spec.majority() {
        blockers.push(format!(
            "only {sentinels} other Sentinels are healthy, {} must agree on a primary",
            spec.majority()
        ));
    }
    if status.sentinel.primary.is_none() {
        blockers.push("no majority of Sentinels agrees on a Redis primary".into());
    } else if status.sentinel.primary == address && sentinels < spec.majority() {
        blockers.push(format!("{node} is the Redis primary, and the other Sentinels cannot elect a new one"));
    }
    let others =
        status.nodes.iter().filter(|n| n.name != node && n.haproxy && n.phase == "in-service").count();
    if others == 0 {
        let task =
            if spec.network.vip_mode == VipMode::Vrrp { "hold the virtual IP" } else { "serve clients" };
        blockers.push(format!("no other node can {task}"));
    }
    blockers
}

fn etcd(spec: &Spec, status: &Status, node: &str, blockers: &mut Vec<String>) {
    let others = status.etcd.iter().filter(|m| m.healthy && m.name != node).count();
    if others < spec.majority() {
        let needed = spec.majority();
        blockers
            .push(format!("etcd would have {others} healthy members, {needed} are needed for its quorum"));
    }
}

fn postgres(spec: &Spec, status: &Status, node: &str, blockers: &mut Vec<String>) {
    let role = |name: &str| status.postgres.iter().find(|m| m.name == name).map_or("", |m| m.role.as_str());
    let streaming = || status.postgres.iter().filter(|m| m.name != node && m.state == "streaming");
    let synchronous = |m: &PostgresStatus| matches!(m.role.as_str(), "sync_standby" | "quorum_standby");
    let has_replica = streaming().next().is_some();
    let can_take_over = if spec.postgres.synchronous { streaming().any(synchronous) } else { has_replica };
    match role(node) {
        "leader" | "master" if !can_take_over => {
            let kind = if spec.postgres.synchronous { "synchronous standby" } else { "replica" };
            blockers.push(format!("{node} is the PostgreSQL leader, and no {kind} can take over"));
        }
        "sync_standby" | "quorum_standby" if !has_replica => blockers.push(format!(
            "{node} is the only synchronous standby: until it is back, losing another node can lose data"
        )),
        _ => {}
    }
    if !status.postgres.iter().any(|m| m.name != node && matches!(m.state.as_str(), "running" | "streaming"))
    {
        blockers.push("no other node runs PostgreSQL".into());
    }
}

fn redis(spec: &Spec, status: &Status, node: &str, blockers: &mut Vec<String>) {
    let connected =
        |name: &str| status.redis.iter().any(|r| r.name == name && r.role == "slave" && r.link_up);
    let replicas = spec.peers(node).filter(|n| connected(&n.name)).count();
    let primary = status.redis.iter().any(|r| r.name == node && r.role == "master");
    // Replacing the primary takes one replica, and the new primary still needs the others to acknowledge writes.
    let needed = spec.redis.min_replicas as usize + usize::from(primary);
    if replicas < needed {
        let purpose = if primary {
            "one to promote, the others to acknowledge writes"
        } else {
            "to acknowledge writes"
        };
        blockers
            .push(format!("Redis would have {replicas} connected replicas, {needed} are needed ({purpose})"));
    }
}

#[cfg(test)]
mod tests;
