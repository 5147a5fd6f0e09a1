//! Problems that do not keep a node from service, such as a setting that the next start loses. They are in the node's
//! report, which reads a file in memory, so that a server that hangs does not delay it.

use super::{connection_use, haproxy_socket, keepalived_state};
use crate::host::clock::{recent_age_ms, uptime_ms};
use crate::host::machine::is_container;
use crate::node::NodeContext;
use crate::start::reload;
use anyhow::Result;
use hanode_core::redis_parameters::Difference;
use hanode_core::state::{Component, Problem, ProblemKind, Role};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
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
    let mut keepalived = keepalived_state::FaultCheck::default();
    loop {
        let found = find(node).into_iter().chain(keepalived.check(node));
        if let Err(error) = save(node, found.collect()) {
            tracing::debug!("{FILE}: {error:#}");
        }
        sleep(CHECK_INTERVAL);
    }
}

fn find(node: &NodeContext) -> Vec<Problem> {
    // A server that does not answer is a problem of the services already.
    let connections = connections(node).unwrap_or_default();
    let mut found = redis_settings(node).unwrap_or_default();
    found.extend(connections);
    found.extend(watchdog(node));
    found
}

/// The limits of HAProxy's connections that are nearly reached.
fn connections(node: &NodeContext) -> Result<Vec<Problem>> {
    let socket = node.at(node.target().path("haproxy_socket")?);
    let stat = haproxy_socket::command(&socket, "show stat")?;
    Ok(connection_use::nearly_used(&stat).into_iter().map(connection_problem).collect())
}

fn connection_problem(usage: connection_use::Usage) -> Problem {
    Problem::new(ProblemKind::ConnectionsUsed, usage.to_string()).component(Component::Haproxy)
}

/// Why no watchdog would reset this machine if its PostgreSQL leader hung. A container has none.
fn watchdog(node: &NodeContext) -> Option<Problem> {
    const DEVICE: &str = "/dev/watchdog";
    const STATE: &str = "/sys/class/watchdog/watchdog0/state";
    if is_container() {
        return None;
    }
    let why = match std::fs::metadata(node.at(DEVICE)) {
        Err(_) => format!("{DEVICE} does not exist; the kernel has no module softdog"),
        Ok(device) if device.uid() == 0 => format!("{DEVICE} belongs to root, not to the user of Patroni"),
        Ok(_) => {
            let state = std::fs::read_to_string(node.at(STATE)).ok()?;
            let leads = || {
                let status = node.access().patroni(node.own(), REQUEST_TIMEOUT).ok()?.status().ok()?;
                Some(status.role == Some(Role::Leader))
            };
            if state.trim() != "inactive" || leads() != Some(true) {
                return None;
            }
            format!("Patroni has not activated {DEVICE}; see its log")
        }
    };
    Some(Problem::new(ProblemKind::NoWatchdog, why).component(Component::Postgres))
}

fn redis_settings(node: &NodeContext) -> Result<Vec<Problem>> {
    let mut redis = node.redis(node.own().address, REQUEST_TIMEOUT)?;
    let problem = |Difference { name, wanted, running }| {
        let detail = format!("{name} = {running:?}, its file has {wanted:?}");
        Problem::new(ProblemKind::RedisSetting, detail).component(Component::Redis)
    };
    let mut found: Vec<_> = reload::redis_differences(node, &mut redis)?.into_iter().map(problem).collect();
    let of_user = |detail| Problem::new(ProblemKind::RedisUser, detail).component(Component::Redis);
    found.extend(reload::redis_user_differences(node, &mut redis)?.into_iter().map(of_user));
    Ok(found)
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
