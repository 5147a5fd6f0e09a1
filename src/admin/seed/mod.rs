//! cloud-init seeds (NoCloud), from which a booting machine learns its node name. [`format`] writes them as a disk, a
//! directory, or a string for the SMBIOS serial number.

mod format;
mod key;

pub use key::public_keys;

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hanode_core::restore::RestoreRequest;
use hanode_core::spec::{Spec, is_interface};
use hanode_util::user_error::UserError;
use std::fmt::Write;
use std::net::IpAddr;

/// The contents of a seed.
#[derive(Debug, Clone)]
pub struct Seed {
    /// cloud-init treats a machine with a changed id as a new instance.
    pub instance_id: String,
    pub hostname: String,
    /// The node's name in the spec.
    pub node: String,
    /// The cluster begins with this restore.
    pub restore: Option<RestoreRequest>,
    /// `None` leaves the network configuration to the image, which uses DHCP by default.
    pub network: Option<NetworkConfig>,
    /// Public keys, one per line, for root and for the default user of the image.
    pub ssh_key: Option<String>,
    /// Files that cloud-init writes, as path and content: the cluster's, for an image that contains none.
    pub write_files: Vec<(&'static str, Vec<u8>)>,
}

#[derive(Debug, Clone)]
pub struct NetworkConfig {
    pub interface: InterfaceMatch,
    pub address: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    pub nameservers: Vec<IpAddr>,
}

/// The interface that gets the node's address.
#[derive(Debug, Clone)]
pub enum InterfaceMatch {
    Name(String),
    Mac(String),
}

impl std::str::FromStr for InterfaceMatch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pairs: Vec<_> = text.split(':').collect();
        let hex = |p: &&str| p.len() == 2 && p.chars().all(|c| c.is_ascii_hexdigit());
        if pairs.len() == 6 && pairs.iter().all(hex) {
            Ok(InterfaceMatch::Mac(text.into()))
        } else if is_interface(text) {
            Ok(InterfaceMatch::Name(text.into()))
        } else {
            Err("expected an interface name, or a MAC address such as 52:54:00:00:00:01")
        }
    }
}

impl Seed {
    /// The seed of a node in the spec.
    pub fn for_node(spec: &Spec, node: &str) -> Result<Seed> {
        let node = spec.require_node(node)?;
        Ok(Seed {
            instance_id: format!("{}-{}", spec.name, node.name),
            hostname: node.hostname.clone(),
            node: node.name.clone(),
            restore: None,
            network: None,
            ssh_key: None,
            write_files: Vec::new(),
        })
    }

    /// Adds a static network configuration: the node's address from the spec on this interface.
    pub fn with_network(
        mut self,
        spec: &Spec,
        interface: InterfaceMatch,
        gateway: Option<IpAddr>,
        nameservers: &[IpAddr],
    ) -> Result<Seed> {
        let node = spec.require_node(&self.node)?;
        let (address, prefix) = (node.address, spec.network.subnet.prefix_len());
        if let Some(gateway) = gateway {
            check_gateway(spec, gateway)?;
        }
        self.network =
            Some(NetworkConfig { interface, address, prefix, gateway, nameservers: nameservers.to_vec() });
        Ok(self)
    }

    /// Names and texts of the files. On the machine, all users can read metadata, but only root user-data.
    pub fn files(&self) -> Result<Vec<(&'static str, String)>> {
        let mut meta = String::new();
        writeln!(meta, "instance-id: {}", quoted(&self.instance_id))?;
        writeln!(meta, "local-hostname: {}", quoted(&self.hostname))?;
        writeln!(meta, "hanode_node: {}", quoted(&self.node))?;
        if let Some(restore) = &self.restore {
            writeln!(meta, "hanode_restore: {}", quoted(&restore.to_string()))?;
        }
        let mut files = vec![("meta-data", meta), ("user-data", self.user_data()?)];
        if let Some(network) = &self.network {
            files.push(("network-config", network.config()?));
        }
        Ok(files)
    }

    fn user_data(&self) -> Result<String> {
        let mut user = String::from("#cloud-config\n");
        if let Some(key) = &self.ssh_key {
            user += "disable_root: false\nssh_authorized_keys:\n";
            key.lines().try_for_each(|key| writeln!(user, "  - {}", quoted(key)))?;
        }
        if !self.write_files.is_empty() {
            user += "write_files:\n";
        }
        for (path, content) in &self.write_files {
            writeln!(user, "  - path: {path}\n    permissions: \"0600\"\n    encoding: b64")?;
            writeln!(user, "    content: {}", BASE64.encode(content))?;
        }
        if self.ssh_key.is_none() && self.write_files.is_empty() {
            user += "{}\n";
        }
        Ok(user)
    }
}

/// Fails if the nodes cannot reach the gateway, or if it is one of their addresses.
fn check_gateway(spec: &Spec, gateway: IpAddr) -> Result<()> {
    let net = spec.network.subnet;
    let on_link = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local()) && net.addr().is_ipv6();
    let host = net.contains(&gateway)
        && gateway != net.network()
        && !(gateway.is_ipv4() && gateway == net.broadcast());
    ensure!(
        on_link || host,
        UserError::with_help(
            format!("the gateway {gateway} is not a host address in the nodes' network {net}"),
            "use the router's address in this network"
        )
    );
    let of_cluster =
        spec.nodes.iter().map(|n| n.address).chain([spec.network.vip]).any(|address| address == gateway);
    ensure!(
        !of_cluster,
        UserError::with_help(
            format!("the gateway {gateway} is an address of the cluster"),
            "use the router's address"
        )
    );
    Ok(())
}

