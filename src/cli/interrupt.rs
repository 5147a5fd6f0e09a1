//! Ctrl-C and SIGTERM: long work asks [`interrupted`], stops, cleans up and fails; `main` turns that into 130.

use anyhow::{Context, Result};
use std::sync::atomic::{AtomicUsize, Ordering};

static TIMES: AtomicUsize = AtomicUsize::new(0);

/// How often a user must insist before cleaning up is given up.
const PATIENCE: usize = 3;

pub fn interrupted() -> bool {
    TIMES.load(Ordering::Relaxed) > 0
}

pub fn install() -> Result<()> {
    let handler = || {
        if TIMES.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).context("catching Ctrl-C")
}
