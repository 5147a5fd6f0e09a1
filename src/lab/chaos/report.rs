//! What came of it: outages by fault and service, and whether every promise was kept.

use super::budget::Compared;
use super::{Fault, Target};
use crate::load::{Gap, Service, Verdict};
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

#[derive(Debug, Serialize)]
pub struct Report {
    pub(crate) schema: u32,
    pub(crate) seed: u64,
    /// Every round ended well, within the budget, and every promise was kept.
    pub well: bool,
    pub(crate) rounds: Vec<Round>,
    /// Why the run ended early.
    pub(crate) unhealed: Option<String>,
    pub(crate) outages: Vec<Outage>,
    /// Outages beside what `hanode check --rto` allows.
    pub(crate) compared: Vec<Compared>,
    pub(crate) writes: Option<Verdict>,
    /// Why nobody knows what became of the writes.
    pub(crate) unread: Option<String>,
    pub(crate) lasted: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) struck: Vec<Struck>,
    /// Seconds since the load began.
    pub(crate) at: f64,
    /// The longest time without an acknowledged write, by service.
    pub(crate) gaps: BTreeMap<Service, Gap>,
    /// From the fault's end (the node's launch, the cable plugged in) until all was well.
    pub(crate) well_after: f64,
    /// From the strike until all was well.
    pub(crate) lasted: f64,
}

/// A strike that has found its nodes.
#[derive(Debug, Serialize)]
pub(crate) struct Struck {
    pub(crate) fault: Fault,
    pub(crate) target: Target,
    pub(crate) seconds: u64,
    pub(crate) nodes: Vec<String>,
    /// What they were just before.
    pub(crate) roles: Vec<String>,
}

/// Seconds over the rounds of one fault.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Outage {
    pub(crate) fault: String,
    pub(crate) what: &'static str,
    pub(crate) times: usize,
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let roles = if self.roles.is_empty() { "no role".into() } else { self.roles.join(", ") };
        write!(f, "{} of {} ({roles}), {} s", self.fault.name(), self.nodes.join(", "), self.seconds)
    }
}

impl Report {
    pub(super) fn new(seed: u64) -> Report {
        Report {
            schema: 1,
            seed,
            well: false,
            rounds: Vec::new(),
            unhealed: None,
            outages: Vec::new(),
            compared: Vec::new(),
            writes: None,
            unread: None,
            lasted: 0.0,
        }
    }

    /// A cluster that did not heal may not let its writes be read back: the report is told all the same.
    pub(super) fn conclude(&mut self, lasted: Duration, writes: Result<Verdict>) {
        self.lasted = lasted.as_secs_f64();
        self.outages = outages(&self.rounds);
        let within = self.compared.iter().all(Compared::within);
        let kept = writes.as_ref().is_ok_and(Verdict::promises_kept);
        self.well = self.unhealed.is_none() && within && kept;
        match writes {
            Ok(verdict) => self.writes = Some(verdict),
            Err(error) => self.unread = Some(format!("{error:#}")),
        }
    }
}

/// By fault, in the order of the faults; two at once make a line of their own.
fn outages(rounds: &[Round]) -> Vec<Outage> {
    let mut by_fault: BTreeMap<Vec<Fault>, Vec<&Round>> = BTreeMap::new();
    for round in rounds {
        let mut faults: Vec<_> = round.struck.iter().map(|s| s.fault).collect();
        faults.sort();
        by_fault.entry(faults).or_default().push(round);
    }
    let mut all = Vec::new();
    for (faults, rounds) in by_fault {
        let fault = faults.iter().map(|f| f.name()).collect::<Vec<_>>().join(" + ");
        for service in Service::ALL {
            let seconds = rounds.iter().filter_map(|r| Some(r.gaps.get(&service)?.seconds)).collect();
            all.extend(over(&fault, service.name(), seconds));
        }
        all.extend(over(&fault, "all well again", rounds.iter().map(|r| r.well_after).collect()));
    }
    all
}

