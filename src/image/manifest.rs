//! `image.json`: the manifest inside an image.

use super::inventory::Inventory;
use anyhow::Result;
use hanode_core::target::Target;
use hanode_util::file_tree::ManifestRow;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const PATH: &str = "/usr/lib/hanode/image.json";

/// Contains no build time, so that the same base, spec and bundle give the same image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageManifest {
    pub(crate) schema: u32,
    pub target: String,
    pub os: String,
    pub(crate) hanode: String,
    pub(crate) base: BaseInfo,
    /// Mode and policy of SELinux; `None` for a target without a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) selinux: Option<String>,
    /// `None` for an image without a cluster.
    pub cluster: Option<ClusterInfo>,
    pub components: BTreeMap<String, String>,
    pub packages: BTreeMap<String, String>,
    /// The files that the bake wrote, except this one; rows as in the manifest of `hanode render`.
    pub entries: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BaseInfo {
    pub(crate) id: String,
    /// Seconds since the Unix epoch.
    pub(crate) built_at: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterInfo {
    pub name: String,
    pub spec_hash: String,
    pub bundle_generation: u64,
}

/// The UTC date of a time in seconds since the Unix epoch.
pub(crate) fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    time.map_or_else(|| "unknown date".into(), |time| time.date().to_string())
}

impl ImageManifest {
    pub(crate) fn new(
        target: &Target,
        inventory: &Inventory,
        cluster: Option<ClusterInfo>,
        rows: Vec<ManifestRow>,
    ) -> Result<ImageManifest> {
        Ok(ImageManifest {
            schema: 1,
            target: target.name.clone(),
            os: inventory.os.clone(),
            hanode: env!("CARGO_PKG_VERSION").into(),
            base: BaseInfo { id: inventory.base.clone(), built_at: inventory.built_at },
            selinux: inventory.selinux.clone(),
            cluster,
            components: inventory.components.clone(),
            packages: inventory.packages.clone(),
            entries: rows.iter().map(serde_json::to_value).collect::<Result<_, _>>()?,
        })
    }
}
