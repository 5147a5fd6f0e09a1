//! `hanode check`

use super::{Verdict, say, say_json};
use anyhow::Result;
use clap::Args;
use hanode_admin::cluster_dir::{self, Cluster};
use hanode_admin::recovery_time;
use hanode_core::pki::coverage::Report;
use hanode_util::table::aligned;
use hanode_util::user_error::UserError;
use serde::Serialize;
use std::path::PathBuf;

/// Validate spec, certificates, passwords and bundle against each other
///
/// Tells every fault at once, and what will bite later as warnings. Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode check demo
  hanode check demo --rto
  hanode check demo --strict && hanode build demo --target debian-13 --out node.qcow2")]
pub(crate) struct Check {
    /// The cluster directory
    dir: PathBuf,
    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Instead, show how long services may be away after which fault, as it follows from the configuration
    #[arg(long)]
    rto: bool,
}

#[derive(Serialize)]
struct Told<'a> {
    schema: u32,
    well: bool,
    #[serde(flatten)]
    report: &'a Report,
}

impl Check {
    pub(crate) fn run(&self) -> Result<Verdict> {
        if self.rto {
            return self.show_budget();
        }
        let report = cluster_dir::check(&self.dir)?;
        let well = report.faults.is_empty() && (!self.strict || report.warnings.is_empty());
        match self.json {
            true => say_json(&Told { schema: 1, well, report: &report })?,
            false => say(&self.in_words(&report))?,
        }
        Ok(if well { Verdict::Well } else { Verdict::NotWell })
    }

    fn show_budget(&self) -> Result<Verdict> {
        let budget = recovery_time::budget(&Cluster::load(&self.dir)?.spec);
        if self.json {
            return say_json(&budget).map(|()| Verdict::Well);
        }
        let cells = |what: &str, usually: f64, at_most: f64| {
            vec![what.to_string(), format!("{usually:.1} s"), format!("{at_most:.1} s")]
        };
        let mut rows = vec![["", "usually", "at most"].map(String::from).to_vec()];
        for row in &budget.rows {
            rows.push(cells(
                &format!("{}: {}", row.fault, row.until),
                row.typical_seconds,
                row.at_most_seconds,
            ));
            let part = |p: &recovery_time::Part| {
                cells(&format!("  {}", p.what), p.typical_seconds, p.at_most_seconds)
            };
            rows.extend(row.parts.iter().map(part));
        }
        say(&format!("{}\n{}", aligned(rows, &[]).trim_end(), budget.notes.join("\n")))
            .map(|()| Verdict::Well)
    }

    fn in_words(&self, report: &Report) -> String {
        let line = |kind: &str, error: &UserError| format!("{kind}: {error}\nhelp: {}\n", error.help);
        let faults = report.faults.iter().map(|fault| line("error", fault));
        let warnings = report.warnings.iter().map(|warning| line("warning", warning));
        let mut lines: Vec<String> = faults.chain(warnings).collect();
        let count = |n: usize, what: &str| match n {
            1 => format!("1 {what}"),
            n => format!("{n} {what}s"),
        };
        lines.push(match (report.faults.len(), report.warnings.len()) {
            (0, 0) => format!("{}: all is well", self.dir.display()),
            (faults, warnings) => {
                format!("{}: {}, {}", self.dir.display(), count(faults, "fault"), count(warnings, "warning"))
            }
        });
        lines.join("\n")
    }
}
