//! Whether a node has booted, and what it reports about its problems.

use super::Lab;

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
    let Ok(state) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
        return BootState::InProgress;
    };
    match state["phase"].as_str() {
        Some("identity") => BootState::InProgress,
        Some("refused") => BootState::Refused(state["error"]["what"].to_string()),
        Some("failed") => BootState::Failed(summary(node, &state)),
        _ => BootState::Done,
    }
}

/// The problems of a node, one line each: its own state, then every failed unit with its last log lines.
pub(crate) fn problems(lab: &Lab, node: &str) -> Vec<String> {
    if let BootState::Failed(why) = boot_state(lab, node) {
        return vec![why];
    }
    let output_of = |argv: &[&str]| match lab.exec_output(node, argv) {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(_) => String::new(),
    };
    let mut lines = Vec::new();
    if let Ok(state) = serde_json::from_str(&output_of(&["cat", "/run/hanode/state.json"])) {
        lines.push(summary(node, &state));
    }
    let failed = output_of(&["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager"]);
    for unit in failed.lines().filter_map(|l| l.split_whitespace().next()) {
        let last = output_of(&["journalctl", "--unit", unit, "--lines=3", "--output=cat", "--no-pager"]);
        let last = last.lines().collect::<Vec<_>>().join(" | ");
        lines.push(format!("{node}: {unit} failed: {last}"));
    }
    if lines.is_empty() {
        lines.push(format!("{node}: reports no problem; end of its console:\n{}", lab.console_end(node)));
    }
    lines
}

/// `state.json` in one line.
fn summary(node: &str, state: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
    let mut line = format!("{node}: {}", text(&state["phase"]));
    let error = &state["error"];
    if error.is_object() {
        line += &format!(": {}, {}; {}", text(&error["what"]), text(&error["where"]), text(&error["help"]));
    }
    let waiting: Vec<_> = state["waiting_for"].as_array().into_iter().flatten().map(text).collect();
    if !waiting.is_empty() {
        line += &format!(", waiting for {}", waiting.join(", "));
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
        let line = super::summary("node3", &state);
        assert_eq!(line, "node3: refused: disk of node1, /var/lib/hanode; wipe it, waiting for node2");
        assert_eq!(super::summary("node3", &serde_json::json!({ "phase": "starting" })), "node3: starting");
    }
}
