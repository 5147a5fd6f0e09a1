//! Keepalived's fault state, by its own lines in the journal: no other interface of it has the state on every target.

use super::haproxy_watchdog;
use crate::node::NodeContext;
use anyhow::{Result, ensure};
use hanode_core::spec::VipMode;
use hanode_core::state::{Component, Problem, ProblemKind};
use hanode_util::command::capture;
use std::process::Command;

/// Keepalived also logs its checks and its advertisements.
const LINES: &str = "--lines=200";

#[derive(Default)]
pub(super) struct FaultCheck {
    /// In the check before; one alone may be older than the end of the fault.
    was_in_fault: bool,
}

impl FaultCheck {
    /// While HAProxy does not answer, the fault state is what hanode wants.
    pub(super) fn check(&mut self, node: &NodeContext) -> Option<Problem> {
        let in_fault = haproxy_answers(node) && is_in_fault(node).unwrap_or_default();
        let lasts = std::mem::replace(&mut self.was_in_fault, in_fault) && in_fault;
        lasts.then(|| Problem::new(ProblemKind::KeepalivedFault, "").component(Component::Keepalived))
    }
}

fn haproxy_answers(node: &NodeContext) -> bool {
    let spec = node.spec();
    spec.network.vip_mode == VipMode::Vrrp
        && haproxy_watchdog::probe(spec.haproxy.stats_port).is_ok_and(|status| status == 200)
}

fn is_in_fault(node: &NodeContext) -> Result<bool> {
    let unit = node.target().unit(Component::Keepalived)?;
    let mut journalctl = Command::new("journalctl");
    let output = capture(journalctl.args(["--quiet", "--output=cat", LINES, "--unit", unit]))?;
    ensure!(output.status.success(), "journalctl: {}", output.stderr.trim());
    Ok(last_state(&output.text_lossy()) == Some("FAULT"))
}

/// The state that Keepalived has entered last, such as `BACKUP`.
fn last_state(journal: &str) -> Option<&str> {
    let entered =
        journal.lines().rev().filter_map(|line| line.split_once(") Entering ")?.1.split_once(" STATE"));
    entered.map(|(state, _)| state).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_state_counts() {
        let journal = "(VI_1) Entering BACKUP STATE (init)\nVRRP_Script(health) failed (exited with status 1)\n\
                       (VI_1) Entering FAULT STATE\n(VI_1) sent 0 priority\n";
        assert_eq!(last_state(journal), Some("FAULT"));
        let later = format!("{journal}VRRP_Script(health) succeeded\n(VI_1) Entering BACKUP STATE\n");
        assert_eq!(last_state(&later), Some("BACKUP"));
        assert_eq!(last_state("Starting VRRP child process, pid=7"), None);
    }
}
