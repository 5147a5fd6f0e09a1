//! `hanode render`

use super::Verdict;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Write a node's configuration files below a directory, to read or to compare
///
/// What is written is what the node's first boot would write, from the same code. Beside OUT appears
/// OUT.manifest.json with every file's mode, owner, label and hash.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode render demo --target debian-13 --node node1 --out /tmp/node1
  hanode render demo --target debian-13 --node node2 --out /tmp/node2 --plan resume --redact")]
pub struct Render {
    /// The cluster directory
    pub dir: PathBuf,
    /// The distribution, e.g. debian-13
    #[arg(long, value_name = "T")]
    pub target: String,
    /// The node, by its name in the spec
    #[arg(long, value_name = "N")]
    pub node: String,
    /// The directory to write into, as the node's /
    #[arg(long)]
    pub out: PathBuf,
    /// The network interface the node's address would be on
    #[arg(long, value_name = "I")]
    pub interface: Option<String>,
    /// What the services would do at this boot
    #[arg(long, value_enum, default_value = "genesis")]
    pub plan: Plan,
    /// Put *** in place of every password
    #[arg(long)]
    pub redact: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Plan {
    /// The cluster comes to be
    Genesis,
    /// Go on with the data on the disk
    Resume,
    /// Become a member of a living cluster
    Join,
}

impl Render {
    pub fn run(&self) -> Result<Verdict> {
        bail!("render is not connected yet") // connected at merge
    }
}
