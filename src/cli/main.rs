//! The command line: one file per verb. Each says what it takes and calls the part that does it.

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
mod seed;
mod status;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use hanode_admin::cluster_dir::Cluster;
use hanode_core::pki::coverage::Report;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hanode_util::interrupt;
use hanode_util::user_error::report;

/// Bakes a PostgreSQL and Redis high-availability node once; every copy of the image becomes a member of the
/// cluster by itself.
#[derive(Debug, Parser)]
#[command(name = "hanode", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
From nothing to a running cluster:
  hanode init demo                                            names, addresses, CAs, passwords
  hanode certs issue demo                                     after editing demo/cluster.toml
  hanode check demo                                           is it sound?
  hanode build demo --target debian-13 --out node.qcow2       one image for every node
  hanode seed demo --node node1 --out node1.iso               which node a machine is
  hanode lab up demo --image node.qcow2                       the same, here and now
  hanode status demo                                          is all well?

Exit status: 0 done, 1 failed or not well, 2 wrong usage, 130 interrupted.";

#[derive(Debug, Subcommand)]
enum Verb {
    Init(init::Init),
    Check(check::Check),
    Certs(certs::Certs),
    Plan(plan::PlanVerb),
    Render(render::Render),
    Build(build::Build),
    Bake(bake::Bake),
    Seed(seed::Seed),
    Lab(lab::Lab),
    Status(status::Status),
    Inspect(inspect::Inspect),
    Docs(docs::Docs),
    /// What `lab` runs itself as, to become one node
    #[command(hide = true, after_help = "lab-node is for `hanode lab` alone")]
    LabNode {
        role: String,
        dir: PathBuf,
        node: String,
    },
}

/// How a verb that ran to its end found things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Well,
    NotWell,
}

impl Verb {
    /// Whether nothing is left behind by an end on the spot.
    fn only_looks(&self) -> bool {
        match self {
            Verb::Check(_) | Verb::Plan(_) | Verb::Status(_) => true,
            Verb::Lab(lab) => lab.only_looks(),
            _ => false,
        }
    }

    fn run(&self) -> Result<Verdict> {
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
            Verb::Status(verb) => verb.run(),
            Verb::Inspect(verb) => verb.run(),
            Verb::Docs(verb) => verb.run(),
            Verb::LabNode { role, dir, node } => {
                hanode_lab::node::main(role, dir, node).map(|()| Verdict::Well)
            }
        }
    }
}

/// Runs the command line; wrong usage ends in clap, with 2.
fn main() -> ExitCode {
    let cli = Cli::parse();
    let last = if cli.verb.only_looks() { interrupt::AT_ONCE } else { interrupt::PATIENCE };
    let outcome = interrupt::install(last).and_then(|()| cli.verb.run());
    match outcome {
        Ok(Verdict::Well) => ExitCode::SUCCESS,
        Ok(Verdict::NotWell) => ExitCode::FAILURE,
        Err(_) if interrupt::interrupted() => {
            complain("error: interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            complain(&report(&error));
            ExitCode::FAILURE
        }
    }
}

fn complain(text: &str) {
    // Nobody is left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A cluster directory that is fit to be baked: whatever is found wrong would come out at a node's boot.
pub fn sound(dir: &Path, report: Report) -> Result<Cluster> {
    if report.faults.is_empty() {
        return Cluster::load(dir);
    }
    let faults: Vec<String> = report.faults.iter().map(|fault| format!("fault: {fault}")).collect();
    let count = match faults.len() {
        1 => "1 fault".to_string(),
        n => format!("{n} faults"),
    };
    bail!("{} has {count}: a node booted with it would refuse\n{}", dir.display(), faults.join("\n"))
}

/// Prints to standard output. A reader that has seen enough (`| head`) is no error.
pub fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints a value for scripts.
pub fn say_json(value: &impl serde::Serialize) -> Result<()> {
    say(&serde_json::to_string_pretty(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        fn walk(command: &clap::Command) {
            let help = command.get_after_help().map(|h| h.to_string()).unwrap_or_default();
            let name = command.get_name();
            assert!(help.contains(&format!("{name} ")), "{name} shows no example: {help:?}");
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }
}
