//! `hanode lab`

use super::Verdict;
use super::status;
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use hanode_admin::access::access;
use hanode_cluster::health::{self, Form};
use hanode_lab::chaos::{self, Fault};
use hanode_lab::roll;
use hanode_lab::{self, Options, Probe};
use hanode_util::interrupt;
use std::path::{Path, PathBuf};

/// Run the built image as a whole cluster on this machine
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode lab up demo --image node.tar
  hanode lab exec demo --node node1 -- patronictl list
  hanode lab kill demo --node node2         as if its power failed
  hanode lab down demo")]
pub(crate) struct Lab {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Launch the nodes and wait until the cluster is healthy
    #[command(after_help = "\
Examples:
  hanode lab up demo --image node.tar
  hanode lab up demo --image node.qcow2 --vm
  hanode lab up demo --node node2           launch a killed node again")]
    Up {
        #[command(flatten)]
        common: Common,
        /// The image to run; needed the first time
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
        /// Boot the disk image in QEMU instead of containers; a lab that is there stays what it is
        #[arg(long)]
        vm: bool,
        /// Multiply every wait, for a slow machine
        #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = scale)]
        timeout_scale: f64,
    },
    /// Show which nodes run and how they are
    #[command(after_help = "Example:\n  hanode lab status demo --json")]
    Status {
        /// The cluster directory
        dir: PathBuf,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
        /// Instead, say whether this node may be taken away now without harm, and why not
        #[arg(long, value_name = "NODE")]
        replace: Option<String>,
    },
    /// Run a command on a node
    #[command(after_help = "Example:\n  hanode lab exec demo --node node1 -- patronictl list")]
    Exec {
        #[command(flatten)]
        common: Common,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command of this machine as a client on the lab's network, outside the nodes
    #[command(after_help = "Example:\n  hanode lab client demo -- curl http://192.168.18.20:7000/health")]
    Client {
        /// The cluster directory
        dir: PathBuf,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Cut a node's power; its disk stays
    #[command(after_help = "Example:\n  hanode lab kill demo --node node2")]
    Kill {
        #[command(flatten)]
        common: Common,
    },
    /// Replace a node: cut its power, discard its disk, boot the image anew, wait until all is well
    #[command(after_help = "\
Examples:
  hanode lab reprovision demo --node node2
  hanode lab reprovision demo --node node2 --image newer.qcow2")]
    Reprovision {
        #[command(flatten)]
        common: Common,
        /// Another image than the node's own so far
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
        /// Multiply every wait, for a slow machine
        #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = scale)]
        timeout_scale: f64,
    },
    /// Replace all nodes by a newer image, one after the other, while clients write
    ///
    /// Before each node the cluster is asked whether it can do without it, as `hanode status --replace` does; then the
    /// node is shut down and a new machine boots the new image. An interrupted run is completed by the next.
    #[command(after_help = "\
Example:
  hanode certs renew demo && hanode build demo --target debian-13 --out newer.qcow2
  hanode lab roll demo --image newer.qcow2

Exit status 0 when every node runs the new image, all is well and no promised write is lost.")]
    Roll {
        /// The cluster directory
        dir: PathBuf,
        /// The newer image
        #[arg(long, value_name = "FILE")]
        image: PathBuf,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
        /// Multiply every wait, for a slow machine
        #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = scale)]
        timeout_scale: f64,
    },
    /// Break things while clients write; the cluster must mend itself and keep every promise
    ///
    /// On a lab that is up and well. Each round strikes one node, or all, and waits until all is well again; a cluster
    /// of five or more nodes is struck twice at once. The same seed brings the same faults in the same order.
    #[command(after_help = "\
Examples:
  hanode lab chaos demo --rounds 20 --seed 7
  hanode lab chaos demo --rounds 5 --faults power,disk,partition
  hanode lab chaos demo --json | jq .writes

Exit status 0 when the cluster was well after every round and no promised write is lost.")]
    Chaos {
        /// The cluster directory
        dir: PathBuf,
        /// How many rounds
        #[arg(long, value_name = "N", default_value_t = 10)]
        rounds: usize,
        /// What the faults are drawn from; not given: any, and it is told
        #[arg(long, value_name = "S")]
        seed: Option<u64>,
        /// Only these faults
        #[arg(long, value_name = "LIST", value_delimiter = ',')]
        faults: Vec<Fault>,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
        /// Multiply every wait, for a slow machine
        #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = scale)]
        timeout_scale: f64,
    },
    /// Stop all nodes and remove their disks
    #[command(after_help = "Example:\n  hanode lab down demo")]
    Down {
        /// The cluster directory
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The cluster directory
    pub dir: PathBuf,
    /// Only this node; may be given more than once
    #[arg(long = "node", value_name = "NAME")]
    pub nodes: Vec<String>,
}

fn scale(text: &str) -> Result<f64, String> {
    let fits = |f: &f64| (0.1..=100.0).contains(f);
    text.parse().ok().filter(fits).ok_or_else(|| "give a number from 0.1 to 100".into())
}

impl Lab {
    pub(crate) fn only_looks(&self) -> bool {
        matches!(self.verb, Verb::Status { .. })
    }

    pub(crate) fn run(&self) -> Result<Verdict> {
        if let Verb::Up { common: Common { dir, .. }, .. }
        | Verb::Reprovision { common: Common { dir, .. }, .. }
        | Verb::Roll { dir, .. }
        | Verb::Chaos { dir, .. } = &self.verb
        {
            hanode_lab::bear_mark(dir)?;
        }
        match &self.verb {
            Verb::Up { common, image, vm, timeout_scale } => {
                up(common, image.as_deref(), *vm, *timeout_scale)
            }
            Verb::Status { dir, json, replace } => {
                let access = access(dir)?;
                let found = hanode_lab::status(dir, || health::collect(&access))??;
                match replace {
                    Some(node) => status::show_replace(&access, &found, node, *json),
                    None => status::show(&found, Form::of(*json, false)),
                }
            }
            Verb::Exec { common, command } => exec(common, command),
            Verb::Client { dir, command } => {
                let status =
                    hanode_lab::Lab::open(dir)?.outside(command).status().context("running the client")?;
                Ok(if status.success() { Verdict::Well } else { Verdict::NotWell })
            }
            Verb::Kill { common } => {
                ensure!(!common.nodes.is_empty(), "which node's power is to be cut? name it: --node NAME");
                common.nodes.iter().try_for_each(|node| hanode_lab::kill(&common.dir, node))?;
                Ok(Verdict::Well)
            }
            Verb::Reprovision { common, image, timeout_scale } => {
                reprovision(common, image.as_deref(), *timeout_scale)
            }
            Verb::Roll { dir, image, json, timeout_scale } => {
                let report = roll::roll(hanode_lab::Lab::open(dir)?, &access(dir)?, image, *timeout_scale)?;
                match json {
                    true => super::say_json(&report)?,
                    false => super::say(&roll::table(&report))?,
                }
                Ok(if report.well { Verdict::Well } else { Verdict::NotWell })
            }
            Verb::Chaos { dir, rounds, seed, faults, json, timeout_scale } => {
                chaos(dir, *rounds, *seed, faults, *json, *timeout_scale)
            }
            Verb::Down { dir } => hanode_lab::down(dir).map(|()| Verdict::Well),
        }
    }
}

fn up(common: &Common, image: Option<&Path>, vm: bool, timeout_scale: f64) -> Result<Verdict> {
    let access = access(&common.dir)?;
    // Of a lab that is there already.
    let (image, vm) = match image {
        Some(image) => (image.to_path_buf(), vm),
        None => {
            let lab = hanode_lab::Lab::open(&common.dir).context("a new lab needs --image FILE")?;
            (lab.layout.image.path.clone(), lab.layout.vm)
        }
    };
    let options = Options {
        dir: common.dir.clone(),
        image,
        vm,
        timeout_scale,
        nodes: common.nodes.clone(),
        program: None,
    };
    // Nodes of another build than the directory's are no reason to wait: they do not change by themselves.
    let probe = || match health::collect(&access) {
        Ok(status) => {
            let problems = health::problems_but_skew(&access, &status);
            Probe { healthy: problems.is_empty(), problems }
        }
        Err(error) => Probe { healthy: false, problems: vec![format!("{error:#}")] },
    };
    hanode_lab::up(&options, &access.spec, &probe, interrupt::flag())?;
    Ok(Verdict::Well)
}

fn reprovision(common: &Common, image: Option<&Path>, timeout_scale: f64) -> Result<Verdict> {
    ensure!(!common.nodes.is_empty(), "which node is to be replaced? name it: --node NAME");
    let mut lab = hanode_lab::Lab::open(&common.dir)?;
    if let Some(image) = image {
        lab.use_image(image)?;
    }
    for node in &common.nodes {
        lab.power_off(node)?;
        lab.discard_disk(node)?;
    }
    let all = Common { dir: common.dir.clone(), nodes: Vec::new() };
    up(&all, None, lab.layout.vm, timeout_scale)
}

fn chaos(
    dir: &Path,
    rounds: usize,
    seed: Option<u64>,
    faults: &[Fault],
    json: bool,
    timeout_scale: f64,
) -> Result<Verdict> {
    let lab = hanode_lab::Lab::open(dir)?;
    let access = access(dir)?;
    let any = |f: &Fault| !lab.layout.vm || f.on_virtual_machines();
    let faults = match faults {
        [] => Fault::value_variants().iter().copied().filter(any).collect(),
        some => some.to_vec(),
    };
    let seed = seed.unwrap_or_else(|| rand::random::<u32>().into());
    let options = chaos::Options { rounds, seed, faults, timeout_scale };
    let report = chaos::run(&lab, &access, &options)?;
    match json {
        true => super::say_json(&report)?,
        false => super::say(&chaos::table(&report))?,
    }
    Ok(if report.well { Verdict::Well } else { Verdict::NotWell })
}

fn exec(common: &Common, command: &[String]) -> Result<Verdict> {
    let [node] = common.nodes.as_slice() else {
        anyhow::bail!("on which node? name one: --node NAME");
    };
    let status = hanode_lab::exec(&common.dir, node, command)?;
    Ok(if status.success() { Verdict::Well } else { Verdict::NotWell })
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use clap::Parser;

    #[test]
    fn the_whole_lab_goes_down_or_nothing() {
        let takes = |words: &str| Cli::try_parse_from(words.split(' ')).is_ok();
        assert!(takes("hanode lab down demo") && takes("hanode lab status demo"));
        assert!(!takes("hanode lab down demo --node node2"), "the others would go with it");
        assert!(!takes("hanode lab status demo --node node2"));
    }
}
