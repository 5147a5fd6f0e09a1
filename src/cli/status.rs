//! `hanode status`

use super::exit_code;
use anyhow::Result;
use clap::Args;
use hanode_admin::access::access;
use hanode_cluster::health::{self, Access, StatusFormat};
use std::path::PathBuf;
use std::process::ExitCode;

/// Show the state of the whole cluster; exit 0 if it is healthy
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode status demo
  hanode status demo --can-remove node2 && echo 'node2 can be removed'
  hanode status demo --json | jq -r '.problems[].message'
  F=/var/lib/prometheus/node-exporter/hanode.prom
  hanode status demo --metrics > $F.new && mv $F.new $F")]
pub(crate) struct Status {
    /// Cluster directory
    pub dir: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
    /// Print in the Prometheus text format
    #[arg(long, conflicts_with_all = ["json", "can_remove"])]
    pub metrics: bool,
    /// Exit 0 if NODE can be removed without data loss or downtime, otherwise exit 1 and list what prevents it
    #[arg(long, value_name = "NODE")]
    pub can_remove: Option<String>,
}

impl Status {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let access = access(&self.dir)?;
        self.can_remove.iter().try_for_each(|node| health::require_node(&access.spec, node))?;
        let status = health::collect(&access)?;
        match &self.can_remove {
            Some(node) => show_removal(&access, &status, node, self.json),
            None => show(&status, StatusFormat::from_flags(self.json, self.metrics)),
        }
    }
}

pub(crate) fn show(status: &health::Status, format: StatusFormat) -> Result<ExitCode> {
    super::print(format.render(status)?.trim_end())?;
    Ok(exit_code(status.healthy))
}

pub(crate) fn show_removal(
    access: &Access,
    status: &health::Status,
    node: &str,
    json: bool,
) -> Result<ExitCode> {
    let (safe, text) = health::removal_report(&access.spec, status, node, json)?;
    super::print(&text)?;
    Ok(exit_code(safe))
}
