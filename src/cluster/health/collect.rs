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
use std::thread::scope;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time limit of one request to a server.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

pub fn collect(access: &Access) -> Result<Status> {
    let spec = &access.spec;
    let nodes = &spec.nodes;
    let mut status = scope(|threads| {
        let reports: Vec<_> = nodes.iter().map(|n| threads.spawn(|| node(access, n))).collect();
        let etcds: Vec<_> = nodes.iter().map(|n| threads.spawn(|| etcd(access, n))).collect();
        let redis_servers: Vec<_> = nodes.iter().map(|n| threads.spawn(|| redis(access, n))).collect();
        let sentinels: Vec<_> = nodes.iter().map(|n| threads.spawn(|| sentinel(access, n))).collect();
        let patroni = threads.spawn(|| postgres(access, spec));
        let vip = threads.spawn(|| vip_answers(spec));
        let panicked = |what: &str| anyhow::anyhow!("{what}: a thread panicked");
        let nodes = reports
            .into_iter()
            .map(|t| t.join().map_err(|_| panicked("nodes")))
            .collect::<Result<Vec<_>>>()?;
        let holders = nodes.iter().filter(|(_, holds)| *holds).map(|(n, _)| n.name.clone()).collect();
        let vip = VipStatus { address: spec.network.vip, holders, answers: vip.join().unwrap_or(false) };
        Ok::<_, anyhow::Error>(Status {
            schema: SCHEMA,
            healthy: false,
            problems: Vec::new(),
            nodes: nodes.into_iter().map(|(n, _)| n).collect(),
            etcd: etcds.into_iter().map(|t| t.join().map_err(|_| panicked("etcd"))).collect::<Result<_>>()?,
            postgres: patroni.join().map_err(|_| panicked("Patroni"))?,
            redis: redis_servers
                .into_iter()
                .map(|t| t.join().map_err(|_| panicked("Redis")))
                .collect::<Result<_>>()?,
            sentinel: merge_sentinels(
                spec,
                sentinels
                    .into_iter()
                    .map(|t| t.join().unwrap_or_else(|_| Err(panicked("Sentinel"))))
                    .collect(),
            ),
            vip,
            certificates: certificates(access)?,
        })
    })?;
    fetch_kv_hashes(access, &mut status.etcd);
    status.problems = find_problems(spec, access.bundle_generation, &status);
    status.healthy = status.problems.is_empty();
    Ok(status)
}

fn node(access: &Access, node: &Node) -> (NodeStatus, bool) {
    let spec = &access.spec;
    let report =
        crate::peer::fetch_report(&access.cluster, node.address, spec.network.join_port, STATUS_TIMEOUT);
    let (mut status, holds_vip) = match report {
        Ok(report) => reachable(node, report),
        Err(error) => (unreachable(node, &error), false),
    };
    status.haproxy = haproxy_answers(node.address, spec.haproxy.stats_port);
    (status, holds_vip && spec.network.vip_mode == VipMode::Vrrp)
}

/// The status by a node's own report, and whether it holds the virtual IP.
fn reachable(node: &Node, report: NodeReport) -> (NodeStatus, bool) {
    let status = NodeStatus {
        name: node.name.clone(),
        address: node.address,
        phase: report.phase,
        bundle_generation: Some(report.bundle_generation),
        spec_hash: Some(report.spec_hash),
        image: report.image,
        haproxy: false,
        moved_aside: report.moved_aside,
        file_systems: report.file_systems,
        problems: report.problems,
    };
    (status, report.holds_vip)
}

/// The status of one node, collected on it for [`super::node_metrics`]; `healthy` and `problems` are this node's.
pub fn collect_local(access: &Access, node: &Node, report: NodeReport) -> Result<Status> {
    let spec = &access.spec;
    let (mut own, holds_vip) = reachable(node, report);
    own.haproxy = haproxy_answers(node.address, spec.haproxy.stats_port);
    let one_node = Spec { nodes: vec![node.clone()], ..spec.clone() };
    let holders = (holds_vip && spec.network.vip_mode == VipMode::Vrrp).then(|| node.name.clone());
    Ok(Status {
        schema: SCHEMA,
        healthy: own.problems.is_empty(),
        problems: own.problems.clone(),
        etcd: vec![etcd(access, node)],
        postgres: postgres(access, &one_node),
        redis: vec![redis(access, node)],
        sentinel: merge_sentinels(&one_node, vec![sentinel(access, node)]),
        vip: VipStatus {
            address: spec.network.vip,
            holders: holders.into_iter().collect(),
            answers: vip_answers(spec),
        },
        certificates: certificates(access)?,
        nodes: vec![own],
    })
}

fn unreachable(node: &Node, error: &anyhow::Error) -> NodeStatus {
    NodeStatus {
        name: node.name.clone(),
        address: node.address,
        phase: "unreachable".into(),
        bundle_generation: None,
        spec_hash: None,
        image: BTreeMap::new(),
        haproxy: false,
        moved_aside: Vec::new(),
        file_systems: Vec::new(),
        problems: vec![format!("{error:#}")],
    }
}

