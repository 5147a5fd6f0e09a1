//! Whether the running servers serve the certificates of the active bundle: a reload that had no effect is a problem of
//! the node.

use crate::node::NodeContext;
use hanode_cluster::health;
use hanode_core::state::{Problem, ProblemKind};
use std::time::{Duration, Instant};

const CHECK_INTERVAL: Duration = Duration::from_secs(30);

pub(super) struct ServedCertsCheck {
    last: Instant,
    problems: Vec<Problem>,
}

impl Default for ServedCertsCheck {
    fn default() -> Self {
        ServedCertsCheck { last: Instant::now(), problems: Vec::new() }
    }
}

impl ServedCertsCheck {
    /// The problems of the last check, which is repeated at intervals, and in every round while there are any. A server
    /// that does not answer is left to the other checks.
    pub(super) fn problems(&mut self, node: &NodeContext) -> Vec<Problem> {
        if !self.problems.is_empty() || self.last.elapsed() >= CHECK_INTERVAL {
            let found = health::servers_with_old_certificates(node.access(), &node.config.bundle, node.own());
            self.problems = found.into_iter().filter(|p| p.kind == ProblemKind::OldCertificate).collect();
            self.last = Instant::now();
        }
        self.problems.clone()
    }
}
