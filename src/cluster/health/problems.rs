//! The problems of a cluster, found in its status (pure). A problem of a single node starts with its name.

use super::{EtcdStatus, Status, disk_space};
use crate::client::etcd::KvHash;
use hanode_core::spec::{Spec, VipMode};

/// A certificate is a problem this many days before it expires, a revocation list after half of its lifetime.
const CERTIFICATE_DAYS: i64 = 30;

pub(crate) fn find_problems(spec: &Spec, bundle_generation: u64, status: &Status) -> Vec<String> {
    let mut problems = Vec::new();
    nodes(status, &mut problems);
    problems.extend(disk_space::problems(status));
    problems.extend(config_drift(spec, bundle_generation, status));
    etcd(status, &mut problems);
    postgres(spec, status, &mut problems);
    redis(spec, status, &mut problems);
    vip(spec, status, &mut problems);
    certificates(status, &mut problems);
    problems
}

/// Nodes with a bundle or a spec that differs from this directory's, as during a rolling update.
pub(crate) fn config_drift(spec: &Spec, bundle_generation: u64, status: &Status) -> Vec<String> {
    let mut found = Vec::new();
    for node in &status.nodes {
        let name = &node.name;
        if let Some(has) = node.bundle_generation.filter(|has| *has != bundle_generation) {
            found
                .push(format!("{name}: has bundle generation {has}, this directory has {bundle_generation}"));
        }
        if node.spec_hash.as_ref().is_some_and(|hash| *hash != spec.hash()) {
            found.push(format!("{name}: has a different cluster.toml or another hanode version"));
        }
    }
    found
}

fn nodes(status: &Status, problems: &mut Vec<String>) {
    for node in &status.nodes {
        let name = &node.name;
        if node.phase != "in-service" {
            let cause = if node.problems.is_empty() {
                String::new()
            } else {
                format!(": {}", node.problems.join("; "))
            };
            problems.push(format!("{name}: {}{cause}", node.phase));
        }
        if node.phase != "unreachable" && !node.haproxy {
            problems.push(format!("{name}: HAProxy does not answer its health probe"));
        }
    }
}

fn etcd(status: &Status, problems: &mut Vec<String>) {
    for member in status.etcd.iter().filter(|m| !m.healthy) {
        problems.push(format!("{}: etcd: {}", member.name, member.error.as_deref().unwrap_or("unhealthy")));
    }
    if !status.etcd.iter().any(|m| m.leader) {
        problems.push("etcd has no leader".into());
    }
    problems.extend(data_differences(&status.etcd));
}

/// Members with other data than the majority; all of them if no majority has the same data.
fn data_differences(members: &[EtcdStatus]) -> Vec<String> {
    let hashes = || members.iter().filter_map(|m| Some((m, m.kv_hash.as_ref()?)));
    let differ = |a: &KvHash, b: &KvHash| a.compacted == b.compacted && a.hash != b.hash;
    let differing_from = |own: &KvHash| hashes().filter(|(_, other)| differ(own, other)).count();
    let outliers = hashes().filter(|(_, hash)| 2 * differing_from(hash) >= hashes().count());
    outliers
        .map(|(member, _)| format!("{}: etcd: its data differs from the other members", member.name))
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
    let monitored = status
        .sentinel
        .primary
        .and_then(|a| spec.nodes.iter().find(|n| n.address == a))
        .map(|n| n.name.as_str());
    match (primaries.as_slice(), monitored) {
        ([primary], Some(monitored)) if *primary == monitored => {}
        ([primary], Some(monitored)) => {
            problems.push(format!("Sentinels monitor {monitored} as the Redis primary, but it is {primary}"))
        }
        (_, None) => problems.push("no majority of Sentinels agrees on a Redis primary".into()),
        (many, _) => problems.push(format!("Redis has {} primaries: {}", many.len(), many.join(", "))),
    }
    if let [primary] = primaries.as_slice() {
        let connected = status.redis.iter().find(|r| r.name == *primary).map_or(0, |r| r.replicas as usize);
        if connected + 1 < spec.nodes.len() {
            problems.push(format!("{primary}: Redis has {connected} of {} replicas", spec.nodes.len() - 1));
        }
    }
    for (node, error) in &status.sentinel.faults {
        problems.push(format!("{node}: Sentinel: {error}"));
    }
}

/// The address of a load balancer is not checked: on most clouds it is reachable for clients only, not for nodes.
fn vip(spec: &Spec, status: &Status, problems: &mut Vec<String>) {
    let vip = &status.vip;
    if spec.network.vip_mode == VipMode::External {
        return;
    }
    if vip.holders.len() != 1 {
        problems.push(match vip.holders.as_slice() {
            [] => format!("no node holds the virtual IP {}", vip.address),
            many => format!("{} hold the virtual IP {}", many.join(" and "), vip.address),
        });
    }
    if !vip.answers {
        problems.push(format!("HAProxy does not answer on {}:{}", vip.address, spec.haproxy.stats_port));
    }
}

fn certificates(status: &Status, problems: &mut Vec<String>) {
    for certificate in &status.certificates {
        let lifetime = (certificate.not_after - certificate.not_before) / 86_400;
        let half = lifetime / 2;
        let due = if certificate.name.ends_with(".crl") { half } else { CERTIFICATE_DAYS.min(half) };
        let (name, left) = (&certificate.name, certificate.days_left);
        if left < 0 {
            problems.push(format!("{name} expired {} days ago", -left));
        } else if left < due {
            problems.push(format!("{name} expires in {left} days; run `hanode certs renew`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn an_unreachable_load_balancer_is_no_problem() {
        let mut spec = testing::spec();
        let mut status = testing::healthy(&spec);
        status.vip.answers = false;
        let problems_of = |spec: &Spec, status: &Status| {
            let mut problems = Vec::new();
            vip(spec, status, &mut problems);
            problems
        };
        assert_eq!(problems_of(&spec, &status), ["HAProxy does not answer on 192.168.18.20:7000"]);
        spec.network.vip_mode = VipMode::External;
        status.vip.holders.clear();
        assert!(problems_of(&spec, &status).is_empty());
    }

    #[test]
    fn a_member_with_other_data_is_a_problem() {
        let spec = testing::spec();
        let outliers = |hashes: [Option<(u64, i64)>; 3]| {
            let mut status = testing::healthy(&spec);
            for (member, hash) in status.etcd.iter_mut().zip(hashes) {
                member.kv_hash = hash.map(|(hash, compacted)| KvHash { hash, compacted });
            }
            data_differences(&status.etcd).iter().map(|p| p[..5].to_string()).collect::<Vec<_>>()
        };
        assert!(outliers([None, None, None]).is_empty(), "releases without the call");
        assert!(outliers([Some((1, 5)), Some((1, 5)), Some((1, 5))]).is_empty());
        assert!(
            outliers([Some((1, 5)), Some((2, 9)), Some((1, 5))]).is_empty(),
            "different compact revisions"
        );
        assert_eq!(outliers([Some((1, 5)), Some((1, 5)), Some((2, 5))]), ["node3"]);
        assert_eq!(outliers([Some((1, 5)), None, Some((2, 5))]), ["node1", "node3"], "no majority");
    }
}
