//! `image.json`: what an image says of itself.

use super::inventory::Facts;
use anyhow::Result;
use hanode_core::target::Target;
use hanode_util::file_tree::Row;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const PATH: &str = "/usr/lib/hanode/image.json";

/// It bears no time of its own: the same base, spec and bundle give the same image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub(crate) schema: u32,
    pub target: String,
    pub os: String,
    pub(crate) hanode: String,
    pub(crate) base: BaseRecord,
    /// `None`: an image without a cluster.
    pub cluster: Option<Cluster>,
    pub components: BTreeMap<String, String>,
    pub packages: BTreeMap<String, String>,
    /// What the bake put in, this file apart; rows as in `OUT.manifest.json`.
    pub entries: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BaseRecord {
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) built_at: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    pub name: String,
    pub spec_hash: String,
    pub bundle_generation: u64,
}

/// A time in seconds since 1970, as the day in UTC.
pub(crate) fn day(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    time.map_or_else(|| "an unknown day".into(), |time| time.date().to_string())
}

impl Record {
    pub(crate) fn new(
        target: &Target,
        facts: &Facts,
        cluster: Option<Cluster>,
        rows: Vec<Row>,
    ) -> Result<Record> {
        Ok(Record {
            schema: 1,
            target: target.name.clone(),
            os: facts.os.clone(),
            hanode: env!("CARGO_PKG_VERSION").into(),
            base: BaseRecord { id: facts.base.clone(), built_at: facts.built_at },
            cluster,
            components: facts.components.clone(),
            packages: facts.packages.clone(),
            entries: rows.iter().map(serde_json::to_value).collect::<Result<_, _>>()?,
        })
    }
}
