//! What `.lab` of a cluster directory holds, as data: written once by `up`, read by every other verb.

use anyhow::{Context, Result, bail};
use hanode_admin::seed::{Interface, Network, Seed};
use hanode_core::spec::Spec;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// One lab: `lab.json`. Two labs are the same lab when these are equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    pub(crate) schema: u32,
    pub subnet: IpNet,
    /// The bridge's own address: the nodes' gateway, and where clients outside the nodes come from.
    pub(crate) outside: IpAddr,
    pub vm: bool,
    /// What new disks are made from.
    pub image: Image,
    pub nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub hostname: String,
    pub address: IpAddr,
    /// The node that this machine claims to be, where it is a second one of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) twin_of: Option<String>,
}

/// An image as it was when disks were made from it: an overlay never outlives the layer below it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    pub path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) modified_ns: u128,
}

/// What makes a node's disk that disk and no other: `disk.json`, gone when the disk is discarded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub(crate) machine_uuid: String,
    pub(crate) instance_id: String,
    /// What it was made from.
    pub(crate) image: Image,
}

impl Layout {
    pub(crate) fn new(spec: &Spec, image: Image, vm: bool) -> Result<Layout> {
        let node = |n: &hanode_core::spec::Node| Node {
            name: n.name.clone(),
            hostname: n.hostname.clone(),
            address: n.address,
            twin_of: None,
        };
        let nodes = spec.nodes.iter().map(node).collect();
        let outside = free_address(spec)?;
        Ok(Layout { schema: 1, subnet: spec.network.subnet, outside, vm, image, nodes })
    }

    /// As `hanode lab up` makes it.
    pub(crate) fn without_duplicates(&self) -> Layout {
        let mut plain = self.clone();
        plain.nodes.retain(|n| n.twin_of.is_none());
        plain
    }

    /// What a cloud would tell this machine about itself.
    pub(crate) fn seed(
        &self,
        node: &Node,
        disk: &Disk,
        interface: Interface,
        ssh_key: Option<String>,
    ) -> Seed {
        // cloud-init's renderer for networkd fails on an IPv6 default route; a lab leads nowhere anyway.
        let gateway = Some(self.outside).filter(IpAddr::is_ipv4);
        let (address, prefix) = (node.address, self.subnet.prefix_len());
        Seed {
            instance_id: disk.instance_id.clone(),
            hostname: node.hostname.clone(),
            node: node.twin_of.as_ref().unwrap_or(&node.name).clone(),
            network: Some(Network { interface, address, prefix, gateway, nameservers: Vec::new() }),
            ssh_key,
            late: Vec::new(),
        }
    }
}

impl Image {
    pub(crate) fn at(path: &Path) -> Result<Image> {
        let path = path.canonicalize().with_context(|| format!("no image at {}", path.display()))?;
        let about = std::fs::metadata(&path)?;
        let modified_ns = about.modified()?.duration_since(std::time::UNIX_EPOCH)?.as_nanos();
        Ok(Image { path, bytes: about.len(), modified_ns })
    }

    /// Sets what was made of it apart from what was made of any other.
    pub(crate) fn id(&self) -> String {
        let about = format!("{}\n{}\n{}", self.path.display(), self.bytes, self.modified_ns);
        hex::encode(&Sha256::digest(about)[..6])
    }
}

impl Disk {
    pub(crate) fn fresh(image: Image) -> Disk {
        let hex = hex::encode(rand::random::<[u8; 16]>());
        // The bits that say "random" in a UUID: some readers refuse one without them.
        let machine_uuid =
            format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]);
        let instance_id = format!("lab-{}", hex::encode(rand::random::<[u8; 4]>()));
        Disk { machine_uuid, instance_id, image }
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

/// Which address the lab's own side speaks from, where the spec lets in others than its `outside`: an operator's to
/// the nodes, a client's to the virtual IP.
pub(crate) fn sources(spec: &Spec, outside: IpAddr) -> Vec<(IpNet, IpAddr)> {
    let network = &spec.network;
    // An answer to another network goes by the nodes' gateway, which they have with IPv4 alone.
    let other = |allowed: &[IpNet]| match allowed.iter().any(|net| net.contains(&outside)) {
        true => None,
        false => allowed.iter().find(|net| net.addr().is_ipv4() && outside.is_ipv4())?.hosts().next(),
    };
    let nodes = spec.nodes.iter().map(|n| n.address);
    let to_nodes =
        other(network.operators()).into_iter().flat_map(|from| nodes.clone().map(move |to| (to, from)));
    let to_vip = other(&network.clients).map(|from| (network.vip, from));
    to_nodes.chain(to_vip).map(|(to, from)| (to.into(), from)).collect()
}

/// Sets a lab apart from every other on this host: a hash of its cluster directory's path.
pub(crate) fn id(cluster: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    hex::encode(&Sha256::digest(cluster.as_os_str().as_bytes())[..4])
}

pub(crate) fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>> {
    match std::fs::read(path) {
        Ok(text) => {
            Ok(Some(serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
    }
}

pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    hanode_util::file_tree::replace(path, &serde_json::to_vec_pretty(value)?, 0o600, None)
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labs_own_side_is_among_those_the_spec_lets_in() {
        let mut spec = hanode_core::spec::parse(hanode_core::spec::STARTER).unwrap();
        let outside = "192.168.18.1".parse().unwrap();
        assert_eq!(sources(&spec, outside), []);
        spec.network.clients = vec!["fd00::/64".parse().unwrap(), "10.1.0.0/16".parse().unwrap()];
        let vip = ("192.168.18.20/32".parse().unwrap(), "10.1.0.1".parse().unwrap());
        assert_eq!(sources(&spec, outside), [vip]);
        spec.network.operators = Some(vec!["10.2.0.5/32".parse().unwrap()]);
        let found = sources(&spec, outside);
        assert_eq!(found.len(), 4);
        assert_eq!(found[0], ("192.168.18.21/32".parse().unwrap(), "10.2.0.5".parse().unwrap()));
    }

    #[test]
    fn a_default_route_is_only_written_where_cloud_init_can_read_it() {
        for (own, outside, subnet, routed) in
            [("10.0.0.2", "10.0.0.1", "10.0.0.0/24", true), ("fd00::2", "fd00::1", "fd00::/64", false)]
        {
            let node = serde_json::json!({ "name": "a", "hostname": "a", "address": own });
            let layout: Layout = serde_json::from_value(serde_json::json!({
                "schema": 1, "subnet": subnet, "outside": outside, "vm": true, "nodes": [node],
                "image": { "path": "/x.raw", "bytes": 1, "modified_ns": 1 },
            }))
            .unwrap();
            let disk = Disk::fresh(layout.image.clone());
            let mac = Interface::Mac("52:54:00:00:00:01".into());
            let files = layout.seed(&layout.nodes[0], &disk, mac, None).files().unwrap();
            let network = &files.iter().find(|(name, _)| *name == "network-config").unwrap().1;
            assert_eq!(network.contains("routes:"), routed, "{network}");
            assert!(!network.contains("default") && !network.contains("::/0"), "{network}");
        }
    }
}
