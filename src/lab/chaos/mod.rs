//! `hanode lab chaos`: injects faults under write load. The cluster must recover without help once a fault is reverted,
//! and must not lose an acknowledged write.

mod budget;
mod report;
mod role;
mod round;
mod schedule;

pub use super::fault::Fault;
pub use report::{ChaosReport, table};
pub(crate) use role::{NodeRole, list as list_roles, roles};
pub(crate) use schedule::{PlannedFault, Target, schedule};

use super::Lab;
use super::drill::{Drill, NotReached};
use super::load::Load;
use super::process::wait_until;
use anyhow::{Result, bail, ensure};
use hanode_admin::recovery_time;
use hanode_cluster::health::{Access, Status};
use hanode_util::interrupt;
use hanode_util::user_error::UserError;
use round::{InjectedFault, Round};
use std::thread::sleep;
use std::time::Duration;

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

/// Requires a healthy lab, and leaves it running even after a failure.
pub fn run(lab: &Lab, access: &Access, options: &ChaosOptions) -> Result<ChaosReport> {
    let nodes = access.spec.nodes.len();
    if let Some(fault) = options.faults.iter().find(|f| !f.is_supported(lab)) {
        let nodes = if lab.layout.vm { "virtual machines" } else { "containers" };
        bail!(UserError::with_help(
            format!("fault {} cannot be injected into {nodes}", fault.name()),
            "list other faults with --faults"
        ));
    }
    let drill = Drill { lab, access, limit: RECOVERY_LIMIT.mul_f64(options.timeout_scale) };
    let load = drill.start_load("the first fault")?;
    let mut report = ChaosReport::new(options.seed);
    let budget = recovery_time::budget(&access.spec);
    for planned in schedule(options.seed, options.rounds, &options.faults, nodes) {
        sleep(ROUND_PAUSE);
        match run_round(&drill, &load, &planned) {
            Ok(done) => {
                eprintln!("{}", report::line(report.rounds.len() + 1, options.rounds, &done));
                report.compared.extend(budget::compare(&budget, &done, options.timeout_scale));
                report.rounds.push(done);
            }
            Err(error) if error.is::<NotReached>() => {
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

fn run_round(drill: &Drill, load: &Load, planned: &[PlannedFault]) -> Result<Round> {
    let injected = choose_nodes(planned, &drill.status()?)?;
    let faults: Vec<_> = injected.iter().map(|each| (each.fault, each.nodes.as_slice())).collect();
    let what = injected.iter().map(InjectedFault::to_string).collect::<Vec<_>>().join(" and ");
    // The longest of the faults' durations.
    let seconds = injected.iter().map(|each| each.seconds).max().unwrap_or_default();
    let recovery = drill.round(load, &what, &faults, || {
        wait_until(Duration::from_secs(seconds), interrupt::interrupted);
        interrupt::check()
    })?;
    Ok(Round {
        at: recovery.at.as_secs_f64(),
        gaps: recovery.gaps,
        healthy_after: recovery.healthy_after.as_secs_f64(),
        duration: recovery.duration.as_secs_f64(),
        injected,
    })
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
