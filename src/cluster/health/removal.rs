//! Whether a node can be removed now (pure).

use super::{NodeStatus, RedisRole, Role, Status};
use hanode_core::spec::{Spec, VipMode};

/// The reasons against removing `node` now; empty if that would cause neither data loss nor downtime.
pub fn blockers(spec: &Spec, status: &Status, node: &str) -> Vec<String> {
    let address = spec.node(node).map(|n| n.address);
    let (own, others): (Vec<_>, Vec<_>) = status.nodes.iter().partition(|n| n.name == node);
    let own = own.first().copied();
    let mut blockers = Vec::new();
    etcd(spec, &others, &mut blockers);
    postgres(spec, own, &others, &mut blockers);
    redis(spec, own, &others, &mut blockers);
    let sentinels = others.iter().filter(|n| n.servers.sentinel.error.is_none()).count();
    if sentinels < spec.majority() {
        let plural = if sentinels == 1 { "" } else { "s" };
        blockers.push(format!(
            "only {sentinels} healthy Sentinel{plural} would remain, {} must agree on a primary",
            spec.majority()
        ));
    }
    if status.redis_primary.address.is_none() {
        blockers.push("no majority of Sentinels agrees on a Redis primary".into());
    } else if status.redis_primary.address == address && sentinels < spec.majority() {
        blockers.push(format!("{node} is the Redis primary, and the other Sentinels cannot elect a new one"));
    }
    if !others.iter().any(|n| n.servers.haproxy.answers() && n.in_service()) {
        let task =
            if spec.network.vip_mode == VipMode::Vrrp { "hold the virtual IP" } else { "serve clients" };
        blockers.push(format!("no other node can {task}"));
    }
    blockers
}

fn etcd(spec: &Spec, others: &[&NodeStatus], blockers: &mut Vec<String>) {
    let healthy = others.iter().filter(|n| n.servers.etcd.healthy && !n.servers.etcd.learner).count();
    if healthy < spec.majority() {
        let needed = spec.majority();
        blockers
            .push(format!("etcd would have {healthy} healthy members, {needed} are needed for its quorum"));
    }
}

fn postgres(spec: &Spec, own: Option<&NodeStatus>, others: &[&NodeStatus], blockers: &mut Vec<String>) {
    let streaming = || others.iter().map(|n| &n.servers.postgres).filter(|m| m.is_streaming());
    let has_replica = streaming().next().is_some();
    let has_synchronous = || streaming().any(|m| m.role.is_some_and(Role::is_synchronous));
    let can_take_over = if spec.postgres.synchronous { has_synchronous() } else { has_replica };
    if let Some(NodeStatus { name, servers, .. }) = own {
        match servers.postgres.role {
            Some(Role::Leader) if !can_take_over => {
                let kind = if spec.postgres.synchronous { "synchronous standby" } else { "replica" };
                blockers.push(format!("{name} is the PostgreSQL leader, and no {kind} can take over"));
            }
            Some(role) if role.is_synchronous() && !has_replica => blockers.push(format!(
                "{name} is the only synchronous standby: until it is back, losing another node can lose data"
            )),
            _ => {}
        }
    }
    if !others.iter().any(|n| n.servers.postgres.state.is_up()) {
        blockers.push("no other node runs PostgreSQL".into());
    }
}

fn redis(spec: &Spec, own: Option<&NodeStatus>, others: &[&NodeStatus], blockers: &mut Vec<String>) {
    let connected =
        |n: &&&NodeStatus| n.servers.redis.role == Some(RedisRole::Replica) && n.servers.redis.link_up;
    let replicas = others.iter().filter(connected).count();
    let primary = own.is_some_and(|n| n.servers.redis.is_primary());
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
