//! `hanode init`

use super::{Verdict, say};
use anyhow::{Context, Result};
use clap::Args;
use hanode_admin::cluster_dir::{Cluster, SpecFaults};
use hanode_core::spec;
use std::path::PathBuf;

/// Make a new cluster directory: spec, CAs, certificates, passwords, bundle
///
/// The spec in DIR/cluster.toml is yours to edit; after that run `hanode certs issue DIR` and `hanode check
/// DIR`. An existing cluster is never touched.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode init demo                      with the commented starter spec
  hanode init demo --nodes 5            for five nodes instead of three
  hanode init demo --spec mine.toml     with a spec written before")]
pub(crate) struct Init {
    /// The directory to make
    dir: PathBuf,
    /// Begin with this spec instead of the commented starter
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// How many nodes the starter spec is to have
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "spec", value_parser = odd)]
    nodes: u8,
}

impl Init {
    pub(crate) fn run(&self) -> Result<Verdict> {
        let text = match &self.spec {
            None => {
                let text = starter(self.nodes);
                spec::parse(&text)
                    .map_err(|faults| SpecFaults { path: self.dir.join("cluster.toml"), faults })?;
                text
            }
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
               hanode certs issue {dir}       certificates for the new names and addresses\n  \
               hanode check {dir}             is it sound?\n\n\
             {dir}/pki holds the CA keys and {dir}/secrets.toml the passwords: keep both to yourself, and a backup."
        ))?;
        Ok(Verdict::Well)
    }
}

fn odd(text: &str) -> Result<u8, &'static str> {
    let number = text.parse().ok().filter(|n| (3..=9).contains(n) && n % 2 == 1);
    number.ok_or("a cluster has 3, 5, 7 or 9 nodes: a majority must be possible")
}

/// The starter spec with further nodes after its last one.
fn starter(nodes: u8) -> String {
    let last = "[[node]]\nname = \"node3\"\naddress = \"192.168.18.23\"\n";
    let more = (4..=nodes).map(|n| {
        format!("\n{}", last.replace("node3", &format!("node{n}")).replace(".23", &format!(".2{n}")))
    });
    spec::STARTER.replace(last, &(last.to_string() + &more.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_starter_has_as_many_nodes_as_asked_for() {
        for nodes in [3, 5, 9] {
            let spec = spec::parse(&starter(nodes)).unwrap_or_else(|faults| panic!("{faults}"));
            assert_eq!(spec.nodes.len(), usize::from(nodes));
            assert_eq!(odd(&nodes.to_string()), Ok(nodes));
            let own = |fault: &spec::Fault| fault.what.contains("min_replicas");
            assert!(!spec::warnings(&spec).iter().any(own), "the starter is warned of itself");
        }
        for wrong in ["", "2", "4", "11", "x"] {
            assert!(odd(wrong).is_err(), "{wrong:?}");
        }
    }
}
