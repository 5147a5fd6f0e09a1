//! etcd's membership: what the gate needs to know before it changes, and the changes.

use super::duplicate_address;
use crate::host::systemd::Systemd;
use crate::node::NodeContext;
use anyhow::Result;
use hanode_cluster::discovery::member_key;
use hanode_core::etcd::Member;
use hanode_core::gate::JoinFacts;
use hanode_core::plan::peer_url;
use hanode_core::state::Component;

pub(super) fn join_facts(node: &NodeContext) -> Result<JoinFacts> {
    let etcd = node.etcd_with_quorum()?;
    if duplicate_address::is_duplicate(node)? {
        return Ok(JoinFacts { duplicate_address: true, ..JoinFacts::default() });
    }
    let own_patroni_runs = own_patroni_runs(node)?;
    let key = member_key(&node.spec().name, node.name());
    let patroni_key = !own_patroni_runs && etcd.get(&key)?.is_some();
    Ok(JoinFacts { duplicate_address: false, patroni_key, own_patroni_runs, members: etcd.members()? })
}

/// At boot Patroni waits for etcd.
fn own_patroni_runs(node: &NodeContext) -> Result<bool> {
    let unit = node.target().unit(Component::Patroni)?;
    Ok(Systemd::connect()?.states(&[unit])?.iter().any(|unit| unit.state == "active"))
}

pub(super) fn remove_member(node: &NodeContext, id: &str) -> Result<()> {
    tracing::warn!("removing etcd member {id}: the disk of this node was replaced");
    node.etcd_with_quorum()?.remove(id)
}

/// Adds this node as a member that has not started yet; returns all members, or why etcd refuses: "unhealthy cluster"
/// until its members are connected to each other.
pub(super) fn add_member(node: &NodeContext) -> Result<Result<Vec<Member>, String>> {
    match node.etcd_with_quorum()?.add(&peer_url(node.own())) {
        Ok((id, members)) => {
            node.fail_point("etcd-member-added");
            node.disk.update_state(|disk| disk.etcd_member = Some(id))?;
            Ok(Ok(members))
        }
        Err(error) => Ok(Err(format!("{error:#}"))),
    }
}
