//! Shared by both test programs: paths of the programs under test, and a cluster directory.
#![allow(dead_code)]

pub mod admin_dir;
pub mod command;
pub mod loopback;
pub mod programs;

use hanode_core::spec::{self, Spec};
use std::path::PathBuf;

/// The starter spec.
pub fn spec() -> Spec {
    spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"))
}

/// A path in the source tree.
pub fn sources(path: &str) -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Instance data recorded from this version of cloud-init on a platform.
pub fn recorded_metadata(version: &str, platform: &str) -> serde_json::Value {
    let file = sources("tests/metadata/recorded").join(version).join(format!("{platform}.json"));
    serde_json::from_slice(&std::fs::read(file).expect("a recorded file")).expect("JSON")
}

pub const PLATFORMS: [&str; 7] = ["nocloud", "configdrive", "openstack", "ec2", "gce", "azure", "vmware"];
