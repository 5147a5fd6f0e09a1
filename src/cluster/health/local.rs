//! Checks of the services on one node.

use super::{Access, replication};
use crate::client::etcd::EtcdClient;
use crate::client::http::HttpClient;
use crate::client::redis::RedisClient;
use anyhow::{Context, Result, ensure};
use hanode_core::spec::Node;
use std::net::SocketAddr;
use std::time::Duration;

/// Time limit of one request to a server.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

type Check = fn(&Access, &Node) -> Result<()>;

/// The problems of this node's services; empty if all are healthy.
pub fn problems(access: &Access, node: &str) -> Vec<String> {
    let Some(node) = access.spec.node(node) else {
        return vec![format!("{node} is not in the spec")];
    };
    let checks: [(&str, Check); 5] = [
        ("etcd", etcd),
        ("PostgreSQL", postgres),
        ("Redis", redis),
        ("Sentinel", sentinel),
        ("HAProxy", haproxy),
    ];
    let failed = checks.iter().filter_map(|(name, check)| Some((name, check(access, node).err()?)));
    failed.map(|(name, error)| format!("{name}: {error:#}")).collect()
}

/// The id of the etcd member on this node.
pub fn etcd_member(access: &Access, node: &str) -> Result<String> {
    let node = access.spec.node(node).with_context(|| format!("{node} is not in the spec"))?;
    Ok(EtcdClient::new(&access.cluster, node.address, CHECK_TIMEOUT)?.status()?.member)
}

fn etcd(access: &Access, node: &Node) -> Result<()> {
    let etcd = EtcdClient::new(&access.cluster, node.address, CHECK_TIMEOUT)?;
    etcd.members().context("no quorum")?;
    let alarms = etcd.status()?.errors;
    ensure!(alarms.is_empty(), "{}", alarms.join("; "));
    Ok(())
}

fn postgres(access: &Access, node: &Node) -> Result<()> {
    let url = format!("https://{}/patroni", SocketAddr::new(node.address, access.spec.patroni.restapi_port));
    let http = HttpClient::new(Some(&access.cluster), CHECK_TIMEOUT)?;
    let body = http.get(&url)?.body;
    let state = body["state"].as_str().unwrap_or("unknown");
    ensure!(state == "running", "{state}");
    let primary = matches!(body["role"].as_str(), Some("primary" | "master"));
    let streaming = match body["replication_state"].as_str() {
        Some(state) => state == "streaming",
        None if primary => false,
        None => {
            let cluster = http.get(&url.replace("/patroni", "/cluster"))?.body;
            replication::streaming_members(&http, &access.spec, &cluster)?.contains(&node.name)
        }
    };
    ensure!(primary || streaming, "replica is not streaming yet");
    Ok(())
}

fn redis(access: &Access, node: &Node) -> Result<()> {
    let spec = &access.spec.redis;
    let info = RedisClient::connect(
        access.redis.as_ref(),
        node.address,
        spec.port,
        &access.secrets.redis,
        CHECK_TIMEOUT,
    )?
    .info("replication")?;
    let is = |key: &str, value: &str| info.get(key).is_some_and(|v| v == value);
    ensure!(is("role", "master") || is("master_link_status", "up"), "replica has no link to its primary");
    Ok(())
}

fn sentinel(access: &Access, node: &Node) -> Result<()> {
    let spec = &access.spec.redis;
    RedisClient::connect(
        access.redis.as_ref(),
        node.address,
        spec.sentinel_port,
        &access.secrets.sentinel,
        CHECK_TIMEOUT,
    )?
    .query(&["SENTINEL", "CKQUORUM", &spec.master_name])?;
    Ok(())
}

fn haproxy(access: &Access, node: &Node) -> Result<()> {
    let url = format!("http://{}/health", SocketAddr::new(node.address, access.spec.haproxy.stats_port));
    let status = HttpClient::new(None, CHECK_TIMEOUT)?.get(&url)?.status;
    ensure!(status == 200, "its health probe returns status {status}");
    Ok(())
}
