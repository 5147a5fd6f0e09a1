//! The problems of a cluster, found in its status (pure). A problem of a single node starts with its name.

use super::{
    NodeStatus, Problem, ProblemKind, Role, Status, clock, disk_space, haproxy_view, modes, selinux, storage,
};
use crate::client::etcd::KvHash;
use hanode_core::spec::{Spec, VipMode};
use hanode_core::state::{Component, Phase};

/// A certificate is a problem this many days before it expires, a revocation list after half of its lifetime.
const CERTIFICATE_DAYS: i64 = 30;

pub(crate) fn find_problems(spec: &Spec, bundle_generation: u64, status: &Status) -> Vec<Problem> {
    let mut problems = Vec::new();
    nodes(status, &mut problems);
    problems.extend(storage::problems(status));
    problems.extend(disk_space::problems(status));
    problems.extend(selinux::problems(status));
    problems.extend(clock::problems(&status.nodes));
    config_drift(spec, bundle_generation, status, &mut problems);
    etcd(status, &mut problems);
    postgres(spec, status, &mut problems);
    sql_drift(status, &mut problems);
    redis(spec, status, &mut problems);
    problems.extend(haproxy_view::problems(spec, status));
    problems.extend(modes::problems(status));
    vip(spec, status, &mut problems);
    certificates(status, &mut problems);
    backup(spec, status, &mut problems);
    problems
}

pub(super) fn warnings(spec: &Spec, status: &Status) -> Vec<String> {
    let none = spec.backup.is_none();
    let no_backups = none.then(|| "there are no backups: cluster.toml has no [backup]".to_string());
    let risks = status.nodes.iter().flat_map(|node| {
        let risks = node.findings.iter().filter(|finding| finding.kind.is_risk());
        risks.map(|finding| finding.clone().node(&node.name).to_string())
    });
    no_backups.into_iter().chain(risks).collect()
}

fn backup(spec: &Spec, status: &Status, problems: &mut Vec<Problem>) {
    let Some(backup) = &spec.backup else { return };
    problems.extend(hanode_core::backup::problems(&status.backups(), backup.archive_timeout));
}

fn sql_drift(status: &Status, problems: &mut Vec<Problem>) {
    for node in &status.nodes {
        let found =
            node.sql_drift.iter().map(|what| Problem::new(ProblemKind::SqlDrift, what).node(&node.name));
        problems.extend(found);
    }
}

fn config_drift(spec: &Spec, bundle_generation: u64, status: &Status, problems: &mut Vec<Problem>) {
    for node in &status.nodes {
        if let Some(has) = node.bundle_generation.filter(|has| *has != bundle_generation) {
            let detail = format!("has bundle generation {has}, this directory has {bundle_generation}");
            problems.push(Problem::new(ProblemKind::OtherBundle, detail).node(&node.name));
        }
        if node.spec_hash.as_ref().is_some_and(|hash| *hash != spec.hash()) {
            problems.push(Problem::new(ProblemKind::OtherSpec, "").node(&node.name));
        }
    }
}

fn nodes(status: &Status, problems: &mut Vec<Problem>) {
    for node in &status.nodes {
        let cause = Problem::list(&node.problems);
        match node.phase {
            Phase::InService => {}
            Phase::Unreachable => {
                problems.push(Problem::new(ProblemKind::Unreachable, cause).node(&node.name));
            }
            phase => {
                let detail = if cause.is_empty() { phase.to_string() } else { format!("{phase}: {cause}") };
                problems.push(Problem::new(ProblemKind::NotInService, detail).node(&node.name));
            }
        }
        // A machine that is off has one line less, and so has one that sends its clients away because of its disk.
        let released = node.file_systems.iter().any(|file_system| file_system.roles_released);
        let counts = |p: &Problem| match p.kind {
            ProblemKind::ProbeUnanswered => node.phase != Phase::Unreachable,
            ProblemKind::ProbeRefused => node.phase != Phase::Unreachable && !released,
            _ => true,
        };
        let failed = node.servers.problems().into_iter().filter(counts);
        problems.extend(failed.map(|problem| problem.node(&node.name)));
        let findings = node.findings.iter().filter(|finding| !finding.kind.is_risk());
        problems.extend(findings.map(|finding| finding.clone().node(&node.name)));
    }
}

