//! Collects the status of all nodes in parallel. A server that does not respond is part of the status, not an error.

use super::clock::ClockOffset;
use super::servers::{self, Answers, joined};
use super::*;
use crate::client::patroni::Member;
use crate::client::{haproxy, tls};
use crate::discovery::storage_key;
use anyhow::{Context, Result, bail};
use hanode_core::peer::{NodeReport, limit_file_systems};
use hanode_core::pki::read;
use hanode_core::spec::{Node, VipMode};
use std::thread::scope;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time limit of one request to a server.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

pub fn collect(access: &Access) -> Result<Status> {
    let nodes: Vec<&Node> = access.spec.nodes.iter().collect();
    let mut status = query(access, &nodes, |node| access.report(node, STATUS_TIMEOUT))?;
    fetch_kv_hashes(access, &mut status.nodes);
    add_storage_faults(access, &mut status.nodes);
    status.problems = find_problems(&access.spec, access.bundle_generation, &status);
    status.warnings = warnings(&access.spec, &status);
    status.healthy = status.problems.is_empty();
    Ok(status)
}

/// The status of one node, collected on it for [`super::node_metrics`]; `healthy` and `problems` are this node's.
pub fn collect_local(access: &Access, node: &Node, report: NodeReport) -> Result<Status> {
    let mut status = query(access, &[node], |_| Ok(report.clone()))?;
    status.healthy = report.problems.is_empty();
    status.problems = report.problems;
    Ok(status)
}

/// Queries these nodes in parallel.
fn query(
    access: &Access,
    nodes: &[&Node],
    report: impl Fn(&Node) -> Result<NodeReport> + Sync,
) -> Result<Status> {
    let (spec, report) = (&access.spec, &report);
    let (reports, answers, members, patroni, vip) = scope(|threads| {
        let timed = |node: &Node| {
            let sent = unix_ms();
            let report = report(node);
            let clock = report.as_ref().ok().and_then(|report| report.clock_ms);
            (report, clock.map(|clock| ClockOffset::of(clock, sent, unix_ms())))
        };
        let reports: Vec<_> = nodes.iter().map(|n| threads.spawn(move || timed(n))).collect();
        let answers: Vec<_> =
            nodes.iter().map(|n| threads.spawn(move || servers::query(access, n, STATUS_TIMEOUT))).collect();
        let members = threads.spawn(|| members(access, nodes));
        let patroni = threads.spawn(|| PatroniConfig::collect(access, nodes, STATUS_TIMEOUT));
        let vip = threads.spawn(|| query_vip(access));
        let reports: Vec<_> = reports.into_iter().map(joined).collect();
        let answers: Vec<_> = answers.into_iter().map(joined).collect();
        (reports, answers, joined(members), joined(patroni), joined(vip))
    });
    let holds = |(node, (report, _)): (&&Node, &(Result<NodeReport>, Option<ClockOffset>))| {
        let holds = report.as_ref().is_ok_and(|report| report.holds_vip);
        (holds && spec.network.vip_mode == VipMode::Vrrp).then(|| node.name.clone())
    };
    let holders = nodes.iter().zip(&reports).filter_map(holds).collect();
    let redis_primary = redis_primary(spec, &answers);
    let status = |((node, (report, clock)), answers): ((&&Node, _), Answers)| {
        let mut servers = answers.servers;
        servers.postgres = servers.postgres.with_members(&node.name, &members);
        NodeStatus { clock, ..node_status(node, report, servers) }
    };
    Ok(Status {
        schema: SCHEMA,
        healthy: false,
        problems: Vec::new(),
        warnings: Vec::new(),
        patroni,
        redis_primary,
        nodes: nodes.iter().zip(reports).zip(answers).map(status).collect(),
        vip: VipStatus {
            address: spec.network.vip,
            holders,
            answers: vip.is_ok(),
            error: vip.err().map(|error| format!("{error:#}")),
        },
        certificates: certificates(access)?,
    })
}

