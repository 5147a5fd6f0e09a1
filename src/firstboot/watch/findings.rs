//! Problems that do not keep a node from service, such as a setting that the next start loses. They are in the node's
//! report, which reads a file in memory, so that a server that hangs does not delay it.

use crate::host::clock::{recent_age_ms, uptime_ms};
use crate::node::NodeContext;
use crate::start::reload;
use anyhow::Result;
use hanode_core::redis_parameters::Difference;
use hanode_core::state::{Component, Problem, ProblemKind};
use serde::{Deserialize, Serialize};
use std::thread::sleep;
use std::time::Duration;

const FILE: &str = "/run/hanode/findings.json";
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Older values are not reported: the watcher does not run.
const MAX_FILE_AGE_MS: u64 = 60_000;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// By the clock that counts since boot.
    saved_ms: u64,
    findings: Vec<Problem>,
}

/// Checks until the process ends.
pub(super) fn watch(node: &NodeContext) {
    loop {
        if let Err(error) = save(node, find(node)) {
            tracing::debug!("{FILE}: {error:#}");
        }
        sleep(CHECK_INTERVAL);
    }
}

fn find(node: &NodeContext) -> Vec<Problem> {
    // A server that does not answer is a problem of the services already.
    redis_settings(node).unwrap_or_default()
}

fn redis_settings(node: &NodeContext) -> Result<Vec<Problem>> {
    let mut redis = node.redis(node.own().address, REQUEST_TIMEOUT)?;
    let problem = |Difference { name, wanted, running }| {
        let detail = format!("{name} = {running:?}, its file has {wanted:?}");
        Problem::new(ProblemKind::RedisSetting, detail).component(Component::Redis)
    };
    Ok(reload::redis_differences(node, &mut redis)?.into_iter().map(problem).collect())
}

fn save(node: &NodeContext, findings: Vec<Problem>) -> Result<()> {
    let saved = Saved { saved_ms: uptime_ms(), findings };
    Ok(node.tree()?.replace(FILE, &serde_json::to_vec(&saved)?, 0o644, None)?)
}

/// For this node's report.
pub(crate) fn last_found(node: &NodeContext) -> Vec<Problem> {
    let read = std::fs::read(node.at(FILE)).unwrap_or_default();
    recent(&read, uptime_ms()).unwrap_or_default()
}

fn recent(saved: &[u8], now_ms: u64) -> Option<Vec<Problem>> {
    let saved: Saved = serde_json::from_slice(saved).ok()?;
    recent_age_ms(saved.saved_ms, now_ms, MAX_FILE_AGE_MS).ok()?;
    Some(saved.findings)
}