fn etcd(status: &Status, problems: &mut Vec<Problem>) {
    if !status.nodes.iter().any(|node| node.servers.etcd.leader) {
        problems.push(Problem::new(ProblemKind::NoEtcdLeader, "").component(Component::Etcd));
    }
    problems.extend(data_differences(&status.nodes));
}

/// Members with other data than the majority; all of them if no majority has the same data.
fn data_differences(nodes: &[NodeStatus]) -> Vec<Problem> {
    let hashes = || nodes.iter().filter_map(|node| Some((node, node.servers.etcd.kv_hash.as_ref()?)));
    let differ = |a: &KvHash, b: &KvHash| a.compacted == b.compacted && a.hash != b.hash;
    let differing_from = |own: &KvHash| hashes().filter(|(_, other)| differ(own, other)).count();
    let outliers = hashes().filter(|(_, hash)| 2 * differing_from(hash) >= hashes().count());
    let problem = Problem::new(ProblemKind::DataDiffers, "").component(Component::Etcd);
    outliers.map(|(node, _)| problem.clone().node(&node.name)).collect()
}

fn postgres(spec: &Spec, status: &Status, problems: &mut Vec<Problem>) {
    let of = |kind, detail: String| Problem::new(kind, detail).component(Component::Postgres);
    let with_role =
        |role: Role| status.nodes.iter().filter(move |node| node.servers.postgres.role == Some(role));
    let leaders = with_role(Role::Leader).count();
    if leaders != 1 {
        problems.push(of(ProblemKind::PostgresLeaders, leaders.to_string()));
    }
    // Without synchronous mode there is none, and the mode is reported.
    let asynchronous = status.patroni.as_ref().is_some_and(|config| config.has_changed("synchronous_mode"));
    if spec.postgres.synchronous && !asynchronous && with_role(Role::SyncStandby).next().is_none() {
        problems.push(of(ProblemKind::NoSyncStandby, String::new()));
    }
}

fn redis(spec: &Spec, status: &Status, problems: &mut Vec<Problem>) {
    let of = |kind, detail: String| Problem::new(kind, detail).component(Component::Redis);
    let primaries: Vec<&NodeStatus> =
        status.nodes.iter().filter(|node| node.servers.redis.is_primary()).collect();
    let monitored = status.redis_primary.address;
    let monitored = monitored.and_then(|a| spec.nodes.iter().find(|n| n.address == a)).map(|n| &n.name);
    match (primaries.as_slice(), monitored) {
        ([primary], Some(monitored)) if primary.name == *monitored => {}
        ([primary], Some(monitored)) => {
            let detail = format!("{monitored} as the Redis primary, but it is {}", primary.name);
            problems.push(of(ProblemKind::OtherRedisPrimary, detail));
        }
        (_, None) => problems.push(of(ProblemKind::NoRedisPrimary, String::new())),
        (many, _) => {
            let names: Vec<&str> = many.iter().map(|node| node.name.as_str()).collect();
            let detail = format!("{} primaries: {}", many.len(), names.join(", "));
            problems.push(of(ProblemKind::RedisPrimaries, detail));
        }
    }
    if let [primary] = primaries.as_slice() {
        let (connected, needed) = (primary.servers.redis.replicas as usize, spec.nodes.len() - 1);
        if connected < needed {
            let detail = format!("{connected} of {needed}");
            problems.push(of(ProblemKind::RedisReplicas, detail).node(&primary.name));
        }
    }
}

