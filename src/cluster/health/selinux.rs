//! SELinux on the nodes (pure): mode and policy, and denials that concern hanode or its servers.

use super::{NodeStatus, Problem, ProblemKind, Status};
use hanode_core::selinux::Denial;

pub(super) fn problems(status: &Status) -> Vec<Problem> {
    let of_node = |node: &NodeStatus| {
        let denials = node.selinux.iter().flat_map(|selinux| &selinux.denials);
        denials.map(|denial| problem(denial).node(&node.name)).collect::<Vec<_>>()
    };
    status.nodes.iter().flat_map(of_node).collect()
}

fn problem(denial: &Denial) -> Problem {
    let times = match denial.count {
        1 => "once".to_string(),
        count => format!("{count} times"),
    };
    Problem::new(ProblemKind::SelinuxDenial, format!("{denial} ({times} in the last hour)"))
}

/// Mode and policy of the nodes whose kernel has SELinux, those with the same in one group.
pub(super) fn summary(status: &Status) -> Option<String> {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for node in &status.nodes {
        let Some(selinux) = &node.selinux else { continue };
        let state = selinux.to_string();
        match groups.iter_mut().find(|(known, _)| *known == state) {
            Some((_, names)) => names.push(&node.name),
            None => groups.push((state, vec![&node.name])),
        }
    }
    match groups.as_slice() {
        [] => None,
        [(state, names)] if names.len() == status.nodes.len() => Some(state.clone()),
        _ => {
            let parts = groups.iter().map(|(state, names)| format!("{}: {state}", names.join(", ")));
            Some(parts.collect::<Vec<_>>().join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::testing;
    use hanode_core::selinux::{SelinuxMode, SelinuxState};

    fn selinux(mode: SelinuxMode, denials: Vec<Denial>) -> Option<SelinuxState> {
        Some(SelinuxState { mode, policy: "targeted".into(), denials })
    }

    #[test]
    fn mode_and_policy_are_shown() {
        let mut status = testing::healthy(&testing::spec());
        assert_eq!(summary(&status), None);
        status.nodes.iter_mut().for_each(|node| node.selinux = selinux(SelinuxMode::Enforcing, vec![]));
        assert_eq!(summary(&status).as_deref(), Some("enforcing, policy targeted"));
        status.nodes[1].selinux = selinux(SelinuxMode::Permissive, vec![]);
        status.nodes[2].selinux = None;
        let both = "node1: enforcing, policy targeted; node2: permissive, policy targeted";
        assert_eq!(summary(&status).as_deref(), Some(both));
        assert!(problems(&status).is_empty());
        let table = crate::health::table(&status, None);
        assert!(table.contains(&format!("\nSELinux     {both}\n")), "{table}");
    }

    #[test]
    fn a_denial_is_a_problem_with_its_remedy() {
        let mut status = testing::healthy(&testing::spec());
        let denial = Denial {
            source: "keepalived_t".into(),
            target: "node_t".into(),
            class: "rawip_socket".into(),
            permissions: vec!["node_bind".into()],
            permissive: false,
            count: 7,
        };
        status.nodes[0].selinux = selinux(SelinuxMode::Enforcing, vec![denial]);
        let spec = testing::spec();
        let found = crate::health::find_problems(&spec, 1, &status);
        let problem =
            found.iter().find(|p| p.kind == ProblemKind::SelinuxDenial).expect("a problem").to_string();
        assert!(
            problem.starts_with(
                "node1: SELinux denies keepalived_t { node_bind } on node_t:rawip_socket (7 times in the last hour); see `journalctl"
            ),
            "{problem}"
        );
    }
}
