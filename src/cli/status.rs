//! `hanode status`

use super::Verdict;
use anyhow::Result;
use clap::Args;
use hanode_admin::access::access;
use hanode_cluster::health::{self, Access, Form};
use std::path::PathBuf;

/// Show the whole cluster in one table; succeeds only when all is well
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode status demo
  hanode status demo --replace node2 && echo 'node2 may go'
  hanode status demo --json | jq -r '.problems[]'
  F=/var/lib/prometheus/node-exporter/hanode.prom; hanode status demo --metrics > $F.new; mv $F.new $F")]
pub(crate) struct Status {
    /// The cluster directory
    pub dir: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// Print it in Prometheus' text format
    #[arg(long, conflicts_with_all = ["json", "replace"])]
    pub metrics: bool,
    /// Instead, say whether this node may be taken away now without harm, and why not
    #[arg(long, value_name = "NODE")]
    pub replace: Option<String>,
}

impl Status {
    pub(crate) fn run(&self) -> Result<Verdict> {
        let access = access(&self.dir)?;
        self.replace.iter().try_for_each(|node| health::known(&access.spec, node))?;
        let status = health::collect(&access)?;
        match &self.replace {
            Some(node) => show_replace(&access, &status, node, self.json),
            None => show(&status, Form::of(self.json, self.metrics)),
        }
    }
}

pub(crate) fn show(status: &health::Status, form: Form) -> Result<Verdict> {
    super::say(form.text(status)?.trim_end())?;
    Ok(if status.healthy { Verdict::Well } else { Verdict::NotWell })
}

pub(crate) fn show_replace(
    access: &Access,
    status: &health::Status,
    node: &str,
    json: bool,
) -> Result<Verdict> {
    let (may, words) = health::removal_report(&access.spec, status, node, json)?;
    super::say(&words)?;
    Ok(if may { Verdict::Well } else { Verdict::NotWell })
}
