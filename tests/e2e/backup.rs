//! Backups of a running cluster: real pgBackRest, into a file system that all nodes mount, and into a server of the S3
//! protocol behind TLS.

use crate::backup_commands::{
    a_drill_boots_the_newest_backup, the_admin_machine_lists_makes_and_verifies_backups,
};
use crate::common::programs::hanode;
use crate::support::lab::{Lab, NODES, eventually, no_acknowledged_write_is_lost, output, until};
use crate::support::{Workdir, build, fixture, workdir};
use hanode_admin::cluster_dir::ClusterDir;
use hanode_core::backup::{ArchiveQueue, BackupReport, Completed, Server};
use hanode_core::spec;
use hanode_core::state::ProblemKind;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KEYS: (&str, &str) =
    ("# [backup]\n# repository = \"s3://bucket/prefix\" ", "[backup]\nrepository = \"file:///mnt/backup\" ");
const S3_PORT: u16 = 9443;
/// The address of this machine in the lab's network.
const OUTSIDE: &str = "192.168.18.1";
/// PostgreSQL's archiver waits for a minute after three failures, and the agent before it repeats a backup.
const RETRIED: Duration = Duration::from_secs(200);

fn reports(lab: &Lab) -> Vec<(String, BackupReport)> {
    lab.health().nodes.into_iter().filter_map(|node| Some((node.name, node.backup?))).collect()
}

fn completed(lab: &Lab, server: Server) -> Option<Completed> {
    reports(lab).iter().find_map(|(_, report)| report.records.last(server).cloned())
}

fn queue(lab: &Lab) -> ArchiveQueue {
    reports(lab).into_iter().find_map(|(_, report)| report.queue).unwrap_or_default()
}

#[track_caller]
fn completed_after(lab: &Lab, server: Server, after: i64) -> Completed {
    eventually(RETRIED, || {
        let last = completed(lab, server).filter(|last| last.started > after);
        last.ok_or_else(|| format!("{}: {:#?}", server.name(), reports(lab)))
    })
}

/// As the timer does on every node.
fn make_due(lab: &Lab) {
    for node in NODES {
        lab.output(node, &["systemctl", "start", "hanode-backup-due.service"]);
    }
}

fn pgbackrest(lab: &Lab, node: &str, words: &str) -> String {
    lab.sh(node, &format!("su -s /bin/sh postgres -c 'pgbackrest {words}'"))
}

fn key_of(lab: &Lab) -> String {
    lab.cluster.secrets.backup_key.clone().expect("a key")
}

