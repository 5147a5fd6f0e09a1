//! The metrics of the backups. Every node reports the same records of the cluster, so alerts take the maximum.

use super::{Metric, Status, as_number};
use hanode_core::backup::{BackupReport, Completed, Server, has_gap, waiting};

pub(super) fn metrics(status: &Status) -> [Metric; 9] {
    let of_server = |name, help, value: &dyn Fn(&BackupReport, Server) -> Option<f64>| {
        let mut samples = Vec::new();
        for (node, report) in status.backups() {
            for server in Server::ALL {
                let labels = vec![("node", node.to_string()), ("server", server.key().to_string())];
                samples.extend(value(report, server).map(|value| (labels, value)));
            }
        }
        Metric { name, help, samples }
    };
    let of_last = |name, help, value: &dyn Fn(&Completed) -> f64| {
        of_server(name, help, &|report, server| report.records.last(server).map(value))
    };
    let of_leader = |name, help, value: &dyn Fn(&BackupReport) -> Option<f64>| {
        let samples = status.backups().into_iter().filter(|(_, report)| report.queue.is_some());
        let samples =
            samples.filter_map(|(node, report)| Some((vec![("node", node.to_string())], value(report)?)));
        Metric { name, help, samples: samples.collect() }
    };
    [
        of_last("hanode_backup_last_timestamp_seconds", "Start of the last complete backup.", &|last| {
            last.started as f64
        }),
        of_last("hanode_backup_last_duration_seconds", "Duration of the last complete backup.", &|last| {
            (last.finished - last.started) as f64
        }),
        of_last(
            "hanode_backup_last_size_bytes",
            "What the last complete backup added to the repository.",
            &|last| last.bytes as f64,
        ),
        of_server(
            "hanode_backup_failed",
            "Whether a backup has failed since the last complete one.",
            &|report, server| Some(as_number(report.records.failure(server).is_some())),
        ),
        of_server(
            "hanode_backup_overdue",
            "Whether two backups of the schedule in a row were not made.",
            &|report, server| Some(as_number(report.records.is_overdue(server, report.at))),
        ),
        of_leader(
            "hanode_archive_waiting_segments",
            "Complete WAL segments that are not archived.",
            &|report| report.queue.as_ref().map(|queue| queue.segments as f64),
        ),
        of_leader(
            "hanode_archive_waiting_seconds",
            "Age of the oldest segment that is not archived.",
            &|report| Some(waiting(report).unwrap_or(0) as f64),
        ),
        of_leader("hanode_archive_gap", "Whether WAL was dropped since the last backup.", &|report| {
            Some(as_number(has_gap(report)))
        }),
        of_leader(
            "hanode_archive_last_failure_timestamp_seconds",
            "When WAL last could not be archived.",
            &|report| report.records.archive_failed.as_ref().map(|failed| failed.at as f64),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{healthy, spec};
    use super::super::{Status, node_metrics};
    use hanode_core::backup::{Archive, ArchiveQueue, BackupReport, Completed, Records, Server};

    #[test]
    fn a_leader_reports_the_last_backup_and_its_archive() {
        let mut status = healthy(&spec());
        let last = Completed {
            stanza: "s".into(),
            label: "l".into(),
            started: 100,
            finished: 160,
            bytes: 7,
            node: "node1".into(),
            timeline: 1,
            full_started: 100,
        };
        let records = Records {
            archive: Some(Archive { stanza: "s".into(), repository: "r".into() }),
            completed: [(Server::Postgres, last)].into(),
            ..Records::default()
        };
        let queue = ArchiveQueue { segments: 3, oldest: Some(190), error: None, dropped: Some(120) };
        let report = BackupReport { records, at: 200, queue: Some(queue), ..BackupReport::default() };
        let text = |status: &Status| -> Vec<String> {
            node_metrics(status).lines().filter(|line| !line.starts_with('#')).map(String::from).collect()
        };
        let none = text(&status);
        status.nodes[0].backup = Some(report);
        let text = text(&status);
        for line in [
            "hanode_backup_last_timestamp_seconds{node=\"node1\",server=\"postgres\"} 100",
            "hanode_backup_last_duration_seconds{node=\"node1\",server=\"postgres\"} 60",
            "hanode_backup_last_size_bytes{node=\"node1\",server=\"postgres\"} 7",
            "hanode_backup_failed{node=\"node1\",server=\"redis\"} 0",
            "hanode_backup_overdue{node=\"node1\",server=\"postgres\"} 0",
            "hanode_archive_waiting_segments{node=\"node1\"} 3",
            "hanode_archive_waiting_seconds{node=\"node1\"} 10",
            "hanode_archive_gap{node=\"node1\"} 1",
        ] {
            assert!(text.iter().any(|found| found == line), "{line}: {text:#?}");
        }
        let count = |text: &[String]| {
            text.iter().filter(|l| l.contains("_backup_") || l.contains("_archive_")).count()
        };
        assert_eq!((count(&none), count(&text)), (0, 10), "{text:#?}");
    }
}
