//! Asks every node everything, all at once; whoever does not answer in time is a finding, not an error.

use super::*;
use crate::client::etcd::Etcd;
use crate::client::http::Http;
use crate::client::redis::{MonitoredPrimary, Redis, Value, monitored_primary};
use crate::client::tls;
use anyhow::{Context, Result, ensure};
use hanode_core::peer::NodeReport;
use hanode_core::pki::read;
use hanode_core::spec::{Node, VipMode};
use std::net::SocketAddr;
use std::thread::scope;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const TIMEOUT: Duration = Duration::from_secs(3);

pub fn collect(access: &Access) -> Result<Status> {
    let spec = &access.spec;
    let nodes = &spec.nodes;
    let mut status = scope(|threads| {
        let joins: Vec<_> = nodes.iter().map(|n| threads.spawn(|| node(access, n))).collect();
        let etcds: Vec<_> = nodes.iter().map(|n| threads.spawn(|| etcd(access, n))).collect();
        let rediss: Vec<_> = nodes.iter().map(|n| threads.spawn(|| redis(access, n))).collect();
        let sentinels: Vec<_> = nodes.iter().map(|n| threads.spawn(|| sentinel(access, n))).collect();
        let patroni = threads.spawn(|| postgres(access, spec));
        let vip = threads.spawn(|| vip_answers(spec));
        let all = |failed: &str| anyhow::anyhow!("{failed}: a thread failed");
        let nodes =
            joins.into_iter().map(|t| t.join().map_err(|_| all("nodes"))).collect::<Result<Vec<_>>>()?;
        let holders = nodes.iter().filter(|(_, holds)| *holds).map(|(n, _)| n.name.clone()).collect();
        let vip = VipStatus { address: spec.network.vip, holders, answers: vip.join().unwrap_or(false) };
        Ok::<_, anyhow::Error>(Status {
            schema: SCHEMA,
            healthy: false,
            problems: Vec::new(),
            nodes: nodes.into_iter().map(|(n, _)| n).collect(),
            etcd: etcds.into_iter().map(|t| t.join().map_err(|_| all("etcd"))).collect::<Result<_>>()?,
            postgres: patroni.join().map_err(|_| all("Patroni"))?,
            redis: rediss.into_iter().map(|t| t.join().map_err(|_| all("Redis"))).collect::<Result<_>>()?,
            sentinel: sentinels_together(
                spec,
                sentinels.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(all("Sentinel")))).collect(),
            ),
            vip,
            certificates: certificates(access)?,
        })
    })?;
    contents(access, &mut status.etcd);
    status.problems = find_problems(spec, access.bundle_generation, &status);
    status.healthy = status.problems.is_empty();
    Ok(status)
}

fn node(access: &Access, node: &Node) -> (NodeStatus, bool) {
    let spec = &access.spec;
    let answer = crate::peer::fetch_report(&access.cluster, node.address, spec.network.join_port, TIMEOUT);
    let (mut status, holds) = match answer {
        Ok(answer) => answered(node, answer),
        Err(error) => (unreachable(node, &error), false),
    };
    status.haproxy = haproxy_answers(node.address, spec.haproxy.stats_port);
    (status, holds && spec.network.vip_mode == VipMode::Vrrp)
}

/// What a node says of itself, and whether it holds the virtual IP.
fn answered(node: &Node, answer: NodeReport) -> (NodeStatus, bool) {
    let status = NodeStatus {
        name: node.name.clone(),
        address: node.address,
        phase: answer.phase,
        bundle_generation: Some(answer.bundle_generation),
        spec_hash: Some(answer.spec_hash),
        image: answer.image,
        haproxy: false,
        moved_aside: answer.moved_aside,
        problems: answer.problems,
    };
    (status, answer.holds_vip)
}

