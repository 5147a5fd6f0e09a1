//! The command line, one file per verb: each declares its arguments and calls the crate that does the work.

mod backup;
mod bake;
mod build;
mod certs;
mod check;
mod docs;
mod init;
mod inspect;
mod lab;
mod plan;
mod render;
mod restart;
mod seed;
mod status;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use hanode_admin::cluster_dir::ClusterDir;
use hanode_core::pki::coverage::CheckReport;
use hanode_util::interrupt;
use hanode_util::terminal;
use hanode_util::user_error::{UserError, report};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Build one VM image that boots into a highly available PostgreSQL and Redis cluster
#[derive(Debug, Parser)]
#[command(name = "hanode", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
From nothing to a running cluster:
  hanode init demo                               create names, CAs and passwords
  hanode certs issue demo                        issue certificates for edited names and addresses
  hanode check demo                              validate the cluster directory
  hanode build demo --target debian-13 --out node.qcow2  build one image for all nodes
  hanode seed demo --node node1 --out node1.iso  write the seed that makes a machine node1
  hanode lab up demo --image node.qcow2          run the cluster on this machine
  hanode status demo                             check the cluster's health

Exit status: 0 success or healthy, 1 error or unhealthy, 2 wrong usage, 130 interrupted.";

#[derive(Debug, Subcommand)]
enum Verb {
    Init(init::Init),
    Check(check::Check),
    Certs(certs::Certs),
    Plan(plan::PlanVerb),
    Render(render::Render),
    Build(build::Build),
    Bake(bake::Bake),
    Seed(seed::SeedVerb),
    Lab(lab::LabVerb),
    Backup(backup::BackupVerb),
    Status(status::Status),
    Restart(restart::Restart),
    Inspect(inspect::Inspect),
    Docs(docs::Docs),
    /// Run one node of a lab (internal)
    #[command(hide = true, after_help = "lab-node is run by `hanode lab` only")]
    LabNode {
        role: String,
        dir: PathBuf,
        node: String,
    },
}

impl Verb {
    /// Whether the verb changes nothing, so that it can be killed without cleaning up.
    fn is_read_only(&self) -> bool {
        match self {
            Verb::Check(_) | Verb::Plan(_) | Verb::Status(_) => true,
            Verb::Lab(lab) => lab.is_read_only(),
            _ => false,
        }
    }

    fn run(&self) -> Result<ExitCode> {
        match self {
            Verb::Init(verb) => verb.run(),
            Verb::Check(verb) => verb.run(),
            Verb::Certs(verb) => verb.run(),
            Verb::Plan(verb) => verb.run(),
            Verb::Render(verb) => verb.run(),
            Verb::Build(verb) => verb.run(),
            Verb::Bake(verb) => verb.run(),
            Verb::Seed(verb) => verb.run(),
            Verb::Lab(verb) => verb.run(),
            Verb::Backup(verb) => verb.run(),
            Verb::Status(verb) => verb.run(),
            Verb::Restart(verb) => verb.run(),
            Verb::Inspect(verb) => verb.run(),
            Verb::Docs(verb) => verb.run(),
            Verb::LabNode { role, dir, node } => {
                hanode_lab::node::main(role, dir, node).map(|()| ExitCode::SUCCESS)
            }
        }
    }
}

/// Clap exits with 2 on wrong usage.
fn main() -> ExitCode {
    let cli = Cli::parse();
    let last = if cli.verb.is_read_only() {
        interrupt::SIGNALS_WITHOUT_CLEANUP
    } else {
        interrupt::SIGNALS_WITH_CLEANUP
    };
    match interrupt::install(last).and_then(|()| cli.verb.run()) {
        Ok(code) => code,
        Err(_) if interrupt::interrupted() => {
            print_to_stderr("error: interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            print_to_stderr(&report(&error));
            ExitCode::FAILURE
        }
    }
}

/// The exit code of a verb that completed: failure if what it examined is not in order.
fn exit_code(passed: bool) -> ExitCode {
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_to_stderr(text: &str) {
    // If this fails, stderr is gone and there is nowhere to report to.
    let _ = writeln!(std::io::stderr(), "{}", terminal::lines(text));
}

/// Loads a cluster directory whose check found no fault: each fault would stop a node at boot.
fn load_checked(dir: &Path, report: CheckReport) -> Result<ClusterDir> {
    if report.faults.is_empty() {
        return ClusterDir::load(dir);
    }
    let faults: String = report.faults.iter().map(|fault| format!("\n  {fault}")).collect();
    // Many faults have the same remedy.
    let mut remedies: Vec<&str> = report.faults.iter().map(|fault| fault.help.as_str()).collect();
    remedies.dedup();
    let count = match report.faults.len() {
        1 => "1 fault".to_string(),
        n => format!("{n} faults"),
    };
    let what = format!("{} has {count}, and a node would refuse to start with it:{faults}", dir.display());
    bail!(UserError::with_help(what, remedies.join("\nhelp: ")))
}

/// Prints to standard output. A closed pipe (`| head`) is not an error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", terminal::lines(text)).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&terminal::json(&serde_json::to_string_pretty(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_accepts_the_command_line() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        fn walk(command: &clap::Command) {
            let help = command.get_after_help().map(|h| h.to_string()).unwrap_or_default();
            let name = command.get_name();
            assert!(help.contains(&format!("{name} ")), "{name} has no example: {help:?}");
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }
}
