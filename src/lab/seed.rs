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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_is_never_written_as_cloud_init_cannot_read_it() {
        for (own, outside, subnet, routes) in
            [("10.0.0.2", "10.0.0.1", "10.0.0.0/24", 1), ("fd00::2", "fd00::1", "fd00::/64", 0)]
        {
            let node = Node { name: "a".into(), hostname: "a".into(), address: own.parse().unwrap() };
            let layout: Layout = serde_json::from_value(serde_json::json!({
                "schema": 1, "subnet": subnet, "outside": outside, "vm": true, "nodes": [],
                "image": { "path": "/x.raw", "bytes": 1, "modified_ns": 1 },
            }))
            .unwrap();
            let config = network(&layout, &node, Interface::WithMac("52:54:00:00:00:01"));
            let eth0 = &config["ethernets"]["eth0"];
            assert_eq!(eth0["match"]["macaddress"], "52:54:00:00:00:01");
            assert_eq!(eth0["routes"].as_array().map_or(0, Vec::len), routes);
            assert!(!config.to_string().contains("default") && !config.to_string().contains("::/0"));
        }
    }
}
