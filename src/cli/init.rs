//! `hanode init`

use super::print;
use anyhow::Result;
use clap::Args;
use hanode_admin::cluster_dir::{ClusterDir, SpecFaults};
use hanode_core::spec;
use hanode_util::user_error::unreadable;
use std::path::PathBuf;
use std::process::ExitCode;

/// Create a cluster directory: spec, CAs, certificates, passwords, bundle
///
/// Edit DIR/cluster.toml next, then run `hanode certs issue DIR` and `hanode check DIR`. An existing cluster is never
/// changed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode init demo                      from the commented starter spec
  hanode init demo --nodes 5            five nodes instead of three
  hanode init demo --spec mine.toml     from your own spec")]
pub(crate) struct Init {
    /// Directory to create
    dir: PathBuf,
    /// Spec to copy instead of the commented starter
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// Number of nodes in the starter spec
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "spec", value_parser = node_count)]
    nodes: u8,
}

impl Init {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let text = match &self.spec {
            None => {
                let text = starter(self.nodes);
                spec::parse(&text)
                    .map_err(|faults| SpecFaults { path: self.dir.join("cluster.toml"), faults })?;
                text
            }
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
                spec::parse(&text).map_err(|faults| SpecFaults { path: path.clone(), faults })?;
                text
            }
        };
        let cluster = ClusterDir::init(&self.dir, &text)?;
        let (dir, spec) = (self.dir.display(), &cluster.spec);
        print(&format!(
            "created cluster {} in {dir}: {} nodes, virtual IP {}",
            spec.name,
            spec.nodes.len(),
            spec.network.vip
        ))?;
        print(&format!(
            "\n\
             Next:\n  \
               edit {dir}/cluster.toml        set names, addresses, ports\n  \
               hanode certs issue {dir}       issue certificates for them\n  \
               hanode check {dir}             validate the cluster directory\n\n\
             Keep {dir}/pki (CA keys) and {dir}/secrets.toml (passwords) secret, and back them up."
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn node_count(text: &str) -> Result<u8, &'static str> {
    let number = text.parse().ok().filter(|n| (3..=9).contains(n) && n % 2 == 1);
    number.ok_or("expected 3, 5, 7 or 9: an odd number of nodes has a majority when the network splits")
}

/// The starter spec with more nodes after its last one.
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
    fn starter_has_the_requested_number_of_nodes() {
        for nodes in [3, 5, 9] {
            let spec = spec::parse(&starter(nodes)).unwrap_or_else(|faults| panic!("{faults}"));
            assert_eq!(spec.nodes.len(), usize::from(nodes));
            assert_eq!(node_count(&nodes.to_string()), Ok(nodes));
            let about_replicas = |fault: &spec::Fault| fault.what.contains("min_replicas");
            assert!(!spec::warnings(&spec).iter().any(about_replicas), "the starter spec causes a warning");
        }
        for wrong in ["", "2", "4", "11", "x"] {
            assert!(node_count(wrong).is_err(), "{wrong:?}");
        }
    }
}
