//! The spec's JSON schema, for editors: generated from the keys that the reader reads, their defaults, and the
//! comments of the starter. Only `hanode check` verifies what a schema cannot express (distinct names, addresses
//! inside the subnet …).

use super::{SCHEMA, STARTER, parse};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The smallest valid spec: it yields the default of every other key.
const MINIMAL: &str = r#"
schema = 1
[network]
subnet = "192.168.18.0/24"
vip = "192.168.18.20"
[[node]]
name = "node1"
address = "192.168.18.21"
[[node]]
name = "node2"
address = "192.168.18.22"
[[node]]
name = "node3"
address = "192.168.18.23"
"#;

/// Keys whose default depends on other keys; the schema shows none.
const DERIVED: [&str; 2] = ["pki.crl_url", "redis.initial_primary"];

/// Lists of tables.
const LISTS: [&str; 6] = ["node", "role", "database", "hba", "slot", "redis_user"];

/// The schema as text; reproducible.
pub fn schema_text() -> String {
    format!("{:#}\n", schema())
}

fn schema() -> Value {
    let comments = comments(STARTER);
    let filled = parse(MINIMAL).ok().and_then(|spec| serde_json::to_value(spec).ok()).unwrap_or_default();
    let mut top = table();
    for (path, mut shape) in super::parse::shapes(STARTER) {
        // All items of a list of tables have the same keys.
        let path: Vec<&str> = path.split('.').filter(|key| key.parse::<usize>().is_err()).collect();
        let path = path.join(".");
        let required = shape.as_object_mut().and_then(|s| s.remove("required")).is_some();
        if let Some(comment) = comments.get(&path) {
            shape["description"] = comment.as_str().into();
        }
        let default = filled.pointer(&format!("/{}", path.replace('.', "/")));
        if let Some(default) = default.filter(|d| !required && !d.is_null() && !DERIVED.contains(&&*path)) {
            shape["default"] = default.clone();
        }
        put(&mut top, &path, shape, required, &comments);
    }
    top["properties"]["schema"] = json!({"const": SCHEMA});
    top["properties"]["node"]["minItems"] = 3.into();
    top["required"] = json!(["network", "node", "schema"]);
    top["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    top["title"] = "hanode: cluster.toml".into();
    top
}

fn table() -> Value {
    json!({"type": "object", "additionalProperties": false, "properties": {}})
}

/// Inserts a key's schema into its table.
fn put(top: &mut Value, path: &str, shape: Value, required: bool, comments: &BTreeMap<String, String>) {
    let (parents, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut at = top;
    let mut so_far = String::new();
    for parent in parents.split('.').filter(|p| !p.is_empty()) {
        so_far = if so_far.is_empty() { parent.into() } else { format!("{so_far}.{parent}") };
        let properties = &mut at["properties"];
        if properties[parent].is_null() {
            properties[parent] = match parent {
                list if LISTS.contains(&list) => json!({"type": "array", "items": table()}),
                _ => table(),
            };
            if let Some(comment) = comments.get(&so_far) {
                properties[parent]["description"] = comment.as_str().into();
            }
        }
        at = &mut properties[parent];
        if LISTS.contains(&parent) {
            at = &mut at["items"];
        }
    }
    if required {
        let list = at.as_object_mut().map(|t: &mut Map<_, _>| t.entry("required").or_insert(json!([])));
        if let Some(list) = list.and_then(Value::as_array_mut)
            && !list.contains(&key.into())
        {
            list.push(key.into());
        }
    }
    let known = &mut at["properties"][key];
    if known.is_null() {
        *known = shape;
    }
}

/// The starter's comment for each key and table, by path; commented-out keys count.
fn comments(starter: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut table = String::new();
    for line in starter.lines() {
        let (code, comment) = match line.trim_start_matches("# ").split_once(" # ") {
            Some((code, comment)) => (code.trim(), comment.trim()),
            None => (line.trim_start_matches("# ").trim(), ""),
        };
        let path = if code.starts_with('[') {
            table = code.trim_matches(['[', ']', ' ']).to_string();
            table.clone()
        } else if let Some((key, _)) = code.split_once(" = ") {
            if table.is_empty() { key.to_string() } else { format!("{table}.{key}") }
        } else {
            continue;
        };
        if !found.contains_key(&path) && !comment.is_empty() {
            found.insert(path, comment.to_string());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths of all keys.
    fn leaves(table: &Value, path: &str, found: &mut Vec<String>) {
        for (key, shape) in table["properties"].as_object().expect("properties") {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let inner = if shape["items"]["properties"].is_object() { &shape["items"] } else { shape };
            if inner["properties"].is_object() {
                leaves(inner, &path, found);
            } else {
                found.push(path);
            }
        }
    }

    #[test]
    fn the_starter_shows_every_key() {
        let mut all = Vec::new();
        leaves(&schema(), "", &mut all);
        assert!(all.len() > 40, "{all:?}");
        for path in all {
            let key = path.rsplit('.').next().expect("a key");
            let shown = |l: &str| {
                let line = l.trim_start_matches("# ");
                line.starts_with(&format!("{key} = ")) || line == format!("[{path}]")
            };
            assert!(STARTER.lines().any(shown), "{path} is not in the starter");
        }
    }

    #[test]
    fn ranges_choices_and_defaults_match_the_reader() {
        let schema = schema();
        let of = |path: &str| schema.pointer(path).unwrap_or_else(|| panic!("{path}: {schema:#}"));
        let port = of("/properties/postgres/properties/vip_port");
        assert_eq!(
            (&port["minimum"], &port["maximum"], &port["default"]),
            (&json!(1), &json!(65535), &json!(5432))
        );
        assert_eq!(of("/properties/network/properties/vip_mode/enum"), &json!(["vrrp", "external"]));
        assert_eq!(of("/properties/node/items/required"), &json!(["address", "name"]));
        assert!(of("/properties/patroni/properties/ttl/description").is_string());
    }
}
