//! Ctrl-C and SIGTERM: the program installs the handler, long work asks [`check`], stops, and its guards
//! clean up.

use anyhow::{Context, Result, bail};
use std::sync::atomic::{AtomicUsize, Ordering};

static TIMES: AtomicUsize = AtomicUsize::new(0);

/// How often a user must insist before cleaning up is given up.
const PATIENCE: usize = 3;

/// The error of work that was stopped; the program ends with 130.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Once, at the program's start.
pub fn install() -> Result<()> {
    let handler = || {
        if TIMES.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).context("catching Ctrl-C")
}

pub fn interrupted() -> bool {
    TIMES.load(Ordering::Relaxed) > 0
}

pub fn check() -> Result<()> {
    if interrupted() {
        bail!(Interrupted);
    }
    Ok(())
}
