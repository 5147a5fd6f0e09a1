//! What is wrong with a cluster that looks like this. Pure; every problem names its node.

use super::{EtcdStatus, Status};
use crate::client::etcd::KvHash;
use hanode_core::spec::{Spec, VipMode};

/// A leaf this close to its end is a problem; a list or a CA is one at half its life.
const LEAF_DAYS: i64 = 30;

pub(crate) fn find_problems(spec: &Spec, bundle_generation: u64, status: &Status) -> Vec<String> {
    let mut problems = Vec::new();
    nodes(status, &mut problems);
    problems.extend(config_drift(spec, bundle_generation, status));
    etcd(status, &mut problems);
    postgres(spec, status, &mut problems);
    redis(spec, status, &mut problems);
    vip(spec, status, &mut problems);
    certificates(status, &mut problems);
    problems
}

/// Nodes that run another build than this directory's: how a cluster is while its nodes are replaced one by one.
pub(crate) fn config_drift(spec: &Spec, bundle_generation: u64, status: &Status) -> Vec<String> {
    let mut found = Vec::new();
    for node in &status.nodes {
        let name = &node.name;
        if let Some(has) = node.bundle_generation.filter(|has| *has != bundle_generation) {
            found.push(format!(
                "{name}: runs bundle generation {has}, this directory has {bundle_generation}"
            ));
        }
        if node.spec_hash.as_ref().is_some_and(|hash| *hash != spec.hash()) {
            found.push(format!("{name}: runs another cluster.toml than this one"));
        }
    }
    found
}

fn nodes(status: &Status, problems: &mut Vec<String>) {
    for node in &status.nodes {
        let name = &node.name;
        if node.phase != "in-service" {
            let why = if node.problems.is_empty() {
                String::new()
            } else {
                format!(": {}", node.problems.join("; "))
            };
            problems.push(format!("{name}: {}{why}", node.phase));
        }
        if node.phase != "unreachable" && !node.haproxy {
            problems.push(format!("{name}: HAProxy does not answer its health probe"));
        }
    }
}

fn etcd(status: &Status, problems: &mut Vec<String>) {
    for member in status.etcd.iter().filter(|m| !m.healthy) {
        problems.push(format!("{}: etcd: {}", member.name, member.error.as_deref().unwrap_or("not healthy")));
    }
    if !status.etcd.iter().any(|m| m.leader) {
        problems.push("etcd has no leader".into());
    }
    problems.extend(differing(&status.etcd));
}

/// Members that hold other data than the rest; where no majority agrees, all of them.
fn differing(members: &[EtcdStatus]) -> Vec<String> {
    let told = || members.iter().filter_map(|m| Some((m, m.kv_hash.as_ref()?)));
    let differ = |a: &KvHash, b: &KvHash| a.compacted == b.compacted && a.hash != b.hash;
    let from = |own: &KvHash| told().filter(|(_, other)| differ(own, other)).count();
    let odd = told().filter(|(_, content)| 2 * from(content) >= told().count());
    odd.map(|(member, _)| format!("{}: etcd: it does not hold what the other members hold", member.name))
        .collect()
}

fn postgres(spec: &Spec, status: &Status, problems: &mut Vec<String>) {
    let leaders = status.postgres.iter().filter(|m| m.role == "leader" || m.role == "master").count();
    if leaders != 1 {
        problems.push(format!("PostgreSQL has {leaders} leaders"));
    }
    for member in status.postgres.iter().filter(|m| !matches!(m.state.as_str(), "running" | "streaming")) {
        problems.push(format!("{}: PostgreSQL is {}", member.name, member.state));
    }
    if spec.postgres.synchronous && !status.postgres.iter().any(|m| m.role == "sync_standby") {
        problems.push("PostgreSQL has no synchronous standby".into());
    }
}

