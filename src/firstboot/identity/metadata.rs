//! This machine's metadata as cloud-init saved it. Untrusted input: its size is bounded, and only a few
//! values are read. [`super::platform`] reads tags that an older cloud-init does not save.

use hanode_util::user_error::UserError;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

const SENSITIVE: &str = "run/cloud-init/instance-data-sensitive.json";
const PLAIN: &str = "run/cloud-init/instance-data.json";
const MAX_BYTES: u64 = 8 << 20;
pub(crate) const KEY: &str = "hanode_node";
/// The cluster begins with a restore.
pub(crate) const RESTORE_KEY: &str = "hanode_restore";

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    /// The node name from the platform's tag `hanode_node`.
    pub node: Option<String>,
    /// The tag `hanode_restore`.
    pub restore: Option<String>,
    pub hostname: Option<String>,
    pub instance_id: Option<String>,
    /// cloud-init's name of the platform: `ec2`, `openstack`, `nocloud`…
    pub platform: Option<String>,
}

/// `None` if cloud-init saved no metadata.
pub fn read(root: &Path) -> anyhow::Result<Option<Metadata>> {
    for name in [SENSITIVE, PLAIN] {
        match std::fs::File::open(root.join(name)) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
                anyhow::ensure!(
                    bytes.len() as u64 <= MAX_BYTES,
                    "/{name} is larger than {} MiB",
                    MAX_BYTES >> 20
                );
                let parsed = serde_json::from_slice(&bytes).map_err(|error| {
                    UserError::new(
                        format!("not JSON: {error}"),
                        format!("/{name}"),
                        "see `cloud-init status --long`",
                    )
                })?;
                return Ok(Some(parse(&parsed)));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(anyhow::Error::new(error).context(format!("reading /{name}"))),
        }
    }
    Ok(None)
}

/// Trimmed text of at most 255 bytes, the limit of a host name.
pub(crate) fn short_text(text: &str) -> Option<String> {
    Some(text.trim()).filter(|s| !s.is_empty() && s.len() <= 255).map(String::from)
}

pub fn parse(data: &Value) -> Metadata {
    let text = |v: &Value| v.as_str().and_then(short_text);
    let v1 = &data["v1"];
    Metadata {
        node: tag(&data["ds"], KEY).and_then(|v| text(&v)),
        restore: tag(&data["ds"], RESTORE_KEY).and_then(|v| restore_text(&v)),
        hostname: text(&v1["local_hostname"]).or_else(|| text(&v1["local-hostname"])),
        instance_id: text(&v1["instance_id"]).or_else(|| text(&v1["instance-id"])),
        platform: text(&v1["platform"]),
    }
}

/// Unlike a node name, a value that is too long must not count as none: the machine would begin a new cluster.
fn restore_text(value: &Value) -> Option<String> {
    Some(value.as_str()?.trim().chars().take(255).collect()).filter(|text: &String| !text.is_empty())
}

/// A tag from the place where each platform has it.
fn tag(ds: &Value, key: &str) -> Option<Value> {
    // On EC2 cloud-init saves the crawled metadata under a key with a hyphen.
    let meta = if ds["meta_data"].is_null() { &ds["meta-data"] } else { &ds["meta_data"] };
    let values = [
        &meta[key],                     // NoCloud, VMware guestinfo.metadata
        &meta["meta"][key],             // OpenStack, config drive
        &meta["tags"]["instance"][key], // EC2, cloud-init 22.2 and later
    ];
    let plain = values.into_iter().find(|v| v.is_string()).cloned();
    plain.or_else(|| gce(meta, key)).or_else(|| azure(&meta["imds"]["compute"], key))
}

/// GCE's attributes are JSON text inside the JSON.
fn gce(meta: &Value, key: &str) -> Option<Value> {
    let attributes: Value = serde_json::from_str(meta["instance-data"].as_str()?).ok()?;
    attributes.get(key).cloned()
}

/// Azure has tags as a list of pairs, or for older clients as `name:value;name:value`.
fn azure(compute: &Value, key: &str) -> Option<Value> {
    let listed = compute["tagsList"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|t| t["name"] == key)
        .map(|t| t["value"].clone());
    listed.or_else(|| {
        let pairs = compute["tags"].as_str()?.split(';');
        pairs.filter_map(|p| p.split_once(':')).find(|(k, _)| *k == key).map(|(_, v)| Value::from(v))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_tag_of_every_platform_is_found() {
        for ds in [
            json!({"meta_data": {"hanode_node": "node2"}}),
            json!({"meta_data": {"meta": {"hanode_node": "node2"}}}),
            json!({"meta-data": {"tags": {"instance": {"hanode_node": "node2"}}}}),
            json!({"meta_data": {"instance-data": "{\"hanode_node\": \"node2\"}"}}),
            json!({"meta_data": {"imds": {"compute": {"tagsList": [{"name": "hanode_node", "value": "node2"}]}}}}),
            json!({"meta_data": {"imds": {"compute": {"tags": "a:b;hanode_node:node2"}}}}),
        ] {
            assert_eq!(parse(&json!({"ds": ds})).node.as_deref(), Some("node2"), "{ds}");
            // The same place has every key; a value may have colons.
            let time = "prod/2026-11-30T12:30:00Z";
            let ds = ds.to_string().replace("hanode_node", "hanode_restore").replace("node2", time);
            let ds: Value = serde_json::from_str(&ds).expect("JSON");
            assert_eq!(parse(&json!({"ds": ds})).restore.as_deref(), Some(time), "{ds}");
        }
    }

    #[test]
    fn a_missing_or_invalid_tag_is_ignored() {
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
        fn any_json_is_parsed_without_panic(text in ".{0,200}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let _ = parse(&value);
            }
        }
    }
}
