//! This node's state for operators: `/run/hanode/state.json`, the journal and the console.

use crate::host::clock::{self, CpuTime, uptime_ms};
use crate::host::console;
use crate::host::systemd::UnitState;
use crate::node::NodeContext;
use anyhow::Result;
use hanode_core::gate::Service;
use hanode_core::plan::{Action, Plan, Step};
use hanode_core::state::{Phase, Problem, ProblemKind};
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use hanode_util::terminal;
use hanode_util::user_error::{UserError, remedies};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const STATE_FILE: &str = "/run/hanode/state.json";
const GATES_DIR: &str = "/run/hanode/gates";

/// The journal's MESSAGE_ID of the phase, which does not depend on the wording of the message.
fn message_id(phase: Phase) -> &'static str {
    match phase {
        Phase::Identity => "5a1c6be7a7df4f26b1e6d9c7a4d80f01",
        Phase::WaitingForPeers => "5a1c6be7a7df4f26b1e6d9c7a4d80f02",
        Phase::Planning => "5a1c6be7a7df4f26b1e6d9c7a4d80f03",
        Phase::Applying => "5a1c6be7a7df4f26b1e6d9c7a4d80f04",
        Phase::Starting => "5a1c6be7a7df4f26b1e6d9c7a4d80f05",
        Phase::InService => "5a1c6be7a7df4f26b1e6d9c7a4d80f06",
        Phase::Refused => "5a1c6be7a7df4f26b1e6d9c7a4d80f07",
        // The last two are other nodes' phases only.
        Phase::Failed | Phase::Unreachable | Phase::Unknown => "5a1c6be7a7df4f26b1e6d9c7a4d80f08",
    }
}

/// A step in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedStep {
    pub(crate) action: Action,
    pub(crate) reason: String,
}

impl From<&Step> for SavedStep {
    fn from(step: &Step) -> Self {
        SavedStep { action: step.action, reason: step.reason.to_string() }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct NodeState {
    pub(crate) schema: u32,
    pub(crate) node: Option<String>,
    pub(crate) identity_source: Option<String>,
    pub(crate) phase: Phase,
    pub(crate) plan: BTreeMap<String, SavedStep>,
    /// Nodes, and the time client.
    pub(crate) waiting_for: Vec<String>,
    /// The problems of this node's services.
    #[serde(default)]
    pub(crate) problems: Vec<Problem>,
    pub(crate) error: Option<UserError>,
    pub(crate) units: Vec<UnitState>,
    /// Start of PID 1, in milliseconds of the kernel's clock: a container starts long after the kernel.
    #[serde(default)]
    pub(crate) origin_ms: u64,
    /// Milliseconds from `origin_ms` to the first time in each phase.
    pub(crate) times_ms: BTreeMap<String, u64>,
    /// CPU time of the plan unit until it started the services.
    #[serde(default)]
    pub(crate) cpu_ms: CpuTime,
    #[serde(skip)]
    last_message: Option<LoggedMessage>,
    /// The tree in which it is saved.
    #[serde(skip)]
    root: PathBuf,
}

/// The last message in the journal and on the console.
#[derive(Debug, Clone)]
struct LoggedMessage {
    at: Instant,
    text: String,
}

/// The reason of a phase may change in every round: log it no more often than this.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

impl NodeState {
    /// The state at the start of a boot.
    pub(crate) fn new(root: &Path) -> NodeState {
        NodeState { schema: 1, origin_ms: clock::origin_ms(), root: root.into(), ..NodeState::default() }
    }

    /// The state that was saved last. If it is damaged, that is a problem of the new state.
    pub(crate) fn load(root: &Path) -> NodeState {
        let empty = NodeState { schema: 1, ..NodeState::default() };
        let saved = match std::fs::read(below(root, STATE_FILE)) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| error.to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(empty.clone()),
            Err(error) => Err(error.to_string()),
        };
        let saved = saved.unwrap_or_else(|error| {
            let damaged = format!("{STATE_FILE} cannot be read: {error}");
            tracing::warn!("{damaged}");
            NodeState { problems: vec![Problem::new(ProblemKind::FileDamaged, damaged)], ..empty }
        });
        NodeState { root: root.into(), ..saved }
    }

    pub(crate) fn save(&self) -> Result<()> {
        let tree = SafeTree::open(&self.root)?;
        Ok(tree.replace(STATE_FILE, &serde_json::to_vec_pretty(self)?, 0o644, None)?)
    }

    /// Enters a phase: saves it with its time, and logs it to the journal and, if it is lasting, to the
    /// console. A new message for the same phase is logged at most every [`LOG_INTERVAL`].
    pub(crate) fn enter(&mut self, phase: Phase, message: &str) -> Result<()> {
        let first = !self.times_ms.contains_key(phase.name());
        self.times_ms.entry(phase.name().into()).or_insert(uptime_ms().saturating_sub(self.origin_ms));
        let is_due = |last: &LoggedMessage| last.text != message && last.at.elapsed() > LOG_INTERVAL;
        let changed = first || self.phase != phase || self.last_message.as_ref().is_some_and(is_due);
        self.phase = phase;
        if changed {
            self.last_message = Some(LoggedMessage { at: Instant::now(), text: message.into() });
            log_phase(phase, self.node.as_deref().unwrap_or("unknown node"), message);
        }
        self.save()
    }
}

fn log_phase(phase: Phase, node: &str, message: &str) {
    let name = phase.name();
    match phase {
        Phase::Refused | Phase::Failed => {
            tracing::error!(MESSAGE_ID = message_id(phase), HANODE_PHASE = name, "{node}: {name}: {message}")
        }
        _ => {
            tracing::info!(MESSAGE_ID = message_id(phase), HANODE_PHASE = name, "{node}: {name}: {message}")
        }
    }
    if matches!(phase, Phase::WaitingForPeers | Phase::InService | Phase::Refused | Phase::Failed) {
        console::write(&terminal::line(&format!("{node}: {name}: {message}")));
    }
}

/// What to do about an error, in one line.
pub(crate) fn help(error: &anyhow::Error) -> Option<String> {
    let remedies: Vec<&str> = remedies(error).collect();
    (!remedies.is_empty()).then(|| remedies.join("; "))
}

impl NodeContext {
    /// Saves a gate's step in a file per gate, since gates run concurrently.
    pub(crate) fn save_gate_step(&self, service: Service, step: &Step) -> Result<()> {
        Ok(self.tree()?.replace(gate_file(service), &serde_json::to_vec(step)?, 0o644, None)?)
    }

