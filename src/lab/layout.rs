//! The JSON files in `.lab` of a cluster directory: written by `up`, read by all other verbs.

use anyhow::{Context, Result, bail};
use hanode_admin::seed::{InterfaceMatch, NetworkConfig, Seed};
use hanode_core::restore::RestoreRequest;
use hanode_core::spec::{Repository, Spec};
use hanode_util::user_error::{UserError, unreadable};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A lab: `lab.json`. `up` continues an existing lab only if its layout is equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    pub(crate) schema: u32,
    pub subnet: IpNet,
    /// The bridge's address: the nodes' gateway, and the source address of clients outside the nodes.
    pub(crate) outside: IpAddr,
    pub vm: bool,
    /// The image of new disks.
    pub image: Image,
    pub nodes: Vec<LabNode>,
    /// Where the nodes expect the file system with the backups, if the spec names one; containers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) repository: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabNode {
    pub name: String,
    pub hostname: String,
    pub address: IpAddr,
    /// For a second machine with the identity of a node: the name of that node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) duplicate_of: Option<String>,
}

/// An image file and its state when a disk was made from it: the disk is unusable if the file changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    pub path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) modified_ns: u128,
}

/// The identity of a node's disk: `node-disk.json`, removed when the disk is discarded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeDisk {
    pub(crate) machine_uuid: String,
    pub(crate) instance_id: String,
    /// The image that it was made from.
    pub(crate) image: Image,
    /// The request for a restore in the metadata of its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restore: Option<RestoreRequest>,
}

impl Layout {
    pub(crate) fn new(spec: &Spec, image: Image, vm: bool) -> Result<Layout> {
        let node = |n: &hanode_core::spec::Node| LabNode {
            name: n.name.clone(),
            hostname: n.hostname.clone(),
            address: n.address,
            duplicate_of: None,
        };
        let nodes = spec.nodes.iter().map(node).collect();
        let outside = free_address(spec)?;
        let repository = match spec.backup.as_ref().map(|backup| &backup.repository) {
            Some(Repository::File { path }) if !vm => Some(path.clone()),
            _ => None,
        };
        Ok(Layout { schema: 1, subnet: spec.network.subnet, outside, vm, image, nodes, repository })
    }

    /// The layout as `up` created it.
    pub(crate) fn without_duplicates(&self) -> Layout {
        let mut plain = self.clone();
        plain.nodes.retain(|n| n.duplicate_of.is_none());
        plain
    }

    /// The seed of the machine, as a cloud would provide it.
    pub(crate) fn seed(
        &self,
        node: &LabNode,
        disk: &NodeDisk,
        interface: InterfaceMatch,
        ssh_key: Option<String>,
    ) -> Seed {
        // cloud-init's networkd renderer fails on an IPv6 default route. A lab needs none: it has no way out.
        let gateway = Some(self.outside).filter(IpAddr::is_ipv4);
        let (address, prefix) = (node.address, self.subnet.prefix_len());
        Seed {
            instance_id: disk.instance_id.clone(),
            hostname: node.hostname.clone(),
            node: node.duplicate_of.as_ref().unwrap_or(&node.name).clone(),
            restore: disk.restore.clone(),
            network: Some(NetworkConfig { interface, address, prefix, gateway, nameservers: Vec::new() }),
            ssh_key,
            write_files: Vec::new(),
        }
    }
}

impl Image {
    pub(crate) fn at(path: &Path) -> Result<Image> {
        let path = path.canonicalize().map_err(|error| unreadable(path, error))?;
        let metadata = std::fs::metadata(&path)?;
        let modified_ns = metadata.modified()?.duration_since(std::time::UNIX_EPOCH)?.as_nanos();
        Ok(Image { path, bytes: metadata.len(), modified_ns })
    }

    /// Unique to this version of the image file.
    pub(crate) fn id(&self) -> String {
        let about = format!("{}\n{}\n{}", self.path.display(), self.bytes, self.modified_ns);
        hex::encode(&Sha256::digest(about)[..6])
    }
}

impl NodeDisk {
    pub(crate) fn new(image: Image) -> NodeDisk {
        let hex = hex::encode(rand::random::<[u8; 16]>());
        // Version 4 (random): some programs reject a UUID without a valid version.
        let machine_uuid =
            format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]);
        let instance_id = format!("lab-{}", hex::encode(rand::random::<[u8; 4]>()));
        NodeDisk { machine_uuid, instance_id, image, restore: None }
    }
}

/// The first address of the subnet that neither a node nor the virtual IP uses.
fn free_address(spec: &Spec) -> Result<IpAddr> {
    let taken = |a: &IpAddr| *a == spec.network.vip || spec.nodes.iter().any(|n| n.address == *a);
    let network = spec.network.subnet.network();
    let mut hosts = spec.network.subnet.hosts().filter(|a| *a != network && !taken(a));
    match hosts.next() {
        Some(address) => Ok(address),
        None => bail!(UserError::with_help(
            format!("no free address in {} for the lab's gateway", spec.network.subnet),
            "use a larger subnet in cluster.toml"
        )),
    }
}

/// Source addresses that the firewall of the spec requires of this host, where it does not admit `outside`: one of an
/// operator towards the nodes, one of a client towards the virtual IP.
pub(crate) fn sources(spec: &Spec, outside: IpAddr) -> Vec<(IpNet, IpAddr)> {
    let network = &spec.network;
    // Replies to another network need a gateway, which the nodes have for IPv4 only.
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

/// Unique to the lab on this host: a hash of the path of its cluster directory.
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
    fn source_addresses_are_admitted_by_the_spec() {
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
    fn default_route_is_written_for_ipv4_only() {
        for (own, outside, subnet, routed) in
            [("10.0.0.2", "10.0.0.1", "10.0.0.0/24", true), ("fd00::2", "fd00::1", "fd00::/64", false)]
        {
            let node = serde_json::json!({ "name": "a", "hostname": "a", "address": own });
            let layout: Layout = serde_json::from_value(serde_json::json!({
                "schema": 1, "subnet": subnet, "outside": outside, "vm": true, "nodes": [node],
                "image": { "path": "/x.raw", "bytes": 1, "modified_ns": 1 },
            }))
            .unwrap();
            let disk = NodeDisk::new(layout.image.clone());
            let mac = InterfaceMatch::Mac("52:54:00:00:00:01".into());
            let files = layout.seed(&layout.nodes[0], &disk, mac, None).files().unwrap();
            let network = &files.iter().find(|(name, _)| *name == "network-config").unwrap().1;
            assert_eq!(network.contains("routes:"), routed, "{network}");
            assert!(!network.contains("default") && !network.contains("::/0"), "{network}");
        }
    }
}