/// The address of a load balancer is not checked: on most clouds it is reachable for clients only, not for nodes.
fn vip(spec: &Spec, status: &Status, problems: &mut Vec<Problem>) {
    let vip = &status.vip;
    if spec.network.vip_mode == VipMode::External {
        return;
    }
    match vip.holders.as_slice() {
        [_] => {}
        [] => problems.push(
            Problem::new(ProblemKind::VipUnheld, vip.address.to_string()).component(Component::Keepalived),
        ),
        many => {
            let detail = format!("{} hold the virtual IP {}", many.join(" and "), vip.address);
            problems.push(Problem::new(ProblemKind::VipHeldTwice, detail).component(Component::Keepalived));
        }
    }
    if !vip.answers {
        let detail = format!("{}:{}", vip.address, spec.haproxy.stats_port);
        problems.push(Problem::new(ProblemKind::VipUnanswered, detail).component(Component::Haproxy));
    }
}

fn certificates(status: &Status, problems: &mut Vec<Problem>) {
    for certificate in &status.certificates {
        let lifetime = (certificate.not_after - certificate.not_before) / 86_400;
        let half = lifetime / 2;
        let due = if certificate.name.ends_with(".crl") { half } else { CERTIFICATE_DAYS.min(half) };
        let (name, left) = (&certificate.name, certificate.days_left);
        if left < 0 {
            let detail = format!("{name} expired {} days ago", -left);
            problems.push(Problem::new(ProblemKind::CertificateExpired, detail));
        } else if left < due {
            let detail = format!("{name} expires in {left} days");
            problems.push(Problem::new(ProblemKind::CertificateExpires, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_finding_of_a_node_in_service_is_a_problem() {
        let spec = testing::spec();
        let mut status = testing::healthy(&spec);
        status.nodes[1].findings = vec![
            Problem::new(ProblemKind::RedisSetting, "hz = 20, its file has 10").component(Component::Redis),
        ];
        let mut problems = Vec::new();
        nodes(&status, &mut problems);
        status.nodes[1].findings.push(Problem::new(ProblemKind::NoWatchdog, "no device"));
        let risks = warnings(&spec, &status);
        assert_eq!(
            risks.last().map(String::as_str),
            Some("node2: PostgreSQL has no active watchdog: no device")
        );
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        assert!(
            problem.to_string().starts_with("node2: Redis runs with hz = 20, its file has 10; "),
            "{problem}"
        );
    }

    #[test]
    fn an_unreachable_load_balancer_is_no_problem() {
        let mut spec = testing::spec();
        let mut status = testing::healthy(&spec);
        status.vip.answers = false;
        let problems_of = |spec: &Spec, status: &Status| {
            let mut problems = Vec::new();
            vip(spec, status, &mut problems);
            problems.iter().map(Problem::to_string).collect::<Vec<_>>()
        };
        assert_eq!(problems_of(&spec, &status), ["HAProxy does not answer on 192.168.18.20:7000"]);
        spec.network.vip_mode = VipMode::External;
        status.vip.holders.clear();
        assert!(problems_of(&spec, &status).is_empty());
    }

    #[test]
    fn haproxy_is_no_problem_of_its_own_while_the_storage_has_a_fault() {
        let spec = testing::spec();
        let mut status = testing::healthy(&spec);
        let of_haproxy = |status: &Status| {
            let found = find_problems(&spec, 1, status);
            found
                .iter()
                .filter(|p| p.concerns(Component::Haproxy))
                .map(Problem::to_string)
                .collect::<Vec<_>>()
        };
        status.nodes[2].servers.haproxy.refused = Some(503);
        let refuses = "node3: HAProxy takes no clients: its health probe returns status 503";
        assert_eq!(of_haproxy(&status), [refuses]);
        status.nodes[2].file_systems[0].roles_released = true;
        assert!(of_haproxy(&status).is_empty());
    }

    #[test]
    fn a_member_with_other_data_is_a_problem() {
        let spec = testing::spec();
        let outliers = |hashes: [Option<(u64, i64)>; 3]| {
            let mut status = testing::healthy(&spec);
            for (node, hash) in status.nodes.iter_mut().zip(hashes) {
                node.servers.etcd.kv_hash = hash.map(|(hash, compacted)| KvHash { hash, compacted });
            }
            data_differences(&status.nodes).into_iter().filter_map(|p| p.node).collect::<Vec<_>>()
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
