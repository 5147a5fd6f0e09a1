//! The state of a cluster that starts, in one short line that changes only when a state changes.

use super::{NodeStatus, Phase, Problem, ProblemKind, Status};
use hanode_core::state::Component;
use hanode_util::terminal;

/// Upper bound of the line, in characters.
const WIDTH: usize = 72;

/// The nodes that are not in service, by phase; then the servers that are not ready; then another problem.
pub fn progress(status: &Status) -> String {
    let mut parts = phases(status);
    if parts.is_empty() {
        parts = servers(status);
    }
    let first = || status.problems.first().map(Problem::to_string);
    let text = if parts.is_empty() { first().unwrap_or_default() } else { parts.join(", ") };
    shortened(&terminal::line(&text))
}

/// An error that prevents any status, as short.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

fn phases(status: &Status) -> Vec<String> {
    let mut seen: Vec<(Phase, Vec<&str>)> = Vec::new();
    let elsewhere = |node: &&NodeStatus| node.phase != Phase::InService;
    for node in status.nodes.iter().filter(elsewhere) {
        match seen.iter_mut().find(|(phase, _)| *phase == node.phase) {
            Some((_, nodes)) => nodes.push(&node.name),
            None => seen.push((node.phase, vec![&node.name])),
        }
    }
    seen.into_iter().map(|(phase, nodes)| format!("{} {}", nodes.join(" "), phase.name())).collect()
}

fn servers(status: &Status) -> Vec<String> {
    let of = |node: &NodeStatus| {
        let failed = |p: &&Problem| {
            p.node.as_ref() == Some(&node.name) && p.kind == ProblemKind::CheckFailed && p.component.is_some()
        };
        let mut components: Vec<Component> =
            status.problems.iter().filter(failed).filter_map(|p| p.component).collect();
        components.sort();
        components.dedup();
        let names: Vec<String> = components.iter().map(Component::to_string).collect();
        (!names.is_empty()).then(|| format!("{}: {} not ready", node.name, names.join(" ")))
    };
    status.nodes.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::testing::{healthy, spec};

    const ERROR: &str =
        "https://192.168.18.21:2379/v3/maintenance/status: Connection refused (os error 111)\u{1b}[31m";

    fn problem(node: &str, component: Component) -> Problem {
        Problem::check_failed(component, ERROR.repeat(5)).node(node)
    }

    #[test]
    fn nodes_that_start_are_grouped_by_their_phase() {
        let mut status = healthy(&spec());
        status.problems = vec![problem("node1", Component::Etcd)];
        for node in &mut status.nodes[..2] {
            node.phase = Phase::Unreachable;
        }
        status.nodes[2].phase = Phase::WaitingForPeers;
        assert_eq!(progress(&status), "node1 node2 unreachable, node3 waiting-for-peers");
    }

    #[test]
    fn servers_are_named_without_their_errors() {
        let mut status = healthy(&spec());
        let of = |node| [Component::Redis, Component::Etcd, Component::Etcd].map(|c| problem(node, c));
        status.problems = of("node1").into();
        assert_eq!(progress(&status), "node1: etcd Redis not ready");
        status.problems = ["node1", "node2", "node3"].into_iter().flat_map(of).collect();
        assert!(progress(&status).chars().count() <= WIDTH + 1, "{}", progress(&status));
    }

    #[test]
    fn another_problem_is_one_short_printable_line() {
        let mut status = healthy(&spec());
        status.problems = vec![Problem::new(ProblemKind::VipUnanswered, ERROR.repeat(5))];
        let line = progress(&status);
        assert!(line.starts_with("HAProxy does not answer on https://"), "{line}");
        assert!(line.chars().count() <= WIDTH + 1 && !line.contains('\u{1b}'), "{line}");
    }
}