fn over(fault: &str, what: &'static str, mut seconds: Vec<f64>) -> Option<Outage> {
    seconds.sort_by(f64::total_cmp);
    let (min, max) = (*seconds.first()?, *seconds.last()?);
    let half = seconds.len() / 2;
    let median = match seconds.len() % 2 {
        0 => (seconds[half - 1] + seconds[half]) / 2.0,
        _ => seconds[half],
    };
    Some(Outage { fault: fault.into(), what, times: seconds.len(), min, median, max })
}

/// One round, as it is told while the run goes on.
pub(super) fn line(number: usize, of: usize, round: &Round) -> String {
    let struck = round.struck.iter().map(Struck::to_string).collect::<Vec<_>>().join("; ");
    let gaps = round.gaps.iter().map(|(s, gap)| format!("{} {:.1}", s.name(), gap.seconds));
    let gaps = gaps.collect::<Vec<_>>().join(", ");
    format!("{number}/{of}  {struck}: without {gaps}; well after {:.1} s", round.well_after)
}

pub fn table(report: &Report) -> String {
    let mut rows = vec![["FAULT", "WITHOUT (s)", "TIMES", "MIN", "MEDIAN", "MAX"].map(String::from)];
    let mut last = "";
    for o in &report.outages {
        let fault = if o.fault == last { "" } else { o.fault.as_str() };
        last = &o.fault;
        let [min, median, max] = [o.min, o.median, o.max].map(|seconds| format!("{seconds:.1}"));
        rows.push([fault.into(), o.what.into(), o.times.to_string(), min, median, max]);
    }
    let mut out = hanode_util::table::aligned(rows, &[2, 3, 4, 5]) + "\n\n";
    if let Some(writes) = &report.writes {
        out += &writes.to_string();
    }
    let _ = writeln!(out, "{} rounds in {:.0} s, seed {}", report.rounds.len(), report.lasted, report.seed);
    out + &conclusion(report)
}

fn conclusion(report: &Report) -> String {
    let late = |c: &&Compared| !c.within();
    let late = report.compared.iter().filter(late).map(|c| {
        format!("OVER BUDGET: {}: {} after {:.1} s, {:.1} s at most", c.fault, c.until, c.seconds, c.at_most)
    });
    let mut all: Vec<String> = late.collect();
    if report.writes.as_ref().is_some_and(|writes| !writes.promises_kept()) {
        all.push("PROMISED WRITES ARE LOST".into());
    }
    all.extend(report.unread.as_ref().map(|why| format!("NOBODY KNOWS WHAT BECAME OF THE WRITES: {why}")));
    all.extend(report.unhealed.clone());
    if all.is_empty() {
        let within = match report.compared.len() {
            0 => String::new(),
            all => format!("{all} outages within the budget; "),
        };
        all.push(format!("every promise kept; {within}nobody intervened"));
    }
    all.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_back_leaves_the_report() {
        let mut report = Report::new(1);
        report.unhealed = Some("not well 300 s after power of node1".into());
        report.conclude(
            Duration::from_secs(400),
            Err(anyhow::anyhow!("reading back from PostgreSQL: refused")),
        );
        assert!(!report.well && report.writes.is_none());
        let told = table(&report);
        for piece in ["400 s, seed 1", "reading back from PostgreSQL: refused", "not well 300 s after"] {
            assert!(told.contains(piece) && !told.contains("every promise kept"), "{told}");
        }
    }

    #[test]
    fn medians_lie_in_the_middle() {
        let of = |seconds: &[f64]| over("power", "Redis", seconds.to_vec()).unwrap();
        let odd = of(&[9.0, 1.0, 2.0]);
        assert_eq!((odd.min, odd.median, odd.max, odd.times), (1.0, 2.0, 9.0, 3));
        assert_eq!(of(&[4.0, 1.0, 2.0, 8.0]).median, 3.0);
        assert_eq!(over("power", "Redis", Vec::new()), None);
    }
}
