//! `hanode lab roll`: every node replaced by a newer image, one after the other, while clients write: the
//! rehearsal of what an operator does with the real machines, with nothing an operator could not do.

use super::chaos::roles;
use super::load::{Gap, Load, Service, Verdict};
use super::process::wait_until;
use super::{Lab, diagnose};
use anyhow::{Context, Result, bail, ensure};
use hanode_cluster::health::{self, Access, Status};
use hanode_util::interrupt;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the cluster may take to let a node go, and to be well with the new one.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(500);
/// A pause of the writes that a client takes for an outage.
const OUTAGE: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize)]
pub struct Report {
    pub(crate) schema: u32,
    /// Every node runs the new image, the cluster is well, and every promise was kept.
    pub well: bool,
    pub(crate) steps: Vec<Step>,
    /// Why the run ended early.
    pub(crate) stopped: Option<String>,
    /// Every second and more without an acknowledged write.
    pub(crate) outages: BTreeMap<Service, Vec<Gap>>,
    pub(crate) writes: Option<Verdict>,
    /// Why nobody knows what became of the writes.
    pub(crate) unread: Option<String>,
    pub(crate) lasted: f64,
}

/// One node, replaced. Times in seconds.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) node: String,
    pub(crate) roles: Vec<String>,
    /// Until the others could do without it.
    pub(crate) asked: f64,
    pub(crate) shut_down: f64,
    /// From the launch of the new machine until all was well.
    pub(crate) well_after: f64,
    /// The longest time without an acknowledged write.
    pub(crate) gaps: BTreeMap<Service, Gap>,
}

/// Nodes whose disks come from this very image already stay: an interrupted run is completed by the next.
pub fn roll(mut lab: Lab, access: &Access, image: &Path, timeout_scale: f64) -> Result<Report> {
    lab.use_image(image)?;
    let run = Run { lab: &lab, access, limit: PATIENCE.mul_f64(timeout_scale) };
    let problems = health::problems_but_skew(access, &run.status()?);
    ensure!(problems.is_empty(), "the cluster is not well to begin with: {}", problems.join("; "));
    let load = Load::start(&lab, access)?;
    let flows = wait_until(run.limit, || {
        interrupt::interrupted() || Service::ALL.iter().all(|s| load.acknowledged(*s) > 0)
    });
    interrupt::check()?;
    ensure!(flows, "the load's writes are not acknowledged, though the cluster looks well");
    let mut steps = Vec::new();
    let stopped = match run.all(&load, &mut steps) {
        Ok(()) => None,
        Err(error) => Some(format!("{error:#}")),
    };
    interrupt::check()?;
    let record = load.stop();
    // A cluster that did not come back may not let them be read: the report is told all the same.
    let (writes, unread) = match record.verify() {
        Ok(verdict) => (Some(verdict), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    interrupt::check()?;
    let outages = Service::ALL.map(|s| (s, record.gaps(s, OUTAGE)));
    let well = stopped.is_none() && writes.as_ref().is_some_and(Verdict::promises_kept);
    let lasted = record.lasted.as_secs_f64();
    Ok(Report { schema: 1, well, steps, stopped, outages: outages.into(), writes, unread, lasted })
}

#[derive(Debug, thiserror::Error)]
#[error("{what}:\n{}", .why.join("\n"))]
struct Stopped {
    what: String,
    why: Vec<String>,
}

struct Run<'a> {
    lab: &'a Lab,
    access: &'a Access,
    limit: Duration,
}

impl Run<'_> {
    fn status(&self) -> Result<Status> {
        self.lab.in_network(|| health::collect(self.access))?
    }

    fn all(&self, load: &Load, steps: &mut Vec<Step>) -> Result<()> {
        let nodes = self.lab.nodes().count();
        while let Some(node) = self.next()? {
            let step = self.replace(load, node)?;
            eprintln!("{}/{nodes}  {}", steps.len() + 1, line(&step));
            steps.push(step);
        }
        Ok(())
    }

    /// Of the nodes on an older image the one with the fewest roles: each role then moves once.
    fn next(&self) -> Result<Option<String>> {
        let mut older = Vec::new();
        for node in self.lab.nodes() {
            if self.lab.disk(node)?.image != self.lab.layout.image {
                older.push(node.to_string());
            }
        }
        let status = self.status()?;
        Ok(older.into_iter().min_by_key(|node| roles(&status, node).len()))
    }

    fn replace(&self, load: &Load, node: String) -> Result<Step> {
        let from = load.now();
        let begun = Instant::now();
        let status = self.until(&format!("{node} must stay"), &node, |status| {
            health::blockers(&self.access.spec, status, &node)
        })?;
        let asked = begun.elapsed();
        self.lab.shutdown(&node).with_context(|| format!("shutting down {node}"))?;
        let shut_down = begun.elapsed() - asked;
        self.lab.discard_disk(&node)?;
        let launch = Instant::now();
        self.lab.start(&node)?;
        let what = format!("the new {node} did not bring the cluster back");
        self.until(&what, &node, |status| health::problems_but_skew(self.access, status))?;
        Ok(Step {
            roles: roles(&status, &node).into_iter().map(String::from).collect(),
            node,
            asked: asked.as_secs_f64(),
            shut_down: shut_down.as_secs_f64(),
            well_after: launch.elapsed().as_secs_f64(),
            gaps: Service::ALL.map(|s| (s, load.longest_gap(s, from))).into(),
        })
    }

    /// Looks until nothing is found, twice: the first look may be of before anybody noticed.
    fn until(&self, what: &str, node: &str, look: impl Fn(&Status) -> Vec<String>) -> Result<Status> {
        let begun = Instant::now();
        let mut well = 0;
        loop {
            let status = self.status()?;
            let mut why = look(&status);
            well = if why.is_empty() { well + 1 } else { 0 };
            if well == 2 {
                return Ok(status);
            }
            if begun.elapsed() > self.limit {
                why.extend(diagnose::troubles(self.lab, node));
                bail!(Stopped { what: format!("{what} after {} s", self.limit.as_secs()), why });
            }
            sleep(LOOK);
            interrupt::check()?;
        }
    }
}

