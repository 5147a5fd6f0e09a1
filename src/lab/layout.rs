//! What `.lab` of a cluster directory holds, as data: written once by `up`, read by every other verb.

use crate::spec::Spec;
use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// One lab: `lab.json`. Two labs are the same lab when these are equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    pub schema: u32,
    pub subnet: IpNet,
    /// The bridge's own address: the nodes' gateway, and where clients outside the nodes come from.
    pub outside: IpAddr,
    pub vm: bool,
    pub image: Image,
    pub nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub hostname: String,
    pub address: IpAddr,
}

/// An image and its state when the lab was made from it: an overlay never outlives the layer below it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    pub path: PathBuf,
    pub bytes: u64,
    pub modified_ns: u128,
}

/// What makes a node's disk that disk and no other: `disk.json`, gone when the disk is discarded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    pub machine_uuid: String,
    pub instance_id: String,
}

impl Layout {
    pub fn new(spec: &Spec, image: Image, vm: bool) -> Result<Layout> {
        let node = |n: &crate::spec::Node| Node {
            name: n.name.clone(),
            hostname: n.hostname.clone(),
            address: n.address,
        };
        let nodes = spec.nodes.iter().map(node).collect();
        let outside = free_address(spec)?;
        Ok(Layout { schema: 1, subnet: spec.network.subnet, outside, vm, image, nodes })
    }
}

impl Image {
    pub fn at(path: &Path) -> Result<Image> {
        let path = path.canonicalize().with_context(|| format!("no image at {}", path.display()))?;
        let about = std::fs::metadata(&path)?;
        let modified_ns = about.modified()?.duration_since(std::time::UNIX_EPOCH)?.as_nanos();
        Ok(Image { path, bytes: about.len(), modified_ns })
    }
}

impl Disk {
    pub fn fresh() -> Disk {
        let hex = crate::tree::hex(&rand::random::<[u8; 16]>());
        // The bits that say "random" in a UUID: some readers refuse one without them.
        let machine_uuid =
            format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]);
        let instance_id = format!("lab-{}", crate::tree::hex(&rand::random::<[u8; 4]>()));
        Disk { machine_uuid, instance_id }
    }
}

/// The first address of the subnet that is no node's and not the virtual IP.
fn free_address(spec: &Spec) -> Result<IpAddr> {
    let taken = |a: &IpAddr| *a == spec.network.vip || spec.nodes.iter().any(|n| n.address == *a);
    let network = spec.network.subnet.network();
    let mut hosts = spec.network.subnet.hosts().filter(|a| *a != network && !taken(a));
    match hosts.next() {
        Some(address) => Ok(address),
        None => bail!("no free address in {} for the lab's gateway: widen the subnet", spec.network.subnet),
    }
}

/// Sets a lab apart from every other on this host: a hash of its cluster directory's path.
pub fn id(cluster: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    crate::tree::hex(&Sha256::digest(cluster.as_os_str().as_bytes())[..4])
}

pub fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>> {
    match std::fs::read(path) {
        Ok(text) => {
            Ok(Some(serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
    }
}

pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    crate::tree::replace(path, &serde_json::to_vec_pretty(value)?, 0o600, None)
        .with_context(|| format!("writing {}", path.display()))
}
