//! Requests of `hanode restart postgres`, which reach this node through etcd.

use crate::node::NodeContext;
use anyhow::Result;
use hanode_cluster::request::{self, Request};
use std::thread::sleep;
use std::time::Duration;

const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// A leader that stops first writes all changed pages to its disk.
const LONGEST_RESTART: Duration = Duration::from_secs(600);

/// Checks until the process ends.
pub(super) fn watch(node: &NodeContext) {
    loop {
        sleep(CHECK_INTERVAL);
        if let Err(error) = request::serve(node.access(), node.own(), |request| perform(node, request)) {
            tracing::debug!("requests in etcd: {error:#}");
        }
    }
}

fn perform(node: &NodeContext, request: &Request) -> Result<()> {
    let patroni = node.access().patroni(node.own(), LONGEST_RESTART)?;
    match request {
        // It was restarted before this program was.
        Request::Restart if patroni.status()?.awaits_restart.is_none() => Ok(()),
        Request::Restart => {
            tracing::info!("restarting PostgreSQL, as requested");
            patroni.restart_if_pending()
        }
        Request::SwitchOver { to } => {
            let to = &node.spec().require_node(to)?.name;
            tracing::info!("switching PostgreSQL over to {to}, as requested");
            patroni.switch_over(node.name(), to, LONGEST_RESTART)
        }
    }
}
