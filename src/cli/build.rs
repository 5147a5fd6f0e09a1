//! `hanode build`

use super::Verdict;
use anyhow::Result;
use clap::Args;
use hanode_admin::cluster_dir::{self, Cluster};
use hanode_core::target::Override;
use hanode_image::{self, ClusterPayload, Options};
use std::path::PathBuf;

/// Build an image that becomes any node of the cluster
///
/// The format follows from the ending: .raw .qcow2 .vmdk .tar .tar.gz. The image holds keys and appears with
/// mode 0600, whole or not at all. The distribution's part is cached: a second build only bakes and writes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode build demo --target debian-13 --out node.qcow2
  hanode build demo --target centos-8 --out node.qcow2 --source baseos=http://mirror.example.org/baseos/
  hanode build demo --target debian-13 --out node.qcow2 --fresh    with the packages of today
  hanode build --target debian-13 --base --out base.tar.gz      without a cluster")]
pub(crate) struct Build {
    /// The cluster directory
    #[arg(required_unless_present = "base", conflicts_with = "base")]
    pub dir: Option<PathBuf>,
    /// The distribution, e.g. debian-13, or a target's file of your own
    #[arg(long, value_name = "T")]
    pub target: String,
    /// The image to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Take a source of the target from another address, e.g. a mirror; checksums and keys stay as the target
    /// has them unless `,sha256=HEX` or `,key=FILE` follows
    #[arg(long = "source", value_name = "NAME=URL")]
    pub sources: Vec<Override>,
    /// Only the distribution with all components, nothing of a cluster; with a cluster directory, in its versions
    #[arg(long)]
    pub base: bool,
    /// Install the distribution's packages anew, as they are today, in place of the cached ones: an image is patched by
    /// building it again
    #[arg(long)]
    pub fresh: bool,
    /// Smaller and slower, where the format can be compressed
    #[arg(long)]
    pub compress: bool,
}

impl Build {
    pub(crate) fn run(&self) -> Result<Verdict> {
        let cluster = match &self.dir {
            Some(dir) => Some(super::sound(dir, cluster_dir::check(dir)?)?),
            None => None,
        };
        if let Some(caveat) = hanode_admin::embedded::target(&self.target)?.1.caveat {
            eprintln!("hanode: target {}: {caveat}", self.target);
        }
        let built = hanode_image::build(&Options {
            target: &self.target,
            sources: &self.sources,
            out: &self.out,
            fresh: self.fresh,
            compress: self.compress,
            baked: cluster.as_ref().map(baked),
            bare: self.base,
            program: &hanode_image::program()?,
        })?;
        super::say(&built.to_string())?;
        Ok(Verdict::Well)
    }
}

/// What of a cluster directory goes into an image.
pub(crate) fn baked(cluster: &Cluster) -> ClusterPayload<'_> {
    ClusterPayload {
        spec_text: &cluster.spec_text,
        spec: &cluster.spec,
        bundle: &cluster.bundle_bytes,
        generation: cluster.bundle.stamp.generation,
    }
}
