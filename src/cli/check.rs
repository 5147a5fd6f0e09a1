//! `hanode check`

use super::{exit_code, print, print_json};
use anyhow::Result;
use clap::Args;
use hanode_admin::cluster_dir::{self, ClusterDir};
use hanode_admin::recovery_time;
use hanode_core::pki::coverage::CheckReport;
use hanode_util::table::aligned;
use hanode_util::user_error::UserError;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Validate the spec, certificates, passwords and bundle against each other
///
/// Reports all faults at once, and warns about what may fail later. Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode check demo
  hanode check demo --rto
  hanode check demo --target centos-8
  hanode check demo --strict && hanode build demo --target debian-13 --out node.qcow2")]
pub(crate) struct Check {
    /// Cluster directory
    dir: PathBuf,
    /// Fail on warnings
    #[arg(long)]
    strict: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Also check that an image of this target (a name or a file) can be built with the spec's versions, and show
    /// the target's mode and policy of SELinux
    #[arg(long, value_name = "TARGET", conflicts_with = "rto")]
    target: Option<String>,
    /// Show how long each fault may interrupt the services, computed from the configuration
    #[arg(long)]
    rto: bool,
}

#[derive(Serialize)]
struct JsonReport<'a> {
    schema: u32,
    passed: bool,
    #[serde(flatten)]
    report: &'a CheckReport,
}

impl Check {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        if self.rto {
            return self.show_recovery_times();
        }
        let mut report = cluster_dir::check(&self.dir)?;
        let target = self.target.as_deref().map(|name| self.check_target(name, &mut report)).transpose()?;
        let passed = report.faults.is_empty() && (!self.strict || report.warnings.is_empty());
        match self.json {
            true => print_json(&JsonReport { schema: 1, passed, report: &report })?,
            false => print(&self.text(&report, target.as_deref()))?,
        }
        Ok(exit_code(passed))
    }

    /// Checks the spec against the target; returns what the target is.
    fn check_target(&self, name: &str, report: &mut CheckReport) -> Result<String> {
        let (_, mut target) = hanode_admin::embedded::target(name)?;
        // A fault of the spec itself is in the report already.
        if let Ok(cluster) = ClusterDir::load(&self.dir)
            && let Err(error) = target.apply_overrides(&cluster.spec.versions, &[])
        {
            let help = hanode_util::user_error::remedies(&error).collect::<Vec<_>>().join("; ");
            report.fault(format!("{error:#}"), &format!("target {}", target.name), &help);
        }
        let selinux = target.selinux.as_ref().map_or("none".to_string(), |selinux| selinux.summary());
        Ok(format!("target {}: SELinux: {selinux}", target.name))
    }

    fn show_recovery_times(&self) -> Result<ExitCode> {
        let budget = recovery_time::budget(&ClusterDir::load(&self.dir)?.spec);
        if self.json {
            return print_json(&budget).map(|()| ExitCode::SUCCESS);
        }
        let cells = |what: &str, typical: f64, at_most: f64| {
            vec![what.to_string(), format!("{typical:.1} s"), format!("{at_most:.1} s")]
        };
        let mut rows = vec![["", "typical", "at most"].map(String::from).to_vec()];
        for row in &budget.rows {
            rows.push(cells(
                &format!("{}: {}", row.fault, row.until),
                row.typical_seconds,
                row.at_most_seconds,
            ));
            let part = |p: &recovery_time::BudgetPart| {
                cells(&format!("  {}", p.what), p.typical_seconds, p.at_most_seconds)
            };
            rows.extend(row.parts.iter().map(part));
        }
        print(&format!("{}\n{}", aligned(rows, &[]).trim_end(), budget.notes.join("\n")))
            .map(|()| ExitCode::SUCCESS)
    }

    fn text(&self, report: &CheckReport, target: Option<&str>) -> String {
        let line = |kind: &str, error: &UserError| format!("{kind}: {error}\nhelp: {}\n", error.help);
        let faults = report.faults.iter().map(|fault| line("error", fault));
        let warnings = report.warnings.iter().map(|warning| line("warning", warning));
        let mut lines: Vec<String> = faults.chain(warnings).collect();
        lines.extend(target.map(String::from));
        let count = |n: usize, what: &str| match n {
            1 => format!("1 {what}"),
            n => format!("{n} {what}s"),
        };
        lines.push(match (report.faults.len(), report.warnings.len()) {
            (0, 0) => format!("{}: ok", self.dir.display()),
            (faults, warnings) => {
                format!("{}: {}, {}", self.dir.display(), count(faults, "fault"), count(warnings, "warning"))
            }
        });
        lines.join("\n")
    }
}
