//! Time since the machine started, time of day, and CPU time of this process.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) fn uptime_ms() -> u64 {
    let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    since_boot.map_or(0, |t| t.tv_sec() as u64 * 1000 + t.tv_nsec() as u64 / 1_000_000)
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

/// The age of a value that was saved at `saved_ms` since boot; fails if it is from another boot, or older than `max_age_ms`.
pub(crate) fn recent_age_ms(saved_ms: u64, now_ms: u64, max_age_ms: u64) -> Result<u64> {
    let age_ms = now_ms.checked_sub(saved_ms).context("it is from another boot")?;
    ensure!(age_ms <= max_age_ms, "it is too old");
    Ok(age_ms)
}

/// Start of PID 1, in milliseconds of the kernel's clock: a container starts long after the kernel.
pub(crate) fn origin_ms() -> u64 {
    start_of_process(&std::fs::read_to_string("/proc/1/stat").unwrap_or_default())
}

fn start_of_process(stat: &str) -> u64 {
    // Field 22 of proc_pid_stat(5), in hundredths of a second; the name in parentheses may have any
    // characters.
    let started = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
    started.unwrap_or(0u64) * 10
}

/// Milliseconds of CPU time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CpuTime {
    pub(crate) own: u64,
    /// Of child processes, mainly the servers' validators.
    pub(crate) children: u64,
}

impl CpuTime {
    pub(crate) fn current() -> CpuTime {
        use nix::sys::resource::{UsageWho, getrusage};
        let of = |who| {
            getrusage(who).map_or(0, |usage| {
                [usage.user_time(), usage.system_time()]
                    .iter()
                    .map(|t| t.tv_sec() as u64 * 1000 + t.tv_usec() as u64 / 1000)
                    .sum()
            })
        };
        CpuTime { own: of(UsageWho::RUSAGE_SELF), children: of(UsageWho::RUSAGE_CHILDREN) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_the_start_of_pid_1() {
        let stat = format!("1 (a ) b) S {}", (4..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
        assert_eq!(start_of_process(&stat), 220, "field 22, in hundredths of a second");
        assert_eq!(start_of_process(""), 0);
    }
}
