//! `hanode inspect`

use super::Verdict;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Show what is in an image: components, versions, spec hash, bundle generation
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  hanode inspect node.qcow2 --json")]
pub(crate) struct Inspect {
    /// The image
    pub file: PathBuf,
    /// Print it as JSON, with the manifest of its files
    #[arg(long)]
    pub json: bool,
}

impl Inspect {
    pub(crate) fn run(&self) -> Result<Verdict> {
        let inspection = hanode_image::inspect(&self.file)?;
        match self.json {
            true => super::say_json(&inspection)?,
            false => super::say(inspection.to_string().trim_end())?,
        }
        Ok(Verdict::Well)
    }
}