    /// As if the gate had not been passed since the machine started.
    pub(crate) fn forget_gate_step(&self, service: Service) -> Result<()> {
        let (tree, path) = (self.tree()?, gate_file(service));
        if tree.exists(&path)? { Ok(tree.remove_file(&path)?) } else { Ok(()) }
    }

    /// The last step of each gate that has decided in this boot.
    pub(crate) fn gate_steps(&self) -> BTreeMap<Service, SavedStep> {
        let saved = |service: &Service| {
            Some((
                *service,
                serde_json::from_slice(&std::fs::read(self.at(&gate_file(*service))).ok()?).ok()?,
            ))
        };
        Service::ALL.iter().filter_map(saved).collect()
    }
}

fn gate_file(service: Service) -> String {
    format!("{GATES_DIR}/{}.json", service.component().key())
}

pub(crate) fn plan_steps(plan: &Plan) -> BTreeMap<String, SavedStep> {
    let all = [("etcd", &plan.etcd.step), ("postgres", &plan.postgres), ("redis", &plan.redis.step)];
    all.into_iter().map(|(name, step)| (name.to_string(), step.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_the_origin() {
        let root = tempfile::tempdir().expect("a directory");
        let mut state = NodeState::new(root.path());
        state.origin_ms = uptime_ms().saturating_sub(60_000);
        state.enter(Phase::Applying, "x").expect("entering");
        let at = NodeState::load(root.path()).times_ms["applying"];
        assert!((60_000..70_000).contains(&at), "{at}");
    }

    #[test]
    fn a_damaged_state_is_a_problem_and_a_missing_one_is_not() {
        let root = tempfile::tempdir().expect("a directory");
        assert_eq!(NodeState::load(root.path()).problems, []);
        let at = root.path().join("run/hanode/state.json");
        std::fs::create_dir_all(at.parent().expect("a parent")).expect("a directory");
        std::fs::write(&at, "{\"schema\": 1, \"phase\": \"in-ser").expect("writing");
        let problems = NodeState::load(root.path()).problems;
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].kind, ProblemKind::FileDamaged);
        assert!(problems[0].to_string().starts_with("/run/hanode/state.json cannot be read: "));
    }
}
