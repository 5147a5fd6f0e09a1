//! The report of a chaos run: outages by fault and service, and the check of every acknowledged write.

use super::Fault;
use super::budget::Comparison;
use super::round::{InjectedFault, Round};
use crate::load::{Service, Verification, verification_failure};
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

#[derive(Debug, Serialize)]
pub struct ChaosReport {
    pub(crate) schema: u32,
    pub(crate) seed: u64,
    /// The cluster recovered in time from every fault, and no acknowledged write was lost.
    pub passed: bool,
    pub(crate) rounds: Vec<Round>,
    /// Why the run ended early.
    pub(crate) stopped: Option<String>,
    pub(crate) outages: Vec<Outage>,
    /// Outages compared with the limits of `hanode check --rto`.
    pub(crate) compared: Vec<Comparison>,
    pub(crate) writes: Option<Verification>,
    /// Why the writes could not be verified.
    pub(crate) unverified: Option<String>,
    /// In seconds.
    pub(crate) duration: f64,
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

impl ChaosReport {
    pub(super) fn new(seed: u64) -> ChaosReport {
        ChaosReport {
            schema: 1,
            seed,
            passed: false,
            rounds: Vec::new(),
            stopped: None,
            outages: Vec::new(),
            compared: Vec::new(),
            writes: None,
            unverified: None,
            duration: 0.0,
        }
    }

    /// Accepts a failed verification: a cluster that did not recover may not answer the queries that verify the writes.
    pub(super) fn conclude(&mut self, duration: Duration, writes: Result<Verification>) {
        self.duration = duration.as_secs_f64();
        self.outages = outages(&self.rounds);
        let within = self.compared.iter().all(Comparison::within);
        let none_lost = writes.as_ref().is_ok_and(|writes| writes.lost() == 0);
        self.passed = self.stopped.is_none() && within && none_lost;
        match writes {
            Ok(writes) => self.writes = Some(writes),
            Err(error) => self.unverified = Some(format!("{error:#}")),
        }
    }
}

/// By fault, in the order of the enum; a pair of faults has its own entry.
fn outages(rounds: &[Round]) -> Vec<Outage> {
    let mut by_fault: BTreeMap<Vec<Fault>, Vec<&Round>> = BTreeMap::new();
    for round in rounds {
        let mut faults: Vec<_> = round.injected.iter().map(|s| s.fault).collect();
        faults.sort();
        by_fault.entry(faults).or_default().push(round);
    }
    let mut all = Vec::new();
    for (faults, rounds) in by_fault {
        let fault = faults.iter().map(|f| f.name()).collect::<Vec<_>>().join(" + ");
        for service in Service::ALL {
            let seconds = rounds.iter().filter_map(|r| Some(r.gaps.get(&service)?.seconds)).collect();
            all.extend(outage(&fault, service.name(), seconds));
        }
        all.extend(outage(&fault, "healthy again", rounds.iter().map(|r| r.healthy_after).collect()));
    }
    all
}

fn outage(fault: &str, what: &'static str, mut seconds: Vec<f64>) -> Option<Outage> {
    seconds.sort_by(f64::total_cmp);
    let (min, max) = (*seconds.first()?, *seconds.last()?);
    let half = seconds.len() / 2;
    let median = match seconds.len() % 2 {
        0 => (seconds[half - 1] + seconds[half]) / 2.0,
        _ => seconds[half],
    };
    Some(Outage { fault: fault.into(), what, times: seconds.len(), min, median, max })
}

/// The progress line of a round.
pub(super) fn line(number: usize, of: usize, round: &Round) -> String {
    let injected = round.injected.iter().map(InjectedFault::to_string).collect::<Vec<_>>().join("; ");
    let gaps = round.gaps.iter().map(|(s, gap)| format!("{} {:.1}", s.name(), gap.seconds));
    let gaps = gaps.collect::<Vec<_>>().join(", ");
    format!("{number}/{of}  {injected}: outages (s) {gaps}; healthy again after {:.1} s", round.healthy_after)
}

pub fn table(report: &ChaosReport) -> String {
    let mut rows = vec![["FAULT", "OUTAGE (s)", "TIMES", "MIN", "MEDIAN", "MAX"].map(String::from)];
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
    let _ = writeln!(out, "{} rounds in {:.0} s, seed {}", report.rounds.len(), report.duration, report.seed);
    out + &conclusion(report)
}

fn conclusion(report: &ChaosReport) -> String {
    let late = |c: &&Comparison| !c.within();
    let late = report.compared.iter().filter(late).map(|c| {
        format!("FAIL: {}: {} after {:.1} s, limit {:.1} s", c.fault, c.until, c.seconds, c.at_most)
    });
    let mut all: Vec<String> = late.collect();
    all.extend(verification_failure(report.writes.as_ref(), report.unverified.as_deref()));
    all.extend(report.stopped.as_ref().map(|why| format!("FAIL: {why}")));
    if all.is_empty() {
        let within = match report.compared.len() {
            0 => String::new(),
            1 => "; 1 outage within its limit".into(),
            n => format!("; {n} outages within their limits"),
        };
        all.push(format!("PASS: no acknowledged write lost{within}"));
    }
    all.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_complete_without_verified_writes() {
        let mut report = ChaosReport::new(1);
        report.stopped = Some("unhealthy 300 s after power on node1".into());
        report.conclude(
            Duration::from_secs(400),
            Err(anyhow::anyhow!("reading back from PostgreSQL: refused")),
        );
        assert!(!report.passed && report.writes.is_none());
        let text = table(&report);
        for piece in [
            "400 s, seed 1",
            "could not be verified: reading back from PostgreSQL: refused",
            "unhealthy 300 s after",
        ] {
            assert!(text.contains(piece) && !text.contains("PASS"), "{text}");
        }
    }

    #[test]
    fn median_of_odd_and_even_counts() {
        let of = |seconds: &[f64]| outage("power", "Redis", seconds.to_vec()).unwrap();
        let odd = of(&[9.0, 1.0, 2.0]);
        assert_eq!((odd.min, odd.median, odd.max, odd.times), (1.0, 2.0, 9.0, 3));
        assert_eq!(of(&[4.0, 1.0, 2.0, 8.0]).median, 3.0);
        assert_eq!(outage("power", "Redis", Vec::new()), None);
    }
}
