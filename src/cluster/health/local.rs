//! Checks of the servers on one node.

use super::{Problem, servers};
use crate::access::Access;
use anyhow::Result;
use hanode_core::spec::Node;
use std::time::Duration;

/// Time limit of one request to a server.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The problems of this node's servers; empty if all are healthy.
pub fn problems(access: &Access, node: &Node) -> Vec<Problem> {
    servers::query(access, node, CHECK_TIMEOUT).servers.problems()
}

/// The id of the etcd member on this node.
pub fn etcd_member(access: &Access, node: &Node) -> Result<String> {
    Ok(access.etcd(node, CHECK_TIMEOUT)?.status()?.id)
}
