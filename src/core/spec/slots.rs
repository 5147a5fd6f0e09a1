//! `[[slot]]`: replication slots for consumers outside the cluster, which Patroni creates and keeps after a failover.

use super::reader::{Reader, Section};
use super::suggest::printable;
use super::{Role, Spec, WalLevel};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A replication slot for a consumer outside the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    pub name: String,
    #[serde(flatten)]
    pub kind: SlotKind,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SlotKind {
    Physical,
    Logical { database: String, plugin: String },
}

#[derive(Clone, Copy)]
enum Type {
    Physical,
    Logical,
}

pub(super) fn slots(top: &Section) -> Vec<Slot> {
    let read = |s: Section| {
        let name = s.required("name", s.text("name"), String::new(), "give this slot a name");
        let kind = s.choice("type", &[("physical", Type::Physical), ("logical", Type::Logical)]);
        let kind = s.required("type", kind, Type::Physical, "write \"physical\" or \"logical\"");
        let (database, plugin) = (s.text("database"), s.text("plugin"));
        let kind = match kind {
            Type::Logical => SlotKind::Logical {
                database: database.unwrap_or_else(|| Role::APP.into()),
                plugin: plugin.unwrap_or_else(|| "pgoutput".into()),
            },
            Type::Physical => {
                for (key, value) in [("database", database), ("plugin", plugin)] {
                    if value.is_some() {
                        s.fault(
                            key,
                            format!("a physical slot has no {key}"),
                            "remove it, or set type = \"logical\"",
                        );
                    }
                }
                SlotKind::Physical
            }
        };
        s.finish();
        Slot { name, kind }
    };
    top.sections("slot").into_iter().map(read).collect()
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// The name that Patroni gives to the slot of a node's standby.
pub(crate) fn slot_of_node(node: &str) -> String {
    let replace = |c: char| match c {
        '-' | '.' => "_".to_string(),
        c if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' => c.to_string(),
        c => format!("u{:04}", u32::from(c)),
    };
    node.to_lowercase().chars().map(replace).collect::<String>().chars().take(63).collect()
}

pub(super) fn check(spec: &Spec, reader: &Reader) {
    let of_nodes: BTreeSet<String> = spec.nodes.iter().map(|node| slot_of_node(&node.name)).collect();
    let mut seen = BTreeSet::new();
    for (i, slot) in spec.slots.iter().enumerate() {
        let path = |key: &str| format!("slot.{i}.{key}");
        let name = &slot.name;
        if !is_name(name) {
            let what = format!("\"{}\" is not a valid name for a slot", printable(name));
            reader.fault(&path("name"), what, "use up to 63 lower-case letters, digits and _");
        } else if of_nodes.contains(name) {
            let what = format!("{name} is the slot of a node's standby");
            reader.fault(&path("name"), what, "use another name");
        } else if !seen.insert(name) {
            reader.fault(&path("name"), format!("two slots are named {name}"), "use different names");
        }
        if let SlotKind::Logical { database, plugin } = &slot.kind {
            check_logical(spec, reader, i, database, plugin);
        }
    }
}

fn check_logical(spec: &Spec, reader: &Reader, index: usize, database: &str, plugin: &str) {
    let path = |key: &str| format!("slot.{index}.{key}");
    if spec.postgres.wal_level != WalLevel::Logical {
        let what = "a logical slot needs more in the WAL than wal_level = \"replica\" writes";
        reader.fault(&path("type"), what, "set wal_level = \"logical\" in [postgres]");
    }
    if database != Role::APP && !spec.databases.iter().any(|declared| declared.name == database) {
        let what = format!("database \"{}\" is not one of the spec", printable(database));
        reader.fault(&path("database"), what, "add a [[database]] with this name, or use app");
    }
    if !is_name(plugin) {
        let what = format!("\"{}\" is not a valid name for an output plugin", printable(plugin));
        reader.fault(&path("plugin"), what, "use pgoutput, or the name of an installed plugin");
    }
}
