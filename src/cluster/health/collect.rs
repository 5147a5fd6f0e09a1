//! Collects the status of all nodes in parallel. A server that does not respond is part of the status, not an error.

use super::*;
use crate::client::etcd::EtcdClient;
use crate::client::http::HttpClient;
use crate::client::redis::{MonitoredPrimary, RedisClient, Value, monitored_primary};
use crate::client::tls;
use anyhow::{Context, Result, ensure};
use hanode_core::peer::NodeReport;
use hanode_core::pki::read;
use hanode_core::spec::{Node, VipMode};
use std::net::SocketAddr;
use std::thread::{ScopedJoinHandle, scope};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time limit of one request to a server.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

pub fn collect(access: &Access) -> Result<Status> {
    let spec = &access.spec;
    let nodes: Vec<&Node> = spec.nodes.iter().collect();
    let mut status = query(access, &nodes, |node| {
        crate::peer::fetch_report(&access.cluster, node.address, spec.network.join_port, STATUS_TIMEOUT)
    })?;
    fetch_kv_hashes(access, &mut status.nodes);
    status.problems = find_problems(spec, access.bundle_generation, &status);
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

/// Queries all servers of these nodes in parallel.
fn query(
    access: &Access,
    nodes: &[&Node],
    report: impl Fn(&Node) -> Result<NodeReport> + Sync,
) -> Result<Status> {
    let spec = &access.spec;
    let report = &report;
    let (answers, members, vip_answers) = scope(|threads| {
        let answers: Vec<_> =
            nodes.iter().map(|n| threads.spawn(move || answers(access, n, report))).collect();
        let patroni = threads.spawn(|| postgres(access, nodes));
        let vip = threads.spawn(|| vip_answers(spec));
        (answers.into_iter().map(joined).collect::<Vec<_>>(), joined(patroni), joined(vip))
    });
    let holds = |(node, answers): (&&Node, &Answers)| {
        let holds = answers.report.as_ref().is_ok_and(|report| report.holds_vip);
        (holds && spec.network.vip_mode == VipMode::Vrrp).then(|| node.name.clone())
    };
    let holders = nodes.iter().zip(&answers).filter_map(holds).collect();
    Ok(Status {
        schema: SCHEMA,
        healthy: false,
        problems: Vec::new(),
        redis_primary: redis_primary(spec, &answers),
        nodes: nodes.iter().zip(answers).zip(members).map(|((n, a), m)| node_status(n, a, m)).collect(),
        vip: VipStatus { address: spec.network.vip, holders, answers: vip_answers },
        certificates: certificates(access)?,
    })
}

fn joined<T>(thread: ScopedJoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What the servers of one node answered.
struct Answers {
    report: Result<NodeReport>,
    etcd: EtcdStatus,
    redis: RedisStatus,
    sentinel: Result<SentinelView>,
    haproxy: Result<()>,
}

fn answers(access: &Access, node: &Node, report: impl Fn(&Node) -> Result<NodeReport> + Sync) -> Answers {
    scope(|threads| {
        let report = threads.spawn(|| report(node));
        let etcd = threads.spawn(|| etcd(access, node));
        let redis = threads.spawn(|| redis(access, node));
        let sentinel = threads.spawn(|| sentinel(access, node));
        let haproxy = threads.spawn(|| probe_haproxy(node.address, access.spec.haproxy.stats_port));
        Answers {
            report: joined(report),
            etcd: joined(etcd),
            redis: joined(redis),
            sentinel: joined(sentinel),
            haproxy: joined(haproxy),
        }
    })
}

fn node_status(node: &Node, answers: Answers, postgres: PostgresStatus) -> NodeStatus {
    let Answers { report, etcd, redis, sentinel, haproxy } = answers;
    let sentinel = match sentinel {
        Ok(view) => view.quorum_error,
        Err(error) => Some(format!("{error:#}")),
    };
    let unreachable = NodeStatus {
        name: node.name.clone(),
        address: node.address,
        phase: Phase::Unreachable,
        bundle_generation: None,
        spec_hash: None,
        image: BTreeMap::new(),
        moved_aside: Vec::new(),
        file_systems: Vec::new(),
        problems: Vec::new(),
        etcd,
        postgres,
        redis,
        sentinel: SentinelStatus { error: sentinel },
        haproxy: HaproxyStatus { error: haproxy.err().map(|error| format!("{error:#}")), down: None },
    };
    match report {
        Ok(report) => NodeStatus {
            phase: report.phase,
            bundle_generation: Some(report.bundle_generation),
            spec_hash: Some(report.spec_hash),
            image: report.image,
            moved_aside: report.moved_aside,
            file_systems: report.file_systems,
            problems: report.problems,
            haproxy: HaproxyStatus { down: report.haproxy_down, ..unreachable.haproxy },
            ..unreachable
        },
        Err(error) => {
            let problem = Problem::new(ProblemKind::Stopped, format!("{error:#}"));
            NodeStatus { problems: vec![problem], ..unreachable }
        }
    }
}

fn probe_haproxy(address: IpAddr, port: u16) -> Result<()> {
    let url = format!("http://{}/health", SocketAddr::new(address, port));
    let status = HttpClient::new(None, STATUS_TIMEOUT)?.get(&url)?.status;
    ensure!(status == 200, "its health probe returns status {status}");
    Ok(())
}

/// A load balancer may not forward the port of the health probe, so its client ports are checked.
fn vip_answers(spec: &Spec) -> bool {
    let vip = spec.network.vip;
    match spec.network.vip_mode {
        VipMode::Vrrp => probe_haproxy(vip, spec.haproxy.stats_port).is_ok(),
        VipMode::External => [spec.postgres.vip_port, spec.redis.vip_port]
            .into_iter()
            .all(|port| tls::connect(vip, port, STATUS_TIMEOUT).is_ok()),
    }
}

fn etcd(access: &Access, node: &Node) -> EtcdStatus {
    let result = EtcdClient::new(&access.cluster, node.address, STATUS_TIMEOUT).and_then(|etcd| {
        etcd.members().context("no quorum")?;
        etcd.status()
    });
    match result {
        Ok(status) => EtcdStatus {
            healthy: status.errors.is_empty(),
            leader: !status.leader.is_empty() && status.leader == status.id,
            alarms: status.alarms(),
            version: status.version,
            db_bytes: status.db_bytes,
            revision: status.revision,
            kv_hash: None,
            error: (!status.errors.is_empty()).then(|| status.errors.join("; ")),
        },
        Err(error) => EtcdStatus { error: Some(format!("{error:#}")), ..EtcdStatus::default() },
    }
}

/// Fetches each member's hash up to the latest revision that all members have.
fn fetch_kv_hashes(access: &Access, nodes: &mut [NodeStatus]) {
    let Some(revision) = nodes.iter().map(|n| n.etcd.revision).filter(|r| *r > 0).min() else { return };
    let fetch = |node: &mut NodeStatus| {
        let result = EtcdClient::new(&access.cluster, node.address, STATUS_TIMEOUT)
            .and_then(|etcd| etcd.hash_kv(revision));
        match result {
            Ok(hash) => node.etcd.kv_hash = hash,
            Err(error) => tracing::debug!("{}: etcd: {error:#}", node.name),
        }
    };
    scope(|threads| {
        for node in nodes.iter_mut().filter(|n| n.etcd.revision > 0) {
            threads.spawn(|| fetch(node));
        }
    });
}

/// Every Patroni lists all members, so the first node that responds is enough.
fn postgres(access: &Access, nodes: &[&Node]) -> Vec<PostgresStatus> {
    let spec = &access.spec;
    let fetch = |node: &Node| -> Result<serde_json::Value> {
        let url = format!("https://{}/cluster", SocketAddr::new(node.address, spec.patroni.restapi_port));
        let response = HttpClient::new(Some(&access.cluster), STATUS_TIMEOUT)?.get(&url)?;
        ensure!(response.body["members"].is_array(), "Patroni's response has no members");
        Ok(response.body)
    };
    let cluster = nodes.iter().find_map(|n| fetch(n).ok()).unwrap_or_default();
    let members = cluster["members"].as_array().cloned().unwrap_or_default();
    let reports_streaming = members.iter().any(|m| m["state"] == "streaming");
    let from_leader = || {
        replication::streaming_members(
            &HttpClient::new(Some(&access.cluster), STATUS_TIMEOUT)?,
            spec,
            &cluster,
        )
    };
    let streaming = if reports_streaming { Vec::new() } else { from_leader().unwrap_or_default() };
    let status = |node: &Node| {
        let member = members.iter().find(|m| m["name"] == node.name.as_str()).cloned().unwrap_or_default();
        let text = |key: &str| member[key].as_str().unwrap_or_default().to_string();
        PostgresStatus {
            role: Role::of_patroni(&text("role")),
            state: match PostgresState::from(text("state")) {
                _ if member.is_null() => PostgresState::Other("unknown to Patroni".into()),
                PostgresState::Running if streaming.contains(&node.name) => PostgresState::Streaming,
                state => state,
            },
            timeline: member["timeline"].as_i64(),
            lag: member["lag"].as_i64(),
        }
    };
    nodes.iter().map(|node| status(node)).collect()
}

fn redis(access: &Access, node: &Node) -> RedisStatus {
    let spec = &access.spec.redis;
    let result = RedisClient::connect(
        access.redis.as_ref(),
        node.address,
        spec.port,
        &access.secrets.redis,
        STATUS_TIMEOUT,
    )
    .and_then(|mut redis| redis.info("replication"));
    match result {
        Ok(info) => {
            let field = |key: &str| info.get(key).map(String::as_str).unwrap_or_default();
            let role = RedisRole::of_redis(field("role"));
            RedisStatus {
                role,
                link_up: role == Some(RedisRole::Primary) || field("master_link_status") == "up",
                replicas: field("connected_slaves").parse().unwrap_or_default(),
                error: None,
            }
        }
        Err(error) => RedisStatus { error: Some(format!("{error:#}")), ..RedisStatus::default() },
    }
}

struct SentinelView {
    primary: MonitoredPrimary,
    /// Why there is no usable quorum, from `SENTINEL CKQUORUM`.
    quorum_error: Option<String>,
}

fn sentinel(access: &Access, node: &Node) -> Result<SentinelView> {
    let spec = &access.spec.redis;
    let mut sentinel = RedisClient::connect(
        access.redis.as_ref(),
        node.address,
        spec.sentinel_port,
        &access.secrets.sentinel,
        STATUS_TIMEOUT,
    )?;
    let quorum_error = match sentinel.command(&["SENTINEL", "CKQUORUM", &spec.master_name])? {
        Value::Error(message) => Some(message),
        _ => None,
    };
    Ok(SentinelView { primary: monitored_primary(&mut sentinel, &spec.master_name)?, quorum_error })
}

/// The primary that a majority of the Sentinels monitors.
fn redis_primary(spec: &Spec, answers: &[Answers]) -> RedisPrimary {
    let views = answers.iter().filter_map(|answers| answers.sentinel.as_ref().ok());
    let primaries: Vec<IpAddr> = views.map(|view| view.primary.address).collect();
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
