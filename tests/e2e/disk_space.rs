//! A file system of a node that fills up: shown, then a problem, then healthy again. A small file system over the logs
//! stands in for the node's disk, since a container shares that with the host.

use crate::support::lab::{Lab, eventually, output};
use crate::support::schedule::{self, Shared};
use crate::support::workdir_without_turn;
use std::time::Duration;

/// The watcher measures every ten seconds and reports as often.
const REPORTED: Duration = Duration::from_secs(45);
const MOUNT: &str = "mount -t tmpfs -o size=64m,nr_inodes=1000,mode=755 tmpfs /var/log";

fn cluster() -> Shared {
    schedule::shared("disk_space", || Lab::up_on_debian(workdir_without_turn(), &[]))
}

impl Lab {
    fn file_system(&self, node: &str, mount: &str) -> Option<serde_json::Value> {
        let status = self.status();
        let node = status["nodes"].as_array()?.iter().find(|n| n["name"] == node)?.clone();
        node["file_systems"].as_array()?.iter().find(|f| f["mount"] == mount).cloned()
    }

    fn disk_problems(&self) -> Vec<String> {
        let problems = self.health().problems.into_iter().map(|problem| problem.to_string());
        problems.filter(|problem| problem.starts_with("node1: /var/log ")).collect()
    }

    fn table(&self) -> String {
        output_of(self.hanode(&["lab", "status"], &[]).stdout)
    }
}

fn output_of(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn every_node_reports_the_file_system_of_its_root_once() {
    let cluster = cluster();
    for node in ["node1", "node2", "node3"] {
        let root = eventually(REPORTED, || cluster.file_system(node, "/").ok_or("no file system".into()));
        let size = cluster.output(node, &["df", "--output=size", "-B1", "/"]);
        let size = size.lines().last().and_then(|line| line.trim().parse::<u64>().ok());
        assert_eq!(root["size_bytes"].as_u64(), size, "{root}");
        assert_eq!(
            root["holds"],
            serde_json::json!(["system", "etcd", "PostgreSQL", "Redis", "logs"]),
            "{root}"
        );
        assert!(root["age_seconds"].as_u64().is_some_and(|age| age < 30), "{root}");
    }
}

#[test]
fn a_file_system_that_fills_up_is_shown_before_it_is_a_problem() {
    let cluster = cluster();
    cluster.output("node1", &["sh", "-c", MOUNT]);
    let fill = |mib: u32| {
        let script = format!("dd if=/dev/zero of=/var/log/fill bs=1M count={mib} 2>/dev/null");
        cluster.output("node1", &["sh", "-c", &script]);
    };
    fill(56);
    eventually(REPORTED, || match cluster.table() {
        table if table.contains("disk space  node1: /var/log (logs) is 88 % full, 8 MiB free") => Ok(()),
        table => Err(table),
    });
    assert_eq!(cluster.disk_problems(), Vec::<String>::new());
    fill(60);
    let problems = eventually(REPORTED, || match cluster.disk_problems() {
        problems if problems.is_empty() => Err("no problem".into()),
        problems => Ok(problems),
    });
    assert!(problems[0].contains("is 94 % full, 4 MiB free"), "{problems:?}");
    let login = format!("stats:{}", cluster.cluster.secrets.stats);
    eventually(REPORTED, || {
        let metrics = ["curl", "-sSf", "-u", &login, "http://192.168.18.21:7000/metrics"];
        let metrics = output("metrics", cluster.client(&metrics));
        let line = r#"hanode_filesystem_size_bytes{node="node1",mount="/var/log"} 67108864"#;
        if metrics.lines().any(|l| l == line) { Ok(()) } else { Err(metrics) }
    });

    let files = "rm /var/log/fill; for i in $(seq 950); do : > /var/log/file-$i; done";
    cluster.output("node1", &["sh", "-c", files]);
    eventually(REPORTED, || match cluster.disk_problems() {
        problems if problems.iter().any(|p| p.contains(" % of its inodes in use, ")) => Ok(()),
        problems => Err(format!("{problems:?}")),
    });
    cluster.output("node1", &["umount", "-l", "/var/log"]);
    eventually(REPORTED, || match cluster.disk_problems() {
        problems if problems.is_empty() => Ok(()),
        problems => Err(format!("{problems:?}")),
    });
    cluster.healthy_within(Duration::from_secs(60));
}