fn node_status(node: &Node, report: Result<NodeReport>, servers: Servers) -> NodeStatus {
    let unreachable = NodeStatus {
        name: node.name.clone(),
        address: node.address,
        phase: Phase::Unreachable,
        clock: None,
        bundle_generation: None,
        spec_hash: None,
        image: BTreeMap::new(),
        moved_aside: Vec::new(),
        moved_aside_omitted: 0,
        file_systems: Vec::new(),
        selinux: None,
        backup: None,
        sql_drift: Vec::new(),
        problems: Vec::new(),
        findings: Vec::new(),
        servers,
    };
    match report {
        Ok(report) => NodeStatus {
            phase: report.phase,
            bundle_generation: Some(report.bundle_generation),
            spec_hash: Some(report.spec_hash),
            image: report.image,
            moved_aside: report.moved_aside,
            moved_aside_omitted: report.moved_aside_omitted,
            file_systems: report.file_systems,
            selinux: report.selinux,
            backup: report.backup,
            sql_drift: report.sql_drift,
            problems: report.problems,
            findings: report.findings,
            servers: Servers {
                haproxy: HaproxyStatus {
                    down: report.haproxy_down,
                    maintenance: report.haproxy_maintenance,
                    ..unreachable.servers.haproxy
                },
                ..unreachable.servers
            },
            ..unreachable
        },
        Err(error) => {
            let problem = Problem::new(ProblemKind::Stopped, format!("{error:#}"));
            NodeStatus { problems: vec![problem], ..unreachable }
        }
    }
}

/// Milliseconds since 1970.
fn unix_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

/// A load balancer may not forward the port of the health probe, so its client ports are checked.
fn query_vip(access: &Access) -> Result<()> {
    let (spec, vip) = (&access.spec, access.spec.network.vip);
    match spec.network.vip_mode {
        VipMode::Vrrp => haproxy::require_healthy(vip, spec.haproxy.stats_port, STATUS_TIMEOUT),
        VipMode::External => [spec.postgres.vip_port, spec.redis.vip_port].into_iter().try_for_each(|port| {
            tls::connect(vip, port, STATUS_TIMEOUT).map(drop).with_context(|| format!("port {port}"))
        }),
    }
}

/// Fetches each member's hash up to the latest revision that all members have.
fn fetch_kv_hashes(access: &Access, nodes: &mut [NodeStatus]) {
    let revisions = nodes.iter().map(|n| n.servers.etcd.revision);
    let Some(revision) = revisions.filter(|r| *r > 0).min() else { return };
    let fetch = |node: &Node, status: &mut EtcdStatus| {
        let hash = access.etcd(node, STATUS_TIMEOUT).and_then(|etcd| etcd.hash_kv(revision));
        match hash {
            Ok(hash) => status.kv_hash = hash,
            Err(error) => status.hash_error = Some(format!("{error:#}")),
        }
    };
    scope(|threads| {
        for status in nodes.iter_mut().filter(|n| n.servers.etcd.revision > 0) {
            if let Some(node) = access.spec.node(&status.name) {
                threads.spawn(|| fetch(node, &mut status.servers.etcd));
            }
        }
    });
}

/// A node whose disk hangs may not answer itself, but its watcher names the disk in etcd.
fn add_storage_faults(access: &Access, nodes: &mut [NodeStatus]) {
    for node in nodes.iter_mut().filter(|node| node.phase == Phase::Unreachable) {
        let key = storage_key(&access.spec.name, &node.name);
        let fetch = |peer: &Node| access.etcd(peer, STATUS_TIMEOUT)?.get(&key);
        let found = access.spec.peers(&node.name).find_map(|peer| fetch(peer).ok()).flatten();
        node.file_systems = found.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        limit_file_systems(&mut node.file_systems);
    }
}

/// Every Patroni lists all members, so the first node that responds is enough.
fn members(access: &Access, nodes: &[&Node]) -> Result<Vec<Member>> {
    let mut errors = Vec::new();
    for node in nodes {
        match access.patroni(node, STATUS_TIMEOUT).and_then(|patroni| patroni.members()) {
            Ok(members) => return Ok(members),
            Err(error) => errors.push(format!("{}: {error:#}", node.name)),
        }
    }
    bail!("no Patroni lists its members: {}", errors.join("; "))
}

/// The primary that a majority of the Sentinels monitors.
fn redis_primary(spec: &Spec, answers: &[Answers]) -> RedisPrimary {
    let primaries: Vec<IpAddr> = answers.iter().filter_map(|answers| answers.monitored).collect();
    let count = |address: &IpAddr| primaries.iter().filter(|a| *a == address).count();
    let address = primaries.iter().find(|a| count(a) >= spec.majority()).copied();
    RedisPrimary { address, agree: address.map_or(0, |a| count(&a)) }
}

fn certificates(access: &Access) -> Result<Vec<CertificateStatus>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
    let mut all = Vec::new();
    for (name, pem) in &access.certificates {
        let (not_before, not_after) = if name.ends_with(".crl") {
            let crl = read::crl(pem).with_context(|| name.clone())?;
            (crl.this_update, crl.next_update)
        } else {
            let certificate = read::certificate(pem).with_context(|| name.clone())?;
            (certificate.not_before, certificate.not_after)
        };
        let days_left = (not_after - now).div_euclid(86_400);
        all.push(CertificateStatus { name: name.clone(), not_before, not_after, days_left });
    }
    Ok(all)
}