impl NetworkConfig {
    /// Network config version 2. Some versions and renderers of cloud-init fail on a route to `default` or to `::/0`;
    /// all accept this syntax.
    fn config(&self) -> Result<String> {
        let mut text = String::from("version: 2\nethernets:\n");
        match &self.interface {
            InterfaceMatch::Name(name) => writeln!(text, "  {}:", quoted(name))?,
            InterfaceMatch::Mac(mac) => {
                let mac = quoted(&mac.to_lowercase());
                writeln!(text, "  eth0:\n    match:\n      macaddress: {mac}\n    set-name: eth0")?
            }
        }
        writeln!(text, "    addresses: [\"{}/{}\"]", self.address, self.prefix)?;
        match self.gateway {
            Some(IpAddr::V4(gateway)) => {
                writeln!(text, "    routes:\n      - to: \"0.0.0.0/0\"\n        via: \"{gateway}\"")?
            }
            Some(IpAddr::V6(gateway)) => writeln!(text, "    gateway6: \"{gateway}\"")?,
            None => {}
        }
        if !self.nameservers.is_empty() {
            let servers: Vec<_> = self.nameservers.iter().map(|s| format!("\"{s}\"")).collect();
            writeln!(text, "    nameservers:\n      addresses: [{}]", servers.join(", "))?;
        }
        Ok(text)
    }
}

/// A string in JSON quotes, which YAML accepts: without them a node name such as `null` or `1e3` is not a string.
fn quoted(text: &str) -> serde_json::Value {
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(interface: InterfaceMatch) -> Seed {
        Seed {
            instance_id: "hspas-node2".into(),
            hostname: "db2".into(),
            node: "node2".into(),
            restore: None,
            network: Some(NetworkConfig {
                interface,
                address: "192.168.18.22".parse().unwrap(),
                prefix: 24,
                gateway: Some("192.168.18.1".parse().unwrap()),
                nameservers: vec!["192.168.18.1".parse().unwrap()],
            }),
            ssh_key: None,
            write_files: Vec::new(),
        }
    }

    #[test]
    fn a_seed_has_metadata_and_network_config() {
        let files = seed(InterfaceMatch::Mac("52:54:00:AB:00:01".into())).files().unwrap();
        assert_eq!(
            files[0].1,
            "instance-id: \"hspas-node2\"\nlocal-hostname: \"db2\"\nhanode_node: \"node2\"\n"
        );
        assert_eq!(files[1], ("user-data", "#cloud-config\n{}\n".to_string()));
        assert_eq!(
            files[2].1,
            "version: 2
ethernets:
  eth0:
    match:
      macaddress: \"52:54:00:ab:00:01\"
    set-name: eth0
    addresses: [\"192.168.18.22/24\"]
    routes:
      - to: \"0.0.0.0/0\"
        via: \"192.168.18.1\"
    nameservers:
      addresses: [\"192.168.18.1\"]
"
        );
    }

    #[test]
    fn a_request_for_a_restore_is_metadata() {
        let mut seed = seed(InterfaceMatch::Name("x".into()));
        seed.restore = Some("prod/2026-11-30T12:30:00+01:00".parse().unwrap());
        let meta = &seed.files().unwrap()[0].1;
        assert!(meta.ends_with("\nhanode_restore: \"prod/2026-11-30T11:30:00Z\"\n"), "{meta}");
    }

    #[test]
    fn the_files_of_a_cluster_are_in_user_data() {
        let mut seed = seed(InterfaceMatch::Name("x".into()));
        seed.write_files = vec![("/etc/hanode/cluster.toml", b"schema = 1\n".to_vec())];
        let files = seed.files().unwrap();
        assert_eq!(
            files[1].1,
            "#cloud-config
write_files:
  - path: /etc/hanode/cluster.toml
    permissions: \"0600\"
    encoding: b64
    content: c2NoZW1hID0gMQo=
"
        );
    }

    #[test]
    fn mac_addresses_and_interface_names_are_distinguished() {
        assert!(matches!("52:54:00:AB:00:01".parse().unwrap(), InterfaceMatch::Mac(_)));
        assert!(matches!("enp1s0".parse().unwrap(), InterfaceMatch::Name(_)));
        for invalid in ["", "52-54-00-00-00-01", "52:54:00:00:00:1", "eth 0", "averyverylongname"] {
            assert!(invalid.parse::<InterfaceMatch>().is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn a_gateway_must_be_another_host_in_the_nodes_network() {
        let spec = hanode_core::spec::parse(hanode_core::spec::STARTER).unwrap_or_else(|f| panic!("{f}"));
        let with = |gateway: &str| {
            let seed = Seed::for_node(&spec, "node1").unwrap();
            seed.with_network(&spec, "eth0".parse().unwrap(), Some(gateway.parse().unwrap()), &[])
        };
        with("192.168.18.1").unwrap();
        for (gateway, why) in [
            ("192.168.19.1", "not a host address in the nodes' network"),
            ("fd00::1", "not a host address in the nodes' network"),
            ("192.168.18.0", "not a host address in the nodes' network"),
            ("192.168.18.255", "not a host address in the nodes' network"),
            ("192.168.18.21", "an address of the cluster"),
            ("192.168.18.20", "an address of the cluster"),
        ] {
            let error = with(gateway).unwrap_err().to_string();
            assert!(error.contains(gateway) && error.contains(why), "{error}");
        }
    }
}
