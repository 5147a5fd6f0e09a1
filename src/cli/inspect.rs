//! `hanode inspect`

use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show the components, versions, spec hash and bundle generation of an image
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  hanode inspect node.qcow2 --json")]
pub(crate) struct Inspect {
    /// Image file
    pub file: PathBuf,
    /// Print as JSON, with a manifest of all files
    #[arg(long)]
    pub json: bool,
}

impl Inspect {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let inspection = hanode_image::inspect(&self.file)?;
        match self.json {
            true => super::print_json(&inspection)?,
            false => super::print(inspection.to_string().trim_end())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
