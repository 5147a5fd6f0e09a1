//! `hanode bake`

use super::Verdict;
use anyhow::{Context, Result, bail};
use clap::Args;
use hanode_admin::cluster_dir;
use hanode_admin::cluster_dir::PKI;
use hanode_admin::pki::store::Store;
use hanode_core::pki::Ca;
use hanode_util::user_error::UserError;
use std::path::{Path, PathBuf};

/// Put a cluster into a tree, or into the machine this runs in, and make it fit for copying
///
/// The same bake as in `build`. In a virtual machine, with `--root /`, it is what Packer runs: missing packages
/// are installed (Debian's family), and what is the machine's own goes: keys, ids, logs, every way in. Safe to
/// run twice.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode bake demo --target debian-13 --root /mnt
  hanode bake demo --target debian-13 --root /          in a machine that is to become the image")]
pub(crate) struct Bake {
    /// The cluster directory
    pub dir: PathBuf,
    /// The distribution in the tree, e.g. debian-13, or a target's file of your own
    #[arg(long, value_name = "T")]
    pub target: String,
    /// The tree
    #[arg(long, value_name = "R")]
    pub root: PathBuf,
}

impl Bake {
    pub(crate) fn run(&self) -> Result<Verdict> {
        let cluster = super::sound(&self.dir, cluster_dir::check_copy(&self.dir)?)?;
        no_authority_inside(&self.dir, &self.root)?;
        let baked = super::build::baked(&cluster);
        let changed = hanode_image::bake(&self.root, &self.target, Some(&baked), &hanode_image::program()?)?;
        super::say(&format!("{} is baked: {} files changed", self.root.display(), changed.len()))?;
        Ok(Verdict::Well)
    }
}

/// A CA's key that lies in the tree would be in every copy of the image.
fn no_authority_inside(dir: &Path, root: &Path) -> Result<()> {
    let real = |path: &Path| path.canonicalize().with_context(|| format!("reading {}", path.display()));
    let store = Store::at(dir.join(PKI));
    for key in Ca::ALL.map(|ca| store.ca_dir(ca).join("ca.key")) {
        if key.exists() && real(&key)?.starts_with(real(root)?) {
            bail!(UserError::new(
                "a CA's key lies in the tree that becomes the image",
                key.display().to_string(),
                "bake from a directory with cluster.toml, secrets.toml and bundle.tar.gz alone"
            ));
        }
    }
    Ok(())
}
