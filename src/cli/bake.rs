//! `hanode bake`

use super::Verdict;
use crate::{cluster, image};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Put a cluster into a tree, or into the machine this runs in, and make it fit for copying
///
/// The same bake as in `build`. In a virtual machine, with `--root /`, it is what Packer runs: missing packages
/// are installed (Debian's family), and what is the machine's own goes: keys, ids, logs, every way in. Safe to
/// run twice.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode bake demo --target debian-13 --root /mnt
  hanode bake demo --target debian-13 --root /          in a machine that is to become the image")]
pub struct Bake {
    /// The cluster directory
    pub dir: PathBuf,
    /// The distribution in the tree, e.g. debian-13, or a target's file of your own
    #[arg(long, value_name = "T")]
    pub target: String,
    /// The tree
    #[arg(long, value_name = "R")]
    pub root: PathBuf,
}

impl Bake {
    pub fn run(&self) -> Result<Verdict> {
        let cluster = super::sound(&self.dir, cluster::check_copy(&self.dir)?)?;
        let baked = super::build::baked(&cluster);
        let changed = image::bake(&self.root, &self.target, Some(&baked), &image::program()?)?;
        super::say(&format!("{} is baked: {} files changed", self.root.display(), changed.len()))?;
        Ok(Verdict::Well)
    }
}
