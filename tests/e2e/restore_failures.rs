//! Restores that the repository does not allow, or not yet: each names what is missing, and ends well once it is there. The
//! same cluster is restored to a position and to a named point.

use crate::backup_commands::list;
use crate::restore::{KEYS, archived, completed, destroy, request};
use crate::support::lab::{Lab, NODES, until};
use crate::support::workdir;
use hanode_core::restore::RestoreRequest;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);

/// Blank machines with this key, as the moment of a part.
fn boot(lab: &Lab, part: &str, moment: &str) {
    destroy(lab);
    let wanted: RestoreRequest = format!("{part}/{moment}").parse().unwrap();
    for node in NODES {
        request(lab, node, &wanted);
        lab.driver().start(node).unwrap();
    }
}

/// A node reports why it does not restore.
fn refuses(lab: &Lab, why: &str) {
    let reason = |node: &str| {
        let output = lab.on(node, &["cat", "/run/hanode/state.json"]);
        let state: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        state["plan"]["postgres"]["reason"].as_str().unwrap_or_default().to_string()
    };
    until(why, LIMIT, || NODES.iter().any(|node| reason(node).contains(why)));
    for node in NODES {
        eprintln!("{node}: {}", reason(node));
    }
    assert!(lab.postgres_leader().is_none());
}

fn rows(lab: &Lab) -> String {
    lab.healthy_within(LIMIT);
    lab.psql("5432", "SELECT string_agg(n::text, ' ' ORDER BY n) FROM kept").unwrap()
}

/// The file of the archive with this segment.
fn archived_file(repository: &Path, part: &str, segment: &str) -> PathBuf {
    let dir = repository.join("archive").join(part).join("17-1").join(&segment[..16]);
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_segment = |path: &PathBuf| path.to_string_lossy().contains(&format!("/{segment}-"));
    files.into_iter().find(is_segment).unwrap()
}

#[test]
#[ignore = "minutes: make test-recover"]
fn restores_that_lack_something_name_it_and_continue() {
    let lab = Lab::up_on_debian(workdir(), &KEYS);
    completed(&lab);
    let part = list(&lab)["parts"][0]["name"].as_str().unwrap().to_string();
    lab.psql("5432", "CREATE TABLE kept AS SELECT 1 AS n").unwrap();
    let leader = lab.postgres_leader().unwrap();
    let lsn = lab.admin_sql(&leader, "SELECT pg_current_wal_insert_lsn()");
    lab.psql("5432", "INSERT INTO kept VALUES (2)").unwrap();
    lab.admin_sql(&leader, "SELECT pg_create_restore_point('before-upgrade')");
    let segment = lab.admin_sql(&leader, "SELECT pg_walfile_name(pg_current_wal_lsn())");
    archived(&lab);
    lab.psql("5432", "INSERT INTO kept VALUES (3)").unwrap();
    archived(&lab);

    boot(&lab, &part, &format!("lsn:{lsn}"));
    assert_eq!(rows(&lab), "1");
    boot(&lab, &part, "name:before-upgrade");
    assert_eq!(rows(&lab), "1 2");
    boot(&lab, &part, "name:never-made");
    refuses(&lab, "recovery ended before configured recovery target was reached");

    // A segment that is missing in the middle, until it is put back.
    let repository = lab.cluster.dir.join(".lab/repository");
    let file = archived_file(&repository, &part, &segment);
    let aside = repository.join("aside");
    std::fs::rename(&file, &aside).unwrap();
    boot(&lab, &part, "latest");
    refuses(&lab, &format!("lacks the WAL segment {segment}"));
    std::fs::rename(&aside, &file).unwrap();
    assert_eq!(rows(&lab), "1 2 3");

    // Files that this key does not decrypt, as with another backup_key.
    let info =
        ["backup.info", "backup.info.copy"].map(|name| repository.join("backup").join(&part).join(name));
    let intact = info.clone().map(|path| std::fs::read(path).unwrap());
    for (path, content) in info.iter().zip(&intact) {
        std::fs::write(path, content.iter().map(|byte| byte ^ 0x55).collect::<Vec<_>>()).unwrap();
    }
    boot(&lab, &part, "latest");
    refuses(&lab, "is backup_key in secrets.toml that of its cluster?");
    for (path, content) in info.iter().zip(&intact) {
        std::fs::write(path, content).unwrap();
    }
    assert_eq!(rows(&lab), "1 2 3");

    boot(&lab, "hspas", "2020-01-01T00:00:00Z");
    refuses(&lab, "has no part of cluster hspas from before 2020-01-01T00:00:00Z");
}
