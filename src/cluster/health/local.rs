//! Checks of the services on one node.

use super::{Access, Problem, ProblemKind, RedisRole, Role, replication};
use crate::client::etcd::EtcdClient;
use crate::client::http::HttpClient;
use crate::client::redis::RedisClient;
use anyhow::{Context, Result, ensure};
use hanode_core::spec::Node;
use hanode_core::state::Component;
use std::net::SocketAddr;
use std::time::Duration;

/// Time limit of one request to a server.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

type Check = fn(&Access, &Node) -> Result<()>;

/// The problems of this node's services; empty if all are healthy.
pub fn problems(access: &Access, node: &str) -> Vec<Problem> {
    let Some(node) = access.spec.node(node) else {
        return vec![Problem::new(ProblemKind::Stopped, format!("{node} is not in the spec"))];
    };
    let checks: [(Component, Check); 5] = [
        (Component::Etcd, etcd),
        (Component::Postgres, postgres),
        (Component::Redis, redis),
        (Component::Sentinel, sentinel),
        (Component::Haproxy, haproxy),
    ];
    let failed =
        checks.iter().filter_map(|(component, check)| Some((*component, check(access, node).err()?)));
    failed.map(|(component, error)| Problem::check_failed(component, format!("{error:#}"))).collect()
}

/// The id of the etcd member on this node.
pub fn etcd_member(access: &Access, node: &str) -> Result<String> {
    let node = access.spec.node(node).with_context(|| format!("{node} is not in the spec"))?;
    Ok(EtcdClient::new(&access.cluster, node.address, CHECK_TIMEOUT)?.status()?.id)
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
    let primary = body["role"].as_str().and_then(Role::of_patroni) == Some(Role::Leader);
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
    let primary = info.get("role").and_then(|role| RedisRole::of_redis(role)) == Some(RedisRole::Primary);
    let linked = info.get("master_link_status").is_some_and(|status| status == "up");
    ensure!(primary || linked, "replica has no link to its primary");
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
