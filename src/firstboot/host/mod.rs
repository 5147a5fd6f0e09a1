//! The running machine, outside the file tree of the context: its kernel, console, network and systemd. Block
//! devices have their own module, `disk::volume`.

pub(crate) mod clock;
pub(crate) mod console;
pub(crate) mod machine;
pub(crate) mod mounts;
pub(crate) mod network;
pub(crate) mod process;
pub(crate) mod systemd;

use anyhow::Result;
use std::io::Read;

/// This number of random bytes, as hexadecimal digits.
pub(crate) fn random_hex(length: usize) -> Result<String> {
    let mut bytes = vec![0; length];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex::encode(bytes))
}
