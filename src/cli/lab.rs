//! `hanode lab`

use super::Verdict;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Run the built image as a whole cluster on this machine
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode lab up demo --image node.tar
  hanode lab exec demo --node node1 -- patronictl list
  hanode lab kill demo --node node2         as if its power failed
  hanode lab down demo")]
pub struct Lab {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
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
        /// Boot the disk image in QEMU instead of containers
        #[arg(long)]
        vm: bool,
        /// Multiply every wait, for a slow machine
        #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = scale)]
        timeout_scale: f64,
    },
    /// Show which nodes run and how they are
    #[command(after_help = "Example:\n  hanode lab status demo --json")]
    Status {
        #[command(flatten)]
        common: Common,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
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
    /// Cut a node's power; its disk stays
    #[command(after_help = "Example:\n  hanode lab kill demo --node node2")]
    Kill {
        #[command(flatten)]
        common: Common,
    },
    /// Stop all nodes and remove their disks
    #[command(after_help = "Example:\n  hanode lab down demo")]
    Down {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub struct Common {
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
    pub fn run(&self) -> Result<Verdict> {
        bail!("lab is not connected yet") // connected at merge
    }
}