fn haproxy_answers(address: IpAddr, port: u16) -> bool {
    let probe = || -> Result<u16> {
        let url = format!("http://{}/health", SocketAddr::new(address, port));
        Ok(HttpClient::new(None, STATUS_TIMEOUT)?.get(&url)?.status)
    };
    probe().is_ok_and(|status| status == 200)
}

/// A load balancer may not forward the port of the health probe, so its client ports are checked.
fn vip_answers(spec: &Spec) -> bool {
    let vip = spec.network.vip;
    match spec.network.vip_mode {
        VipMode::Vrrp => haproxy_answers(vip, spec.haproxy.stats_port),
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
    let name = node.name.clone();
    match result {
        Ok(status) => EtcdStatus {
            name,
            healthy: status.errors.is_empty(),
            leader: !status.leader.is_empty() && status.leader == status.id,
            version: status.version,
            db_bytes: status.db_bytes,
            revision: status.revision,
            kv_hash: None,
            alarms: status.errors.iter().filter(|e| e.contains("alarm")).count(),
            error: (!status.errors.is_empty()).then(|| status.errors.join("; ")),
        },
        Err(error) => EtcdStatus {
            name,
            healthy: false,
            leader: false,
            version: String::new(),
            db_bytes: 0,
            alarms: 0,
            revision: 0,
            kv_hash: None,
            error: Some(format!("{error:#}")),
        },
    }
}

/// Fetches each member's hash up to the latest revision that all members have.
fn fetch_kv_hashes(access: &Access, members: &mut [EtcdStatus]) {
    let Some(revision) = members.iter().map(|m| m.revision).filter(|r| *r > 0).min() else { return };
    let fetch = |node: &Node| -> Option<KvHash> {
        let result = EtcdClient::new(&access.cluster, node.address, STATUS_TIMEOUT)
            .and_then(|etcd| etcd.hash_kv(revision));
        result.unwrap_or_else(|error| {
            tracing::debug!("{}: etcd: {error:#}", node.name);
            None
        })
    };
    scope(|threads| {
        for (member, node) in members.iter_mut().zip(&access.spec.nodes).filter(|(m, _)| m.revision > 0) {
            threads.spawn(|| member.kv_hash = fetch(node));
        }
    });
}

/// Every Patroni lists all members, so the first node that responds is enough.
fn postgres(access: &Access, spec: &Spec) -> Vec<PostgresStatus> {
    let fetch = |node: &Node| -> Result<serde_json::Value> {
        let url = format!("https://{}/cluster", SocketAddr::new(node.address, spec.patroni.restapi_port));
        let response = HttpClient::new(Some(&access.cluster), STATUS_TIMEOUT)?.get(&url)?;
        ensure!(response.body["members"].is_array(), "Patroni's response has no members");
        Ok(response.body)
    };
    let cluster = spec.nodes.iter().find_map(|n| fetch(n).ok()).unwrap_or_default();
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
            name: node.name.clone(),
            role: text("role"),
            state: match text("state") {
                _ if member.is_null() => "unknown to Patroni".into(),
                state if state == "running" && streaming.contains(&node.name) => "streaming".into(),
                state => state,
            },
            timeline: member["timeline"].as_i64(),
            lag: member["lag"].as_i64(),
        }
    };
    spec.nodes.iter().map(status).collect()
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
    let name = node.name.clone();
    match result {
        Ok(info) => {
            let field = |key: &str| info.get(key).cloned().unwrap_or_default();
            RedisStatus {
                name,
                role: field("role"),
                link_up: field("role") == "master" || field("master_link_status") == "up",
                replicas: field("connected_slaves").parse().unwrap_or_default(),
                error: None,
            }
        }
        Err(error) => RedisStatus {
            name,
            role: String::new(),
            link_up: false,
            replicas: 0,
            error: Some(format!("{error:#}")),
        },
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

/// `views` are in the order of the spec's nodes.
fn merge_sentinels(spec: &Spec, views: Vec<Result<SentinelView>>) -> SentinelStatus {
    let primaries: Vec<IpAddr> = views.iter().flatten().map(|view| view.primary.address).collect();
    let count = |address: &IpAddr| primaries.iter().filter(|a| *a == address).count();
    let primary = primaries.iter().find(|a| count(a) >= spec.majority()).copied();
    let faults = views.iter().zip(&spec.nodes).filter_map(|(view, node)| match view {
        Ok(view) => Some((node.name.clone(), view.quorum_error.clone()?)),
        Err(error) => Some((node.name.clone(), format!("{error:#}"))),
    });
    SentinelStatus { primary, agree: primary.map_or(0, |p| count(&p)), faults: faults.collect() }
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
