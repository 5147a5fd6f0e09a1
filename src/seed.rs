//! NoCloud seeds: what tells a booting machine which node it is, as a small disk or a directory.

use crate::image::scratch::{self, Scratch};
use crate::image::tool::{self, command, run};
use crate::spec::{Node, Spec};
use crate::tree;
use anyhow::{Context, Result, bail};
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

/// A static network for the node; without one the machine asks DHCP or keeps what it has.
#[derive(Debug, Clone)]
pub struct Network {
    pub interface: Interface,
    pub gateway: Option<IpAddr>,
    pub nameservers: Vec<IpAddr>,
}

/// Which interface gets the node's address.
#[derive(Debug, Clone)]
pub enum Interface {
    Name(String),
    Mac(String),
}

/// The seed's files: name and text. Nothing in them is secret: every user of the machine may read metadata.
pub fn files(spec: &Spec, node: &Node, network: Option<&Network>) -> Result<Vec<(&'static str, String)>> {
    let mut meta = String::new();
    writeln!(meta, "instance-id: {}-{}", spec.name, node.name)?;
    writeln!(meta, "local-hostname: {}", node.hostname)?;
    writeln!(meta, "hanode_node: {}", node.name)?;
    let mut files = vec![("meta-data", meta), ("user-data", "#cloud-config\n{}\n".to_string())];
    if let Some(network) = network {
        files.push(("network-config", network_config(spec, node, network)?));
    }
    Ok(files)
}

/// Version 2. A default route is written out: some of cloud-init's renderers fail on the word `default`.
fn network_config(spec: &Spec, node: &Node, network: &Network) -> Result<String> {
    let mut text = String::from("version: 2\nethernets:\n");
    match &network.interface {
        Interface::Name(name) => writeln!(text, "  {name}:")?,
        Interface::Mac(mac) => writeln!(
            text,
            "  eth0:\n    match:\n      macaddress: \"{}\"\n    set-name: eth0",
            mac.to_lowercase()
        )?,
    }
    writeln!(text, "    dhcp4: false\n    dhcp6: false")?;
    writeln!(text, "    addresses: [\"{}/{}\"]", node.address, spec.network.subnet.prefix_len())?;
    if let Some(gateway) = network.gateway {
        let everywhere = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        writeln!(text, "    routes:\n      - to: \"{everywhere}\"\n        via: \"{gateway}\"")?;
    }
    if !network.nameservers.is_empty() {
        let servers: Vec<_> = network.nameservers.iter().map(|s| format!("\"{s}\"")).collect();
        writeln!(text, "    nameservers:\n      addresses: [{}]", servers.join(", "))?;
    }
    Ok(text)
}

/// Writes a node's seed: an ISO 9660 file, or a directory where `out` ends in a slash.
pub fn make(spec: &Spec, node: &str, network: Option<&Network>, out: &Path) -> Result<()> {
    let names = || spec.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ");
    let node =
        spec.node(node).with_context(|| format!("no node {node:?} in the spec; there are: {}", names()))?;
    let files = files(spec, node, network)?;
    if out.to_string_lossy().ends_with('/') {
        return directory(&files, out);
    }
    if out.extension().is_none_or(|ending| ending != "iso") {
        bail!(
            "{}: a seed is a file that ends in .iso, or a directory named with a final slash",
            out.display()
        );
    }
    tool::need(&["xorriso"])?;
    scratch::check_output(out)?;
    let scratch = Scratch::beside(out)?;
    let content = scratch.join("content");
    directory(&files, &content)?;
    let made = scratch.join("iso");
    let mut xorriso = command("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-V", "CIDATA", "-J", "-r", "-o"]).arg(&made).arg(&content);
    run(&mut xorriso)?;
    scratch::publish(&made, out)
}

fn directory(files: &[(&'static str, String)], at: &Path) -> Result<()> {
    std::fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
    for (name, text) in files {
        let at = at.join(name);
        tree::replace(&at, text.as_bytes(), 0o600, None)
            .with_context(|| format!("writing {}", at.display()))?;
    }
    Ok(())
}
