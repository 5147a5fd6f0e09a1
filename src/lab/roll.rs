//! `hanode lab roll`: replaces all nodes with a newer image, one at a time, under write load. It uses only what an
//! operator can do with real machines, and so tests that procedure.

use super::Lab;
use super::chaos::{NodeRole, list_roles, roles};
use super::drill::Drill;
use super::load::{Gap, Load, Service, Verification, verification_failure};
use anyhow::{Context, Result};
use hanode_cluster::health::{self, Access};
use hanode_util::interrupt;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait until a node can be removed, and until the cluster is healthy with the new one.
const STEP_LIMIT: Duration = Duration::from_secs(300);
/// Shorter gaps between writes do not count as outages.
const MIN_OUTAGE: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize)]
pub struct RollReport {
    pub(crate) schema: u32,
    /// Every node runs the new image, the cluster is healthy, and no acknowledged write was lost.
    pub passed: bool,
    pub(crate) steps: Vec<ReplacedNode>,
    /// Why the run ended early.
    pub(crate) stopped: Option<String>,
    /// Gaps of a second or more between acknowledged writes.
    pub(crate) outages: BTreeMap<Service, Vec<Gap>>,
    pub(crate) writes: Option<Verification>,
    /// Why the writes could not be verified.
    pub(crate) unverified: Option<String>,
    /// In seconds.
    pub(crate) duration: f64,
}

/// Times in seconds.
#[derive(Debug, Serialize)]
pub(crate) struct ReplacedNode {
    pub(crate) node: String,
    pub(crate) roles: Vec<NodeRole>,
    /// Until the node could be removed.
    pub(crate) removable_after: f64,
    pub(crate) shut_down: f64,
    /// From the start of the new machine until the cluster was healthy.
    pub(crate) healthy_after: f64,
    /// The longest time without an acknowledged write, by service.
    pub(crate) gaps: BTreeMap<Service, Gap>,
}

/// Skips nodes whose disks were already made from this image, so that a second run completes an interrupted one.
pub fn roll(mut lab: Lab, access: &Access, image: &Path, timeout_scale: f64) -> Result<RollReport> {
    lab.use_image(image)?;
    let drill = Drill { lab: &lab, access, limit: STEP_LIMIT.mul_f64(timeout_scale) };
    let load = drill.start_load("the first node is replaced")?;
    let mut steps = Vec::new();
    let stopped = match replace_all(&drill, &load, &mut steps) {
        Ok(()) => None,
        Err(error) => Some(format!("{error:#}")),
    };
    interrupt::check()?;
    let written = load.stop();
    // A cluster that did not recover may not answer: report without the verification.
    let (writes, unverified) = match written.verify() {
        Ok(writes) => (Some(writes), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    interrupt::check()?;
    let outages = Service::ALL.map(|s| (s, written.gaps(s, MIN_OUTAGE)));
    let passed = stopped.is_none() && writes.as_ref().is_some_and(|writes| writes.lost() == 0);
    Ok(RollReport {
        schema: 1,
        passed,
        steps,
        stopped,
        outages: outages.into(),
        writes,
        unverified,
        duration: written.duration.as_secs_f64(),
    })
}

fn replace_all(drill: &Drill, load: &Load, steps: &mut Vec<ReplacedNode>) -> Result<()> {
    let nodes = drill.lab.nodes().count();
    while let Some(node) = next(drill)? {
        let step = replace(drill, load, node)?;
        eprintln!("{}/{nodes}  {}", steps.len() + 1, line(&step));
        steps.push(step);
    }
    Ok(())
}

/// The node on an older image with the fewest roles, so that each role moves only once.
fn next(drill: &Drill) -> Result<Option<String>> {
    let lab = drill.lab;
    let mut outdated = Vec::new();
    for node in lab.nodes() {
        if lab.disk(node)?.image != lab.layout.image {
            outdated.push(node.to_string());
        }
    }
    let status = drill.status()?;
    Ok(outdated.into_iter().min_by_key(|node| roles(&status, node).len()))
}

fn replace(drill: &Drill, load: &Load, node: String) -> Result<ReplacedNode> {
    let lab = drill.lab;
    let from = load.now();
    let start = Instant::now();
    let what = format!("{node} cannot be removed");
    let status = drill.wait_until_none(&what, start, &[&node], |status| {
        health::blockers(&drill.access.spec, status, &node)
    })?;
    let removable = start.elapsed();
    lab.shutdown(&node).with_context(|| format!("shutting down {node}"))?;
    let shut_down = start.elapsed() - removable;
    lab.discard_disk(&node)?;
    let launch = Instant::now();
    lab.start(&node)?;
    let what = format!("the cluster is unhealthy with the new {node}");
    // The limit counts from here: a virtual machine takes its time to start.
    drill.wait_until_none(&what, Instant::now(), &[&node], health::lab_problems)?;
    Ok(ReplacedNode {
        roles: roles(&status, &node),
        node,
        removable_after: removable.as_secs_f64(),
        shut_down: shut_down.as_secs_f64(),
        healthy_after: launch.elapsed().as_secs_f64(),
        gaps: Service::ALL.map(|s| (s, load.longest_gap(s, from))).into(),
    })
}

fn line(step: &ReplacedNode) -> String {
    let roles = list_roles(&step.roles);
    let gaps = step.gaps.iter().map(|(s, gap)| format!("{} {:.1}", s.name(), gap.seconds));
    format!(
        "{} ({roles}): removable after {:.1} s, shut down in {:.1} s, healthy {:.1} s after launch; outages (s) {}",
        step.node,
        step.removable_after,
        step.shut_down,
        step.healthy_after,
        gaps.collect::<Vec<_>>().join(", ")
    )
}

pub fn table(report: &RollReport) -> String {
    let rows = report.outages.iter().map(|(service, gaps)| {
        let total = gaps.iter().map(|g| g.seconds).fold(0.0, |all, one| all + one);
        let longest = gaps.iter().map(|g| g.seconds).fold(0.0, f64::max);
        let outages = format!(
            "{} outages of a second or more, {total:.1} s in total, longest {longest:.1} s",
            gaps.len()
        );
        [service.name().to_string(), outages]
    });
    let mut out = hanode_util::table::aligned(rows, &[]) + "\n";
    if let Some(writes) = &report.writes {
        out += &writes.to_string();
    }
    let _ = writeln!(out, "{} nodes replaced in {:.0} s", report.steps.len(), report.duration);
    let writes = verification_failure(report.writes.as_ref(), report.unverified.as_deref());
    let stopped = report.stopped.as_ref().map(|why| format!("FAIL: {why}"));
    let failures: Vec<String> = [writes, stopped].into_iter().flatten().collect();
    out + &if failures.is_empty() { "PASS: no acknowledged write lost".into() } else { failures.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_complete_without_verified_writes() {
        let report = RollReport {
            schema: 1,
            passed: false,
            steps: vec![],
            stopped: Some("the cluster is unhealthy with the new node1".into()),
            outages: BTreeMap::from([(Service::Postgres, vec![Gap { from: 1.0, seconds: 300.0 }])]),
            writes: None,
            unverified: Some("reading back from PostgreSQL: refused".into()),
            duration: 400.0,
        };
        let text = table(&report);
        for piece in ["300.0 s in total", "from PostgreSQL: refused", "FAIL: the cluster is unhealthy"] {
            assert!(text.contains(piece) && !text.contains("PASS"), "{text}");
        }
    }
}
