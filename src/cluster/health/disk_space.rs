//! Space and inodes of the nodes' file systems (pure): what is a problem, and what is only shown.

use super::{NodeStatus, Problem, ProblemKind, Status};
use hanode_core::peer::FileSystem;

const GIB: u64 = 1 << 30;
/// Percent from which a file system is a problem, unless it has [`PROBLEM_FREE`] left.
const PROBLEM_PERCENT: u64 = 90;
/// Percent from which it is shown, unless it has [`NOTICE_FREE`] left.
const NOTICE_PERCENT: u64 = 85;
/// Ten percent of a large file system last long.
const PROBLEM_FREE: u64 = 50 * GIB;
const NOTICE_FREE: u64 = 100 * GIB;
/// Percent from which a file system that will be full within [`PROBLEM_HOURS`] is a problem.
const GROWING_PERCENT: u64 = 70;
const PROBLEM_HOURS: u64 = 6;
/// A later time is not predicted.
const PREDICTED_HOURS: u64 = 48;
/// The storage does not answer if the values are older; the watcher measures every ten seconds.
const MAX_AGE_SECONDS: u64 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Shown below the table; the cluster is healthy.
    Notice,
    Problem,
}

pub(super) fn problems(status: &Status) -> Vec<Problem> {
    of_level(status, Level::Problem)
}

/// What an operator should know but need not act on yet.
pub(super) fn notices(status: &Status) -> Vec<Problem> {
    let unknown = status.nodes.iter().filter(|n| n.in_service() && n.file_systems.is_empty());
    let cause = "an older image, or hanode-ready.service does not run";
    let unknown = unknown.map(|n| Problem::new(ProblemKind::SpaceUnknown, cause).node(&n.name));
    unknown.chain(of_level(status, Level::Notice)).collect()
}

fn of_level(status: &Status, level: Level) -> Vec<Problem> {
    let of_node = |node: &NodeStatus| {
        let found = node.file_systems.iter().flat_map(findings);
        let found = found.filter(|(found, _)| *found == level);
        found.map(|(_, problem)| problem.node(&node.name)).collect::<Vec<_>>()
    };
    status.nodes.iter().flat_map(of_node).collect()
}

/// The mount point, and what is on it.
pub(super) fn name(file_system: &FileSystem) -> String {
    if file_system.holds.is_empty() {
        file_system.mount.clone()
    } else {
        format!("{} ({})", file_system.mount, file_system.holds.join(", "))
    }
}

fn findings(file_system: &FileSystem) -> Vec<(Level, Problem)> {
    if file_system.fault.is_some() {
        // Already a problem of its storage.
        return Vec::new();
    }
    let of = |kind, what: String| Problem::new(kind, format!("{} {what}", name(file_system)));
    if file_system.age_seconds > MAX_AGE_SECONDS {
        // Its other values are out of date.
        let age = file_system.age_seconds;
        return vec![(
            Level::Problem,
            of(ProblemKind::StorageHangs, format!("has not answered for {age} s")),
        )];
    }
    let space = space(file_system).map(|(level, what)| (level, of(ProblemKind::SpaceLow, what)));
    let inodes = inodes(file_system).map(|(level, what)| (level, of(ProblemKind::InodesLow, what)));
    space.into_iter().chain(inodes).collect()
}

fn space(file_system: &FileSystem) -> Option<(Level, String)> {
    // Untrusted values: a file system has no more free bytes than bytes.
    let free = file_system.free_bytes.min(file_system.size_bytes);
    let percent = percent_used(file_system.used_bytes.min(file_system.size_bytes), free)?;
    let hours = hours_until_full(free, file_system.growth_bytes_per_hour);
    let fills = percent >= GROWING_PERCENT && hours.is_some_and(|hours| hours < PROBLEM_HOURS);
    let level = if fills || (percent >= PROBLEM_PERCENT && free < PROBLEM_FREE) {
        Level::Problem
    } else if percent >= NOTICE_PERCENT && free < NOTICE_FREE {
        Level::Notice
    } else {
        return None;
    };
    let prediction = match hours {
        Some(0) if free > 0 => ", full in less than an hour".to_string(),
        Some(1) => ", full in about 1 hour".to_string(),
        Some(hours) if hours > 0 => format!(", full in about {hours} hours"),
        _ => String::new(),
    };
    Some((level, format!("is {percent} % full, {} free{prediction}", size(free))))
}

fn inodes(file_system: &FileSystem) -> Option<(Level, String)> {
    let free = file_system.inodes_free.min(file_system.inodes);
    let percent = percent_used(file_system.inodes - free, free)?;
    let level = match percent {
        PROBLEM_PERCENT.. => Level::Problem,
        NOTICE_PERCENT.. => Level::Notice,
        _ => return None,
    };
    Some((level, format!("has {percent} % of its inodes in use, {free} free")))
}

/// Rounded up, as by df: 100 only means full if nothing is free. `None` for a file system without a size.
fn percent_used(used: u64, free: u64) -> Option<u64> {
    let (used, total) = (u128::from(used), u128::from(used) + u128::from(free));
    if total == 0 {
        return None;
    }
    u64::try_from((used * 100).div_ceil(total)).ok()
}

/// Whole hours; `None` if it does not grow, the growth is unknown, or it takes longer than [`PREDICTED_HOURS`].
fn hours_until_full(free: u64, growth: Option<i64>) -> Option<u64> {
    let growth = u64::try_from(growth?).ok().filter(|growth| *growth > 0)?;
    Some(free / growth).filter(|hours| *hours <= PREDICTED_HOURS)
}

fn size(bytes: u64) -> String {
    if bytes < GIB { format!("{} MiB", bytes >> 20) } else { format!("{:.1} GiB", bytes as f64 / GIB as f64) }
}

#[cfg(test)]
mod tests;
