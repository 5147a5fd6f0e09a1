//! The NoCloud seed of a lab's node: what a cloud would tell the machine about itself.

use super::layout::{Disk, Layout, Node};
use anyhow::{Context, Result};
use std::path::Path;

/// Which interface the network configuration is for.
pub enum Interface<'a> {
    Named(&'a str),
    WithMac(&'a str),
}

/// Writes the three files into `into`. `ssh_key` may log in as root.
pub fn write(
    into: &Path,
    layout: &Layout,
    node: &Node,
    disk: &Disk,
    interface: Interface,
    ssh_key: Option<&str>,
) -> Result<()> {
    std::fs::create_dir_all(into)?;
    let meta_data = serde_json::json!({
        "instance-id": disk.instance_id,
        "local-hostname": node.hostname,
        "hanode_node": node.name,
    });
    let user_data = match ssh_key {
        Some(key) => serde_json::json!({ "disable_root": false, "ssh_authorized_keys": [key.trim()] }),
        None => serde_json::json!({}),
    };
    // JSON is YAML, and quotes what needs it.
    let files = [
        ("meta-data", format!("{meta_data}\n")),
        ("user-data", format!("#cloud-config\n{user_data}\n")),
        ("network-config", format!("{}\n", network(layout, node, interface))),
    ];
    for (name, text) in files {
        let path = into.join(name);
        crate::tree::replace(&path, text.as_bytes(), 0o600, None)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn network(layout: &Layout, node: &Node, interface: Interface) -> serde_json::Value {
    let mut settings = serde_json::json!({
        "addresses": [format!("{}/{}", node.address, layout.subnet.prefix_len())],
    });
    // cloud-init's renderer for networkd fails on `default` and on an IPv6 default route; a lab, which
    // leads nowhere, can do without the latter.
    if layout.outside.is_ipv4() {
        settings["routes"] = serde_json::json!([{ "to": "0.0.0.0/0", "via": layout.outside }]);
    }
    let name = match interface {
        Interface::Named(name) => name,
        Interface::WithMac(mac) => {
            settings["match"] = serde_json::json!({ "macaddress": mac });
            settings["set-name"] = "eth0".into();
            "eth0"
        }
    };
    serde_json::json!({ "version": 2, "ethernets": { name: settings } })
}
