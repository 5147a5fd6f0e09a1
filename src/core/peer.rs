//! What a node reports about itself on the join port; the plan decides by these reports.

use crate::spec::Spec;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const SCHEMA: u32 = 1;

/// The port in the image's socket unit; a spec with another one has a drop-in rendered.
pub const PORT: u16 = 7081;

/// What is on a node's disk, as far as joining goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskStage {
    /// No service has data here.
    Blank,
    /// Some service has data, but this disk never served: an interrupted bootstrap, or another's data.
    Data,
    /// A service that takes clients' data was once let go on this disk.
    Served,
}

/// Which services have data on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskData {
    pub etcd: bool,
    pub postgres: bool,
    pub redis: bool,
    /// Sentinel's own file, with an id of its own.
    pub sentinel: bool,
}

/// The ids that etcd writes at the head of a log, in decimal as its interface has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EtcdLogIds {
    pub member: String,
    pub cluster: String,
}

/// Which PostgreSQL cluster the data on a disk is of, and how far it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PostgresData {
    /// PostgreSQL's own identifier of a cluster, the same on all copies.
    pub system: String,
    /// Timeline and position at which the log on this disk ends, once somebody needs to know.
    pub end: Option<(u32, u64)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    pub schema: u32,
    pub cluster: String,
    pub node: String,
    pub bundle_generation: u64,
    pub spec_hash: String,
    /// Random, one per disk.
    pub install_id: String,
    pub disk: DiskStage,
    pub data: DiskData,
    #[serde(default)]
    pub postgres: Option<PostgresData>,
    /// Redis has data here, and gave up reading it.
    #[serde(default)]
    pub redis_unreadable: bool,
    /// The bootstrap that this disk has recorded.
    #[serde(default)]
    pub bootstrap_id: Option<String>,
    /// Whether the services were let go for that bootstrap in this boot.
    #[serde(default)]
    pub bootstrapping: bool,
    /// etcd's id of the member that this disk last was in a living cluster.
    #[serde(default)]
    pub etcd_member: Option<String>,
    /// Whose log it is, by its own head.
    #[serde(default)]
    pub etcd_log: Option<EtcdLogIds>,
    /// This disk's age: boots, and half minutes in service.
    #[serde(default)]
    pub generation: u64,
    /// By the operator's word (`recover`) the data of this disk is the cluster's; until it is in service.
    #[serde(default)]
    pub recovery_source: bool,
    pub phase: String,
    #[serde(default)]
    pub holds_vip: bool,
    /// Which image this node runs: target, versions, build.
    #[serde(default)]
    pub image: BTreeMap<String, String>,
    /// Data that did not fit the cluster's and was kept beside its place, for somebody to look at.
    #[serde(default)]
    pub moved_aside: Vec<String>,
    /// Services that are not well on this node, as it sees them itself.
    #[serde(default)]
    pub problems: Vec<String>,
}

impl NodeReport {
    /// Whose etcd's log on this disk is: by its own head, or where that cannot be read, as it was noted.
    pub(crate) fn member_of_log(&self) -> Option<&String> {
        self.etcd_log.as_ref().map(|log| &log.member).or(self.etcd_member.as_ref())
    }

    /// What a node says of itself on the first boot of a new disk.
    pub fn blank(spec: &Spec, node: &str, bundle_generation: u64, install_id: &str) -> NodeReport {
        NodeReport {
            schema: SCHEMA,
            cluster: spec.name.clone(),
            node: node.into(),
            bundle_generation,
            spec_hash: spec.hash(),
            install_id: install_id.into(),
            disk: DiskStage::Blank,
            data: DiskData::default(),
            postgres: None,
            redis_unreadable: false,
            bootstrap_id: None,
            bootstrapping: false,
            etcd_member: None,
            etcd_log: None,
            generation: 1,
            recovery_source: false,
            phase: String::new(),
            holds_vip: false,
            image: BTreeMap::new(),
            moved_aside: Vec::new(),
            problems: Vec::new(),
        }
    }
}

/// An answer from anyone: nothing in it is believed here.
pub fn parse(text: &[u8]) -> Result<NodeReport> {
    let answer: NodeReport =
        serde_json::from_slice(text).context("the join port's answer is not understood")?;
    ensure!(
        answer.schema == SCHEMA,
        "the join port answers in schema {}, this program knows {SCHEMA}",
        answer.schema
    );
    Ok(answer)
}
