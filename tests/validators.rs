//! The rendered files under the components' own checkers, and under the servers themselves, inside
//! the target's own tree. Needs root.

mod cases;
mod common;

use cases::{Case, address};
use hanode::plan::Action;
use hanode::render::sentinel;
use hanode::tree::{self, Entry, Ids, Kind};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const HELPERS: &str = include_str!("validators/helpers.sh");
const CERTIFICATES: &str = include_str!("validators/certificates.sh");

/// Lays `entries` over the Debian tree, runs the script in there, and returns what it printed.
fn sandboxed(entries: &[Entry], script: &str) -> String {
    sandboxed_in(&common::debian(), common::program(), entries, script)
}

/// The same in any tree, with a program that starts there.
fn sandboxed_in(tree: &Path, program: Vec<u8>, entries: &[Entry], script: &str) -> String {
    let dir = tempfile::Builder::new().prefix("hanode-validate-").tempdir().expect("a temporary directory");
    for part in ["upper", "work", "root"] {
        std::fs::create_dir(dir.path().join(part)).expect("a directory");
    }
    let upper = dir.path().join("upper");
    let ids = Ids::read(tree).expect("the tree's users");
    tree::write(&upper, entries, Some(&ids)).expect("writing the rendered files");
    let program = Entry::file("/usr/lib/hanode/hanode-firstboot", 0o755, program);
    tree::write(&upper, &[program], Some(&ids)).expect("writing the program");

    let mut child = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "sh"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/validators/sandbox.sh"))
        .args([tree.as_os_str(), dir.path().as_os_str()])
        .args([1, 2, 3, 4, 5, 0].map(|n| address(n).to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let script = format!("exec 2>&1\n{HELPERS}\n{CERTIFICATES}\n{script}");
    stdin.write_all(script.as_bytes()).expect("the script goes in");
    drop(stdin);
    let output = child.wait_with_output().expect("the sandbox ends");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("CHECKED"), "{}\n{said}", output.status);
    println!("{said}");
    said
}

#[test]
fn every_checker_accepts_its_file() {
    let mut revoked = Case::of(3);
    revoked.revoked = true;
    revoked.machine.process_events = false;
    let mut tuned = Case::of(5).external();
    tuned.spec.redis.tls = false;
    tuned.spec.redis.min_replicas = 0;
    tuned.spec.postgres.parameters.insert("log_line_prefix".into(), "it's %p ".into());
    for case in [Case::of(3), Case::of(3).plain(), revoked, tuned] {
        sandboxed(&case.render("node1"), include_str!("validators/checkers.sh"));
    }
}

#[test]
fn one_node_serves() {
    let mut case = Case::of(3).planned(Action::Begin, "node1");
    // Alone it shall have a quorum.
    case.plan.etcd.initial_cluster.truncate(1);
    let mut entries = case.render("node1");
    entries.push(Entry::file("/tmp-crl", 0o644, case.crl_der.clone()));
    sandboxed(&entries, include_str!("validators/one-node.sh"));
}

/// The old servers on what is rendered for them: HAProxy, Keepalived, PostgreSQL 12, Patroni 2.1.0, Redis 6.0, etcd.
#[test]
fn ubuntu_20_04_takes_its_files() {
    let ground = common::fixture::ubuntu_20_04();
    let tree = ground.tree();
    let within =
        |entries: &[Entry], script: &str| sandboxed_in(&tree, ground.program.clone(), entries, script);
    let mut revoked = Case::of(3).on(ground.target);
    revoked.revoked = true;
    revoked.machine.process_events = false;
    for case in [Case::of(3).on(ground.target), Case::of(3).on(ground.target).plain(), revoked] {
        within(&case.render("node1"), include_str!("validators/checkers.sh"));
    }
    let mut case = Case::of(3).on(ground.target).planned(Action::Begin, "node1");
    case.plan.etcd.initial_cluster.truncate(1);
    let mut entries = case.render("node1");
    entries.push(Entry::file("/tmp-crl", 0o644, case.crl_der.clone()));
    within(&entries, include_str!("validators/one-node.sh"));
    let mut case = Case::of(3).on(ground.target);
    case.machine.process_events = false;
    within(&case.render("node2"), include_str!("validators/keepalived.sh"));
    let mut case = Case::of(3).on(ground.target);
    let entries = side_by_side(&mut case);
    let script = include_str!("validators/three-redis.sh");
    within(&entries, &format!("set -- '--tls --cacert /etc/ssl/myca/root.crt'\n{script}"));
}

#[test]
fn keepalived_takes_the_address() {
    let mut case = Case::of(3);
    case.machine.process_events = false;
    sandboxed(&case.render("node2"), include_str!("validators/keepalived.sh"));
}

/// Each node's Redis and Sentinel files, moved below `/srv/NODE` so that one tree holds all three.
fn side_by_side(case: &mut Case) -> Vec<Entry> {
    let mut entries = case.render("node1");
    for node in ["node1", "node2", "node3"] {
        let at = |part: &str| format!("/srv/{node}{part}");
        for (name, part) in [
            ("redis_data", ""),
            ("redis_live", "/live"),
            ("redis_log", "/log"),
            ("redis_pid", "/run/redis.pid"),
            ("sentinel_pid", "/run/sentinel.pid"),
        ] {
            case.target.paths.insert(name.into(), at(part));
        }
        entries.push(Entry::dir(at("/run"), 0o755));
        entries.extend(case.render(node).into_iter().filter(|e| e.path.starts_with("/srv/")));
    }
    entries
}

#[test]
fn three_redis_fail_over_with_and_without_tls() {
    let tls = "--tls --cacert /etc/ssl/myca/root.crt";
    for (mut case, flags) in [(Case::of(3), tls), (Case::of(3).plain(), "")] {
        let mut entries = side_by_side(&mut case);
        let script = format!("set -- '{flags}'\n{}", include_str!("validators/three-redis.sh"));
        let said = sandboxed(&entries, &script);
        let (_, rest) = said.split_once("=== sentinel.conf\n").expect("the rewritten file");
        let (rewritten, _) = rest.split_once("=== end").expect("the end of the rewritten file");
        let id = rewritten.lines().find_map(|line| line.strip_prefix("sentinel myid ")).expect("an id");

        for entry in entries.iter_mut().filter(|e| e.path == "/srv/node1/live/sentinel.conf") {
            let Kind::File(fresh) = &entry.kind else { panic!("{} is no file", entry.path) };
            let fresh = String::from_utf8(fresh.clone()).expect("text");
            entry.kind = Kind::File(sentinel::merge(&fresh, rewritten).into_bytes());
        }
        let script = format!("set -- '{flags}' {id}\n{}", include_str!("validators/one-sentinel.sh"));
        sandboxed(&entries, &script);
    }
}
