//! Ctrl-C and SIGTERM: long work calls [`check`] and fails, its guards clean up, and `main` exits with code 130.

use anyhow::{Context, Result, bail};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static SIGNALS: AtomicUsize = AtomicUsize::new(0);

/// The number of signals that end a program even while it cleans up.
pub const SIGNALS_WITH_CLEANUP: usize = 3;
/// The number of signals that end a program that has nothing to clean up.
pub const SIGNALS_WITHOUT_CLEANUP: usize = 1;

/// The error of interrupted work, distinguishable from a failure.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Installs the handler for SIGINT and SIGTERM: work fails so that guards clean up; signal number `last` exits at once.
pub fn install(last: usize) -> Result<()> {
    let handler = move || {
        INTERRUPTED.store(true, Ordering::SeqCst);
        if SIGNALS.fetch_add(1, Ordering::Relaxed) + 1 >= last {
            // stderr may be closed; there is nowhere left to report that.
            let _ = writeln!(std::io::stderr(), "error: interrupted");
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).context("catching Ctrl-C")
}

/// The flag that a signal sets.
pub fn flag() -> &'static AtomicBool {
    &INTERRUPTED
}

/// Whether a signal was received.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Fails with [`Interrupted`] if a signal was received.
pub fn check() -> Result<()> {
    if interrupted() {
        bail!(Interrupted);
    }
    Ok(())
}
