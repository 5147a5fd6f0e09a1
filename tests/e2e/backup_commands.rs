//! `hanode backup` on the admin machine, with a repository on a file system.

use crate::common::programs::HANODE;
use crate::support::lab::{Lab, outcome, output};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Output;

fn repository(lab: &Lab) -> PathBuf {
    lab.cluster.dir.join(".lab/repository")
}

/// As on an admin machine that mounts the repository.
fn backup(lab: &Lab, verb: &str, arguments: &[&str]) -> Output {
    let at = repository(lab);
    let mount = ["--mount", at.to_str().unwrap()];
    lab.hanode(&["backup", verb], &[&mount[..], arguments].concat())
}

/// On a node, whose pgBackRest knows its version of PostgreSQL.
fn verify(lab: &Lab) -> Output {
    lab.on("node2", &["hanode", "backup", "verify"])
}

pub fn list(lab: &Lab) -> serde_json::Value {
    serde_json::from_str(&output("backup list", backup(lab, "list", &["--json"]))).unwrap()
}

/// The only file below `dir` with this ending.
fn file_below(dir: &Path, ending: &str) -> PathBuf {
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => open.push(path),
                false if path.to_string_lossy().ends_with(ending) => return path,
                false => {}
            }
        }
    }
    panic!("no file *{ending} below {}", dir.display())
}

/// `verify` must name the damage of this file, which is undone afterwards.
fn finds_damage(lab: &Lab, file: &Path, named: &str) {
    let intact = std::fs::read(file).unwrap();
    let mut damaged = intact.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    std::fs::write(file, &damaged).unwrap();
    let found = verify(lab);
    let text = String::from_utf8_lossy(&found.stdout);
    eprintln!("{text}");
    assert_eq!(found.status.code(), Some(1), "{}", file.display());
    assert!(text.contains(named), "{text}{}", String::from_utf8_lossy(&found.stderr));
    std::fs::write(file, &intact).unwrap();
}

/// On a healthy cluster with a backup of both servers.
pub fn the_admin_machine_lists_makes_and_verifies_backups(lab: &Lab) {
    let before = list(lab);
    let part = &before["parts"][0];
    let backups = part["postgres"].as_array().unwrap().len();
    assert_eq!(part["postgres"][0]["type"], "full", "{before}");
    assert!(part["redis"].as_array().is_some_and(|snapshots| !snapshots.is_empty()), "{before}");

    let dir = lab.cluster.dir.to_str().unwrap();
    let made = output("backup now", lab.client(&[HANODE, "backup", "now", dir, "--json"]));
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["completed"].as_array().unwrap().len(), 2, "{made}");
    let after = list(lab);
    let newest = after["parts"][0]["postgres"].as_array().unwrap();
    assert_eq!((newest.len(), &newest[backups]["label"]), (backups + 1, &made["completed"][0][1]["label"]));
    let table = output("backup list", backup(lab, "list", &[]));
    eprintln!("{table}");
    assert_eq!(lab.output("node1", &["hanode", "backup", "list"]), table);

    eprintln!("{}", output("backup verify", verify(lab)));
    let part = repository(lab).join("backup").join(part["name"].as_str().unwrap());
    finds_damage(lab, &file_below(&part, "PG_VERSION.lz4"), "PG_VERSION");
    let wal = repository(lab).join("archive").join(part.file_name().unwrap());
    let first = newest[0]["first_wal"].as_str().unwrap();
    // Not the history file of the backup, which begins with the same name.
    let segment_name = format!("{first}-");
    let segment = std::fs::read_dir(wal.join("17-1/0000000100000000")).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        path.to_string_lossy().contains(&segment_name).then_some(path)
    });
    finds_damage(lab, &segment.unwrap(), first);
    let snapshot = file_below(&repository(lab).join("redis"), ".rdb");
    finds_damage(lab, &snapshot, snapshot.file_name().and_then(OsStr::to_str).unwrap());

    // What a restore would fetch, beforehand.
    let at = repository(lab);
    let plan = |moment: &str| {
        let place = ["--restore", moment, "--mount", at.to_str().unwrap()];
        outcome(lab.hanode(&["plan"], &place))
    };
    let latest = plan("latest").unwrap();
    eprintln!("{latest}");
    assert!(
        latest.contains(newest[backups]["label"].as_str().unwrap()) && latest.contains(".rdb"),
        "{latest}"
    );
    let before = plan("2026-01-01T00:00:00Z").unwrap_err();
    assert!(before.contains("has no part of cluster hspas from before 2026-01-01T00:00:00Z"), "{before}");
    let status = output("status", lab.hanode(&["lab", "status"], &[]));
    eprintln!("{status}");
    assert!(
        status.contains("backup  PostgreSQL: differential backup by") && status.contains("backup  WAL: "),
        "{status}"
    );

    let elsewhere = outcome(lab.hanode(&["backup", "list"], &["--mount", "/no/such/directory"])).unwrap_err();
    assert!(elsewhere.contains("--mount") && elsewhere.contains("/mnt/backup"), "{elsewhere}");
}

/// Beside the living cluster, whose repository stays as it is.
pub fn a_drill_boots_the_newest_backup(lab: &Lab) {
    lab.redis_set("after-the-snapshot", "x").unwrap();
    let before = list(lab);
    let repository = repository(lab);
    let place = [
        "--image",
        lab.image.to_str().unwrap(),
        "--mount",
        repository.to_str().unwrap(),
        "--timeout-scale",
        "2",
    ];
    let report = output("lab drill", lab.hanode(&["lab", "drill"], &[&place[..], &["--json"]].concat()));
    eprintln!("{report}");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["passed"] == true && report["postgres"]["damage"] == serde_json::json!([]), "{report}");
    assert!(
        report["postgres"]["missing_bytes"].is_u64() && report["seconds"].as_f64() > Some(1.0),
        "{report}"
    );
    // The load has removed its keys since the snapshot.
    assert!(report["redis"]["keys"].is_u64() && report["redis"]["keys_before"] == 1, "{report}");
    let part = before["parts"].as_array().unwrap().last().unwrap();
    assert_eq!(report["restored"]["choice"]["part"], part["name"], "{report}");

    let after = list(lab);
    let names = |listing: &serde_json::Value| {
        let parts = listing["parts"].as_array().unwrap();
        parts.iter().map(|part| part["name"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&after), names(&before), "the drill wrote into the repository");
    assert!(!lab.cluster.dir.join(".drill").exists());
    assert!(lab.health().healthy);
}
