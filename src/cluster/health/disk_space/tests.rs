//! The thresholds by table, and values that no file system has.

use super::*;
use crate::health::{Phase, StatusFormat, problems::find_problems, testing};

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

fn file_system(size: u64, free: u64, growth: Option<i64>) -> FileSystem {
    FileSystem {
        mount: "/".into(),
        holds: vec!["system".into(), "PostgreSQL".into()],
        size_bytes: size,
        used_bytes: size.saturating_sub(free),
        free_bytes: free,
        growth_bytes_per_hour: growth,
        ..FileSystem::default()
    }
}

fn sentences(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

fn level(file_system: &FileSystem) -> Option<Level> {
    let found = findings(file_system);
    assert!(found.len() < 2, "{found:?}");
    found.first().map(|(level, _)| *level)
}

#[test]
fn thresholds_depend_on_size_and_growth() {
    let (notice, problem) = (Some(Level::Notice), Some(Level::Problem));
    let per_hour = |bytes: u64| i64::try_from(bytes).ok();
    for (size, free, growth, expected) in [
        (4 * GIB, 3 * GIB, None, None),
        (4 * GIB, 656 * MIB, None, None),
        (4 * GIB, 614 * MIB, None, notice),
        (4 * GIB, 451 * MIB, None, notice),
        (4 * GIB, 409 * MIB, None, problem),
        (4 * GIB, 0, None, problem),
        // Ten percent of a large disk are much.
        (400 * GIB, 39 * GIB, None, problem),
        (TIB, 101 * GIB, None, None),
        (TIB, 80 * GIB, None, notice),
        (TIB, 49 * GIB, None, problem),
        (100 * TIB, 60 * GIB, None, notice),
        // Growth counts from 70 percent.
        (100 * GIB, 25 * GIB, per_hour(GIB), None),
        (100 * GIB, 25 * GIB, per_hour(4 * GIB), None),
        (100 * GIB, 25 * GIB, per_hour(5 * GIB), problem),
        (100 * GIB, 40 * GIB, per_hour(30 * GIB), None),
        (TIB, 200 * GIB, per_hour(100 * GIB), problem),
        // A shrinking or constant file system is never full.
        (100 * GIB, 25 * GIB, Some(-5), None),
        (100 * GIB, 25 * GIB, Some(0), None),
        (100 * GIB, 25 * GIB, Some(i64::MIN), None),
    ] {
        let found = level(&file_system(size, free, growth));
        assert_eq!(found, expected, "{} of {} free, growth {growth:?}", super::size(free), super::size(size));
    }
}

#[test]
fn inodes_have_the_same_thresholds() {
    for (inodes, inodes_free, expected) in [
        (0, 0, None),
        (0, 5, None),
        (1000, 160, None),
        (1000, 150, Some(Level::Notice)),
        (1000, 100, Some(Level::Problem)),
        (1000, 0, Some(Level::Problem)),
        (1000, u64::MAX, None),
        (u64::MAX, u64::MAX, None),
        (u64::MAX, 0, Some(Level::Problem)),
    ] {
        let file_system = FileSystem { inodes, inodes_free, ..file_system(4 * GIB, 3 * GIB, None) };
        assert_eq!(level(&file_system), expected, "{inodes_free} of {inodes}");
    }
}

#[test]
fn impossible_values_neither_panic_nor_alarm() {
    for (size, free, expected) in [
        (0, 0, None),
        (0, u64::MAX, None),
        (4 * GIB, u64::MAX, None),
        (u64::MAX, u64::MAX, None),
        (u64::MAX, 0, Some(Level::Problem)),
    ] {
        for growth in [None, Some(0), Some(i64::MIN), Some(-1)] {
            assert_eq!(level(&file_system(size, free, growth)), expected, "{free} of {size}");
        }
        // The fastest growth is a problem at most.
        let _ = findings(&file_system(size, free, Some(i64::MAX)));
    }
    let used = FileSystem { used_bytes: u64::MAX, ..file_system(4 * GIB, 4 * GIB, None) };
    assert_eq!(level(&used), None, "half is used");
}

#[test]
fn old_values_mean_that_the_storage_does_not_answer() {
    let of_age = |age_seconds| FileSystem { age_seconds, ..file_system(4 * GIB, 0, None) };
    assert!(findings(&of_age(60))[0].1.detail.ends_with("is 100 % full, 0 MiB free"));
    let (level, problem) = findings(&of_age(61)).remove(0);
    assert_eq!(level, Level::Problem);
    assert_eq!(problem.text(), "/ (system, PostgreSQL) has not answered for 61 s; check its storage");
}

#[test]
fn percent_is_rounded_up_as_by_df() {
    for (used, free, expected) in
        [(0, 0, None), (0, 1, Some(0)), (1, 999, Some(1)), (999, 1, Some(100)), (1, 0, Some(100))]
    {
        assert_eq!(percent_used(used, free), expected, "{used} used, {free} free");
    }
}

#[test]
fn a_full_disk_makes_the_cluster_unhealthy_and_a_filling_disk_is_only_shown() {
    let spec = testing::spec();
    let status_with = |file_system| {
        let mut status = testing::healthy(&spec);
        status.nodes[0].file_systems = vec![file_system];
        status.nodes[1].servers.redis.replicas = 2;
        status.problems = find_problems(&spec, 1, &status);
        status.healthy = status.problems.is_empty();
        status
    };
    let full = status_with(file_system(4 * GIB, 0, Some(5)));
    assert_eq!(
        sentences(&full.problems),
        [
            "node1: / (system, PostgreSQL) is 100 % full, 0 MiB free; delete what is not needed or enlarge the disk"
        ]
    );
    let growing = status_with(file_system(100 * GIB, 28 * GIB, Some(GIB as i64 * 6)));
    assert!(
        growing.problems[0].text().contains("is 72 % full, 28.0 GiB free, full in about 4 hours; "),
        "{:?}",
        growing.problems
    );
    let table = |status: &Status| StatusFormat::Table.render(status).expect("a table");
    let filling = status_with(file_system(4 * GIB, 512 * MIB, None));
    assert!(filling.healthy, "{:?}", filling.problems);
    let line = "\ndisk space  node1: / (system, PostgreSQL) is 88 % full, 512 MiB free; ";
    assert!(table(&filling).contains(line), "{}", table(&filling));
    assert!(!table(&full).contains("disk space  "), "it is among the problems");
    assert!(!table(&status_with(file_system(4 * GIB, 2 * GIB, None))).contains("disk space"));
}

#[test]
fn a_node_in_service_without_values_is_shown() {
    let mut status = testing::healthy(&testing::spec());
    assert_eq!(sentences(&notices(&status)), Vec::<String>::new());
    status.nodes[2].file_systems.clear();
    assert_eq!(
        sentences(&notices(&status)),
        ["node3: unknown: an older image, or hanode-ready.service does not run"]
    );
    status.nodes[2].phase = Phase::Unreachable;
    assert_eq!(sentences(&notices(&status)), Vec::<String>::new());
    assert_eq!(sentences(&problems(&status)), Vec::<String>::new());
}
