use super::*;

const REPOSITORY: &str = "file:///mnt/backup";
const NOW: i64 = 1_796_000_000;

fn completed(started: i64) -> Completed {
    Completed {
        stanza: "hspas-1".into(),
        label: "20261130-010000F".into(),
        started,
        finished: started + 60,
        bytes: 1,
        node: "node1".into(),
        timeline: 3,
        full_started: started,
    }
}

fn records(started: i64) -> Records {
    Records {
        archive: Some(Archive { stanza: "hspas-1".into(), repository: REPOSITORY.into() }),
        completed: Server::ALL.map(|server| (server, completed(started))).into(),
        ..Records::default()
    }
}

fn leader() -> Leader<'static> {
    Leader { node: "node1", timeline: 3, dropped: None }
}

fn due(records: &Records, leader: &Leader) -> Option<BackupKind> {
    postgres_due(records, REPOSITORY, leader, NOW)
}

#[test]
fn the_first_backup_of_an_archive_is_full() {
    assert_eq!(due(&Records::default(), &leader()), Some(BackupKind::Full));
    let elsewhere = postgres_due(&records(NOW - 100), "s3://other", &leader(), NOW);
    assert_eq!(elsewhere, Some(BackupKind::Full), "another repository");
    let mut restored = records(NOW - 100);
    restored.archive = Some(Archive { stanza: "hspas-2".into(), repository: REPOSITORY.into() });
    assert_eq!(due(&restored, &leader()), Some(BackupKind::Full), "another archive");
}

#[test]
fn the_schedule_continues_on_another_node() {
    let mut records = records(NOW - 86_400);
    assert_eq!(due(&records, &leader()), None);
    records.due = Some(NOW - 10);
    assert_eq!(due(&records, &leader()), Some(BackupKind::Differential));
    assert!(redis_due(&records, REPOSITORY, "node2", NOW));
    // The old leader recorded that it was due and failed; the new one does not wait.
    let failed = Failed { at: NOW - 5, node: "node1".into(), error: "power cut".into() };
    records.failed.insert(Server::Postgres, failed);
    assert_eq!(due(&records, &leader()), None, "the same node waits");
    assert_eq!(due(&records, &Leader { node: "node2", ..leader() }), Some(BackupKind::Differential));
    assert_eq!(
        postgres_due(&records, REPOSITORY, &leader(), NOW + RETRY_INTERVAL),
        Some(BackupKind::Differential)
    );
}

#[test]
fn wal_that_may_be_missing_is_followed_by_a_backup() {
    let records = records(NOW - 3600);
    let other_timeline = Leader { timeline: 4, ..leader() };
    assert_eq!(due(&records, &other_timeline), Some(BackupKind::Differential));
    let dropped = |at| Leader { dropped: Some(at), ..leader() };
    assert_eq!(due(&records, &dropped(NOW - 60)), Some(BackupKind::Differential));
    assert_eq!(due(&records, &dropped(NOW - 7200)), None, "before the last backup");
}

#[test]
fn a_full_backup_is_made_each_week() {
    let mut records = records(NOW - 8 * 86_400);
    records.due = Some(NOW - 10);
    assert_eq!(due(&records, &leader()), Some(BackupKind::Full));
}

#[test]
fn problems_name_node_cause_and_effect() {
    let mut report = BackupReport { records: records(NOW - 3600), at: NOW, ..BackupReport::default() };
    let find = |report: &BackupReport| {
        problems(&[("node1", report)], 60).iter().map(|p| p.to_string()).collect::<Vec<_>>()
    };
    assert!(find(&report).is_empty());
    report.queue = Some(ArchiveQueue {
        segments: 7,
        oldest: Some(NOW - 600),
        error: Some("unable to connect".into()),
        dropped: Some(NOW - 30),
    });
    report
        .records
        .failed
        .insert(Server::Redis, Failed { at: NOW - 5, node: "node2".into(), error: "no space".into() });
    let found = find(&report);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert_eq!(found[0], "node1: no WAL has been archived for 10 min; 7 segments wait: unable to connect");
    assert!(found[1].contains("was not archived"), "{found:?}");
    assert_eq!(found[2], "node2: Redis: the backup failed: no space");
}

