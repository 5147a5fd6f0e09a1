//! `hanode render`

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use hanode_admin::cluster_dir::ClusterDir;
use hanode_cluster::health;
use hanode_core::machine::MachineFacts;
use hanode_core::plan::{self, Action};
use hanode_core::render::{self, CrlInput, Renderer};
use hanode_util::file_tree::{self, Ids};
use hanode_util::scratch::Scratch;
use hanode_util::user_error::UserError;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Write the configuration files of a node to a directory, for review or comparison
///
/// Writes the files that the node writes at its first boot. Also writes OUT.manifest.json (mode, owner, label, SHA-256
/// of every file). OUT must be empty, missing, or a previous render, which is replaced.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode render demo --target debian-13 --node node1 --out /tmp/node1
  hanode render demo --target debian-13 --node node2 --out /tmp/node2 --plan resume --redact")]
pub(crate) struct Render {
    /// Cluster directory
    pub dir: PathBuf,
    /// Distribution, e.g. debian-13, or the path of a target file
    #[arg(long, value_name = "TARGET")]
    pub target: String,
    /// Node name, as in the spec
    #[arg(long, value_name = "NODE")]
    pub node: String,
    /// Directory to write into, in place of the node's /
    #[arg(long)]
    pub out: PathBuf,
    /// Network interface with the node's address [default: keepalived.interface of the spec, or eth0]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Plan of the boot to render
    #[arg(long, value_enum, default_value = "bootstrap")]
    pub plan: BootPlan,
    /// Replace every password with REDACTED-ROLE
    #[arg(long)]
    pub redact: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BootPlan {
    /// Bootstrap the cluster
    Bootstrap,
    /// Resume with the data on the disk
    Resume,
    /// Join a running cluster
    Join,
}

impl Render {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let cluster = ClusterDir::load(&self.dir)?;
        let spec = &cluster.spec;
        health::require_node(spec, &self.node)?;
        let out = Out::new(&self.out)?;
        let entries = self.entries(&cluster)?;
        out.publish(&entries)?;
        let (dir, manifest) = (self.out.display(), out.manifest.display());
        super::print(&format!("wrote {} entries to {dir} and their manifest to {manifest}", entries.len()))?;
        Ok(ExitCode::SUCCESS)
    }

    fn entries(&self, cluster: &ClusterDir) -> Result<Vec<file_tree::Entry>> {
        let (_, target) = hanode_admin::embedded::target(&self.target)?;
        let action = match self.plan {
            BootPlan::Bootstrap => Action::Bootstrap,
            BootPlan::Resume => Action::Resume,
            BootPlan::Join => Action::Join,
        };
        let spec = &cluster.spec;
        let interface = self.interface.as_deref().or(spec.keepalived.interface.as_deref());
        let machine = MachineFacts::example(interface.unwrap_or("eth0"), spec.network.subnet.prefix_len());
        let secrets = if self.redact { render::redacted(&cluster.secrets) } else { cluster.secrets.clone() };
        let crl = CrlInput::of_bundle(&cluster.bundle)?;
        let renderer = Renderer::new(spec, &target, &hanode_admin::embedded::templates(), &secrets, crl)?;
        let rendered = renderer.render(&self.node, &machine, &plan::Plan::uniform(spec, action))?;
        Ok(rendered.into_iter().map(|rendered| rendered.entry).collect())
    }
}

/// The output directory, and `OUT.manifest.json` next to it.
struct Out {
    dir: PathBuf,
    manifest: PathBuf,
}

impl Out {
    /// Refuses a directory with files that are not in its manifest.
    fn new(out: &Path) -> Result<Out> {
        let dir = match out.canonicalize() {
            Ok(dir) => dir,
            Err(_) => std::path::absolute(out)?,
        };
        let name = dir
            .file_name()
            .with_context(|| format!("cannot replace {}: name a new directory with --out", out.display()))?;
        let mut manifest = name.to_os_string();
        manifest.push(".manifest.json");
        let out = Out { manifest: dir.with_file_name(manifest), dir };
        if out.dir.exists() {
            out.require_previous_render()?;
        }
        Ok(out)
    }

    fn require_previous_render(&self) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Row {
            path: String,
        }
        let rows: Vec<Row> = match std::fs::read(&self.manifest) {
            Ok(manifest) => serde_json::from_slice(&manifest)
                .with_context(|| format!("{} is damaged", self.manifest.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| self.manifest.display().to_string()),
        };
        let rendered: BTreeSet<PathBuf> =
            rows.iter().map(|row| file_tree::below(&self.dir, &row.path)).collect();
        for found in walkdir::WalkDir::new(&self.dir) {
            let path = match &found {
                Ok(entry) if entry.file_type().is_dir() || rendered.contains(entry.path()) => continue,
                Ok(entry) => entry.path(),
                // An entry that cannot be read is not from a render either.
                Err(error) => error.path().unwrap_or(&self.dir),
            };
            bail!(UserError::new(
                "not written by a previous render, and `hanode render` replaces the whole directory",
                path.display().to_string(),
                "name a new directory with --out"
            ));
        }
        Ok(())
    }

    /// Replaces the directory as a whole.
    fn publish(&self, entries: &[file_tree::Entry]) -> Result<()> {
        let creating = || format!("creating {}", self.dir.display());
        let parent = self.dir.parent().with_context(creating)?;
        std::fs::create_dir_all(parent).with_context(creating)?;
        let scratch = Scratch::beside(&self.dir)?;
        let (new, old) = (scratch.join("new"), scratch.join("old"));
        std::fs::create_dir(&new).with_context(creating)?;
        file_tree::write(&new, entries, None::<&Ids>)?;
        let mut text = serde_json::to_vec_pretty(&file_tree::manifest(entries))?;
        text.push(b'\n');
        if self.dir.exists() {
            std::fs::rename(&self.dir, old).with_context(creating)?;
        }
        std::fs::rename(new, &self.dir).with_context(creating)?;
        file_tree::replace(&self.manifest, &text, 0o644, None)
    }
}
