//! A machine that resumes after a suspend, a pause or a live migration.
//!
//! If its etcd was leader before, all leases have expired by its clock, and it revokes them before it learns
//! that there is another leader (etcd 3.5.16 checks first, but accepts answers from before the suspend). One
//! of them is the leader lock of PostgreSQL's new leader: this machine's Patroni would take the lock, and the
//! writes that the new leader acknowledged would be lost. So this etcd is killed at once, within some tens of
//! milliseconds.

use crate::host::process;
use std::thread::sleep;
use std::time::{Duration, Instant};

const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Checks until the process ends. `tolerated`: the longest suspend after which no lease can have expired.
pub(super) fn watch(etcd: &str, tolerated: Duration) {
    loop {
        let before = Instant::now();
        sleep(CHECK_INTERVAL);
        let suspended = before.elapsed();
        if suspended > tolerated {
            process::kill_unit(etcd);
            tracing::warn!("this machine was suspended for {} s: restarting its etcd", suspended.as_secs());
        }
    }
}