#[test]
fn a_cluster_backs_up_both_servers_and_continues_after_a_failover() {
    let lab =
        Lab::up_on_debian(workdir(), &[KEYS, ("# archive_timeout = \"60s\"", "archive_timeout = \"10s\"")]);
    let first = Server::ALL.map(|server| completed_after(&lab, server, 0));
    let leader = lab.postgres_leader().unwrap();
    assert_eq!(first[0].node, leader);
    assert_ne!(Some(&first[1].node), lab.redis_primary().as_ref(), "Redis is copied from a replica");
    assert!(first[0].label.ends_with('F'), "{first:?}");
    // Nothing in the repository is readable without the key.
    let repository = lab.cluster.dir.join(".lab/repository");
    let plain = lab.sh(&leader, "grep -rlE 'pg_control|REDIS0|db-system-id' /mnt/backup || true");
    assert_eq!(plain, "", "{}", repository.display());
    assert!(!lab.sh(&leader, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '").contains(&key_of(&lab)));

    the_admin_machine_lists_makes_and_verifies_backups(&lab);
    let first = Server::ALL.map(|server| completed(&lab, server).unwrap());

    let load = lab.load();
    make_due(&lab);
    let second = completed_after(&lab, Server::Postgres, first[0].started);
    assert!(second.label.contains("F_") && second.full_started == first[0].full_started, "{second:?}");

    // The power cut of the leader in the middle of a backup: the schedule continues on the new leader.
    make_due(&lab);
    lab.kill(&[leader.as_str()]);
    let third = completed_after(&lab, Server::Postgres, second.started);
    assert!(third.node != leader && third.timeline > second.timeline, "{third:?}");
    lab.up(&["--node", &leader]);
    no_acknowledged_write_is_lost(load);
    lab.healthy_within(RETRIED);
    assert_eq!(lab.health().warnings, Vec::<String>::new());
    let files = pgbackrest(&lab, "node1", &format!("repo-ls redis/{}", third.stanza));
    assert!(files.lines().count() >= 2, "{files}");
    a_drill_boots_the_newest_backup(&lab);
}

/// A server of the S3 protocol on the lab's network, with a certificate of the cluster's own CA.
struct S3(Child);

impl S3 {
    fn start(lab: &Lab, dir: &Path) -> S3 {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixture/s3.sh");
        let python = fixture::run(Command::new("sh").arg(script).arg(fixture::dir()));
        let ca = lab.cluster.dir.join("pki/service");
        let make = format!(
            "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout s3.key -out s3.csr -subj /CN=s3
             printf 'subjectAltName=IP:{OUTSIDE}' > s3.ext
             openssl x509 -req -in s3.csr -CA {ca}/ca.crt -CAkey {ca}/ca.key -days 2 -extfile s3.ext -out s3.crt",
            ca = ca.display()
        );
        fixture::run(Command::new("sh").args(["-ec", &format!("cd {}; {make}", dir.display())]));
        let server = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixture/s3.py");
        let spawn = || {
            let mut command = Command::new(&python);
            command.args([server, OUTSIDE, &S3_PORT.to_string()]).arg(dir.join("s3.crt"));
            command.arg(dir.join("s3.key")).arg("bucket").stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        S3(lab.in_network(spawn))
    }

    /// Stops it without closing connections, like a machine that hangs.
    fn hang(&self, hang: bool) {
        let signal = if hang { "-STOP" } else { "-CONT" };
        fixture::run(Command::new("kill").args([signal, &self.0.id().to_string()]));
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The keys of the storage come into secrets.toml as an operator would add them.
fn s3_cluster(workdir: Workdir) -> Lab {
    let keys = format!(
        "[backup]\nrepository = \"s3://bucket/prod\"\nendpoint = \"{OUTSIDE}:{S3_PORT}\"\npath_style = true\n\
         ca_file = \"/etc/ssl/myca/root.crt\"\narchive_timeout = \"10s\"\n"
    );
    let (dir, image) = (workdir.path().join("demo"), workdir.path().join("node.tar"));
    ClusterDir::init(&dir, &spec::STARTER.replacen("# [backup]\n", &keys, 1)).unwrap();
    let check = hanode().arg("check").arg(&dir).output().unwrap();
    let faults =
        String::from_utf8_lossy(&check.stderr).into_owned() + &String::from_utf8_lossy(&check.stdout);
    assert!(faults.contains("there is no s3_secret"), "{faults}");
    let mut secrets = File::options().append(true).open(dir.join("secrets.toml")).unwrap();
    secrets.write_all(b"s3_key = \"AKIATEST\"\ns3_secret = \"a/b+c=0123456789\"\n").unwrap();
    output("certs issue", hanode().args(["certs", "issue"]).arg(&dir).output().unwrap());
    output("check", hanode().args(["check", "--strict"]).arg(&dir).output().unwrap());
    let cluster = ClusterDir::load(&dir).unwrap();
    build("debian-13", Some(&cluster), &image);
    Lab::of(workdir, cluster, image)
}

/// The repository does not exist when the cluster starts, and hangs later.
#[test]
fn a_repository_in_s3_behind_tls_may_be_away() {
    let lab = s3_cluster(workdir());
    lab.up(&[]);
    eventually(RETRIED, || {
        let failed = reports(&lab).iter().find_map(|(_, r)| r.records.failure(Server::Postgres).cloned());
        failed.filter(|failed| failed.error.contains(OUTSIDE)).ok_or("no failed backup is reported".into())
    });
    let problems = lab.health().problems;
    assert!(problems.iter().any(|p| p.kind == ProblemKind::BackupFailed), "{problems:?}");
    let dir = tempfile::tempdir().unwrap();
    let s3 = S3::start(&lab, dir.path());
    let first = Server::ALL.map(|server| completed_after(&lab, server, 0));
    lab.healthy_within(RETRIED);

    let load = lab.load();
    s3.hang(true);
    until("segments wait", RETRIED, || queue(&lab).segments >= 3);
    // A clean shutdown of the leader does not wait for the repository either.
    let (leader, next) = (lab.postgres_leader().unwrap(), lab.sync_standby().unwrap());
    let start = Instant::now();
    lab.patroni(&leader, &["switchover", "hspas", "--candidate", &next, "--force"]);
    eprintln!("switchover while the repository hangs: {:.1} s", start.elapsed().as_secs_f64());
    assert!(start.elapsed() < Duration::from_secs(25));
    s3.hang(false);
    let second = completed_after(&lab, Server::Postgres, first[0].started);
    assert!(second.timeline > first[0].timeline, "{second:?}");
    until("the queue is empty", RETRIED, || queue(&lab).segments <= 1);
    no_acknowledged_write_is_lost(load);
    lab.healthy_within(RETRIED);
    drop(s3);
}
