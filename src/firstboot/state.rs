//! This node's state for operators: `/run/hanode/state.json`, the journal and the console.

use anyhow::Result;
use hanode_core::plan::{Plan, Step};
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use hanode_util::user_error::{UserError, remedies};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

const STATE_FILE: &str = "/run/hanode/state.json";
const GATES_DIR: &str = "/run/hanode/gates";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    #[default]
    Identity,
    WaitingForPeers,
    Planning,
    Applying,
    Starting,
    InService,
    Refused,
    Failed,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Identity => "identity",
            Phase::WaitingForPeers => "waiting-for-peers",
            Phase::Planning => "planning",
            Phase::Applying => "applying",
            Phase::Starting => "starting",
            Phase::InService => "in-service",
            Phase::Refused => "refused",
            Phase::Failed => "failed",
        }
    }

    /// The journal's MESSAGE_ID of the phase, which does not depend on the wording of the message.
    fn message_id(self) -> &'static str {
        match self {
            Phase::Identity => "5a1c6be7a7df4f26b1e6d9c7a4d80f01",
            Phase::WaitingForPeers => "5a1c6be7a7df4f26b1e6d9c7a4d80f02",
            Phase::Planning => "5a1c6be7a7df4f26b1e6d9c7a4d80f03",
            Phase::Applying => "5a1c6be7a7df4f26b1e6d9c7a4d80f04",
            Phase::Starting => "5a1c6be7a7df4f26b1e6d9c7a4d80f05",
            Phase::InService => "5a1c6be7a7df4f26b1e6d9c7a4d80f06",
            Phase::Refused => "5a1c6be7a7df4f26b1e6d9c7a4d80f07",
            Phase::Failed => "5a1c6be7a7df4f26b1e6d9c7a4d80f08",
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct NodeState {
    pub(crate) schema: u32,
    pub(crate) node: Option<String>,
    pub(crate) identity_source: Option<String>,
    pub(crate) phase: Phase,
    pub(crate) plan: BTreeMap<String, Step>,
    pub(crate) waiting_for: Vec<String>,
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
}

/// The last message in the journal and on the console.
#[derive(Debug, Clone)]
struct LoggedMessage {
    at: Instant,
    text: String,
}

/// The reason of a phase may change in every round: log it no more often than this.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// Milliseconds of CPU time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CpuTime {
    pub(crate) own: u64,
    /// Of child processes, mainly the servers' validators.
    pub(crate) children: u64,
}

