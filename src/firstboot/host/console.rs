//! The machine's console.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// Does nothing if the machine has no console, or somebody stopped its output.
pub(crate) fn write(text: &str) {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY);
    let console = options.open("/dev/console");
    let _ = console.and_then(|mut file| file.write_all(format!("\r\nhanode: {text}\r\n").as_bytes()));
}
