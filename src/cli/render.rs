//! `hanode render`

use super::Verdict;
use crate::cluster::Cluster;
use crate::facts::MachineFacts;
use crate::image;
use crate::pki::read;
use crate::plan::{self, Action};
use crate::render::{self, Crl, Input, Templates};
use crate::tree::{self, Ids};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

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
    /// Put REDACTED- and the role's name in place of every password
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
        let cluster = Cluster::load(&self.dir)?;
        let spec = &cluster.spec;
        let known = || spec.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ");
        ensure!(
            spec.node(&self.node).is_some(),
            "no node {:?} in the spec; there are: {}",
            self.node,
            known()
        );
        let entries = self.entries(&cluster)?;
        std::fs::create_dir_all(&self.out).with_context(|| format!("making {}", self.out.display()))?;
        tree::write(&self.out, &entries, None::<&Ids>)?;
        let manifest = manifest_path(&self.out)?;
        let mut text = serde_json::to_vec_pretty(&tree::manifest(&entries))?;
        text.push(b'\n');
        tree::replace(&manifest, &text, 0o644, None)?;
        super::say(&format!("{}: {} entries; {}", self.out.display(), entries.len(), manifest.display()))?;
        Ok(Verdict::Well)
    }

    fn entries(&self, cluster: &Cluster) -> Result<Vec<tree::Entry>> {
        let (_, target) = image::target(&self.target)?;
        let action = match self.plan {
            Plan::Genesis => Action::Begin,
            Plan::Resume => Action::Resume,
            Plan::Join => Action::Join,
        };
        let crl = |path: &str| cluster.bundle.file(path).with_context(|| format!("no {path} in the bundle"));
        let (service, own) = (crl("/etc/ssl/myca/server.crl")?, crl("/etc/ssl/hanode/ca.crl")?);
        let der = read::der(service)?;
        let interface = self.interface.as_deref().or(cluster.spec.keepalived.interface.as_deref());
        let secrets = if self.redact { render::redacted(&cluster.secrets) } else { cluster.secrets.clone() };
        render::render(&Input {
            spec: &cluster.spec,
            target: &target,
            node: &self.node,
            machine: &MachineFacts::assumed(
                interface.unwrap_or("eth0"),
                cluster.spec.network.subnet.prefix_len(),
            ),
            plan: &plan::Plan::assumed(&cluster.spec, action),
            secrets: &secrets,
            templates: &Templates::embedded(),
            crl: Crl {
                service: !read::crl(service)?.entries.is_empty(),
                cluster: !read::crl(own)?.entries.is_empty(),
                der: Some(&der),
            },
        })
    }
}

/// `OUT.manifest.json`, beside the directory.
fn manifest_path(out: &Path) -> Result<PathBuf> {
    let full = std::path::absolute(out)?;
    let name = full.file_name().context("give --out a directory with a name")?.to_string_lossy().into_owned();
    Ok(full.with_file_name(format!("{name}.manifest.json")))
}
