//! The script with which Patroni clones the leader's data, run with programs that replace PostgreSQL's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const SCRIPT: &str = include_str!("../../image/templates/clone_replica.sh");

/// Runs the script; `basebackup` is a shell script with the data directory in `$data`.
fn clone(at: &Path, basebackup: &str) -> Output {
    let data = at.join("data");
    let program = |name: &str, text: String| {
        fs::write(at.join(name), text).unwrap();
        fs::set_permissions(at.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    program("psql", "#!/bin/sh\necho 2\n".into());
    program("pg_basebackup", format!("#!/bin/sh\ndata={}\n{basebackup}\n", data.display()));
    let template = [
        ("{{ node.name }}", "node1".to_string()),
        ("{{ paths.postgres_bin }}", at.display().to_string()),
        ("{{ paths.postgres_data }}", data.display().to_string()),
        ("{{ replication_slot }}", "node1".into()),
        ("{%- if features.postgres_wal_keep_size is on %}", String::new()),
        ("{%- endif %}", String::new()),
        ("patience=600", "patience=2".into()),
        ("interval=10", "interval=1".into()),
    ];
    let script = template.iter().fold(SCRIPT.to_string(), |text, (from, to)| {
        assert!(text.contains(from), "no {from}");
        text.replace(from, to)
    });
    program("clone_replica", script);
    Command::new(at.join("clone_replica")).arg("--connstring=host=node2").output().unwrap()
}

fn is_discarded(at: &Path) -> bool {
    !at.join("data").exists() && !at.join("data.cloning").exists()
}

#[test]
fn a_clone_that_makes_no_progress_ends() {
    let dir = tempfile::tempdir().unwrap();
    let output = clone(dir.path(), "mkdir $data; echo half > $data/file; exec sleep 1000");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && text.contains("no data has arrived for 2 s"), "{output:?}");
    assert!(is_discarded(dir.path()));
}

#[test]
fn a_slow_clone_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let slow = "mkdir $data; for n in 1 2 3 4 5 6; do head -c 100000 /dev/zero > $data/$n; sleep 1; done";
    let output = clone(dir.path(), slow);
    assert!(output.status.success(), "{output:?}");
    assert!(dir.path().join("data/6").exists() && !dir.path().join("data.cloning").exists());
}

#[test]
fn what_a_failed_clone_has_written_is_discarded() {
    let dir = tempfile::tempdir().unwrap();
    let output = clone(dir.path(), "mkdir $data; echo half > $data/file; exit 7");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(is_discarded(dir.path()));
}
