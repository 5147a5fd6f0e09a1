//! A drill: changes to a cluster under write load. Each change ends when the cluster is healthy again, and at the end
//! every acknowledged write must be stored.

use super::fault::Fault;
use super::load::{Gap, Load, Service};
use super::process::wait_until;
use super::{Lab, diagnose};
use anyhow::{Context, Result, bail, ensure};
use hanode_cluster::health::{self, Access, Status};
use hanode_util::interrupt;
use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

/// The cluster did not get there in time; with the last problems.
#[derive(Debug, thiserror::Error)]
#[error("{what}:\n{}", .problems.join("\n"))]
pub struct NotReached {
    what: String,
    problems: Vec<String>,
}

pub struct Drill<'a> {
    pub lab: &'a Lab,
    pub access: &'a Access,
    /// How long the cluster may take after each change.
    pub limit: Duration,
}

/// How the cluster came through a round.
#[derive(Debug)]
pub struct Recovery {
    /// Since the load started.
    pub(crate) at: Duration,
    /// The longest time without an acknowledged write, by service.
    pub gaps: BTreeMap<Service, Gap>,
    /// From the end of the fault (node started, cable plugged in) until the cluster was healthy.
    pub(crate) healthy_after: Duration,
    /// From the start of the fault until the cluster was healthy.
    pub(crate) duration: Duration,
}

impl Drill<'_> {
    /// Requires a healthy cluster, and returns once the writes of the load are acknowledged. `before`: the first change.
    pub fn start_load(&self, before: &str) -> Result<Load> {
        let problems = health::lab_problems(&self.status()?);
        ensure!(problems.is_empty(), "the cluster is unhealthy before {before}: {}", problems.join("; "));
        let load = Load::start(self.lab, self.access)?;
        let acknowledged = wait_until(self.limit, || {
            interrupt::interrupted() || Service::ALL.iter().all(|s| load.acknowledged(*s) > 0)
        });
        interrupt::check()?;
        ensure!(acknowledged, "the cluster reports healthy but does not acknowledge the writes of the load");
        Ok(load)
    }

    /// Injects faults, calls `hold`, reverts them, and waits until the cluster is healthy. `what` names the round.
    pub fn round(
        &self,
        load: &Load,
        what: &str,
        faults: &[(Fault, &[String])],
        hold: impl FnOnce() -> Result<()>,
    ) -> Result<Recovery> {
        let (at, start) = (load.now(), Instant::now());
        let injected = faults.iter().try_for_each(|(fault, nodes)| self.inject(*fault, nodes));
        let held = injected.and_then(|()| hold());
        // Revert every fault, also after an error or an interrupt.
        for (fault, nodes) in faults {
            for node in *nodes {
                let reverted = fault.revert(self.lab, &self.access.spec, node);
                if held.is_ok() {
                    reverted.with_context(|| format!("reverting {} on {node}", fault.name()))?;
                }
            }
        }
        held?;
        let end = Instant::now();
        let nodes: Vec<&str> = self.lab.nodes().collect();
        self.wait_until_none(&format!("{what}: unhealthy"), end, &nodes, health::lab_problems)?;
        Ok(Recovery {
            at,
            gaps: Service::ALL.map(|s| (s, load.longest_gap(s, at))).into(),
            healthy_after: end.elapsed(),
            duration: start.elapsed(),
        })
    }

    /// Injects a fault into all its nodes at the same time.
    fn inject(&self, fault: Fault, nodes: &[String]) -> Result<()> {
        let apply = |node: &String| {
            let applied = fault.apply(self.lab, &self.access.spec, node);
            applied.with_context(|| format!("injecting {} into {node}", fault.name()))
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = nodes.iter().map(|node| scope.spawn(move || apply(node))).collect();
            let join = |t: std::thread::ScopedJoinHandle<Result<()>>| {
                t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().try_for_each(join)
        })
    }

    pub fn status(&self) -> Result<Status> {
        self.lab.in_network(|| health::collect(self.access))?
    }

    /// Waits until `problems` finds none in two polls in a row: the first may precede the detection of a change.
    pub fn wait_until_none(
        &self,
        what: &str,
        since: Instant,
        nodes: &[&str],
        problems: impl Fn(&Status) -> Vec<String>,
    ) -> Result<Status> {
        let mut clean = 0;
        loop {
            let status = self.status()?;
            let mut problems = problems(&status);
            clean = if problems.is_empty() { clean + 1 } else { 0 };
            if clean == 2 {
                return Ok(status);
            }
            if since.elapsed() > self.limit {
                problems.extend(nodes.iter().flat_map(|node| diagnose::problems(self.lab, node)));
                bail!(NotReached { what: format!("{what} after {} s", self.limit.as_secs()), problems });
            }
            sleep(HEALTH_INTERVAL);
            interrupt::check()?;
        }
    }
}
