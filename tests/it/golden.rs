//! Golden trees: what each node of several clusters is given, file by file and with owners and modes.
//! `UPDATE_GOLDEN=1 cargo test --test it golden::` writes them anew; read the difference before you commit it.

use crate::cases::Case;
use hanode::plan::Action;
use hanode::tree;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Path below the case's directory to content.
type Tree = BTreeMap<PathBuf, Vec<u8>>;

#[test]
fn three_nodes_with_tls() {
    compare("three-tls-vrrp", &Case::of(3), &["node1", "node2", "node3"]);
}

#[test]
fn three_nodes_without_tls_behind_a_load_balancer() {
    compare("three-plain-external", &Case::of(3).plain().external(), &["node1", "node2", "node3"]);
}

#[test]
fn five_nodes() {
    let mut case = Case::of(5);
    case.spec.redis.min_replicas = 2;
    case.spec.network.clients = ["10.0.0.0/8", "172.16.0.0/12"].map(|n| n.parse().expect("a network")).into();
    compare("five-tls-vrrp", &case, &["node1", "node2", "node3", "node4", "node5"]);
}

/// Redis in clear, PostgreSQL not, and the operator's own settings.
#[test]
fn operators_settings() {
    let mut case = Case::of(5).external();
    case.spec.redis.tls = false;
    case.spec.redis.min_replicas = 0;
    case.spec.postgres.synchronous = false;
    for (name, value) in [("max_connections", "500"), ("shared_buffers", "1GB"), ("work_mem", "it's 8MB")] {
        case.spec.postgres.parameters.insert(name.into(), value.into());
    }
    case.spec.haproxy.extra.insert("global".into(), vec!["nbthread 2".into()]);
    case.spec.haproxy.extra.insert("defaults".into(), vec!["timeout queue 10s".into()]);
    compare("five-mixed-external", &case, &["node4"]);
}

#[test]
fn resuming_and_joining() {
    compare("resume", &Case::of(3).planned(Action::Resume, "node3"), &["node2"]);
    compare("join", &Case::of(3).planned(Action::Join, "node1"), &["node3"]);
}

#[test]
fn a_node_that_waits_gets_no_file_that_depends_on_the_plan() {
    compare("wait", &Case::of(3).planned(Action::Wait, "node2"), &["node1"]);
}

/// Revoked certificates, in a container.
#[test]
fn revoked() {
    let mut case = Case::of(3);
    case.revoked = true;
    case.machine.process_events = false;
    compare("revoked-container", &case, &["node1"]);
}

/// One node each: what differs from debian-13 is what the target's file says.
#[test]
fn other_distributions() {
    for target in ["ubuntu-20.04", "ubuntu-22.04", "centos-8"] {
        compare(target, &Case::of(3).on(target), &["node1"]);
    }
}

#[test]
fn redacted_files_hold_no_password() {
    let mut case = Case::of(3);
    case.secrets = hanode::render::redacted(&case.secrets);
    for (path, content) in tree_of(&case, "node1") {
        let text = String::from_utf8_lossy(&content).into_owned();
        assert!(!text.contains("0123456789"), "{}: {text}", path.display());
    }
}

fn compare(name: &str, case: &Case, nodes: &[&str]) {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let made: Tree = nodes
        .iter()
        .flat_map(|node| {
            let tree = tree_of(case, node);
            tree.into_iter().map(move |(path, content)| (Path::new(node).join(path), content))
        })
        .collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        update(&at, &made);
    }
    let golden = read(&at);
    let paths = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&golden), paths(&made), "{name}: other files than in {}", at.display());
    for (path, content) in &made {
        let (old, new) = (String::from_utf8_lossy(&golden[path]), String::from_utf8_lossy(content));
        let differs = old.lines().zip(new.lines()).position(|(a, b)| a != b);
        let line = differs.unwrap_or(old.lines().count().min(new.lines().count()));
        let of = |text: &str| text.lines().nth(line).unwrap_or("(end)").to_string();
        let shown = format!("line {}:\n  golden   {}\n  rendered {}", line + 1, of(&old), of(&new));
        assert!(golden[path] == *content, "{name}: {}: {shown}", path.display());
    }
}

/// The node's files below `root/`, and the manifest of everything.
fn tree_of(case: &Case, node: &str) -> Tree {
    let entries = case.render(node);
    let manifest = serde_json::to_string_pretty(&tree::manifest(&entries)).expect("a manifest");
    let mut made = Tree::from([(PathBuf::from("manifest.json"), (manifest + "\n").into_bytes())]);
    for entry in entries {
        if let tree::Kind::File(content) = entry.kind {
            made.insert(tree::below(Path::new("root"), &entry.path), content);
        }
    }
    made
}

fn read(at: &Path) -> Tree {
    let files = walkdir::WalkDir::new(at).into_iter().map(|item| item.expect("a readable golden tree"));
    files
        .filter(|item| item.file_type().is_file())
        .map(|item| {
            let content = std::fs::read(item.path()).expect("a readable golden file");
            let path = item.path().strip_prefix(at).expect("below the case").to_path_buf();
            (path, content)
        })
        .collect()
}

fn update(at: &Path, made: &Tree) {
    if at.exists() {
        std::fs::remove_dir_all(at).expect("removing the old golden tree");
    }
    for (path, content) in made {
        let path = at.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a golden directory");
        std::fs::write(path, content).expect("writing a golden file");
    }
}
