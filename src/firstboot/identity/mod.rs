//! Identity: which node of the spec this machine is. Sources that disagree are an error.

pub mod metadata;
pub mod platform;

use crate::disk::Pin;
use crate::host::machine::Machine;
use crate::identity::metadata::Metadata;
use hanode_core::spec::Spec;
use hanode_util::user_error::UserError;
use thiserror::Error;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Identity {
    pub(crate) node: String,
    /// `metadata`, `host name`, `address` or `pinned`.
    pub(crate) source: &'static str,
    /// A contradiction that does not stop the boot.
    pub(crate) warning: Option<String>,
}

#[derive(Debug, Error, PartialEq)]
pub(crate) enum IdentityError {
    #[error("the metadata key {key} is {value:?}, but the spec has no such node")]
    UnknownNode { key: &'static str, value: String, known: String },
    #[error("the {first} identifies this machine as {first_node}, the {second} as {second_node}")]
    Contradiction { first: &'static str, first_node: String, second: &'static str, second_node: String },
    #[error("this is the disk of {pinned}, now in a machine that {source_name} calls {claimed}")]
    OtherMachine { pinned: String, source_name: &'static str, claimed: String },
    /// Has the names of all nodes.
    #[error("cannot tell which node this is")]
    Unidentified(String),
}

impl IdentityError {
    fn help(&self) -> String {
        match self {
            IdentityError::UnknownNode { known, .. } => format!("set it to one of {known}"),
            IdentityError::Contradiction { .. } => "correct the wrong one".into(),
            IdentityError::OtherMachine { pinned, .. } => {
                format!("wipe the disk or restore the metadata of {pinned}")
            }
            IdentityError::Unidentified(nodes) => format!(
                "set the metadata key {} or the host name to one of {nodes}, or configure the address of one of them",
                metadata::KEY
            ),
        }
    }
}

impl From<IdentityError> for UserError {
    fn from(error: IdentityError) -> Self {
        UserError::with_help(error.to_string(), error.help())
    }
}

/// The pinned identity, or the one in which all sources agree.
pub(crate) fn identify(
    spec: &Spec,
    machine: &Machine,
    metadata: Option<&Metadata>,
    pin: Option<&Pin>,
) -> Result<Identity, IdentityError> {
    let claim = match (claimed(spec, machine, metadata), pin) {
        (Err(contradiction), Some(pin)) if same_machine(pin, machine, metadata) => {
            let warning = format!("{contradiction}; it stays {}, as pinned on its disk", pin.node);
            return Ok(pinned(pin, Some(warning)));
        }
        (claim, _) => claim?,
    };
    match (pin, claim) {
        (None, None) => Err(IdentityError::Unidentified(names(spec))),
        (None, Some((source, node))) => Ok(Identity { node, source, warning: None }),
        (Some(pin), None) => Ok(pinned(pin, None)),
        (Some(pin), Some((_, node))) if node == pin.node => Ok(pinned(pin, None)),
        (Some(pin), Some((source, node))) if same_machine(pin, machine, metadata) => {
            let warning = format!(
                "the {source} now identifies this machine as {node}; it stays {}, as pinned on its disk",
                pin.node
            );
            Ok(pinned(pin, Some(warning)))
        }
        (Some(pin), Some((source, node))) => {
            Err(IdentityError::OtherMachine { pinned: pin.node.clone(), source_name: source, claimed: node })
        }
    }
}

fn pinned(pin: &Pin, warning: Option<String>) -> Identity {
    Identity { node: pin.node.clone(), source: "pinned", warning }
}

/// The node on which all sources agree, and the first of them; `None` if there is no source.
fn claimed(
    spec: &Spec,
    machine: &Machine,
    metadata: Option<&Metadata>,
) -> Result<Option<(&'static str, String)>, IdentityError> {
    let mut claims: Vec<(&'static str, String)> = Vec::new();
    if let Some(value) = metadata.and_then(|m| m.node.as_ref()) {
        let named = spec.nodes.iter().find(|node| node.name.eq_ignore_ascii_case(value));
        let unknown =
            || IdentityError::UnknownNode { key: metadata::KEY, value: value.clone(), known: names(spec) };
        claims.push(("metadata", named.ok_or_else(unknown)?.name.clone()));
    }
    let hostnames = [metadata.and_then(|m| m.hostname.as_deref()), Some(machine.hostname.as_str())];
    claims.extend(
        hostnames.into_iter().flatten().filter_map(|h| by_hostname(spec, h)).map(|n| ("host name", n)),
    );
    let by_address = spec.nodes.iter().filter(|n| machine.has_address(n.address));
    claims.extend(by_address.map(|n| ("address", n.name.clone())));
    let Some(first) = claims.first().cloned() else { return Ok(None) };
    match claims.iter().find(|c| c.1 != first.1) {
        Some(other) => Err(IdentityError::Contradiction {
            first: first.0,
            first_node: first.1,
            second: other.0,
            second_node: other.1.clone(),
        }),
        None => Ok(Some(first)),
    }
}

/// Host names are case-insensitive; a spec has no two nodes whose names differ only in case. Other host names are ignored:
/// images boot as `localhost` or `ip-10-0-0-7`.
fn by_hostname(spec: &Spec, hostname: &str) -> Option<String> {
    let short = hostname.split('.').next().unwrap_or(hostname);
    let has_name = |n: &&hanode_core::spec::Node| {
        let known = [n.name.as_str(), n.hostname.as_str()];
        known.iter().any(|k| k.eq_ignore_ascii_case(hostname) || k.eq_ignore_ascii_case(short))
    };
    spec.nodes.iter().find(has_name).map(|n| n.name.clone())
}

/// A clone has another machine UUID and another instance-id; if one of them is known and equal, it is the
/// same machine.
fn same_machine(pin: &Pin, machine: &Machine, metadata: Option<&Metadata>) -> bool {
    let equal = |a: Option<&String>, b: Option<&String>| a.is_some() && a == b;
    equal(pin.machine_uuid.as_ref(), machine.uuid.as_ref())
        || equal(pin.instance_id.as_ref(), metadata.and_then(|m| m.instance_id.as_ref()))
}

fn names(spec: &Spec) -> String {
    spec.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::machine::Interface;
    use hanode_core::spec;

    fn machine(hostname: &str, address: &str, uuid: &str) -> Machine {
        let interface =
            |a: &str| Interface { name: "eth0".into(), address: a.parse().expect("address"), prefix: 24 };
        let interfaces = if address.is_empty() { vec![] } else { vec![interface(address)] };
        Machine { hostname: hostname.into(), uuid: Some(uuid.into()), interfaces }
    }

    fn metadata(node: &str, hostname: &str, instance: &str) -> Metadata {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_string());
        Metadata {
            node: some(node),
            hostname: some(hostname),
            instance_id: some(instance),
            ..Metadata::default()
        }
    }

    fn pin(node: &str) -> Pin {
        Pin {
            schema: 1,
            node: node.into(),
            instance_id: Some("i-1".into()),
            machine_uuid: Some("u-1".into()),
        }
    }

    fn identify_starter(
        machine: &Machine,
        metadata: Option<&Metadata>,
        pin: Option<&Pin>,
    ) -> Result<(String, &'static str), IdentityError> {
        let spec = spec::parse(spec::STARTER).unwrap_or_else(|f| panic!("{f}"));
        identify(&spec, machine, metadata, pin).map(|i| (i.node, i.source))
    }

    #[test]
    fn each_source_alone_is_enough() {
        let plain = machine("localhost", "10.0.0.7", "u-1");
        assert_eq!(
            identify_starter(&plain, Some(&metadata("node2", "", "")), None),
            Ok(("node2".into(), "metadata"))
        );
        assert_eq!(
            identify_starter(&plain, Some(&metadata("", "node3.example.org", "")), None),
            Ok(("node3".into(), "host name"))
        );
        assert_eq!(
            identify_starter(&machine("node1", "", "u"), None, None),
            Ok(("node1".into(), "host name"))
        );
        assert_eq!(
            identify_starter(&machine("debian", "192.168.18.22", "u"), None, None),
            Ok(("node2".into(), "address"))
        );
        assert_eq!(
            identify_starter(&plain, None, None),
            Err(IdentityError::Unidentified("node1, node2, node3".into()))
        );
    }

    /// vSphere and Windows tools write host names in capitals.
    #[test]
    fn names_are_compared_without_their_case() {
        let plain = machine("localhost", "10.0.0.7", "u-1");
        let found =
            |machine: &Machine, metadata: Option<&Metadata>| identify_starter(machine, metadata, None);
        let node2 = |source| Ok(("node2".to_string(), source));
        assert_eq!(found(&plain, Some(&metadata("NODE2", "", ""))), node2("metadata"));
        assert_eq!(found(&plain, Some(&metadata("", "Node2.Example.ORG", ""))), node2("host name"));
        assert_eq!(found(&machine("NODE2", "192.168.18.22", "u"), None), node2("host name"));
        assert_eq!(found(&machine("NODE2", "", "u"), Some(&metadata("node2", "", ""))), node2("metadata"));
        let cased = identify_starter(&machine("NODE2", "", "u-1"), None, Some(&pin("node2")));
        assert_eq!(cased, Ok(("node2".into(), "pinned")));
    }

    #[test]
    fn disagreement_is_an_error_that_names_both() {
        let both =
            identify_starter(&machine("node2", "192.168.18.21", "u"), Some(&metadata("node1", "", "")), None);
        assert_eq!(
            both,
            Err(IdentityError::Contradiction {
                first: "metadata",
                first_node: "node1".into(),
                second: "host name",
                second_node: "node2".into()
            })
        );
        let unknown = identify_starter(&machine("x", "", "u"), Some(&metadata("node9", "", "")), None);
        let unknown = UserError::from(unknown.unwrap_err());
        assert!(unknown.what.contains("\"node9\", but the spec has no such node"), "{unknown}");
        assert_eq!(unknown.help, "set it to one of node1, node2, node3");
    }

    #[test]
    fn a_pinned_disk_keeps_its_identity_on_the_same_machine() {
        let here = machine("localhost", "", "u-1");
        assert_eq!(
            identify_starter(&here, None, Some(&pin("node1"))),
            Ok(("node1".into(), "pinned")),
            "no metadata"
        );
        let other = metadata("node2", "", "i-9");
        assert_eq!(
            identify_starter(&here, Some(&other), Some(&pin("node1"))),
            Ok(("node1".into(), "pinned")),
            "same machine, wrong tag"
        );
        let itself = machine("node1", "192.168.18.21", "u-1");
        for wrong in ["node2", "node9"] {
            let found = identify_starter(&itself, Some(&metadata(wrong, "", "i-1")), Some(&pin("node1")));
            assert_eq!(found, Ok(("node1".into(), "pinned")), "own address, but metadata {wrong}");
        }
    }

    #[test]
    fn a_pinned_disk_in_another_machine_is_refused() {
        let elsewhere = machine("localhost", "", "u-2");
        let found = identify_starter(&elsewhere, Some(&metadata("node2", "", "i-2")), Some(&pin("node1")));
        let refused = IdentityError::OtherMachine {
            pinned: "node1".into(),
            source_name: "metadata",
            claimed: "node2".into(),
        };
        assert_eq!(found, Err(refused));
        assert_eq!(
            identify_starter(&elsewhere, Some(&metadata("node1", "", "i-2")), Some(&pin("node1"))),
            Ok(("node1".into(), "pinned")),
            "the disk moved together with its metadata"
        );
    }
}