fn redis(spec: &Spec, status: &Status, problems: &mut Vec<String>) {
    for server in &status.redis {
        match &server.error {
            Some(error) => problems.push(format!("{}: Redis: {error}", server.name)),
            None if !server.link_up => {
                problems.push(format!("{}: Redis has no link to its primary", server.name))
            }
            None => {}
        }
    }
    let primaries: Vec<_> =
        status.redis.iter().filter(|r| r.role == "master").map(|r| r.name.as_str()).collect();
    let named = status
        .sentinel
        .primary
        .and_then(|a| spec.nodes.iter().find(|n| n.address == a))
        .map(|n| n.name.as_str());
    match (primaries.as_slice(), named) {
        ([one], Some(named)) if *one == named => {}
        ([one], Some(named)) => {
            problems.push(format!("Sentinels name {named} as Redis' primary, but {one} is it"))
        }
        (_, None) => problems.push("no majority of Sentinels names a Redis primary".into()),
        (many, _) => problems.push(format!("Redis has {} primaries: {}", many.len(), many.join(", "))),
    }
    if let [one] = primaries.as_slice() {
        let attached = status.redis.iter().find(|r| r.name == *one).map_or(0, |r| r.replicas as usize);
        if attached + 1 < spec.nodes.len() {
            problems.push(format!("{one}: Redis has {attached} of {} replicas", spec.nodes.len() - 1));
        }
    }
    for (node, words) in &status.sentinel.faults {
        problems.push(format!("{node}: Sentinel: {words}"));
    }
}

/// A load balancer's address is for its clients: that it does not answer here proves nothing. On most clouds no node
/// reaches it, nor does an operator who is no client.
fn vip(spec: &Spec, status: &Status, problems: &mut Vec<String>) {
    let vip = &status.vip;
    if spec.network.vip_mode == VipMode::External {
        return;
    }
    if vip.holders.len() != 1 {
        let who = if vip.holders.is_empty() { "nobody".to_string() } else { vip.holders.join(" and ") };
        problems.push(format!("{who} holds the virtual IP {}", vip.address));
    }
    if !vip.answers {
        problems.push(format!("no HAProxy answers on {}:{}", vip.address, spec.haproxy.stats_port));
    }
}

fn certificates(status: &Status, problems: &mut Vec<String>) {
    for certificate in &status.certificates {
        let life = (certificate.not_after - certificate.not_before) / 86_400;
        let early = if certificate.name.ends_with(".crl") { life / 2 } else { LEAF_DAYS.min(life / 2) };
        let (name, left) = (&certificate.name, certificate.days_left);
        if left < 0 {
            problems.push(format!("{name} expired {} days ago", -left));
        } else if left < early {
            problems.push(format!("{name} expires in {left} days; run `hanode certs renew`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_load_balancer_that_does_not_answer_here_is_no_problem() {
        let mut spec = testing::spec();
        let mut status = testing::healthy(&spec);
        status.vip.answers = false;
        let told = |spec: &Spec, status: &Status| {
            let mut problems = Vec::new();
            vip(spec, status, &mut problems);
            problems
        };
        assert_eq!(told(&spec, &status), ["no HAProxy answers on 192.168.18.20:7000"]);
        spec.network.vip_mode = VipMode::External;
        status.vip.holders.clear();
        assert!(told(&spec, &status).is_empty());
    }

    #[test]
    fn a_member_that_holds_other_data_is_named() {
        let spec = testing::spec();
        let told = |contents: [Option<(u64, i64)>; 3]| {
            let mut status = testing::healthy(&spec);
            for (member, content) in status.etcd.iter_mut().zip(contents) {
                member.kv_hash = content.map(|(hash, compacted)| KvHash { hash, compacted });
            }
            differing(&status.etcd).iter().map(|p| p[..5].to_string()).collect::<Vec<_>>()
        };
        assert!(told([None, None, None]).is_empty(), "an older release");
        assert!(told([Some((1, 5)), Some((1, 5)), Some((1, 5))]).is_empty());
        assert!(told([Some((1, 5)), Some((2, 9)), Some((1, 5))]).is_empty(), "compacted just now");
        assert_eq!(told([Some((1, 5)), Some((1, 5)), Some((2, 5))]), ["node3"]);
        assert_eq!(told([Some((1, 5)), None, Some((2, 5))]), ["node1", "node3"], "nobody knows which");
    }
}
