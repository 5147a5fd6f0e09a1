//! Identity: which node of the spec this machine is. Sources that disagree are an error, never a guess.

pub(crate) mod duplicate_address;
pub(crate) mod machine;
pub mod metadata;
pub mod platform;

use crate::identity::machine::Machine;
use crate::identity::metadata::Metadata;
use hanode_core::spec::Spec;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What is pinned on the disk before any service directory is touched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pin {
    pub(crate) schema: u32,
    pub(crate) node: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) machine_uuid: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Identity {
    pub(crate) node: String,
    /// `metadata`, `host name`, `address` or `pinned`.
    pub(crate) source: &'static str,
    /// What an operator should look at, though the boot goes on.
    pub(crate) warning: Option<String>,
}

#[derive(Debug, Error, PartialEq)]
pub(crate) enum IdentityError {
    #[error("metadata says {0} = {1:?}, and the spec has no such node; correct the metadata (known: {2})")]
    Unknown(&'static str, String, String),
    #[error("{0} says this is {1}, {2} says {3}; correct the one that is wrong and reboot")]
    Disagree(&'static str, String, &'static str, String),
    #[error(
        "this is the disk of {pinned}, now in a machine that {source_} calls {claimed}; wipe the disk or restore the metadata of {pinned}"
    )]
    OtherMachine { pinned: String, source_: &'static str, claimed: String },
    #[error(
        "nothing says which node this is: set the metadata key hanode_node, the host name, or an address to one of: {0}"
    )]
    Unidentified(String),
}

/// First match wins; disagreement between two sources is an error.
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
                "{source} now calls this machine {node}; it stays {}, as pinned on its disk",
                pin.node
            );
            Ok(pinned(pin, Some(warning)))
        }
        (Some(pin), Some((source, node))) => {
            Err(IdentityError::OtherMachine { pinned: pin.node.clone(), source_: source, claimed: node })
        }
    }
}

fn pinned(pin: &Pin, warning: Option<String>) -> Identity {
    Identity { node: pin.node.clone(), source: "pinned", warning }
}

