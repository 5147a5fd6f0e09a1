//! `hanode init`

use super::{Verdict, say};
use crate::cluster::{Cluster, SpecFaults};
use crate::spec;
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;

/// Make a new cluster directory: spec, CAs, certificates, passwords, bundle
///
/// The spec in DIR/cluster.toml is yours to edit; after that run `hanode check DIR` and `hanode certs issue
/// DIR`. An existing cluster is never touched.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode init demo                      with the commented starter spec
  hanode init demo --spec five.toml     with a spec written before")]
pub struct Init {
    /// The directory to make
    dir: PathBuf,
    /// Begin with this spec instead of the commented starter
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
}

impl Init {
    pub fn run(&self) -> Result<Verdict> {
        let text = match &self.spec {
            None => spec::STARTER.to_string(),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
                spec::parse(&text).map_err(|faults| SpecFaults { path: path.clone(), faults })?;
                text
            }
        };
        let cluster = Cluster::init(&self.dir, &text)?;
        let (dir, spec) = (self.dir.display(), &cluster.spec);
        say(&format!(
            "made the cluster {} in {dir}: {} nodes, vip {}",
            spec.name,
            spec.nodes.len(),
            spec.network.vip
        ))?;
        say(&format!(
            "\n\
             Next:\n  \
               edit {dir}/cluster.toml        names, addresses, ports\n  \
               hanode check {dir}             is it sound?\n  \
               hanode certs issue {dir}       certificates for the new names and addresses\n\n\
             {dir}/pki holds the CA keys and {dir}/secrets.toml the passwords: keep both to yourself, and a backup."
        ))?;
        Ok(Verdict::Well)
    }
}
