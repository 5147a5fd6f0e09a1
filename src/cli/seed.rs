//! `hanode seed`

use super::Verdict;
use anyhow::Result;
use clap::Args;
use hanode_admin::cluster_dir;
use hanode_admin::seed::{self, Interface};
use hanode_core::bundle;
use std::net::IpAddr;
use std::path::PathBuf;

/// Make a NoCloud seed that tells a machine which node it is
///
/// The form follows from the ending: .iso, .img (vfat), a final slash (a directory), or .smbios (a string for
/// `qemu -smbios type=1,serial=…`). With --interface the machine also gets its address from it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode seed demo --node node1 --out node1.iso
  hanode seed demo --node node1 --interface 52:54:00:00:00:01 --gateway 192.168.18.1 \
      --ssh-key ~/.ssh/id_ed25519.pub --out node1.iso
  hanode seed demo --node node1 --bundle --out node1/       user-data for an image built with --base")]
pub(crate) struct Seed {
    /// The cluster directory
    pub dir: PathBuf,
    /// The node, by its name in the spec
    #[arg(long, value_name = "N")]
    pub node: String,
    /// What to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Give the node's address to this interface, known by name or by MAC address
    #[arg(long, value_name = "NAME|MAC")]
    pub interface: Option<Interface>,
    /// The default route
    #[arg(long, value_name = "IP", requires = "interface")]
    pub gateway: Option<IpAddr>,
    /// A name server; may be repeated
    #[arg(long, value_name = "IP", requires = "interface")]
    pub nameserver: Vec<IpAddr>,
    /// A file with public keys that may log in, as root and as the image's own user; without it nobody can
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,
    /// Carry spec and bundle, for an image without a cluster: the seed is then as secret as an image
    #[arg(long)]
    pub bundle: bool,
}

impl Seed {
    pub(crate) fn run(&self) -> Result<Verdict> {
        let (spec, _) = cluster_dir::load_spec(&self.dir)?;
        let mut seed = seed::Seed::of(&spec, &self.node)?;
        if let Some(interface) = &self.interface {
            seed = seed.with_network(&spec, interface.clone(), self.gateway, &self.nameserver)?;
        }
        if let Some(file) = &self.ssh_key {
            seed.ssh_key = Some(seed::public_keys(file)?);
        }
        if self.bundle {
            let cluster = super::sound(&self.dir, cluster_dir::check(&self.dir)?)?;
            let spec = (hanode_core::spec::OVERRIDE, cluster.spec_text.into_bytes());
            seed.late = vec![spec, (bundle::OVERRIDE, cluster.bundle_bytes)];
        }
        seed.write(&self.out)?;
        super::say(&format!("{} makes a machine {}", self.out.display(), self.node))?;
        Ok(Verdict::Well)
    }
}