/// What the sources say, if any says something; all that do must agree.
fn claimed(
    spec: &Spec,
    machine: &Machine,
    metadata: Option<&Metadata>,
) -> Result<Option<(&'static str, String)>, IdentityError> {
    let mut claims: Vec<(&'static str, String)> = Vec::new();
    if let Some(node) = metadata.and_then(|m| m.node.as_ref()) {
        if spec.node(node).is_none() {
            return Err(IdentityError::Unknown(crate::identity::metadata::KEY, node.clone(), names(spec)));
        }
        claims.push(("metadata", node.clone()));
    }
    let hostnames = [metadata.and_then(|m| m.hostname.as_deref()), Some(machine.hostname.as_str())];
    claims.extend(
        hostnames.into_iter().flatten().filter_map(|h| by_hostname(spec, h)).map(|n| ("host name", n)),
    );
    let held = spec.nodes.iter().filter(|n| machine.holds(n.address));
    claims.extend(held.map(|n| ("address", n.name.clone())));
    let Some(first) = claims.first().cloned() else { return Ok(None) };
    match claims.iter().find(|c| c.1 != first.1) {
        Some(other) => Err(IdentityError::Disagree(first.0, first.1, other.0, other.1.clone())),
        None => Ok(Some(first)),
    }
}

/// A host name that is no node's says nothing: images come up as `localhost` or `ip-10-0-0-7`.
fn by_hostname(spec: &Spec, hostname: &str) -> Option<String> {
    let short = hostname.split('.').next().unwrap_or(hostname);
    let is = |n: &&hanode_core::spec::Node| {
        [n.name.as_str(), n.hostname.as_str()].iter().any(|k| *k == hostname || *k == short)
    };
    spec.nodes.iter().find(is).map(|n| n.name.clone())
}

/// A clone bears another machine UUID and gets another instance-id; either one that is known and equal
/// means the same machine.
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
    use crate::identity::machine::Interface;
    use hanode_core::spec;

    fn machine(hostname: &str, address: &str, uuid: &str) -> Machine {
        let interface =
            |a: &str| Interface { name: "eth0".into(), address: a.parse().expect("address"), prefix: 24 };
        let interfaces = if address.is_empty() { vec![] } else { vec![interface(address)] };
        Machine { hostname: hostname.into(), uuid: Some(uuid.into()), interfaces }
    }

    fn metadata(node: &str, hostname: &str, instance: &str) -> Metadata {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_string());
        Metadata { node: some(node), hostname: some(hostname), instance_id: some(instance), platform: None }
    }

    fn pin(node: &str) -> Pin {
        Pin {
            schema: 1,
            node: node.into(),
            instance_id: Some("i-1".into()),
            machine_uuid: Some("u-1".into()),
        }
    }

    fn look(
        machine: &Machine,
        metadata: Option<&Metadata>,
        pin: Option<&Pin>,
    ) -> Result<(String, &'static str), IdentityError> {
        let spec = spec::parse(spec::STARTER).unwrap_or_else(|f| panic!("{f}"));
        identify(&spec, machine, metadata, pin).map(|i| (i.node, i.source))
    }

    #[test]
    fn each_source_alone_is_enough_and_the_first_names_it() {
        let plain = machine("localhost", "10.0.0.7", "u-1");
        assert_eq!(look(&plain, Some(&metadata("node2", "", "")), None), Ok(("node2".into(), "metadata")));
        assert_eq!(
            look(&plain, Some(&metadata("", "node3.example.org", "")), None),
            Ok(("node3".into(), "host name"))
        );
        assert_eq!(look(&machine("node1", "", "u"), None, None), Ok(("node1".into(), "host name")));
        assert_eq!(
            look(&machine("debian", "192.168.18.22", "u"), None, None),
            Ok(("node2".into(), "address"))
        );
        assert_eq!(look(&plain, None, None), Err(IdentityError::Unidentified("node1, node2, node3".into())));
    }

    #[test]
    fn disagreement_is_an_error_that_names_both() {
        let both = look(&machine("node2", "192.168.18.21", "u"), Some(&metadata("node1", "", "")), None);
        assert_eq!(
            both,
            Err(IdentityError::Disagree("metadata", "node1".into(), "host name", "node2".into()))
        );
        let unknown = look(&machine("x", "", "u"), Some(&metadata("node9", "", "")), None);
        assert!(matches!(unknown, Err(IdentityError::Unknown(..))));
    }

    #[test]
    fn a_pinned_disk_stays_what_it_is_on_its_own_machine() {
        let here = machine("localhost", "", "u-1");
        assert_eq!(
            look(&here, None, Some(&pin("node1"))),
            Ok(("node1".into(), "pinned")),
            "metadata is gone"
        );
        let other = metadata("node2", "", "i-9");
        assert_eq!(
            look(&here, Some(&other), Some(&pin("node1"))),
            Ok(("node1".into(), "pinned")),
            "same machine, wrong tag"
        );
        let itself = machine("node1", "192.168.18.21", "u-1");
        for wrong in ["node2", "node9"] {
            let found = look(&itself, Some(&metadata(wrong, "", "i-1")), Some(&pin("node1")));
            assert_eq!(found, Ok(("node1".into(), "pinned")), "with its own address, and called {wrong}");
        }
    }

    #[test]
    fn a_pinned_disk_in_another_machine_is_refused() {
        let elsewhere = machine("localhost", "", "u-2");
        let found = look(&elsewhere, Some(&metadata("node2", "", "i-2")), Some(&pin("node1")));
        let refused = IdentityError::OtherMachine {
            pinned: "node1".into(),
            source_: "metadata",
            claimed: "node2".into(),
        };
        assert_eq!(found, Err(refused));
        assert_eq!(
            look(&elsewhere, Some(&metadata("node1", "", "i-2")), Some(&pin("node1"))),
            Ok(("node1".into(), "pinned")),
            "the disk moved and the metadata with it"
        );
    }
}
