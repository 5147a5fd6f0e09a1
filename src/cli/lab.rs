//! `hanode lab`

use super::exit_code;
use super::status;
use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use hanode_admin::access::access;
use hanode_cluster::health::{self, StatusFormat};
use hanode_core::restore::RestoreRequest;
use hanode_lab::chaos::{self, Fault};
use hanode_lab::restore_drill::{self, DrillOptions};
use hanode_lab::roll;
use hanode_lab::{self, Lab, Probe, UpOptions};
use hanode_util::interrupt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Run an image as a cluster on this machine
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode lab up demo --image node.tar
  hanode lab exec demo --node node1 -- patronictl list
  hanode lab kill demo --node node2         cut its power
  hanode lab down demo")]
pub(crate) struct LabVerb {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start the nodes and wait until the cluster is healthy
    #[command(after_help = "\
Examples:
  hanode lab up demo --image node.tar
  hanode lab up demo --image node.qcow2 --vm
  hanode lab up demo --node node2           start a killed node again
  hanode lab up demo --restore latest       start new machines that restore the last backup")]
    Up {
        /// Cluster directory
        dir: PathBuf,
        /// Node to start; can be repeated [default: all]
        #[arg(long = "node", value_name = "NAME")]
        nodes: Vec<String>,
        /// Image to run; required for a new lab
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
        /// Use QEMU instead of containers (new labs only)
        #[arg(long)]
        vm: bool,
        /// Multiply all time limits by F, for a slow machine
        #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = scale)]
        timeout_scale: f64,
        /// Print all problems while the nodes start, with their details
        #[arg(short, long)]
        verbose: bool,
        /// The metadata key hanode_restore of the nodes, which must be new: [PART/]MOMENT
        #[arg(long, value_name = "MOMENT")]
        restore: Option<RestoreRequest>,
    },
    /// Show the state of the lab's cluster; exit 0 if it is healthy
    #[command(after_help = "Example:\n  hanode lab status demo --json")]
    Status {
        /// Cluster directory
        dir: PathBuf,
        /// Print as JSON
        #[arg(long)]
        json: bool,
        /// Exit 0 if NODE can be removed without data loss or downtime, otherwise exit 1 and list what prevents it
        #[arg(long, value_name = "NODE")]
        can_remove: Option<String>,
    },
    /// Run a command on a node
    #[command(after_help = "Example:\n  hanode lab exec demo --node node1 -- patronictl list")]
    Exec {
        /// Cluster directory
        dir: PathBuf,
        /// Node to run it on
        #[arg(long, value_name = "NAME")]
        node: String,
        /// Command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command from this machine inside the lab's network
    #[command(after_help = "Example:\n  hanode lab client demo -- curl http://192.168.18.20:7000/health")]
    Client {
        /// Cluster directory
        dir: PathBuf,
        /// Command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Cut the power of a node; keep its disk
    #[command(after_help = "Example:\n  hanode lab kill demo --node node2")]
    Kill {
        #[command(flatten)]
        args: NodeArgs,
    },
    /// Replace a node: cut its power, discard its disk, boot the image, wait until the cluster is healthy
    #[command(after_help = "\
Examples:
  hanode lab reprovision demo --node node2
  hanode lab reprovision demo --node node2 --image newer.qcow2
  hanode lab reprovision demo --node node1 --node node2 --node node3 --restore 2026-11-30T14:05:00Z")]
    Reprovision {
        #[command(flatten)]
        args: NodeArgs,
        /// Image to boot [default: the current one]
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
        /// Multiply all time limits by F, for a slow machine
        #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = scale)]
        timeout_scale: f64,
        /// Print all problems while the node starts, with their details
        #[arg(short, long)]
        verbose: bool,
        /// The metadata key hanode_restore of the new machines: [PART/]MOMENT
        #[arg(long, value_name = "MOMENT")]
        restore: Option<RestoreRequest>,
    },
    /// Replace all nodes with a newer image, one at a time, under write load
    ///
    /// Waits before each node until it can be removed, as `hanode status --can-remove` reports it; then shuts it down
    /// and boots the new image on a new machine. Run it again to complete an interrupted roll.
    #[command(after_help = "\
Example:
  hanode certs renew demo && hanode build demo --target debian-13 --out newer.qcow2
  hanode lab roll demo --image newer.qcow2

Exits 0 if every node runs the new image, the cluster is healthy and no acknowledged write was lost.")]
    Roll {
        /// Cluster directory
        dir: PathBuf,
        /// New image
        #[arg(long, value_name = "FILE")]
        image: PathBuf,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
        /// Multiply all time limits by F, for a slow machine
        #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = scale)]
        timeout_scale: f64,
    },
    /// Inject faults under write load, and verify every acknowledged write
    ///
    /// Requires a lab with a healthy cluster. Each round injects one fault, reverts it and waits until the cluster is
    /// healthy; with five or more nodes, two faults at once. The same seed gives the same faults in the same order.
    #[command(after_help = "\
Examples:
  hanode lab chaos demo --rounds 20 --seed 7
  hanode lab chaos demo --rounds 5 --faults power,disk,partition
  hanode lab chaos demo --json | jq .writes

Exits 0 if the cluster recovered in time from every fault and no acknowledged write was lost.")]
    Chaos {
        /// Cluster directory
        dir: PathBuf,
        /// Number of rounds
        #[arg(long, value_name = "N", default_value_t = 10)]
        rounds: usize,
        /// Seed of the fault schedule [default: random, printed in the report]
        #[arg(long, value_name = "S")]
        seed: Option<u64>,
        /// Faults to inject, separated by commas [default: all]
        #[arg(long, value_name = "LIST", value_delimiter = ',')]
        faults: Vec<Fault>,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
        /// Multiply all time limits by F, for a slow machine
        #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = scale)]
        timeout_scale: f64,
    },
    /// Boot the newest backup as a cluster of its own, check it, and remove it
    ///
    /// Reads the repository, and writes nothing into it. Prints how long the restore took, what the cluster had written
    /// since, the result of pg_amcheck on all databases, and the number of Redis' keys.
    #[command(after_help = "\
Examples:
  hanode lab drill prod --image node.tar --mount /srv/backup
  hanode lab drill prod --image node.tar --json | jq .seconds

Exits 0 if the backup was restored and has no damage.")]
    Drill {
        /// Cluster directory
        dir: PathBuf,
        /// Image of the cluster
        #[arg(long, value_name = "FILE")]
        image: PathBuf,
        /// Where this machine has the file system of a file:// repository [default: as on the nodes]
        #[arg(long, value_name = "PATH")]
        mount: Option<PathBuf>,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
        /// Multiply all time limits by F, for a slow machine
        #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = scale)]
        timeout_scale: f64,
    },
    /// Stop all nodes and remove their disks
    #[command(after_help = "Example:\n  hanode lab down demo")]
    Down {
        /// Cluster directory
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// Cluster directory
    pub dir: PathBuf,
    /// Node to act on; can be repeated
    #[arg(long = "node", value_name = "NAME", required = true)]
    pub nodes: Vec<String>,
}

fn scale(text: &str) -> Result<f64, String> {
    let fits = |f: &f64| (0.1..=100.0).contains(f);
    text.parse().ok().filter(fits).ok_or_else(|| "expected a number from 0.1 to 100".into())
}

impl LabVerb {
    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self.verb, Verb::Status { .. })
    }

    pub(crate) fn run(&self) -> Result<ExitCode> {
        if let Verb::Up { dir, .. }
        | Verb::Reprovision { args: NodeArgs { dir, .. }, .. }
        | Verb::Roll { dir, .. }
        | Verb::Chaos { dir, .. } = &self.verb
        {
            hanode_lab::tag_this_process(dir)?;
        }
        match &self.verb {
            Verb::Up { dir, nodes, image, vm, timeout_scale, verbose, restore } => up(
                dir,
                &Start {
                    nodes,
                    image: image.as_deref(),
                    restore: restore.as_ref(),
                    vm: *vm,
                    timeout_scale: *timeout_scale,
                    verbose: *verbose,
                },
            ),
            Verb::Status { dir, json, can_remove } => show_status(dir, *json, can_remove.as_deref()),
            Verb::Exec { dir, node, command } => {
                Ok(exit_code(hanode_lab::exec(dir, node, command)?.success()))
            }
            Verb::Client { dir, command } => {
                let status =
                    Lab::open(dir)?.client_command(command).status().context("running the client")?;
                Ok(exit_code(status.success()))
            }
            Verb::Kill { args } => {
                args.nodes.iter().try_for_each(|node| hanode_lab::kill(&args.dir, node))?;
                Ok(ExitCode::SUCCESS)
            }
            Verb::Reprovision { args, image, timeout_scale, verbose, restore } => {
                let start = Start {
                    nodes: &[],
                    image: image.as_deref(),
                    restore: restore.as_ref(),
                    vm: false,
                    timeout_scale: *timeout_scale,
                    verbose: *verbose,
                };
                reprovision(args, &start)
            }
            Verb::Roll { dir, image, json, timeout_scale } => roll(dir, image, *json, *timeout_scale),
            Verb::Chaos { dir, rounds, seed, faults, json, timeout_scale } => {
                chaos(dir, *rounds, *seed, faults, *json, *timeout_scale)
            }
            Verb::Drill { dir, image, mount, json, timeout_scale } => {
                let options = DrillOptions {
                    dir: dir.clone(),
                    image: image.clone(),
                    mount: mount.clone(),
                    timeout_scale: *timeout_scale,
                };
                let report = restore_drill::drill(&options)?;
                match json {
                    true => super::print_json(&report)?,
                    false => super::print(&report.text())?,
                }
                Ok(exit_code(report.passed))
            }
            Verb::Down { dir } => hanode_lab::down(dir).map(|()| ExitCode::SUCCESS),
        }
    }
}

fn show_status(dir: &Path, json: bool, can_remove: Option<&str>) -> Result<ExitCode> {
    let access = access(dir)?;
    let found = hanode_lab::in_network_of(dir, || health::collect(&access))??;
    match can_remove {
        Some(node) => status::show_removal(&access, &found, node, json),
        None => status::show(&found, StatusFormat::from_flags(json, false)),
    }
}

fn roll(dir: &Path, image: &Path, json: bool, timeout_scale: f64) -> Result<ExitCode> {
    let report = roll::roll(Lab::open(dir)?, &access(dir)?, image, timeout_scale)?;
    match json {
        true => super::print_json(&report)?,
        false => super::print(&roll::table(&report))?,
    }
    Ok(exit_code(report.passed))
}

/// How nodes are started.
struct Start<'a> {
    /// All if empty.
    nodes: &'a [String],
    /// What new disks are made from.
    image: Option<&'a Path>,
    /// In the metadata of new machines.
    restore: Option<&'a RestoreRequest>,
    vm: bool,
    timeout_scale: f64,
    verbose: bool,
}

