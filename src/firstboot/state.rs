//! What the service shows of itself: `/run/hanode/state.json`, the journal and the console.

use anyhow::Result;
use hanode_core::plan::{Plan, Step};
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use hanode_util::user_error::UserError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

const STATE: &str = "/run/hanode/state.json";
const GATES: &str = "/run/hanode/gates";

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

    /// The journal's MESSAGE_ID of a phase, by which a log watcher finds it whatever the wording.
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
pub(crate) struct State {
    pub(crate) schema: u32,
    pub(crate) node: Option<String>,
    pub(crate) identity_source: Option<String>,
    pub(crate) phase: Phase,
    pub(crate) plan: BTreeMap<String, Step>,
    pub(crate) waiting_for: Vec<String>,
    pub(crate) error: Option<UserError>,
    pub(crate) units: Vec<UnitState>,
    /// On the kernel's clock: when this machine began, which in a container is long after the kernel did.
    #[serde(default)]
    pub(crate) origin_ms: u64,
    /// Milliseconds from there to the moment each phase was first reached.
    pub(crate) times_ms: BTreeMap<String, u64>,
    /// What the plan unit cost, by the time it ended.
    #[serde(default)]
    pub(crate) cpu_ms: CpuTime,
    #[serde(skip)]
    told: Option<Told>,
}

/// What journal and console heard last, and when.
#[derive(Debug, Clone)]
struct Told {
    at: Instant,
    sentence: String,
}

/// A reason may change with every look.
const TOLD_AGAIN: Duration = Duration::from_secs(30);

/// Milliseconds of processor time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CpuTime {
    pub(crate) own: u64,
    /// Of the programs that it ran: the servers' checkers, above all.
    pub(crate) children: u64,
}

impl CpuTime {
    pub(crate) fn so_far() -> CpuTime {
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

pub(crate) fn load(root: &Path) -> State {
    let text = std::fs::read(below(root, STATE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(State { schema: 1, ..State::default() })
}

pub(crate) fn save(root: &Path, state: &State) -> Result<()> {
    Ok(SafeTree::open(root)?.replace(STATE, &serde_json::to_vec_pretty(state)?, 0o644, None)?)
}

impl State {
    /// Nothing is known yet.
    pub(crate) fn anew(root: &Path) -> State {
        State { schema: 1, origin_ms: origin_ms(root), ..State::default() }
    }

    /// Enters a phase: noted with its time, told to the journal and, where it stays, to the console; told anew, now and
    /// then, when the reason for staying has changed.
    pub(crate) fn enter(&mut self, root: &Path, phase: Phase, sentence: &str) -> Result<()> {
        let first = !self.times_ms.contains_key(phase.name());
        self.times_ms.entry(phase.name().into()).or_insert(uptime_ms().saturating_sub(self.origin_ms));
        let another = |told: &Told| told.sentence != sentence && told.at.elapsed() > TOLD_AGAIN;
        let changed = first || self.phase != phase || self.told.as_ref().is_some_and(another);
        self.phase = phase;
        if changed {
            self.told = Some(Told { at: Instant::now(), sentence: sentence.into() });
            tell(phase, self.node.as_deref().unwrap_or("unknown node"), sentence);
        }
        save(root, self)
    }
}

fn tell(phase: Phase, node: &str, sentence: &str) {
    let name = phase.name();
    match phase {
        Phase::Refused | Phase::Failed => {
            tracing::error!(
                MESSAGE_ID = phase.message_id(),
                HANODE_PHASE = name,
                "{node}: {name}: {sentence}"
            )
        }
        _ => {
            tracing::info!(MESSAGE_ID = phase.message_id(), HANODE_PHASE = name, "{node}: {name}: {sentence}")
        }
    }
    if matches!(phase, Phase::WaitingForPeers | Phase::InService | Phase::Refused | Phase::Failed) {
        tell_console(&format!("{node}: {name}: {sentence}"));
    }
}

/// A console is a convenience: a machine without one goes on, and so does one where somebody stopped its output.
pub(crate) fn tell_console(words: &str) {
    let mut how = std::fs::OpenOptions::new();
    how.write(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY);
    let told = how.open("/dev/console");
    let _ = told.and_then(|mut console| console.write_all(format!("\r\nhanode: {words}\r\n").as_bytes()));
}

pub(crate) fn uptime_ms() -> u64 {
    let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    since_boot.map_or(0, |t| t.tv_sec() as u64 * 1000 + t.tv_nsec() as u64 / 1_000_000)
}

/// When PID 1 started, on the kernel's clock.
pub(crate) fn origin_ms(root: &Path) -> u64 {
    let stat = std::fs::read_to_string(below(root, "/proc/1/stat")).unwrap_or_default();
    // After the name in parentheses, which may hold anything: field 22 of proc(5), in hundredths of a second.
    let started = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
    started.unwrap_or(0u64) * 10
}

/// A gate's own word, in a file of its own: gates run side by side with all else.
pub(crate) fn save_gate(root: &Path, gate: &str, step: &Step) -> Result<()> {
    let path = format!("{GATES}/{gate}.json");
    Ok(SafeTree::open(root)?.replace(path, &serde_json::to_vec(step)?, 0o644, None)?)
}

pub(crate) fn gates(root: &Path) -> BTreeMap<String, Step> {
    let entries = std::fs::read_dir(below(root, GATES)).into_iter().flatten().flatten();
    entries
        .filter_map(|e| {
            let name = e.file_name().to_string_lossy().strip_suffix(".json")?.to_string();
            Some((name, serde_json::from_slice(&std::fs::read(e.path()).ok()?).ok()?))
        })
        .collect()
}

pub(crate) fn steps(plan: &Plan) -> BTreeMap<String, Step> {
    let all = [("etcd", &plan.etcd.step), ("postgres", &plan.postgres), ("redis", &plan.redis.step)];
    all.into_iter().map(|(name, step)| (name.to_string(), step.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_where_this_machine_began() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(root.path().join("proc/1")).expect("a directory");
        let stat = format!("1 (a ) b) S {}", (4..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
        std::fs::write(root.path().join("proc/1/stat"), stat).expect("writing");
        assert_eq!(origin_ms(root.path()), 220, "field 22, in hundredths of a second");
        let mut state = State { origin_ms: uptime_ms().saturating_sub(60_000), ..State::default() };
        state.enter(root.path(), Phase::Applying, "x").expect("entering");
        let at = load(root.path()).times_ms["applying"];
        assert!((60_000..70_000).contains(&at), "{at}");
    }
}
