//! Whether a node has booted, and what it reports about its problems.

use super::Lab;
use anyhow::{Context, Result};
use hanode_core::state::{Phase, Problem};
use hanode_util::user_error::UserError;
use serde::Deserialize;

pub(crate) enum BootState {
    InProgress,
    /// cloud-init and, in an image that has it, hanode are running.
    Done,
    /// With the reason; the node continues once the reason is gone.
    Refused(String),
    /// The node does not recover without help.
    Failed(String),
}

/// Prints the state of hanode, or `{}` in an image without hanode once cloud-init is done.
const PRINT_STATE: &str = "cat /run/hanode/state.json 2>/dev/null || \
    { [ ! -e /usr/lib/hanode ] && systemctl --quiet is-active cloud-config.target && echo '{}'; }";

pub(crate) fn boot_state(lab: &Lab, node: &str) -> BootState {
    if !lab.running(node) {
        return BootState::Failed(format!(
            "{node}: stopped running; end of its console:\n{}",
            lab.console_end(node)
        ));
    }
    let Ok(output) = lab.exec_output(node, &["sh", "-c", PRINT_STATE]) else { return BootState::InProgress };
    let Ok(state) = serde_json::from_slice::<NodeState>(&output.stdout) else {
        return BootState::InProgress;
    };
    match state.phase {
        Some(Phase::Identity) => BootState::InProgress,
        Some(Phase::Refused) => BootState::Refused(state.error.map(|error| error.what).unwrap_or_default()),
        Some(Phase::Failed) => BootState::Failed(summary(node, &state)),
        _ => BootState::Done,
    }
}

/// The problems of a node, one line each: its own state, then every failed unit with its last log lines.
pub(crate) fn problems(lab: &Lab, node: &str) -> Vec<String> {
    if let BootState::Failed(why) = boot_state(lab, node) {
        return vec![why];
    }
    reported(lab, node)
        .unwrap_or_else(|error| vec![format!("{node}: its problems cannot be read: {error:#}")])
}

fn reported(lab: &Lab, node: &str) -> Result<Vec<String>> {
    let output_of = |argv: &[&str]| -> Result<String> {
        Ok(String::from_utf8_lossy(&lab.exec_output(node, argv)?.stdout).into_owned())
    };
    let mut lines = Vec::new();
    let state = output_of(&["cat", "/run/hanode/state.json"])?;
    if !state.trim().is_empty() {
        let state = serde_json::from_str(&state).context("state.json is damaged")?;
        lines.push(summary(node, &state));
    }
    let failed = output_of(&["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager"])?;
    for unit in failed.lines().filter_map(|l| l.split_whitespace().next()) {
        let last = output_of(&["journalctl", "--unit", unit, "--lines=3", "--output=cat", "--no-pager"])?;
        let last = last.lines().collect::<Vec<_>>().join(" | ");
        lines.push(format!("{node}: {unit} failed: {last}"));
    }
    if lines.is_empty() {
        lines.push(format!("{node}: reports no problem; end of its console:\n{}", lab.console_end(node)));
    }
    Ok(lines)
}

/// What is needed of `/run/hanode/state.json`; empty for an image without hanode.
#[derive(Deserialize)]
struct NodeState {
    phase: Option<Phase>,
    error: Option<UserError>,
    #[serde(default)]
    waiting_for: Vec<String>,
    #[serde(default)]
    problems: Vec<Problem>,
}

/// `state.json` in one line.
fn summary(node: &str, state: &NodeState) -> String {
    let mut line = format!("{node}: {}", state.phase.unwrap_or_default());
    match &state.error {
        Some(UserError { what, place, help }) => line += &format!(": {what}, {place}; {help}"),
        None if !state.problems.is_empty() => line += &format!(": {}", Problem::list(&state.problems)),
        None => {}
    }
    if !state.waiting_for.is_empty() {
        line += &format!(", waiting for {}", state.waiting_for.join(", "));
    }
    line
}

#[cfg(test)]
mod tests {
    #[test]
    fn summary_has_the_error_its_place_and_help() {
        let state = serde_json::json!({
            "phase": "refused",
            "waiting_for": ["node2"],
            "error": { "what": "disk of node1", "where": "/var/lib/hanode", "help": "wipe it" },
        });
        let summary = |state| super::summary("node3", &serde_json::from_value(state).expect("a state"));
        let line = summary(state);
        assert_eq!(line, "node3: refused: disk of node1, /var/lib/hanode; wipe it, waiting for node2");
        assert_eq!(summary(serde_json::json!({ "phase": "starting" })), "node3: starting");
    }
}
