//! `hanode lab chaos`: injects faults under write load. The cluster must recover without help once a fault is reverted,
//! and must not lose an acknowledged write.

mod budget;
mod fault;
mod report;
mod role;
mod round;
mod schedule;

pub use fault::Fault;
pub use report::{ChaosReport, table};
pub(crate) use role::{NodeRole, list as list_roles, roles};
pub(crate) use schedule::{PlannedFault, Target, schedule};

use super::Lab;
use super::diagnose;
use super::load::{Load, Service};
use super::process::wait_until;
use anyhow::{Context, Result, bail, ensure};
use hanode_admin::recovery_time;
use hanode_cluster::health::{self, Access, Status};
use hanode_util::interrupt;
use hanode_util::user_error::UserError;
use round::{InjectedFault, Round};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub struct ChaosOptions {
    pub rounds: usize,
    pub seed: u64,
    pub faults: Vec<Fault>,
    /// Multiplies all time limits, for slow machines.
    pub timeout_scale: f64,
}

/// How long the cluster may take to recover once the fault is reverted.
const RECOVERY_LIMIT: Duration = Duration::from_secs(300);
/// Pause between two rounds, so that a gap belongs to one of them.
const ROUND_PAUSE: Duration = Duration::from_secs(3);
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

/// Requires a healthy lab, and leaves it running even after a failure.
pub fn run(lab: &Lab, access: &Access, options: &ChaosOptions) -> Result<ChaosReport> {
    let nodes = access.spec.nodes.len();
    if let Some(fault) = options.faults.iter().find(|f| lab.layout.vm && !f.supported_on_vm()) {
        bail!(UserError::with_help(
            format!("fault {} cannot be injected into virtual machines", fault.name()),
            "list other faults with --faults"
        ));
    }
    let before = lab.in_network(|| health::collect(access))??;
    let problems = health::lab_problems(&before);
    ensure!(problems.is_empty(), "the cluster is unhealthy before the first fault: {}", problems.join("; "));
    let load = Load::start(lab, access)?;
    let limit = RECOVERY_LIMIT.mul_f64(options.timeout_scale);
    let acknowledged = wait_until(limit, || {
        interrupt::interrupted() || Service::ALL.iter().all(|s| load.acknowledged(*s) > 0)
    });
    interrupt::check()?;
    ensure!(acknowledged, "the cluster reports healthy but does not acknowledge the writes of the load");
    let mut report = ChaosReport::new(options.seed);
    let budget = recovery_time::budget(&access.spec);
    for planned in schedule(options.seed, options.rounds, &options.faults, nodes) {
        sleep(ROUND_PAUSE);
        let runner = RoundRunner { lab, access, load: &load, limit };
        match runner.run(&planned) {
            Ok(done) => {
                eprintln!("{}", report::line(report.rounds.len() + 1, options.rounds, &done));
                report.compared.extend(budget::compare(&budget, &done, options.timeout_scale));
                report.rounds.push(done);
            }
            Err(error) if error.is::<NotRecovered>() => {
                eprintln!("{error:#}");
                report.stopped = Some(format!("{error:#}"));
                break;
            }
            Err(error) => return Err(error),
        }
    }
    eprintln!("verifying the acknowledged writes");
    let written = load.stop();
    let writes = written.verify();
    interrupt::check()?;
    report.conclude(written.duration, writes);
    Ok(report)
}

#[derive(Debug, thiserror::Error)]
#[error("unhealthy {} s after {}:\n{}", .seconds, .faults, .problems.join("\n"))]
struct NotRecovered {
    seconds: u64,
    faults: String,
    problems: Vec<String>,
}

struct RoundRunner<'a> {
    lab: &'a Lab,
    access: &'a Access,
    load: &'a Load,
    limit: Duration,
}

