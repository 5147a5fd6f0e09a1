//! `hanode build`

use anyhow::Result;
use clap::Args;
use hanode_admin::cluster_dir::{self, ClusterDir};
use hanode_core::target::SourceOverride;
use hanode_image::{self, BuildOptions, ClusterPayload};
use std::path::PathBuf;
use std::process::ExitCode;

/// Build an image that can boot as any node of the cluster
///
/// The file name sets the format: .raw, .qcow2, .vmdk, .tar or .tar.gz. The image contains keys: it is written with
/// mode 0600, and only when it is complete. The base (the distribution with all components) is cached, so that the
/// next build only bakes and writes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode build demo --target debian-13 --out node.qcow2
  hanode build demo --target centos-8 --out node.qcow2 --source baseos=http://mirror.example.org/baseos/
  hanode build demo --target debian-13 --out node.qcow2 --fresh    with current packages
  hanode build --target debian-13 --base --out base.tar.gz      without a cluster")]
pub(crate) struct Build {
    /// Cluster directory
    #[arg(required_unless_present = "base", conflicts_with = "base")]
    pub dir: Option<PathBuf>,
    /// Distribution, e.g. debian-13, or the path of a target file
    #[arg(long, value_name = "TARGET")]
    pub target: String,
    /// Image file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Fetch a source of the target from another URL, e.g. a mirror; `,sha256=HEX` or `,key=FILE` replaces its
    /// checksum or key
    #[arg(long = "source", value_name = "NAME=URL")]
    pub sources: Vec<SourceOverride>,
    /// Build only the base, without a cluster
    #[arg(long)]
    pub base: bool,
    /// Rebuild the base with current packages, to patch an image
    #[arg(long)]
    pub fresh: bool,
    /// Compress the image, if its format supports it (slower)
    #[arg(long)]
    pub compress: bool,
}

impl Build {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let cluster = match &self.dir {
            Some(dir) => Some(super::load_checked(dir, cluster_dir::check(dir)?)?),
            None => None,
        };
        if let Some(caveat) = hanode_admin::embedded::target(&self.target)?.1.caveat {
            super::print_to_stderr(&format!("warning: target {}: {caveat}", self.target));
        }
        let built = hanode_image::build(&BuildOptions {
            target: &self.target,
            sources: &self.sources,
            out: &self.out,
            fresh: self.fresh,
            compress: self.compress,
            payload: cluster.as_ref().map(payload),
            base_only: self.base,
            program: &hanode_image::program()?,
        })?;
        super::print(&built.to_string())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The parts of a cluster directory that go into an image.
pub(crate) fn payload(cluster: &ClusterDir) -> ClusterPayload<'_> {
    ClusterPayload {
        spec_text: &cluster.spec_text,
        spec: &cluster.spec,
        bundle: &cluster.bundle_bytes,
        bundle_generation: cluster.bundle.metadata.generation,
    }
}
