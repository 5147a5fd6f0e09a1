//! Rendered files, checked by the components' validators and run by the servers, inside the target's tree. Needs root.

use crate::cases::Case;
use crate::support;
use crate::support::fixture::ubuntu_case;
use hanode_core::plan::Action;
use hanode_core::render::sentinel;
use hanode_core::spec::RedisUser;
use hanode_util::file_tree::{Entry, EntryKind};
use std::path::Path;

const CERTIFICATES: &str = include_str!("../validators/certificates.sh");

/// Runs a script in Debian's tree, after creating the certificates that the files name.
fn sandboxed(entries: &[Entry], script: &str) -> String {
    sandboxed_in(&support::debian(), &support::program(), entries, script)
}

/// The same in any tree, with a program built for it.
fn sandboxed_in(tree: &Path, program: &[u8], entries: &[Entry], script: &str) -> String {
    support::sandbox::sandboxed(
        tree,
        program,
        entries,
        &format!(
            "{CERTIFICATES}
{script}"
        ),
    )
}

#[test]
fn every_validator_accepts_its_file() {
    let mut revoked = Case::of(3);
    revoked.revoked = true;
    revoked.machine.process_events = false;
    let mut tuned = Case::of(5).external();
    tuned.spec.redis.tls = false;
    tuned.spec.redis.min_replicas = 0;
    tuned.spec.postgres.parameters.insert("log_line_prefix".into(), "it's %p ".into());
    for case in [Case::of(3), Case::of(3).plain(), revoked, tuned] {
        sandboxed(&case.render("node1"), include_str!("../validators/validators.sh"));
    }
}

#[test]
fn one_node_serves() {
    let mut case = Case::of(3).with_applications().planned(Action::Bootstrap, "node1");
    // A single member has a quorum.
    case.plan.etcd.initial_cluster.truncate(1);
    let mut entries = case.render("node1");
    entries.push(Entry::file("/tmp-crl", 0o644, case.crl_der.clone()));
    sandboxed(&entries, include_str!("../validators/one-node.sh"));
}

/// The files of this target with its old servers: HAProxy, Keepalived, PostgreSQL 12, Patroni 2.1.0, Redis 6.0, etcd.
#[test]
fn servers_of_ubuntu_20_04_accept_their_files() {
    let setup = support::fixture::ubuntu_20_04();
    let tree = setup.tree();
    let within = |entries: &[Entry], script: &str| sandboxed_in(&tree, &setup.program, entries, script);
    let mut revoked = ubuntu_case();
    revoked.revoked = true;
    revoked.machine.process_events = false;
    for case in [ubuntu_case(), ubuntu_case().plain(), revoked] {
        within(&case.render("node1"), include_str!("../validators/validators.sh"));
    }
    let mut case = ubuntu_case().with_applications().planned(Action::Bootstrap, "node1");
    case.plan.etcd.initial_cluster.truncate(1);
    let mut entries = case.render("node1");
    entries.push(Entry::file("/tmp-crl", 0o644, case.crl_der.clone()));
    within(&entries, include_str!("../validators/one-node.sh"));
    let mut case = ubuntu_case();
    case.machine.process_events = false;
    within(&case.render("node2"), include_str!("../validators/keepalived.sh"));
    let mut case = ubuntu_case();
    let entries = side_by_side(&mut case);
    let script = include_str!("../validators/three-redis.sh");
    within(&entries, &format!("set -- '--tls --cacert /etc/ssl/myca/root.crt'\n{script}"));
}

#[test]
fn keepalived_takes_the_address() {
    let mut case = Case::of(3);
    case.machine.process_events = false;
    sandboxed(&case.render("node2"), include_str!("../validators/keepalived.sh"));
}

/// Each node's Redis and Sentinel files, moved below `/srv/NODE` so that one tree holds all three.
fn side_by_side(case: &mut Case) -> Vec<Entry> {
    case.spec.redis_users.extend(Case::of(3).with_applications().spec.redis_users);
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
        let news = Case::of(3).with_applications().spec.redis_users.remove(1);
        let channels = vec!["news:*".to_string()];
        case.spec.redis_users = vec![RedisUser { name: "news".into(), channels, ..news }];
        case.secrets.redis_users.insert("news".into(), "news-0123456789-not-for-use".into());
        let mut entries = side_by_side(&mut case);
        let script = format!("set -- '{flags}'\n{}", include_str!("../validators/three-redis.sh"));
        let stdout = sandboxed(&entries, &script);
        let (_, rest) = stdout.split_once("=== sentinel.conf\n").expect("the rewritten file");
        let (rewritten, _) = rest.split_once("=== end").expect("the end of the rewritten file");
        let id = rewritten.lines().find_map(|line| line.strip_prefix("sentinel myid ")).expect("an id");

        for entry in entries.iter_mut().filter(|e| e.path == "/srv/node1/live/sentinel.conf") {
            let EntryKind::File(fresh) = &entry.kind else { panic!("{} is no file", entry.path) };
            let fresh = String::from_utf8(fresh.clone()).expect("text");
            entry.kind = EntryKind::File(sentinel::merge(&fresh, rewritten).into_bytes());
        }
        let script = format!("set -- '{flags}' {id}\n{}", include_str!("../validators/one-sentinel.sh"));
        sandboxed(&entries, &script);
    }
}
