//! Ctrl-C and SIGTERM: long work asks [`check`] and fails, its guards clean up, `main` turns that into 130.

use anyhow::{Context, Result, bail};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);
static TIMES: AtomicUsize = AtomicUsize::new(0);

/// How often a user must insist before cleaning up is given up.
pub const PATIENCE: usize = 3;
/// The same where there is nothing to clean up.
pub const AT_ONCE: usize = 1;

/// The operator's wish to stop, to be told from a failure.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// From now on SIGINT and SIGTERM let guards clean up, and end the program on the spot at the `last` of them.
pub fn install(last: usize) -> Result<()> {
    let handler = move || {
        ASKED.store(true, Ordering::SeqCst);
        if TIMES.fetch_add(1, Ordering::Relaxed) + 1 >= last {
            // Nobody is left to tell when this fails.
            let _ = writeln!(std::io::stderr(), "hanode: interrupted");
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).context("catching Ctrl-C")
}

pub fn flag() -> &'static AtomicBool {
    &ASKED
}

pub fn interrupted() -> bool {
    ASKED.load(Ordering::SeqCst)
}

pub fn check() -> Result<()> {
    if interrupted() {
        bail!(Interrupted);
    }
    Ok(())
}