fn up(dir: &Path, start: &Start) -> Result<ExitCode> {
    let access = access(dir)?;
    // An existing lab keeps its image and its kind of nodes.
    let (image, vm) = match start.image {
        Some(image) => (image.to_path_buf(), start.vm),
        None => {
            let lab = Lab::open(dir).context("--image is required for a new lab")?;
            (lab.layout.image.path.clone(), lab.layout.vm)
        }
    };
    let options = UpOptions {
        dir: dir.to_path_buf(),
        image,
        vm,
        timeout_scale: start.timeout_scale,
        nodes: start.nodes.to_vec(),
        verbose: start.verbose,
        restore: start.restore.cloned(),
        program: None,
    };
    hanode_lab::up(&options, &access.spec, &|| Probe::of(&access), interrupt::flag())?;
    Ok(ExitCode::SUCCESS)
}

fn reprovision(args: &NodeArgs, start: &Start) -> Result<ExitCode> {
    let mut lab = Lab::open(&args.dir)?;
    if let Some(image) = start.image {
        lab.use_image(image)?;
    }
    for node in &args.nodes {
        lab.power_off(node)?;
        lab.discard_disk(node)?;
    }
    if let Some(request) = start.restore {
        args.nodes.iter().try_for_each(|node| lab.request_restore(node, request))?;
    }
    up(&args.dir, &Start { image: None, restore: None, vm: lab.layout.vm, ..*start })
}

