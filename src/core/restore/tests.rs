use super::*;
use crate::backup::{BackupInfo, PartInfo, time};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn request(text: &str) -> RestoreRequest {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn each_form_of_a_request_is_read() {
    let of = |text: &str| (request(text).part, request(text).moment);
    assert_eq!(of("latest"), (PartOf::ThisCluster, Moment::Latest));
    assert_eq!(of("lsn:1/3000060"), (PartOf::ThisCluster, Moment::Lsn(0x1_0300_0060)));
    assert_eq!(of("prod/lsn:1/30"), (PartOf::Cluster("prod".into()), Moment::Lsn(0x1_0000_0030)));
    assert_eq!(of("prod/name:before.upgrade-2").1, Moment::Name("before.upgrade-2".into()));
    let part = "my-prod-20261130T123012Z";
    assert_eq!(of(&format!("{part}/latest")).0, PartOf::Part(part.into()));
    let at = Moment::Time(1_796_056_205_000_000);
    assert_eq!(of("2026-11-30T16:30:05Z").1, at);
    assert_eq!(of("2026-11-30T17:30:05.000+01:00").1, at);
    assert_eq!(request("2026-11-30T16:30:05.25Z"), request("2026-11-30T11:00:05.250000-05:30"));
    assert_eq!(request("2026-11-30T17:30:05.5+01:00").to_string(), "2026-11-30T16:30:05.5Z");
}

#[test]
fn anything_else_is_an_error_with_the_syntax() {
    for text in [
        "",
        "/latest",
        "Latest",
        "latest ",
        "prod/",
        "a/b/latest",
        "pr od/latest",
        "2026-11-30",
        "2026-11-30T16:30:05",
        "2026-11-30 16:30:05Z",
        "2026-02-30T16:30:05Z",
        "2026-11-30T24:00:00Z",
        "2026-11-30T16:30:60Z",
        "2026-11-30T16:30:05.Z",
        "2026-11-30T16:30:05.1234567Z",
        "2026-11-30T16:30:05+1:00",
        "2026-11-30T16:30:05+24:00",
        "2026-11-30T16:30:0éZ",
        "1969-12-31T23:59:59Z",
        "lsn:",
        "lsn:1",
        "lsn:1/",
        "lsn:123456789/0",
        "lsn:+1/0",
        "name:",
        "name:a b",
        "name:a'b",
    ] {
        let error = text.parse::<RestoreRequest>().expect_err(text);
        assert!(error.contains("[PART/]MOMENT"), "{text}: {error}");
    }
    assert!(format!("name:{}", "x".repeat(64)).parse::<RestoreRequest>().is_err());
}

proptest! {
    #[test]
    fn any_text_is_parsed_without_panic(text in "\\PC{0,60}") {
        let _ = text.parse::<RestoreRequest>();
    }

    #[test]
    fn a_request_is_the_same_after_it_was_written(
        part in prop_oneof![
            Just(PartOf::ThisCluster),
            "[a-zA-Z0-9][a-z0-9_-]{0,20}".prop_map(PartOf::Cluster),
            ("[a-z][a-z0-9_-]{0,20}", 0i64..4_000_000_000)
                .prop_map(|(name, at)| PartOf::Part(crate::backup::Archive::stanza_name(&name, at))),
        ],
        moment in prop_oneof![
            Just(Moment::Latest),
            (0i64..253_402_300_799_999_999).prop_map(Moment::Time),
            any::<u64>().prop_map(Moment::Lsn),
            "[a-zA-Z0-9_.-]{1,63}".prop_map(Moment::Name),
        ],
    ) {
        let written = RestoreRequest { part, moment };
        prop_assert_eq!(&request(&written.to_string()), &written);
    }

    #[test]
    fn a_date_is_the_same_after_it_was_written(seconds in -60_000_000_000i64..250_000_000_000) {
        let (year, month, day, hour, minute, second) = time::utc(seconds);
        prop_assert_eq!(time::seconds([year, month, day], [hour, minute, second]), Some(seconds));
    }
}

/// 2026-11-30 12:00:00 UTC
const NOON: i64 = 1_796_040_000;
const PART: &str = "hspas-20261130T115000Z";

fn backup(label: &str, finished: i64, start_wal: &str) -> BackupInfo {
    BackupInfo {
        label: label.into(),
        full: true,
        fetched_bytes: 2,
        restored_bytes: 2,
        stop_wal: None,
        started: finished - 5,
        finished,
        bytes: 1,
        damaged: false,
        start_wal: WalPosition::parse(start_wal),
        stop_lsn: Some(0x200_0100),
        archive: Some("17-1".into()),
    }
}

/// A backup at noon and one an hour later.
fn info() -> PartInfo {
    let backups = vec![
        backup("first", NOON, "000000010000000000000002"),
        backup("second", NOON + 3600, "000000010000000000000004"),
    ];
    PartInfo { backups, wal: None, fault: None }
}

/// Segments of the first timeline, archived ten minutes after each other from noon on.
fn wal(segments: &[u64]) -> ArchivedWal {
    let name = |segment: &u64| {
        format!("17-1/0000000100000000/{}-0a1b.lz4", WalPosition { timeline: 1, segment: *segment }.name())
    };
    let files: Vec<(String, i64)> =
        segments.iter().map(|n| (name(n), NOON + (*n as i64 - 2) * 600)).collect();
    ArchivedWal::new(files.iter().map(|(name, at)| (name.as_str(), *at)))
}

fn chosen(text: &str, wal: &ArchivedWal) -> Result<RestoreChoice, String> {
    choose(&request(text), PART, &info(), wal, NOON + 7200).map_err(|error| error.to_string())
}

#[test]
fn the_newest_backup_before_the_moment_is_chosen() {
    let wal = wal(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    let backup = |text: &str| chosen(text, &wal).map(|choice| choice.backup);
    assert_eq!(backup("latest").as_deref(), Ok("second"));
    assert_eq!(backup("2026-11-30T13:00:01Z").as_deref(), Ok("second"));
    assert_eq!(backup("2026-11-30T13:00:00.9Z").as_deref(), Ok("first"), "its end has no fraction");
    assert_eq!(backup("lsn:0/2000100").as_deref(), Ok("second"));
    assert_eq!(backup("name:p").as_deref(), Ok("first"), "the point may be anywhere");
    let none = chosen("2026-11-30T11:59:00Z", &wal).unwrap_err();
    assert_eq!(
        none,
        format!(
            "{PART} has no complete backup from before 2026-11-30T11:59:00Z; \
             the first one was complete at 2026-11-30 12:00:00 UTC"
        )
    );
    assert!(chosen("lsn:0/20000FF", &wal).is_err());
    assert_eq!(chosen("2026-11-30T15:00:00Z", &wal).unwrap_err(), "2026-11-30T15:00:00Z is in the future");
    let choice = chosen("latest", &wal).unwrap();
    assert_eq!((choice.last_wal.as_str(), choice.timeline), ("00000001000000000000000A", 1));
    assert_eq!(choice.recovery_target(), None);
    let target = chosen("2026-11-30T13:00:01.5Z", &wal).unwrap().recovery_target().unwrap();
    assert_eq!(target, ("recovery_target_time", "2026-11-30 13:00:01.500000+00".into()));
}

#[test]
fn missing_wal_is_named() {
    let gap = wal(&[2, 3, 4, 6, 7, 8, 9, 10]);
    let lacks = format!(
        "{PART} lacks the WAL segment 000000010000000000000005, so it cannot be restored beyond 2026-11-30 12:20:00 UTC"
    );
    assert_eq!(chosen("latest", &gap), Err(lacks.clone()));
    assert_eq!(chosen("2026-11-30T13:10:00Z", &gap), Err(lacks));
    assert!(chosen("2026-11-30T12:15:00Z", &gap).is_ok(), "before the gap");
    let start = wal(&[2, 3, 5, 6]);
    assert_eq!(
        chosen("latest", &start),
        Err(format!("{PART} lacks the WAL segment 000000010000000000000004 of the backup second"))
    );
    assert_eq!(
        chosen("2026-11-30T13:10:00Z", &wal(&[2, 3, 4, 5])),
        Err(format!(
            "the archive of {PART} ends at 2026-11-30 12:30:00 UTC, before 2026-11-30T13:10:00Z; \
             the last moment is {PART}/latest"
        ))
    );
    assert!(chosen("lsn:0/5FFFFFF", &wal(&[2, 3, 4, 5])).is_ok());
    assert!(chosen("lsn:0/6000000", &wal(&[2, 3, 4, 5])).is_err());
}

#[test]
fn recovery_follows_the_timelines_of_later_leaders() {
    // A failover in segment 5: what the old leader had not archived of it is in the new leader's.
    let of = |timeline, segment| (WalPosition { timeline, segment }.name() + "-0a.lz4", NOON);
    let archived = |positions: &[(u32, u64)]| {
        let mut files: Vec<_> = positions.iter().map(|(timeline, segment)| of(*timeline, *segment)).collect();
        files.push(("00000002.history".into(), NOON));
        files.push(("000000010000000000000005.partial-0a.lz4".into(), NOON));
        let wal = ArchivedWal::new(files.iter().map(|(name, at)| (name.as_str(), *at)));
        assert_eq!(wal.history_file().as_deref(), Some("00000002.history"));
        wal.with_history("1\t0/5000028\tno recovery target specified\n")
    };
    let full = [(1, 2), (1, 3), (1, 4), (2, 5), (2, 6)];
    let choice = chosen("latest", &archived(&full)).unwrap();
    assert_eq!((choice.last_wal.as_str(), choice.timeline), ("000000020000000000000006", 2));
    // What the old leader archived after the failover is of no use.
    let stray = chosen("latest", &archived(&[&full[..], &[(1, 5), (1, 6), (1, 7)]].concat())).unwrap();
    assert_eq!(stray.last_wal, choice.last_wal);
    let error = chosen("latest", &archived(&[(1, 2), (1, 3), (1, 4), (2, 6)])).unwrap_err();
    assert!(error.contains("lacks the WAL segment 000000020000000000000005,"), "{error}");
    // The new leader has archived its history only: its first segment is not there yet.
    assert_eq!(chosen("latest", &archived(&full[..3])).unwrap().last_wal, "000000010000000000000004");
}

#[test]
fn a_restore_reads_the_wal_up_to_the_moment() {
    let wal = wal(&[2, 3, 4, 5, 7]);
    let needed = |moment| {
        let from = WalPosition { timeline: 1, segment: 3 };
        wal.needed(from, moment).iter().map(|position| position.segment).collect::<Vec<_>>()
    };
    assert_eq!(needed(NOON + 601), [3, 4], "archived twenty minutes after noon");
    assert_eq!(needed(NOON + 600), [3]);
    assert_eq!(needed(i64::MAX), [3, 4, 5], "up to the gap");
}

/// The old leader made a backup after another one had been promoted.
#[test]
fn a_backup_on_an_abandoned_timeline_gives_way_to_an_older_one() {
    let positions = [(1, 2), (1, 3), (1, 4), (2, 5), (2, 6), (1, 5), (1, 6)];
    let files = positions.map(|(timeline, segment)| WalPosition { timeline, segment }.name() + "-0a.lz4");
    let files = files.iter().map(String::as_str).chain(["00000002.history"]);
    let wal = ArchivedWal::new(files.map(|name| (name, NOON + 7000)));
    let wal = wal.with_history("1\t0/5000028\tno recovery target specified\n");
    let mut info = info();
    info.backups[1].start_wal = WalPosition::parse("000000010000000000000006");
    for moment in ["latest", "2026-11-30T13:10:00Z"] {
        let choice = choose(&request(moment), PART, &info, &wal, NOON + 7200).unwrap();
        assert_eq!((choice.backup.as_str(), choice.timeline), ("first", 2), "{moment}");
    }
    // It began before the promotion, and ended after it.
    info.backups[1].start_wal = WalPosition::parse("000000010000000000000004");
    info.backups[1].stop_lsn = Some(0x500_0100);
    assert_eq!(choose(&request("latest"), PART, &info, &wal, NOON + 7200).unwrap().backup, "first");
    info.backups.remove(0);
    let error = choose(&request("latest"), PART, &info, &wal, NOON + 7200).unwrap_err().to_string();
    assert!(error.ends_with("has no complete backup from before latest; it has none"), "{error}");
}

#[test]
fn useless_backups_and_gaps_are_distinguished() {
    let mut info = info();
    info.backups[0].stop_wal = WalPosition::parse("000000010000000000000003");
    info.backups[1].stop_wal = WalPosition::parse("000000010000000000000005");
    let lacking = |segments: &[u64]| {
        let Lacking { useless, gaps } = Lacking::of(PART, &info, &wal(segments));
        [useless, gaps]
            .map(|found| found.iter().map(|error| error.to_string()).collect::<Vec<_>>().join("; "))
    };
    assert_eq!(lacking(&[2, 3, 4, 5, 6]), ["", ""]);
    let [useless, gaps] = lacking(&[2, 4, 5, 6]);
    assert!(
        useless.ends_with("lacks the WAL segment 000000010000000000000003 of the backup first"),
        "{useless}"
    );
    assert_eq!(gaps, "");
    let [useless, gaps] = lacking(&[2, 3, 4, 5, 7]);
    assert_eq!(useless, "");
    let one = "lacks the WAL segment 000000010000000000000006, so it cannot be restored beyond 2026-11-30 12:30:00 UTC";
    assert_eq!(gaps, format!("{PART} {one}"));
    assert!(lacking(&[2, 3, 5, 6])[0].contains("000000010000000000000004 of the backup second"));
}

#[test]
fn the_newest_part_from_before_the_moment_is_restored() {
    let names = ["hspas-20261130T115000Z", "hspas-20261130T121000Z", "prod-20261130T123012Z", "hspas-x"];
    let mut parts: BTreeMap<String, PartInfo> = names.map(|name| (name.to_string(), info())).into();
    let part = |text: &str, parts: &BTreeMap<String, PartInfo>| {
        part_of(&request(text), "hspas", "file:///r", parts).map_err(|error| error.to_string())
    };
    assert_eq!(part("latest", &parts).as_deref(), Ok(names[1]));
    assert_eq!(part("2026-11-30T12:05:00Z", &parts).as_deref(), Ok(names[0]));
    assert_eq!(part("prod/latest", &parts).as_deref(), Ok(names[2]));
    assert_eq!(part(&format!("{PART}/latest"), &parts).as_deref(), Ok(PART));
    assert_eq!(
        part("2026-11-30T11:00:00Z", &parts).unwrap_err(),
        format!(
            "the repository file:///r has no part of cluster hspas from before 2026-11-30T11:00:00Z; it has {}",
            [names[0], names[1], names[3], names[2]].join(", ")
        )
    );
    assert!(
        part("hspas-20261130T115001Z/latest", &parts)
            .unwrap_err()
            .contains("has no part hspas-20261130T115001Z;")
    );
    assert!(part("latest", &BTreeMap::new()).unwrap_err().ends_with("before latest; it has none"));
    parts.insert("[invalid]".into(), PartInfo { fault: Some("x".into()), ..PartInfo::default() });
    assert_eq!(part("latest", &parts).unwrap_err(), "the repository file:///r cannot be read: x");
    let unreadable = PartInfo { fault: Some("[FormatError] y".into()), ..info() };
    let error = choose(&request("latest"), PART, &unreadable, &wal(&[2]), NOON).unwrap_err().to_string();
    assert!(error.contains("[FormatError] y; is backup_key"), "{error}");
}

#[test]
fn the_newest_snapshot_at_or_before_the_moment_is_chosen() {
    let names = ["20261130T115500Z.rdb", "20261130T120000Z.rdb", "20261130T120001Z.rdb", "other", "x.rdb"];
    let at = |moment| choose_snapshot("redis/p", names.into_iter(), moment).snapshot;
    let noon = RedisSnapshot { path: "redis/p/20261130T120000Z.rdb".into(), at: NOON };
    assert_eq!(at(NOON), Some(noon));
    assert_eq!(at(NOON - 301), None);
}

#[test]
fn positions_are_numbers() {
    assert_eq!(position_of("0/3000060"), Some(0x300_0060));
    assert_eq!(position_of("A/0"), Some(0xA_0000_0000));
    assert_eq!(position_of("A"), None);
    assert_eq!(position_of("0/100000000"), None);
}
