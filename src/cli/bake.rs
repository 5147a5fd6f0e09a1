//! `hanode bake`

use super::Verdict;
use anyhow::{Result, bail};
use clap::Args;
use std::path::PathBuf;

/// Put a cluster into a mounted tree that has the components installed
///
/// The same bake as in `build`; inside a virtual machine, with `--root /`, it is what Packer runs.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  hanode bake demo --target debian-13 --root /mnt")]
pub struct Bake {
    /// The cluster directory
    pub dir: PathBuf,
    /// The distribution in the tree, e.g. debian-13
    #[arg(long, value_name = "T")]
    pub target: String,
    /// The tree
    #[arg(long, value_name = "R")]
    pub root: PathBuf,
}

impl Bake {
    pub fn run(&self) -> Result<Verdict> {
        bail!("bake is not connected yet") // connected at merge
    }
}