impl RoundRunner<'_> {
    fn status(&self) -> Result<Status> {
        self.lab.in_network(|| health::collect(self.access))?
    }

    fn run(&self, planned: &[PlannedFault]) -> Result<Round> {
        let injected = choose_nodes(planned, &self.status()?)?;
        let from = self.load.now();
        let start = Instant::now();
        let held = self.inject_and_hold(&injected);
        // Revert every fault, also after an error or an interrupt.
        for each in &injected {
            for node in &each.nodes {
                let reverted = each.fault.revert(self.lab, &self.access.spec, node);
                if held.is_ok() {
                    reverted.with_context(|| format!("reverting {} on {node}", each.fault.name()))?;
                }
            }
        }
        held?;
        let end = Instant::now();
        self.wait_healthy(&injected, end)?;
        let gaps = Service::ALL.map(|s| (s, self.load.longest_gap(s, from)));
        Ok(Round {
            injected,
            at: from.as_secs_f64(),
            gaps: gaps.into(),
            healthy_after: end.elapsed().as_secs_f64(),
            duration: start.elapsed().as_secs_f64(),
        })
    }

    /// Injects the faults and waits for the longest of their durations.
    fn inject_and_hold(&self, injected: &[InjectedFault]) -> Result<()> {
        for each in injected {
            self.inject(each).with_context(|| each.to_string())?;
        }
        let seconds = injected.iter().map(|s| s.seconds).max().unwrap_or_default();
        wait_until(Duration::from_secs(seconds), interrupt::interrupted);
        interrupt::check()
    }

    /// Injects a fault into all its nodes at the same time.
    fn inject(&self, injected: &InjectedFault) -> Result<()> {
        let apply = |node: &String| injected.fault.apply(self.lab, &self.access.spec, node);
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                injected.nodes.iter().map(|node| scope.spawn(move || apply(node))).collect();
            let join = |t: std::thread::ScopedJoinHandle<Result<()>>| {
                t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().try_for_each(join)
        })
    }

    /// Waits for two healthy polls in a row: the first may precede the detection of the fault.
    fn wait_healthy(&self, injected: &[InjectedFault], since: Instant) -> Result<()> {
        let mut healthy = 0;
        loop {
            let mut problems = health::lab_problems(&self.status()?);
            healthy = if problems.is_empty() { healthy + 1 } else { 0 };
            if healthy == 2 {
                return Ok(());
            }
            if since.elapsed() > self.limit {
                problems.extend(self.lab.nodes().flat_map(|n| diagnose::problems(self.lab, n)));
                let faults = injected.iter().map(InjectedFault::to_string).collect::<Vec<_>>().join(" and ");
                bail!(NotRecovered { seconds: self.limit.as_secs(), faults, problems });
            }
            sleep(HEALTH_INTERVAL);
            interrupt::check()?;
        }
    }
}

/// Resolves the targets to nodes, a different one for each fault.
fn choose_nodes(planned: &[PlannedFault], status: &Status) -> Result<Vec<InjectedFault>> {
    let mut taken: Vec<String> = Vec::new();
    let mut injected = Vec::new();
    for &PlannedFault { fault, target, seconds } in planned {
        let mut nodes = candidates(target, status);
        nodes.retain(|node| !taken.contains(node));
        if target != Target::AllNodes {
            nodes.truncate(1);
        }
        ensure!(!nodes.is_empty(), "no node is left to inject {} into", fault.name());
        taken.extend(nodes.iter().cloned());
        let roles = nodes.iter().flat_map(|n| roles(status, n)).collect();
        injected.push(InjectedFault { fault, target, seconds, nodes, roles });
    }
    Ok(injected)
}

/// All nodes, the best match for the target first.
fn candidates(target: Target, status: &Status) -> Vec<String> {
    let mut nodes: Vec<String> = status.nodes.iter().map(|n| n.name.clone()).collect();
    let lacks = |role: NodeRole| move |node: &String| !roles(status, node).contains(&role);
    match target {
        Target::EtcdLeader => nodes.sort_by_key(lacks(NodeRole::EtcdLeader)),
        Target::PostgresLeader => nodes.sort_by_key(lacks(NodeRole::PostgresLeader)),
        Target::RedisPrimary => nodes.sort_by_key(lacks(NodeRole::RedisPrimary)),
        Target::VipHolder => nodes.sort_by_key(lacks(NodeRole::VipHolder)),
        Target::Busiest => nodes.sort_by_key(|n| std::cmp::Reverse(roles(status, n).len())),
        Target::Idlest => nodes.sort_by_key(|n| roles(status, n).len()),
        Target::Node(index) => nodes.rotate_left(index),
        Target::AllNodes => {}
    }
    nodes
}
