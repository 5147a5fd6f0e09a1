//! Getting a node without data into a living cluster: etcd's membership, Redis' promotion.

use super::apply::Node;
use crate::client::etcd::Member;
use crate::client::redis::Redis;
use crate::plan::{Joining, Observations, Plan, joining, peer_url};
use crate::tree::below;
use anyhow::{Context, Result};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Makes this node a member that has never started, its directory empty. `None`: not possible now.
pub fn etcd(node: &Node, plan: &Plan, seen: &Observations) -> Result<Option<Plan>> {
    let own = node.given.spec.node(node.name).context("node vanished from the spec")?;
    let members = seen.etcd.as_deref().unwrap_or_default();
    let url = peer_url(own);
    match joining(members, &url) {
        Joining::Take => {
            clear(node)?;
            Ok(Some(with_members(plan, node.name, &url, members)))
        }
        Joining::Replace(_) | Joining::Add => Ok(None),
    }
}

/// etcd must not find anything of an earlier life, a half-written directory included.
fn clear(node: &Node) -> Result<()> {
    let dir = below(node.root, node.given.target.path("etcd_data")?);
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("clearing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// The start configuration must list exactly the members that etcd itself lists.
fn with_members(plan: &Plan, name: &str, url: &str, members: &[Member]) -> Plan {
    let mut plan = plan.clone();
    plan.etcd.initial_state = "existing".into();
    plan.etcd.initial_cluster = members
        .iter()
        .flat_map(|m| m.peer_urls.iter().map(move |u| (m, u)))
        .map(|(m, u)| format!("{}={u}", if u == url { name } else { m.name.as_str() }))
        .collect();
    plan
}

/// Asks one Sentinel, and only one, to promote a replica; the caller looks again at what came of it.
pub fn promote_another(node: &Node) -> Result<()> {
    let spec = &node.given.spec;
    let credentials = node.given.redis_credentials()?;
    for peer in spec.peers(node.name) {
        let password = &node.given.bundle.secrets.sentinel;
        let Ok(mut sentinel) =
            Redis::connect(credentials.as_ref(), peer.address, spec.redis.sentinel_port, password, TIMEOUT)
        else {
            continue;
        };
        let answer = sentinel.command(&["SENTINEL", "FAILOVER", &spec.redis.master_name])?;
        tracing::info!("asked {} to promote a replica: {answer:?}", peer.name);
        return Ok(());
    }
    Ok(())
}
