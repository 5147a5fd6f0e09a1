//! What cloud-init learned of this machine. Hostile input: bounded, and nothing in it is believed
//! beyond the few values read here. What an older cloud-init does not pass on: [`super::platform`].

use serde_json::Value;
use std::io::Read;
use std::path::Path;

const SENSITIVE: &str = "run/cloud-init/instance-data-sensitive.json";
const PLAIN: &str = "run/cloud-init/instance-data.json";
const MAX: u64 = 8 << 20;
pub(crate) const KEY: &str = "hanode_node";

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    /// The node's name as the platform's own tag gives it.
    pub node: Option<String>,
    pub hostname: Option<String>,
    pub instance_id: Option<String>,
    /// cloud-init's word for where this machine runs: `ec2`, `openstack`, `nocloud`…
    pub platform: Option<String>,
}

/// `None` where cloud-init left nothing: its metadata is gone or it never ran.
pub fn read(root: &Path) -> anyhow::Result<Option<Metadata>> {
    for name in [SENSITIVE, PLAIN] {
        match std::fs::File::open(root.join(name)) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(MAX + 1).read_to_end(&mut bytes)?;
                anyhow::ensure!(bytes.len() as u64 <= MAX, "/{name} is larger than {} MiB", MAX >> 20);
                let parsed = serde_json::from_slice(&bytes).map_err(|e| {
                    anyhow::anyhow!("/{name} is no JSON ({e}); look at `cloud-init status --long`")
                })?;
                return Ok(Some(parse(&parsed)));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(anyhow::Error::new(error).context(format!("reading /{name}"))),
        }
    }
    Ok(None)
}

/// A word of metadata: no name of a node or machine is longer.
pub(crate) fn word(text: &str) -> Option<String> {
    Some(text.trim()).filter(|s| !s.is_empty() && s.len() <= 255).map(String::from)
}

pub fn parse(data: &Value) -> Metadata {
    let text = |v: &Value| v.as_str().and_then(word);
    let v1 = &data["v1"];
    Metadata {
        node: tagged(&data["ds"]).and_then(|v| text(&v)),
        hostname: text(&v1["local_hostname"]).or_else(|| text(&v1["local-hostname"])),
        instance_id: text(&v1["instance_id"]).or_else(|| text(&v1["instance-id"])),
        platform: text(&v1["platform"]),
    }
}

/// Each platform's own place for a machine's tag.
fn tagged(ds: &Value) -> Option<Value> {
    // Of EC2 cloud-init keeps what it crawled, whose key has a hyphen.
    let meta = if ds["meta_data"].is_null() { &ds["meta-data"] } else { &ds["meta_data"] };
    let places = [
        &meta[KEY],                     // NoCloud, VMware guestinfo.metadata
        &meta["meta"][KEY],             // OpenStack, config drive
        &meta["tags"]["instance"][KEY], // EC2, cloud-init 22.2 and later
    ];
    let plain = places.into_iter().find(|v| v.is_string()).cloned();
    plain.or_else(|| gce(meta)).or_else(|| azure(&meta["imds"]["compute"]))
}

/// GCE's attributes arrive as the text that the metadata server sent.
fn gce(meta: &Value) -> Option<Value> {
    let attributes: Value = serde_json::from_str(meta["instance-data"].as_str()?).ok()?;
    attributes.get(KEY).cloned()
}

/// Azure gives tags as a list of pairs, or, to older clients, as `name:value;name:value`.
fn azure(compute: &Value) -> Option<Value> {
    let listed = compute["tagsList"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|t| t["name"] == KEY)
        .map(|t| t["value"].clone());
    listed.or_else(|| {
        let pairs = compute["tags"].as_str()?.split(';');
        pairs.filter_map(|p| p.split_once(':')).find(|(k, _)| *k == KEY).map(|(_, v)| Value::from(v))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn every_platforms_tag_is_found() {
        for ds in [
            json!({"meta_data": {"hanode_node": "node2"}}),
            json!({"meta_data": {"meta": {"hanode_node": "node2"}}}),
            json!({"meta-data": {"tags": {"instance": {"hanode_node": "node2"}}}}),
            json!({"meta_data": {"instance-data": "{\"hanode_node\": \"node2\"}"}}),
            json!({"meta_data": {"imds": {"compute": {"tagsList": [{"name": "hanode_node", "value": "node2"}]}}}}),
            json!({"meta_data": {"imds": {"compute": {"tags": "a:b;hanode_node:node2"}}}}),
        ] {
            assert_eq!(parse(&json!({"ds": ds})).node.as_deref(), Some("node2"), "{ds}");
        }
    }

    #[test]
    fn absence_and_wrong_types_are_no_name() {
        for data in [
            json!(null),
            json!([]),
            json!({"ds": {"meta_data": {"hanode_node": 7}}}),
            json!({"ds": {"meta_data": {"hanode_node": ""}}}),
        ] {
            assert_eq!(parse(&data).node, None, "{data}");
        }
        let long = "x".repeat(300);
        assert_eq!(parse(&json!({"ds": {"meta_data": {"hanode_node": long}}})).node, None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".{0,200}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let _ = parse(&value);
            }
        }
    }
}
