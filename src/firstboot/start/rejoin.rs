//! Getting a node without data into a living cluster: etcd's membership.
//!
//! Removing a member is the one act here that could hurt a living node, so it is guarded: see [`DuplicateGuard`].

use super::apply::NodeContext;
use super::run::clear_etcd;
use crate::disk;
use crate::failpoint::passed;
use crate::identity::duplicate_address;
use crate::node_config::NodeConfig;
use crate::units::Systemd;
use anyhow::{Context, Result, bail};
use hanode_cluster::client::etcd::Etcd;
use hanode_cluster::discovery;
use hanode_core::etcd::Member;
use hanode_core::plan::{Action, JoinMethod, Observations, Plan, Step, join_method, peer_url};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Makes this node a member that has never started, its directory empty. `Err`: what hinders it now.
pub(super) fn etcd(
    node: &NodeContext,
    plan: &Plan,
    seen: &Observations,
    duplicates: &mut DuplicateGuard,
) -> Result<Result<Plan, Step>> {
    let own = node.config.spec.node(node.name).context("node vanished from the spec")?;
    let members = seen.etcd.as_deref().unwrap_or_default();
    let url = peer_url(own);
    if join_method(members, &url) == JoinMethod::TakeListed {
        clear_etcd(node.root, node.config)?;
        let listed = members.iter().find(|m| m.peer_urls.contains(&url)).map(|m| m.id.clone());
        disk::update_state(node.root, |disk| disk.etcd_member = listed)?;
        return Ok(Ok(with_members(plan, node.name, &url, members)));
    }
    let etcd = relay(node.config, node.name)?;
    if let Some(hindrance) = duplicates.look(node, &etcd)? {
        return Ok(Err(hindrance));
    }
    // The list may have changed while we looked: only what is true now is removed.
    match (join_method(&etcd.members()?, &url), join_method(members, &url)) {
        (JoinMethod::Replace(id), JoinMethod::Replace(before)) if id == before => {
            tracing::warn!("removing etcd member {id}: its disk is lost");
            etcd.remove(&id)?;
            passed(node.root, "etcd-removed");
        }
        (JoinMethod::Add, _) => {}
        _ => return Ok(Err(Step::new(Action::Wait, "etcd's member list is changing"))),
    }
    clear_etcd(node.root, node.config)?;
    passed(node.root, "etcd-cleared");
    match etcd.add(&url) {
        Ok((id, members)) => {
            passed(node.root, "etcd-added");
            disk::update_state(node.root, |disk| disk.etcd_member = Some(id))?;
            Ok(Ok(with_members(plan, node.name, &url, &members)))
        }
        // The others count their own connections first ("unhealthy cluster"): look again.
        Err(error) => Ok(Err(Step::new(Action::Wait, format!("etcd does not add this node yet: {error:#}")))),
    }
}

/// An etcd that has a quorum, on whichever node.
pub(super) fn relay(config: &NodeConfig, node: &str) -> Result<Etcd> {
    let credentials = config.credentials()?;
    for peer in config.spec.peers(node) {
        let etcd = Etcd::new(&credentials, peer.address, TIMEOUT)?;
        if etcd.members().is_ok() {
            return Ok(etcd);
        }
    }
    bail!("no peer's etcd has a quorum any more")
}

/// Whether another machine lives under this node's name: then it is that one's membership.
#[derive(Default)]
pub(super) struct DuplicateGuard {
    /// Since when Patroni's key of this name has been seen.
    key_since: Option<Instant>,
}

impl DuplicateGuard {
    fn look(&mut self, node: &NodeContext, etcd: &Etcd) -> Result<Option<Step>> {
        let spec = &node.config.spec;
        let own = spec.node(node.name).context("node vanished from the spec")?;
        if let Some(refusal) = duplicate_address::refusal(node)? {
            return Ok(Some(refusal));
        }
        if own_patroni_runs(node)? || etcd.get(&discovery::member_key(&spec.name, node.name))?.is_none() {
            return Ok(None);
        }
        let since = *self.key_since.get_or_insert_with(Instant::now);
        let limit = Duration::from_secs(u64::from(spec.patroni.ttl + spec.patroni.loop_wait));
        Ok(Some(if since.elapsed() > limit {
            let reason = format!(
                "a living Patroni keeps the key of {} in etcd: another machine has this name; switch one of them off",
                own.name
            );
            Step::new(Action::Refuse, reason)
        } else {
            Step::new(Action::Wait, format!("the key of the former {} in etcd has not expired yet", own.name))
        }))
    }
}

/// Then the key is its own: it keeps it by the other nodes' etcds while this one's has lost its data. At a boot it waits
/// for etcd.
fn own_patroni_runs(node: &NodeContext) -> Result<bool> {
    let unit = node.config.target.unit("patroni")?;
    Ok(Systemd::connect()?.states(&[unit])?.iter().any(|unit| unit.state == "active"))
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