fn chaos(
    dir: &Path,
    rounds: usize,
    seed: Option<u64>,
    faults: &[Fault],
    json: bool,
    timeout_scale: f64,
) -> Result<ExitCode> {
    let lab = Lab::open(dir)?;
    let access = access(dir)?;
    let supported = |f: &Fault| f.is_supported(&lab);
    let faults = match faults {
        [] => Fault::value_variants().iter().copied().filter(supported).collect(),
        some => some.to_vec(),
    };
    let seed = seed.unwrap_or_else(|| rand::random::<u32>().into());
    let options = chaos::ChaosOptions { rounds, seed, faults, timeout_scale };
    let report = chaos::run(&lab, &access, &options)?;
    match json {
        true => super::print_json(&report)?,
        false => super::print(&chaos::table(&report))?,
    }
    Ok(exit_code(report.passed))
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use clap::Parser;

    #[test]
    fn a_verb_for_single_nodes_requires_their_names() {
        for words in ["kill demo", "reprovision demo", "exec demo -- true"] {
            let command = format!("hanode lab {words}");
            assert!(Cli::try_parse_from(command.split(' ')).is_err(), "{words}");
        }
        assert!(Cli::try_parse_from("hanode lab kill demo --node node1 --node node2".split(' ')).is_ok());
    }

    #[test]
    fn down_and_status_act_on_the_whole_lab() {
        let accepted = |words: &str| Cli::try_parse_from(words.split(' ')).is_ok();
        assert!(accepted("hanode lab down demo") && accepted("hanode lab status demo"));
        assert!(!accepted("hanode lab down demo --node node2"), "down stops all nodes");
        assert!(!accepted("hanode lab status demo --node node2"));
    }
}
