//! The bundle: leaves, keys, CA certificates, CRLs and secrets as one deterministic archive whose members
//! bear their on-node paths.

use crate::{secrets::Secrets, tree::Entry};
use serde::{Deserialize, Serialize};

/// Where the image carries it, where an operator may lay a newer one, and its members of fixed name.
pub const BAKED: &str = "/usr/lib/hanode/bundle.tar.gz";
pub const OVERRIDE: &str = "/etc/hanode/bundle.tar.gz";
pub const SECRETS: &str = "/etc/ssl/hanode/secrets.toml";
pub const STAMP: &str = "/etc/ssl/hanode/bundle.json";

/// Whose bundle this is and which edition of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stamp {
    pub schema: u32,
    pub cluster: String,
    pub generation: u64,
}

#[derive(Debug, Clone)]
pub struct Bundle {
    pub stamp: Stamp,
    pub secrets: Secrets,
    /// Every member as it lies on a node, secrets and stamp included.
    pub entries: Vec<Entry>,
}
