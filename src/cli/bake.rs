//! `hanode bake`

use anyhow::{Context, Result, bail};
use clap::Args;
use hanode_admin::cluster_dir;
use hanode_admin::cluster_dir::PKI;
use hanode_admin::pki::store::PkiStore;
use hanode_core::pki::Ca;
use hanode_util::user_error::UserError;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Install the cluster into a root directory or into this machine, and prepare it for cloning
///
/// Does what `build` does to a base, and removes the machine's identity: keys, ids, logs and logins. With `--root /`, as
/// Packer runs it in a virtual machine, it also installs missing packages (Debian and Ubuntu). Can be repeated.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode bake demo --target debian-13 --root /mnt
  hanode bake demo --target debian-13 --root /          in the machine that becomes the image")]
pub(crate) struct Bake {
    /// Cluster directory
    pub dir: PathBuf,
    /// Distribution of the tree, e.g. debian-13, or the path of a target file
    #[arg(long, value_name = "TARGET")]
    pub target: String,
    /// Root directory to install into
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
}

impl Bake {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let cluster = super::load_checked(&self.dir, cluster_dir::check_copy(&self.dir)?)?;
        no_ca_key_inside(&self.dir, &self.root)?;
        let payload = super::build::payload(&cluster);
        let changed =
            hanode_image::bake(&self.root, &self.target, Some(&payload), &hanode_image::program()?)?;
        super::print(&format!("baked {}: {} files changed", self.root.display(), changed.len()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A CA key below `root` would be in every copy of the image.
fn no_ca_key_inside(dir: &Path, root: &Path) -> Result<()> {
    let real = |path: &Path| path.canonicalize().with_context(|| format!("reading {}", path.display()));
    let store = PkiStore::at(dir.join(PKI));
    for key in Ca::ALL.map(|ca| store.ca_dir(ca).join("ca.key")) {
        if key.exists() && real(&key)?.starts_with(real(root)?) {
            bail!(UserError::new(
                "this CA key is inside the tree that becomes the image",
                key.display().to_string(),
                "bake from a copy of the cluster directory with only cluster.toml, secrets.toml and bundle.tar.gz"
            ));
        }
    }
    Ok(())
}
