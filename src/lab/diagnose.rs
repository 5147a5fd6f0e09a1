//! What a node says of itself: whether it has booted, and when it does not get on, which unit and why.

use super::Lab;

/// Where a booting node has got to.
pub(crate) enum Boot {
    Under,
    /// Cloud-init and, in an image that has it, hanode are at work.
    Done,
    /// For this reason; it goes on once that is gone, in a moment or never.
    Refused(String),
    /// It will not get on by itself.
    Failed(String),
}

/// What hanode in the node wrote last, or that there is no hanode in it and cloud-init is done.
const PROGRESS: &str = "cat /run/hanode/state.json 2>/dev/null || \
    { [ ! -e /usr/lib/hanode ] && systemctl --quiet is-active cloud-config.target && echo '{}'; }";

pub(crate) fn boot(lab: &Lab, node: &str) -> Boot {
    if !lab.running(node) {
        return Boot::Failed(format!(
            "{node}: is not running any more; its console's end:\n{}",
            lab.console_end(node)
        ));
    }
    let Ok(output) = lab.exec_output(node, &["sh", "-c", PROGRESS]) else { return Boot::Under };
    let Ok(state) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else { return Boot::Under };
    match state["phase"].as_str() {
        Some("identity") => Boot::Under,
        Some("refused") => Boot::Refused(state["error"]["what"].to_string()),
        Some("failed") => Boot::Failed(own_words(node, &state)),
        _ => Boot::Done,
    }
}

/// Why this node is not well, a line each: its own words, then every failed unit with its last words.
pub(crate) fn troubles(lab: &Lab, node: &str) -> Vec<String> {
    if let Boot::Failed(why) = boot(lab, node) {
        return vec![why];
    }
    let ask = |argv: &[&str]| match lab.exec_output(node, argv) {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(_) => String::new(),
    };
    let mut lines = Vec::new();
    if let Ok(state) = serde_json::from_str(&ask(&["cat", "/run/hanode/state.json"])) {
        lines.push(own_words(node, &state));
    }
    let failed = ask(&["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager"]);
    for unit in failed.lines().filter_map(|l| l.split_whitespace().next()) {
        let last = ask(&["journalctl", "--unit", unit, "--lines=3", "--output=cat", "--no-pager"]);
        let last = last.lines().collect::<Vec<_>>().join(" | ");
        lines.push(format!("{node}: {unit} failed: {last}"));
    }
    if lines.is_empty() {
        lines.push(format!("{node}: does not say why; its console's end:\n{}", lab.console_end(node)));
    }
    lines
}

/// `state.json` as a sentence.
fn own_words(node: &str, state: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
    let mut words = format!("{node}: {}", text(&state["phase"]));
    let error = &state["error"];
    if error.is_object() {
        words += &format!(": {}, {}; {}", text(&error["what"]), text(&error["where"]), text(&error["help"]));
    }
    let waiting: Vec<_> = state["waiting_for"].as_array().into_iter().flatten().map(text).collect();
    if !waiting.is_empty() {
        words += &format!(", waiting for {}", waiting.join(", "));
    }
    words
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_node_is_quoted_with_what_where_and_what_to_do() {
        let state = serde_json::json!({
            "phase": "refused",
            "waiting_for": ["node2"],
            "error": { "what": "disk of node1", "where": "/var/lib/hanode", "help": "wipe it" },
        });
        let words = super::own_words("node3", &state);
        assert_eq!(words, "node3: refused: disk of node1, /var/lib/hanode; wipe it, waiting for node2");
        assert_eq!(super::own_words("node3", &serde_json::json!({ "phase": "starting" })), "node3: starting");
    }
}
