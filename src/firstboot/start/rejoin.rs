//! Joins a node without data to a running cluster: etcd's membership.
//!
//! Removing a member could harm a running node of the same name, so [`DuplicateNameGuard`] checks first.

use super::duplicate_address;
use crate::host::systemd::Systemd;
use crate::node::NodeContext;
use anyhow::Result;
use hanode_cluster::client::etcd::EtcdClient;
use hanode_cluster::discovery;
use hanode_core::etcd::Member;
use hanode_core::plan::{Action, JoinMethod, Observations, Plan, Step, join_method, peer_url};
use hanode_core::state::Component;
use std::time::{Duration, Instant};

/// Makes this node an etcd member that has not started yet, with an empty directory. `Err`: the step that
/// waits.
pub(super) fn join_etcd(
    node: &NodeContext,
    plan: &Plan,
    seen: &Observations,
    duplicates: &mut DuplicateNameGuard,
) -> Result<Result<Plan, Step>> {
    let members = seen.etcd.as_deref().unwrap_or_default();
    let url = peer_url(node.own());
    if join_method(members, &url) == JoinMethod::TakeListed {
        node.disk.clear_etcd()?;
        let listed = members.iter().find(|m| m.peer_urls.contains(&url)).map(|m| m.id.clone());
        node.disk.update_state(|disk| disk.etcd_member = listed)?;
        return Ok(Ok(with_members(plan, node.name(), &url, members)));
    }
    let etcd = node.etcd_with_quorum()?;
    if let Some(blocked) = duplicates.check(node, &etcd)? {
        return Ok(Err(blocked));
    }
    // The list may have changed since it was observed: remove only a member that is still to be replaced.
    match (join_method(&etcd.members()?, &url), join_method(members, &url)) {
        (JoinMethod::Replace(id), JoinMethod::Replace(before)) if id == before => {
            tracing::warn!("removing etcd member {id}: the disk of this node was replaced");
            etcd.remove(&id)?;
            node.fail_point("etcd-member-removed");
        }
        (JoinMethod::Add, _) => {}
        _ => return Ok(Err(Step::new(Action::Wait, "etcd's member list is changing"))),
    }
    node.disk.clear_etcd()?;
    node.fail_point("etcd-data-cleared");
    match etcd.add(&url) {
        Ok((id, members)) => {
            node.fail_point("etcd-member-added");
            node.disk.update_state(|disk| disk.etcd_member = Some(id))?;
            Ok(Ok(with_members(plan, node.name(), &url, &members)))
        }
        // etcd refuses ("unhealthy cluster") until its members are connected to each other: try again.
        Err(error) => Ok(Err(Step::new(Action::Wait, format!("etcd does not add this node yet: {error:#}")))),
    }
}

/// Detects another running machine with this node's name, to which the etcd member may belong.
#[derive(Default)]
pub(super) struct DuplicateNameGuard {
    /// When Patroni's key of this name was first seen.
    key_since: Option<Instant>,
}

impl DuplicateNameGuard {
    fn check(&mut self, node: &NodeContext, etcd: &EtcdClient) -> Result<Option<Step>> {
        let spec = node.spec();
        if let Some(refusal) = duplicate_address::refusal(node)? {
            return Ok(Some(refusal));
        }
        if own_patroni_runs(node)? || etcd.get(&discovery::member_key(&spec.name, node.name()))?.is_none() {
            return Ok(None);
        }
        let since = *self.key_since.get_or_insert_with(Instant::now);
        let limit = Duration::from_secs(u64::from(spec.patroni.ttl + spec.patroni.loop_wait));
        Ok(Some(if since.elapsed() > limit {
            let reason = format!(
                "a running Patroni keeps the key of {} in etcd: another machine has this name; switch one of them off",
                node.name()
            );
            Step::new(Action::Refuse, reason)
        } else {
            Step::new(
                Action::Wait,
                format!("the key of the former {} in etcd has not expired yet", node.name()),
            )
        }))
    }
}

/// Whether Patroni runs on this machine: then the key in etcd is its own, renewed through the other nodes. At
/// boot Patroni waits for etcd.
fn own_patroni_runs(node: &NodeContext) -> Result<bool> {
    let unit = node.config.target.unit(Component::Patroni)?;
    Ok(Systemd::connect()?.states(&[unit])?.iter().any(|unit| unit.state == "active"))
}

/// etcd's initial cluster must list exactly its members.
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
