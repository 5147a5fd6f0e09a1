//! The machine's properties that rendering needs besides the spec.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// The interface with the node's address.
    pub interface: String,
    /// Prefix length of the node's address on that interface.
    pub prefix: u8,
    pub memory_mib: u64,
    pub cpus: u32,
    /// Size of the file system with PostgreSQL's data; the limit for retained WAL is a share of it.
    pub data_mib: u64,
    /// Whether the kernel reports processes that start and end (the proc connector). It does not in containers:
    /// Keepalived's process tracking would never see HAProxy there.
    pub process_events: bool,
}

impl MachineFacts {
    /// A small virtual machine, for rendering on the admin machine.
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
