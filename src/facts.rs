//! What rendering needs to know of the machine, apart from the spec.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// The interface that holds the node's address.
    pub interface: String,
    /// Prefix length of the node's address on that interface.
    pub prefix: u8,
    pub memory_mib: u64,
    pub cpus: u32,
}