/// One node alone, as it sees itself: for [`super::node_metrics`]. `healthy` and `problems` are its own.
pub fn collect_local(access: &Access, node: &Node, answer: NodeReport) -> Result<Status> {
    let spec = &access.spec;
    let (mut seen, holds) = answered(node, answer);
    seen.haproxy = haproxy_answers(node.address, spec.haproxy.stats_port);
    let alone = Spec { nodes: vec![node.clone()], ..spec.clone() };
    let holders = (holds && spec.network.vip_mode == VipMode::Vrrp).then(|| node.name.clone());
    Ok(Status {
        schema: SCHEMA,
        healthy: seen.problems.is_empty(),
        problems: seen.problems.clone(),
        etcd: vec![etcd(access, node)],
        postgres: postgres(access, &alone),
        redis: vec![redis(access, node)],
        sentinel: sentinels_together(&alone, vec![sentinel(access, node)]),
        vip: VipStatus {
            address: spec.network.vip,
            holders: holders.into_iter().collect(),
            answers: vip_answers(spec),
        },
        certificates: certificates(access)?,
        nodes: vec![seen],
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
        problems: vec![format!("{error:#}")],
    }
}

fn haproxy_answers(address: IpAddr, port: u16) -> bool {
    let probe = || -> Result<u16> {
        let url = format!("http://{}/health", SocketAddr::new(address, port));
        Ok(Http::new(None, TIMEOUT)?.get(&url)?.status)
    };
    probe().is_ok_and(|status| status == 200)
}

/// A load balancer need not forward the health probe's port: of one it counts whether it takes clients' connections.
fn vip_answers(spec: &Spec) -> bool {
    let vip = spec.network.vip;
    match spec.network.vip_mode {
        VipMode::Vrrp => haproxy_answers(vip, spec.haproxy.stats_port),
        VipMode::External => [spec.postgres.vip_port, spec.redis.vip_port]
            .into_iter()
            .all(|port| tls::connect(vip, port, TIMEOUT).is_ok()),
    }
}

fn etcd(access: &Access, node: &Node) -> EtcdStatus {
    let asked = Etcd::new(&access.cluster, node.address, TIMEOUT).and_then(|etcd| {
        etcd.members().context("no quorum")?;
        etcd.status()
    });
    let name = node.name.clone();
    match asked {
        Ok(status) => EtcdStatus {
            name,
            healthy: status.errors.is_empty(),
            leader: !status.leader.is_empty() && status.leader == status.member,
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

/// Asked once it is known how far all of them have come.
fn contents(access: &Access, members: &mut [EtcdStatus]) {
    let Some(revision) = members.iter().map(|m| m.revision).filter(|r| *r > 0).min() else { return };
    let ask = |node: &Node| -> Option<KvHash> {
        let asked = Etcd::new(&access.cluster, node.address, TIMEOUT).and_then(|etcd| etcd.hash_kv(revision));
        asked.unwrap_or_else(|error| {
            tracing::debug!("{}: etcd: {error:#}", node.name);
            None
        })
    };
    scope(|threads| {
        for (member, node) in members.iter_mut().zip(&access.spec.nodes).filter(|(m, _)| m.revision > 0) {
            threads.spawn(|| member.kv_hash = ask(node));
        }
    });
}

/// Any one Patroni knows of all members; the first of `spec`'s nodes that answers is asked.
fn postgres(access: &Access, spec: &Spec) -> Vec<PostgresStatus> {
    let ask = |node: &Node| -> Result<serde_json::Value> {
        let url = format!("https://{}/cluster", SocketAddr::new(node.address, spec.patroni.restapi_port));
        let answer = Http::new(Some(&access.cluster), TIMEOUT)?.get(&url)?;
        ensure!(answer.body["members"].is_array(), "Patroni names no members");
        Ok(answer.body)
    };
    let cluster = spec.nodes.iter().find_map(|n| ask(n).ok()).unwrap_or_default();
    let members = cluster["members"].as_array().cloned().unwrap_or_default();
    let tells = members.iter().any(|m| m["state"] == "streaming");
    let asked = || replication::from_leader(&Http::new(Some(&access.cluster), TIMEOUT)?, spec, &cluster);
    let streaming = if tells { Vec::new() } else { asked().unwrap_or_default() };
    let of = |node: &Node| {
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
    spec.nodes.iter().map(of).collect()
}

fn redis(access: &Access, node: &Node) -> RedisStatus {
    let spec = &access.spec.redis;
    let asked =
        Redis::connect(access.redis.as_ref(), node.address, spec.port, &access.secrets.redis, TIMEOUT)
            .and_then(|mut redis| redis.info("replication"));
    let name = node.name.clone();
    match asked {
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

/// A Sentinel's belief, and its verdict on the quorum.
fn sentinel(access: &Access, node: &Node) -> Result<(String, MonitoredPrimary, Option<String>)> {
    let spec = &access.spec.redis;
    let mut sentinel = Redis::connect(
        access.redis.as_ref(),
        node.address,
        spec.sentinel_port,
        &access.secrets.sentinel,
        TIMEOUT,
    )
    .with_context(|| node.name.clone())?;
    let fault = match sentinel.command(&["SENTINEL", "CKQUORUM", &spec.master_name])? {
        Value::Error(words) => Some(words),
        _ => None,
    };
    Ok((node.name.clone(), monitored_primary(&mut sentinel, &spec.master_name)?, fault))
}

fn sentinels_together(
    spec: &Spec,
    asked: Vec<Result<(String, MonitoredPrimary, Option<String>)>>,
) -> SentinelStatus {
    let named: Vec<IpAddr> = asked.iter().flatten().map(|(_, watched, _)| watched.address).collect();
    let count = |address: &IpAddr| named.iter().filter(|a| *a == address).count();
    let primary = named.iter().find(|a| count(a) >= spec.majority()).copied();
    let faults = asked.iter().zip(&spec.nodes).filter_map(|(answer, node)| match answer {
        Ok((_, _, None)) => None,
        Ok((name, _, Some(words))) => Some((name.clone(), words.clone())),
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