impl CpuTime {
    pub(crate) fn current() -> CpuTime {
        use nix::sys::resource::{UsageWho, getrusage};
        let of = |who| {
            getrusage(who).map_or(0, |usage| {
                [usage.user_time(), usage.system_time()]
                    .iter()
                    .map(|t| t.tv_sec() as u64 * 1000 + t.tv_usec() as u64 / 1000)
                    .sum()
            })
        };
        CpuTime { own: of(UsageWho::RUSAGE_SELF), children: of(UsageWho::RUSAGE_CHILDREN) }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct UnitState {
    pub(crate) name: String,
    pub(crate) state: String,
}

pub(crate) fn load(root: &Path) -> NodeState {
    let text = std::fs::read(below(root, STATE_FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(NodeState { schema: 1, ..NodeState::default() })
}

pub(crate) fn save(root: &Path, state: &NodeState) -> Result<()> {
    Ok(SafeTree::open(root)?.replace(STATE_FILE, &serde_json::to_vec_pretty(state)?, 0o644, None)?)
}

impl NodeState {
    /// The state at the start of a boot.
    pub(crate) fn new(root: &Path) -> NodeState {
        NodeState { schema: 1, origin_ms: origin_ms(root), ..NodeState::default() }
    }

    /// Enters a phase: saves it with its time, and logs it to the journal and, if it is lasting, to the
    /// console. A new message for the same phase is logged at most every [`LOG_INTERVAL`].
    pub(crate) fn enter(&mut self, root: &Path, phase: Phase, message: &str) -> Result<()> {
        let first = !self.times_ms.contains_key(phase.name());
        self.times_ms.entry(phase.name().into()).or_insert(uptime_ms().saturating_sub(self.origin_ms));
        let is_due = |last: &LoggedMessage| last.text != message && last.at.elapsed() > LOG_INTERVAL;
        let changed = first || self.phase != phase || self.last_message.as_ref().is_some_and(is_due);
        self.phase = phase;
        if changed {
            self.last_message = Some(LoggedMessage { at: Instant::now(), text: message.into() });
            log_phase(phase, self.node.as_deref().unwrap_or("unknown node"), message);
        }
        save(root, self)
    }
}

fn log_phase(phase: Phase, node: &str, message: &str) {
    let name = phase.name();
    match phase {
        Phase::Refused | Phase::Failed => {
            tracing::error!(MESSAGE_ID = phase.message_id(), HANODE_PHASE = name, "{node}: {name}: {message}")
        }
        _ => {
            tracing::info!(MESSAGE_ID = phase.message_id(), HANODE_PHASE = name, "{node}: {name}: {message}")
        }
    }
    if matches!(phase, Phase::WaitingForPeers | Phase::InService | Phase::Refused | Phase::Failed) {
        write_console(&format!("{node}: {name}: {message}"));
    }
}

/// What to do about an error, in one line.
pub(crate) fn help(error: &anyhow::Error) -> Option<String> {
    let remedies: Vec<&str> = remedies(error).collect();
    (!remedies.is_empty()).then(|| remedies.join("; "))
}

/// Does nothing if the machine has no console, or somebody stopped its output.
pub(crate) fn write_console(text: &str) {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY);
    let console = options.open("/dev/console");
    let _ = console.and_then(|mut file| file.write_all(format!("\r\nhanode: {text}\r\n").as_bytes()));
}

pub(crate) fn uptime_ms() -> u64 {
    let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    since_boot.map_or(0, |t| t.tv_sec() as u64 * 1000 + t.tv_nsec() as u64 / 1_000_000)
}

/// Start of PID 1, in milliseconds of the kernel's clock.
pub(crate) fn origin_ms(root: &Path) -> u64 {
    let stat = std::fs::read_to_string(below(root, "/proc/1/stat")).unwrap_or_default();
    // Field 22 of proc_pid_stat(5), in hundredths of a second; the name in parentheses may have any
    // characters.
    let started = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
    started.unwrap_or(0u64) * 10
}

/// Saves a gate's step in a file per gate, since gates run concurrently.
pub(crate) fn save_gate_step(root: &Path, gate: &str, step: &Step) -> Result<()> {
    let path = format!("{GATES_DIR}/{gate}.json");
    Ok(SafeTree::open(root)?.replace(path, &serde_json::to_vec(step)?, 0o644, None)?)
}

pub(crate) fn gate_steps(root: &Path) -> BTreeMap<String, Step> {
    let entries = std::fs::read_dir(below(root, GATES_DIR)).into_iter().flatten().flatten();
    entries
        .filter_map(|e| {
            let name = e.file_name().to_string_lossy().strip_suffix(".json")?.to_string();
            Some((name, serde_json::from_slice(&std::fs::read(e.path()).ok()?).ok()?))
        })
        .collect()
}

pub(crate) fn plan_steps(plan: &Plan) -> BTreeMap<String, Step> {
    let all = [("etcd", &plan.etcd.step), ("postgres", &plan.postgres), ("redis", &plan.redis.step)];
    all.into_iter().map(|(name, step)| (name.to_string(), step.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_the_start_of_pid_1() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(root.path().join("proc/1")).expect("a directory");
        let stat = format!("1 (a ) b) S {}", (4..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
        std::fs::write(root.path().join("proc/1/stat"), stat).expect("writing");
        assert_eq!(origin_ms(root.path()), 220, "field 22, in hundredths of a second");
        let mut state = NodeState { origin_ms: uptime_ms().saturating_sub(60_000), ..NodeState::default() };
        state.enter(root.path(), Phase::Applying, "x").expect("entering");
        let at = load(root.path()).times_ms["applying"];
        assert!((60_000..70_000).contains(&at), "{at}");
    }
}
