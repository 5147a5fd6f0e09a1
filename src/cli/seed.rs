//! `hanode seed`

use super::Verdict;
use crate::cluster;
use crate::seed;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Make a NoCloud seed disk that tells a machine which node it is
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  hanode seed demo --node node1 --out node1.iso")]
pub struct Seed {
    /// The cluster directory
    pub dir: PathBuf,
    /// The node, by its name in the spec
    #[arg(long, value_name = "N")]
    pub node: String,
    /// The ISO image to write, or a directory, named with a final slash
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

impl Seed {
    pub fn run(&self) -> Result<Verdict> {
        let (spec, _) = cluster::load_spec(&self.dir)?;
        seed::Seed::of(&spec, &self.node)?.write(&self.out)?;
        super::say(&format!("{} makes a machine {}", self.out.display(), self.node))?;
        Ok(Verdict::Well)
    }
}
