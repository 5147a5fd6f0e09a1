//! `hanode seed`

use anyhow::Result;
use clap::Args;
use hanode_admin::cluster_dir;
use hanode_admin::seed::{self, InterfaceMatch};
use hanode_core::bundle;
use hanode_core::restore::RestoreRequest;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a NoCloud seed that gives a machine its node name and network
///
/// The file name sets the format: .iso, .img (vfat), a trailing slash (a directory), or .smbios (a string for
/// `qemu -smbios type=1,serial=…`). With --interface the seed also configures the node's address.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hanode seed demo --node node1 --out node1.iso
  hanode seed demo --node node1 --interface 52:54:00:00:00:01 --gateway 192.168.18.1 \
      --ssh-key ~/.ssh/id_ed25519.pub --out node1.iso
  hanode seed demo --node node1 --bundle --out node1/       user-data for an image built with --base")]
pub(crate) struct SeedVerb {
    /// Cluster directory
    pub dir: PathBuf,
    /// Node name, as in the spec
    #[arg(long, value_name = "NODE")]
    pub node: String,
    /// File or directory to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Configure the node's address on this interface
    #[arg(long, value_name = "NAME|MAC")]
    pub interface: Option<InterfaceMatch>,
    /// Default gateway
    #[arg(long, value_name = "IP", requires = "interface")]
    pub gateway: Option<IpAddr>,
    /// Name server; can be repeated
    #[arg(long, value_name = "IP", requires = "interface")]
    pub nameserver: Vec<IpAddr>,
    /// File with the public keys allowed to log in as root and as the image's default user [default: no logins]
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,
    /// The metadata key hanode_restore: the cluster begins with a restore of [PART/]MOMENT
    #[arg(long, value_name = "MOMENT")]
    pub restore: Option<RestoreRequest>,
    /// Include the spec and the bundle, for an image built with --base; keep such a seed secret
    #[arg(long)]
    pub bundle: bool,
}

impl SeedVerb {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let (spec, _) = cluster_dir::load_spec(&self.dir)?;
        let mut seed = seed::Seed::for_node(&spec, &self.node)?;
        if let Some(interface) = &self.interface {
            seed = seed.with_network(&spec, interface.clone(), self.gateway, &self.nameserver)?;
        }
        if let Some(file) = &self.ssh_key {
            seed.ssh_key = Some(seed::public_keys(file)?);
        }
        seed.restore = self.restore.clone();
        if self.bundle {
            let cluster = super::load_checked(&self.dir, cluster_dir::check(&self.dir)?)?;
            let spec = (hanode_core::spec::OVERRIDE_PATH, cluster.spec_text.into_bytes());
            seed.write_files = vec![spec, (bundle::OVERRIDE_PATH, cluster.bundle_bytes)];
        }
        seed.write(&self.out)?;
        super::print(&format!("wrote seed for {}: {}", self.node, self.out.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}
