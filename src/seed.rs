//! NoCloud seeds: what tells a booting machine which node it is, as a small disk or a directory.

use crate::image::scratch::{self, Scratch};
use crate::image::tool::{self, command, run};
use crate::spec::Spec;
use crate::tree;
use anyhow::{Context, Result, bail};
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

/// What a machine is told about itself.
#[derive(Debug, Clone)]
pub struct Seed {
    /// Another one makes cloud-init take the machine for a new one.
    pub instance_id: String,
    pub hostname: String,
    /// The node's name in the spec.
    pub node: String,
    /// Without one the machine asks DHCP, or keeps what it has.
    pub network: Option<Network>,
    /// A public key that may log in as root.
    pub ssh_key: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Network {
    pub interface: Interface,
    pub address: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    pub nameservers: Vec<IpAddr>,
}

/// Which interface gets the node's address.
#[derive(Debug, Clone)]
pub enum Interface {
    Name(String),
    Mac(String),
}

impl Seed {
    /// A node's seed as the spec has it.
    pub fn of(spec: &Spec, node: &str) -> Result<Seed> {
        let names = || spec.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ");
        let node = spec
            .node(node)
            .with_context(|| format!("no node {node:?} in the spec; there are: {}", names()))?;
        Ok(Seed {
            instance_id: format!("{}-{}", spec.name, node.name),
            hostname: node.hostname.clone(),
            node: node.name.clone(),
            network: None,
            ssh_key: None,
        })
    }

    /// With the node's own address, as it is in the spec, on this interface.
    pub fn with_network(
        mut self,
        spec: &Spec,
        interface: Interface,
        gateway: Option<IpAddr>,
    ) -> Result<Seed> {
        let node = spec.node(&self.node).with_context(|| format!("no node {:?} in the spec", self.node))?;
        let (address, prefix) = (node.address, spec.network.subnet.prefix_len());
        self.network = Some(Network { interface, address, prefix, gateway, nameservers: Vec::new() });
        Ok(self)
    }

    /// The seed's files: name and text. Nothing here is secret: every user of the machine may read metadata.
    pub fn files(&self) -> Result<Vec<(&'static str, String)>> {
        let mut meta = String::new();
        writeln!(meta, "instance-id: {}", quoted(&self.instance_id))?;
        writeln!(meta, "local-hostname: {}", quoted(&self.hostname))?;
        writeln!(meta, "hanode_node: {}", quoted(&self.node))?;
        let mut user = String::from("#cloud-config\n");
        match &self.ssh_key {
            Some(key) => {
                writeln!(user, "disable_root: false\nssh_authorized_keys:\n  - {}", quoted(key.trim()))?
            }
            None => user += "{}\n",
        }
        let mut files = vec![("meta-data", meta), ("user-data", user)];
        if let Some(network) = &self.network {
            files.push(("network-config", network.config()?));
        }
        Ok(files)
    }

    /// Writes the files into a directory, which is made if need be.
    pub fn write_directory(&self, at: &Path) -> Result<()> {
        std::fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
        for (name, text) in self.files()? {
            let at = at.join(name);
            tree::replace(&at, text.as_bytes(), 0o600, None)
                .with_context(|| format!("writing {}", at.display()))?;
        }
        Ok(())
    }

    /// Writes an ISO 9660 disk.
    pub fn write_iso(&self, out: &Path) -> Result<()> {
        tool::need(&["xorriso"])?;
        scratch::check_output(out)?;
        let scratch = Scratch::beside(out)?;
        let content = scratch.join("content");
        self.write_directory(&content)?;
        let made = scratch.join("iso");
        let mut xorriso = command("xorriso");
        xorriso.args(["-as", "mkisofs", "-quiet", "-V", "CIDATA", "-J", "-r", "-o"]).arg(&made).arg(&content);
        run(&mut xorriso)?;
        scratch::publish(&made, out)
    }

    /// A disk where `out` ends in `.iso`, a directory where it ends in a slash.
    pub fn write(&self, out: &Path) -> Result<()> {
        if out.to_string_lossy().ends_with('/') {
            return self.write_directory(out);
        }
        if out.extension().is_none_or(|ending| ending != "iso") {
            bail!(
                "{}: a seed is a file that ends in .iso, or a directory named with a final slash",
                out.display()
            );
        }
        self.write_iso(out)
    }
}

impl Network {
    /// Version 2. A default route is written out: some of cloud-init's renderers fail on the word `default`.
    fn config(&self) -> Result<String> {
        let mut text = String::from("version: 2\nethernets:\n");
        match &self.interface {
            Interface::Name(name) => writeln!(text, "  {}:", quoted(name))?,
            Interface::Mac(mac) => {
                let mac = quoted(&mac.to_lowercase());
                writeln!(text, "  eth0:\n    match:\n      macaddress: {mac}\n    set-name: eth0")?
            }
        }
        writeln!(text, "    addresses: [\"{}/{}\"]", self.address, self.prefix)?;
        if let Some(gateway) = self.gateway {
            let everywhere = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            writeln!(text, "    routes:\n      - to: \"{everywhere}\"\n        via: \"{gateway}\"")?;
        }
        if !self.nameservers.is_empty() {
            let servers: Vec<_> = self.nameservers.iter().map(|s| format!("\"{s}\"")).collect();
            writeln!(text, "    nameservers:\n      addresses: [{}]", servers.join(", "))?;
        }
        Ok(text)
    }
}

/// A string as YAML, which reads JSON's quotes: a node may be called `null` or `1e3`.
fn quoted(text: &str) -> serde_json::Value {
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn seed(interface: Interface) -> Seed {
        Seed {
            instance_id: "hspas-node2".into(),
            hostname: "db2".into(),
            node: "node2".into(),
            network: Some(Network {
                interface,
                address: "192.168.18.22".parse().unwrap(),
                prefix: 24,
                gateway: Some("192.168.18.1".parse().unwrap()),
                nameservers: vec!["192.168.18.1".parse().unwrap()],
            }),
            ssh_key: None,
        }
    }

    #[test]
    fn a_seed_says_who_the_machine_is() {
        let files = seed(Interface::Mac("52:54:00:AB:00:01".into())).files().unwrap();
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
    fn a_directory_and_a_disk_hold_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let seed = seed(Interface::Name("host0".into()));
        let (folder, iso) = (dir.path().join("seed/"), dir.path().join("seed.iso"));
        seed.write(&folder).unwrap();
        seed.write(&iso).unwrap();
        assert_eq!(iso.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let back = dir.path().join("back");
        let mut xorriso = command("xorriso");
        xorriso.args(["-osirrox", "on", "-indev"]).arg(&iso).args(["-extract", "/"]).arg(&back);
        run(&mut xorriso).unwrap();
        for (name, text) in seed.files().unwrap() {
            assert_eq!(std::fs::read_to_string(folder.join(name)).unwrap(), text);
            assert_eq!(std::fs::read_to_string(back.join(name)).unwrap(), text);
        }
    }

    #[test]
    fn an_output_of_neither_kind_is_refused() {
        let said = seed(Interface::Name("x".into())).write(Path::new("seed.img")).unwrap_err().to_string();
        assert!(said.contains("seed.img") && said.contains(".iso"), "{said}");
    }
}
