//! `hanode restart`

use super::{exit_code, print, print_json};
use anyhow::Result;
use clap::{Args, Subcommand};
use hanode_admin::access::access;
use hanode_admin::restart::{RestartRun, restart_postgres};
use hanode_util::{interrupt, terminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Restart servers on one node after the other
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  hanode restart postgres demo")]
pub(crate) struct Restart {
    #[command(subcommand)]
    server: Server,
}

#[derive(Debug, Subcommand)]
enum Server {
    /// Restart PostgreSQL where changed parameters await that
    ///
    /// The standbys restart first, one at a time, then the leader by a switchover. Each step waits until the cluster is
    /// healthy. It restarts nothing in a cluster that is unhealthy or paused, and stops at the first failure.
    #[command(after_help = "\
Examples:
  hanode restart postgres demo
  hanode restart postgres demo --json | jq -r '.steps[].node'")]
    Postgres {
        /// Cluster directory
        dir: PathBuf,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
}

impl Restart {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let Server::Postgres { dir, json } = &self.server;
        postgres(dir, *json)
    }
}

fn postgres(dir: &Path, json: bool) -> Result<ExitCode> {
    let report = |line: &str| eprintln!("{}", terminal::line(line));
    let RestartRun { steps, result } = restart_postgres(&access(dir)?, &report);
    interrupt::check()?;
    if json {
        let stopped = result.as_ref().err().map(|error| format!("{error:#}"));
        let passed = stopped.is_none();
        print_json(&serde_json::json!({"schema": 1, "passed": passed, "steps": steps, "stopped": stopped}))?;
        return Ok(exit_code(passed));
    }
    result?;
    print(&match steps.len() {
        0 => "no PostgreSQL awaits a restart".to_string(),
        1 => "done in one step: no PostgreSQL awaits a restart any more".to_string(),
        n => format!("done in {n} steps: no PostgreSQL awaits a restart any more"),
    })?;
    Ok(ExitCode::SUCCESS)
}
