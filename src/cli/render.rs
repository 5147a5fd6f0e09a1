//! `hanode render`

use super::Verdict;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use hanode_admin::cluster_dir::Cluster;
use hanode_core::machine::MachineFacts;
use hanode_core::pki::read;
use hanode_core::plan::{self, Action};
use hanode_core::render::{self, Crl, Input};
use hanode_util::file_tree::{self, Ids};
use hanode_util::scratch::Scratch;
use hanode_util::user_error::UserError;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Write a node's configuration files below a directory, to read or to compare
///
/// What is written is what the node's first boot would write, from the same code. Beside OUT appears
/// OUT.manifest.json with every file's mode, owner, label and hash. OUT is new, empty, or of a former render, which
/// makes way.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode render demo --target debian-13 --node node1 --out /tmp/node1
  hanode render demo --target debian-13 --node node2 --out /tmp/node2 --plan resume --redact")]
pub(crate) struct Render {
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
    #[arg(long, value_enum, default_value = "bootstrap")]
    pub plan: Plan,
    /// Put REDACTED- and the role's name in place of every password
    #[arg(long)]
    pub redact: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plan {
    /// The cluster comes to be
    Bootstrap,
    /// Go on with the data on the disk
    Resume,
    /// Become a member of a living cluster
    Join,
}

impl Render {
    pub(crate) fn run(&self) -> Result<Verdict> {
        let cluster = Cluster::load(&self.dir)?;
        let spec = &cluster.spec;
        let known = || spec.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ");
        ensure!(
            spec.node(&self.node).is_some(),
            "no node {:?} in the spec; there are: {}",
            self.node,
            known()
        );
        let out = Out::new(&self.out)?;
        let entries = self.entries(&cluster)?;
        out.publish(&entries)?;
        let (dir, manifest) = (self.out.display(), out.manifest.display());
        super::say(&format!("{dir}: {} entries; {manifest}", entries.len()))?;
        Ok(Verdict::Well)
    }

    fn entries(&self, cluster: &Cluster) -> Result<Vec<file_tree::Entry>> {
        let (_, target) = hanode_admin::embedded::target(&self.target)?;
        let action = match self.plan {
            Plan::Bootstrap => Action::Bootstrap,
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
            templates: &hanode_admin::embedded::templates(),
            crl: Crl {
                service: !read::crl(service)?.entries.is_empty(),
                cluster: !read::crl(own)?.entries.is_empty(),
                der: Some(&der),
            },
        })
    }
}

/// The directory that is rendered into, and `OUT.manifest.json` beside it.
struct Out {
    dir: PathBuf,
    manifest: PathBuf,
}

impl Out {
    /// Refuses a directory that holds anything which no render put there.
    fn new(out: &Path) -> Result<Out> {
        let dir = match out.canonicalize() {
            Ok(dir) => dir,
            Err(_) => std::path::absolute(out)?,
        };
        let name =
            dir.file_name().with_context(|| format!("{}: give --out a new directory", out.display()))?;
        let mut manifest = name.to_os_string();
        manifest.push(".manifest.json");
        let out = Out { manifest: dir.with_file_name(manifest), dir };
        if out.dir.exists() {
            out.holds_a_render()?;
        }
        Ok(out)
    }

    fn holds_a_render(&self) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Row {
            path: String,
        }
        let manifest = std::fs::read(&self.manifest).unwrap_or_default();
        let rows: Vec<Row> = serde_json::from_slice(&manifest).unwrap_or_default();
        let made: BTreeSet<PathBuf> = rows.iter().map(|row| file_tree::below(&self.dir, &row.path)).collect();
        for found in walkdir::WalkDir::new(&self.dir) {
            let found = found.with_context(|| format!("reading {}", self.dir.display()))?;
            let ours = found.file_type().is_dir() || made.contains(found.path());
            if !ours {
                let place = found.path().display().to_string();
                bail!(UserError::new(
                    "this is of no former render, and a render replaces the whole directory",
                    place,
                    "name a new directory with --out"
                ));
            }
        }
        Ok(())
    }

    /// The whole of it takes the place of what was there.
    fn publish(&self, entries: &[file_tree::Entry]) -> Result<()> {
        let making = || format!("making {}", self.dir.display());
        let parent = self.dir.parent().with_context(making)?;
        std::fs::create_dir_all(parent).with_context(making)?;
        let scratch = Scratch::beside(&self.dir)?;
        let (new, old) = (scratch.join("new"), scratch.join("old"));
        std::fs::create_dir(&new).with_context(making)?;
        file_tree::write(&new, entries, None::<&Ids>)?;
        let mut text = serde_json::to_vec_pretty(&file_tree::manifest(entries))?;
        text.push(b'\n');
        if self.dir.exists() {
            std::fs::rename(&self.dir, old).with_context(making)?;
        }
        std::fs::rename(new, &self.dir).with_context(making)?;
        file_tree::replace(&self.manifest, &text, 0o644, None)
    }
}