#[test]
fn two_missed_times_of_the_schedule_are_a_problem() {
    let mut records = records(NOW - 30 * 3600);
    let overdue = |records: &Records, at| Server::ALL.map(|server| records.is_overdue(server, at));
    // Each node records the same time.
    records.due = Some(NOW - 24 * 3600);
    assert_eq!(records.due_before(NOW - 24 * 3600 + 30), None);
    assert_eq!(overdue(&records, NOW), [false, false], "one only");
    records.previous_due = records.due_before(NOW);
    records.due = Some(NOW);
    assert_eq!(records.previous_due, Some(NOW - 24 * 3600));
    assert_eq!(overdue(&records, NOW + 60), [false, false], "the second is being made");
    assert_eq!(overdue(&records, NOW + OVERDUE + 1), [true, true]);
    records.completed.insert(Server::Redis, completed(NOW - 23 * 3600));
    assert_eq!(overdue(&records, NOW + OVERDUE + 1), [true, false]);
    let report = BackupReport { records, at: NOW + 3600, ..BackupReport::default() };
    let found = problems(&[("node2", &report)], 60);
    assert_eq!(
        found.iter().map(|problem| problem.to_string()).collect::<Vec<_>>(),
        ["PostgreSQL: two backups of the schedule in a row were not made; the last one was complete at \
          2026-11-28 18:54:20 UTC"]
    );
}

#[test]
fn the_summary_has_age_size_and_result() {
    let mut report = BackupReport { records: records(NOW - 3 * 3600), at: NOW, ..BackupReport::default() };
    report.queue = Some(ArchiveQueue { segments: 2, oldest: Some(NOW - 90), ..ArchiveQueue::default() });
    report.running = Some(Running { server: Server::Redis, since: NOW - 5 });
    report.records.archive_failed =
        Some(Failed { at: NOW - 600, node: "node2".into(), error: "no space".into() });
    let other = BackupReport { at: NOW - 8, ..BackupReport::default() };
    assert_eq!(
        summary(&[("node1", &report), ("node2", &other)]),
        [
            "PostgreSQL: full backup by node1, 3 h ago: 1 B in 60 s",
            "Redis: snapshot by node1, 3 h ago: 1 B in 60 s",
            "Redis: node1 has been making a backup for 5 s",
            "WAL: 2 segments to archive, the oldest for 90 s",
            "WAL: node2 last failed to archive 10 min ago: no space",
        ]
    );
    assert_eq!(summary(&[("node2", &other)]), ["PostgreSQL: no backup yet", "Redis: no backup yet"]);
}

#[test]
fn dates() {
    assert_eq!(time::utc(0), (1970, 1, 1, 0, 0, 0));
    assert_eq!(time::utc(951_782_399), (2000, 2, 28, 23, 59, 59));
    assert_eq!(time::utc(951_782_400), (2000, 2, 29, 0, 0, 0));
    assert_eq!(time::text(1_796_000_000), "2026-11-30 00:53:20 UTC");
    assert_eq!(Archive::stanza_name("hspas", 1_796_000_000), "hspas-20261130T005320Z");
}

#[test]
fn each_moment_that_can_be_restored_keeps_a_snapshot() {
    let name = |at| snapshot_path("s", at).rsplit('/').next().unwrap().to_string();
    let names: Vec<String> = [100, 200, 300, 400].map(|at| name(at * 1000)).into();
    assert_eq!(expired_snapshots(&names, 300_500), names[..2]);
    assert_eq!(expired_snapshots(&names, 50_000), Vec::<String>::new());
    assert_eq!(expired_snapshots(&names, 900_000), names[..3]);
}

#[test]
fn backups_are_read_from_pgbackrests_list() {
    let text = br#"[{"name":"a-1","backup":[{"label":"20261130-113000F","type":"full","error":false,
        "timestamp":{"start":10,"stop":20},"info":{"delta":5,"repository":{"delta":3,"size":3}},
        "archive":{"start":"000000010000000000000002","stop":"000000010000000000000002"},
        "lsn":{"start":"0/2000028","stop":"0/2000120"},"database":{"id":1,"repo-key":1}}],
        "archive":[{"database":{"id":1,"repo-key":1},"id":"17-1"}],"repo":[{"status":{"code":0,"message":"ok"}}]},
        {"name":"a-2","backup":[],"status":{"code":99},"repo":[{"status":{"code":99,"message":"[FormatError] W"#;
    let text = [&text[..], b"\xff\x07 \xfe\"}}]}]"].concat();
    let stanzas = parse_info(&text).unwrap();
    let backup = &stanzas["a-1"].backups[0];
    assert!(backup.bytes == 3 && backup.full && stanzas["a-2"].backups.is_empty(), "{stanzas:?}");
    let start = backup.start_wal.map(|wal| wal.name());
    assert_eq!(start.as_deref(), Some("000000010000000000000002"));
    assert_eq!((backup.stop_lsn, backup.archive.as_deref()), (Some(0x200_0120), Some("17-1")));
    assert_eq!(stanzas["a-2"].fault.as_deref(), Some("[FormatError] W  "));
    assert!(parse_info(b"garbage").is_err());
}
