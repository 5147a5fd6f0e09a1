//! `hanode inspect`

use super::Verdict;
use anyhow::{Result, bail};
use clap::Args;
use std::path::PathBuf;

/// Show what is in an image: components, versions, spec hash, bundle generation
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  hanode inspect node.qcow2 --json")]
pub struct Inspect {
    /// The image
    pub file: PathBuf,
    /// Print it as JSON, with the manifest of its files
    #[arg(long)]
    pub json: bool,
}

impl Inspect {
    pub fn run(&self) -> Result<Verdict> {
        bail!("inspect is not connected yet") // connected at merge
    }
}
