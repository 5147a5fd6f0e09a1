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
    /// Size of the file system that PostgreSQL's data lies on: what old WAL may take is a share of it.
    pub data_mib: u64,
    /// Whether the kernel tells this machine of processes that start and end. It does not tell
    /// containers: Keepalived would see no HAProxy there, ever.
    pub process_events: bool,
}

impl MachineFacts {
    /// A modest virtual machine, for rendering at the desk.
    pub fn example(interface: &str, prefix: u8) -> Self {
        MachineFacts {
            interface: interface.into(),
            prefix,
            memory_mib: 4096,
            cpus: 2,
            data_mib: 40960,
            process_events: true,
        }
    }
}