fn line(step: &Step) -> String {
    let roles = if step.roles.is_empty() { "no role".into() } else { step.roles.join(", ") };
    let gaps = step.gaps.iter().map(|(s, gap)| format!("{} {:.1}", s.name(), gap.seconds));
    format!(
        "{} ({roles}): may go after {:.1} s, shut down in {:.1} s, well {:.1} s after launch; without {} s",
        step.node,
        step.asked,
        step.shut_down,
        step.well_after,
        gaps.collect::<Vec<_>>().join(", ")
    )
}

pub fn table(report: &Report) -> String {
    let rows = report.outages.iter().map(|(service, gaps)| {
        let total = gaps.iter().map(|g| g.seconds).fold(0.0, |all, one| all + one);
        let longest = gaps.iter().map(|g| g.seconds).fold(0.0, f64::max);
        let pauses = format!(
            "{} pauses of a second or more, {total:.1} s in all, the longest {longest:.1} s",
            gaps.len()
        );
        [service.name().to_string(), pauses]
    });
    let mut out = hanode_util::table::aligned(rows, &[]) + "\n";
    if let Some(writes) = &report.writes {
        out += &writes.to_string();
    }
    let _ = writeln!(out, "{} nodes replaced in {:.0} s", report.steps.len(), report.lasted);
    let unread = report.unread.as_ref().map(|why| format!("NOBODY KNOWS WHAT BECAME OF THE WRITES: {why}"));
    let lost = report.writes.as_ref().is_some_and(|writes| !writes.promises_kept());
    let lost = lost.then(|| "PROMISED WRITES ARE LOST".to_string());
    let faults: Vec<String> = [lost, unread, report.stopped.clone()].into_iter().flatten().collect();
    out + &if faults.is_empty() { "every promise kept".into() } else { faults.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_back_leaves_the_report() {
        let report = Report {
            schema: 1,
            well: false,
            steps: vec![],
            stopped: Some("the new node1 did not bring the cluster back".into()),
            outages: BTreeMap::from([(Service::Postgres, vec![Gap { from: 1.0, seconds: 300.0 }])]),
            writes: None,
            unread: Some("reading back from PostgreSQL: refused".into()),
            lasted: 400.0,
        };
        let told = table(&report);
        for piece in ["300.0 s in all", "from PostgreSQL: refused", "did not bring the cluster back"] {
            assert!(told.contains(piece) && !told.contains("every promise kept"), "{told}");
        }
    }
}
