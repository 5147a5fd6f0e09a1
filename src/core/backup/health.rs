//! What the reports of the nodes show about the backups: problems, and a summary.

use super::{BackupReport, Completed, Failed, Server, time};
use crate::state::{Problem, ProblemKind};

/// In seconds: a failure to archive WAL is shown for so long after it.
const SHOWN_FAILURE: i64 = 86_400;

/// A segment that waits longer than the time in which one is archived at the latest, with reserve.
fn tolerated(archive_timeout: u32) -> i64 {
    i64::from(archive_timeout) + 180
}

/// For how many seconds the oldest segment has been waiting.
pub fn waiting(report: &BackupReport) -> Option<i64> {
    Some(report.at - report.queue.as_ref()?.oldest?)
}

/// When WAL was dropped that no backup since makes up for.
fn gap(report: &BackupReport) -> Option<i64> {
    let covered = report.records.last(Server::Postgres).map_or(i64::MIN, |last| last.started);
    report.queue.as_ref()?.dropped.filter(|at| *at >= covered)
}

pub fn has_gap(report: &BackupReport) -> bool {
    gap(report).is_some()
}

/// The problems in the reports of the nodes, by name.
pub fn problems(reports: &[(&str, &BackupReport)], archive_timeout: u32) -> Vec<Problem> {
    let mut found = Vec::new();
    for (node, report) in reports {
        let mut add = |kind, detail: String| found.push(Problem::new(kind, detail).node(node));
        if report.awaits_restart {
            add(ProblemKind::ArchiveAwaitsRestart, String::new());
        }
        let Some(queue) = &report.queue else { continue };
        if let Some(seconds) = waiting(report).filter(|seconds| *seconds > tolerated(archive_timeout)) {
            let cause = queue.error.as_deref().unwrap_or("the repository does not answer");
            let (minutes, count) = (seconds / 60, queue.segments);
            let what = format!("no WAL has been archived for {minutes} min; {count} segments wait: {cause}");
            add(ProblemKind::WalNotArchived, what);
        }
        if let Some(at) = gap(report) {
            let what = format!(
                "WAL of {} was not archived, since the repository was away for too long: no restore goes beyond it \
                 until the next backup",
                time::text(at)
            );
            add(ProblemKind::ArchiveGap, what);
        }
    }
    let Some(latest) = latest(reports) else { return found };
    for server in Server::ALL {
        if let Some(failed) = latest.records.failure(server) {
            let problem = Problem::new(ProblemKind::BackupFailed, failed.error.as_str());
            found.push(problem.component(server.component()).node(&failed.node));
        }
        if latest.records.is_overdue(server, latest.at) {
            let last = latest.records.completed.get(&server);
            let last = last.map_or("there is none".into(), |last| {
                format!("the last one was complete at {}", time::text(last.finished))
            });
            found.push(Problem::new(ProblemKind::BackupOverdue, last).component(server.component()));
        }
    }
    found
}

/// All nodes report the same records, some a bit later.
fn latest<'a>(reports: &[(&str, &'a BackupReport)]) -> Option<&'a BackupReport> {
    reports.iter().map(|(_, report)| *report).max_by_key(|report| report.at)
}

/// The last backup of each server, and the archive of the WAL, in a line each.
pub fn summary(reports: &[(&str, &BackupReport)]) -> Vec<String> {
    let Some(latest) = latest(reports) else { return Vec::new() };
    let mut lines = Vec::new();
    for server in Server::ALL {
        let line = match latest.records.last(server) {
            None => "no backup yet".into(),
            Some(last) => {
                let (took, size) = (last.finished - last.started, hanode_util::bytes::text(last.bytes));
                let ago = age(latest.at - last.started);
                format!("{} by {}, {ago} ago: {size} in {took} s", kind(server, last), last.node)
            }
        };
        lines.push(format!("{}: {line}", server.name()));
    }
    for (node, report) in reports {
        if let Some(running) = &report.running {
            let ago = age(report.at - running.since);
            lines.push(format!("{}: {node} has been making a backup for {ago}", running.server.name()));
        }
        let Some(queue) = &report.queue else { continue };
        lines.push(match waiting(report) {
            None => "WAL: all complete segments are archived".into(),
            Some(seconds) => {
                let (count, plural) = (queue.segments, if queue.segments == 1 { "" } else { "s" });
                format!("WAL: {count} segment{plural} to archive, the oldest for {}", age(seconds))
            }
        });
    }
    let recent = |failed: &&Failed| latest.at - failed.at < SHOWN_FAILURE;
    if let Some(failed) = latest.records.archive_failed.as_ref().filter(recent) {
        let (ago, Failed { node, error, .. }) = (age(latest.at - failed.at), failed);
        lines.push(format!("WAL: {node} last failed to archive {ago} ago: {error}"));
    }
    lines
}

fn kind(server: Server, last: &Completed) -> &'static str {
    match server {
        Server::Redis => "snapshot",
        Server::Postgres if last.full_started == last.started => "full backup",
        Server::Postgres => "differential backup",
    }
}

/// `45 s`, `12 min`, `5 h` or `3 days`, rounded down.
fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}
