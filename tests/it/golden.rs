//! Golden files: the complete output of `render` for several clusters, with owners and modes.
//!
//! `tests/golden/TARGET/` is the tree of node1 of a three-node cluster on that target: `manifest.txt`, and
//! the files below `root/`. A file that is the same on a target before it is a symlink to that file.
//! `tests/golden/CASE.diff` holds the nodes of another cluster as differences from a tree, see `Hunks`.
//!
//! `UPDATE_GOLDEN=1 cargo test --test it -- golden spec::` writes them again; read `git diff` before you commit them.

use crate::cases::Case;
use hanode_core::plan::Action;
use hanode_core::spec;
use hanode_util::file_tree::{self, Entry, EntryKind, ManifestRow};
use similar::{Algorithm, DiffOp, TextDiff, capture_diff_slices};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
const TARGETS: [&str; 4] = ["debian-13", "ubuntu-22.04", "ubuntu-20.04", "centos-8"];
const MANIFEST: &str = "manifest.txt";

/// What one node gets: `MANIFEST`, and each file by its absolute path.
type Tree = BTreeMap<String, Vec<u8>>;

/// A path below `GOLDEN`, and what is there.
type Golden = BTreeMap<PathBuf, Item>;

#[derive(PartialEq)]
enum Item {
    File(Vec<u8>),
    Link(PathBuf),
    EmptyDir,
}

/// A cluster, and the cluster that its first node is compared with. Its other nodes are compared with its first.
struct Variant {
    name: &'static str,
    case: Case,
    nodes: &'static [&'static str],
    base: &'static str,
    base_case: Case,
}

fn variants() -> Vec<Variant> {
    let three =
        |name, case, nodes| Variant { name, case, nodes, base: "three-tls-vrrp", base_case: Case::of(3) };
    let mut revoked = Case::of(3);
    revoked.revoked = true;
    revoked.machine.process_events = false;
    vec![
        Variant { base: "debian-13", ..three("three-tls-vrrp", Case::of(3), &["node1", "node2", "node3"]) },
        three("three-plain-external", Case::of(3).plain().external(), &["node1", "node2", "node3"]),
        three("five-tls-vrrp", five(), &["node1", "node2", "node3", "node4", "node5"]),
        Variant {
            base: "five-tls-vrrp",
            base_case: five(),
            ..three("five-mixed-external", operators_settings(), &["node4"])
        },
        three("resume", Case::of(3).planned(Action::Resume, "node3"), &["node2"]),
        three("join", Case::of(3).planned(Action::Join, "node1"), &["node3"]),
        // Gets no file that depends on the plan.
        three("wait", Case::of(3).planned(Action::Wait, "node2"), &["node1"]),
        three("revoked-container", revoked, &["node1"]),
        three("backup-s3", backup(), &["node1"]),
        three("applications", Case::of(3).with_applications(), &["node1"]),
    ]
}

fn five() -> Case {
    let mut case = Case::of(5);
    case.spec.redis.min_replicas = 2;
    case.spec.network.clients = ["10.0.0.0/8", "172.16.0.0/12"].map(|n| n.parse().expect("a network")).into();
    case
}

/// Backups into an object storage with a CA of its own.
fn backup() -> Case {
    let mut case = Case::of(3);
    let table = "[backup]\nrepository = \"s3://backups/prod\"\nendpoint = \"minio.example.org:9000\"\n\
                 path_style = true\nca_file = \"/etc/ssl/myca/root.crt\"\n";
    let text = spec::STARTER.replacen("# [backup]\n", table, 1);
    case.spec.backup = spec::parse(&text).unwrap_or_else(|faults| panic!("{faults}")).backup;
    case
}

/// TLS for PostgreSQL and not for Redis, and the operator's own settings.
fn operators_settings() -> Case {
    let mut case = Case::of(5).external();
    case.spec.redis.tls = false;
    case.spec.redis.min_replicas = 0;
    case.spec.postgres.synchronous = false;
    for (name, value) in [("max_connections", "500"), ("shared_buffers", "1GB"), ("work_mem", "it's 8MB")] {
        case.spec.postgres.parameters.insert(name.into(), value.into());
    }
    for (name, value) in
        [("maxmemory", "1gb"), ("client-output-buffer-limit", "pubsub 64mb 0 0"), ("io-threads", "2")]
    {
        case.spec.redis.parameters.insert(name.into(), value.into());
    }
    case.spec.haproxy.extra.insert("global".into(), vec!["nbthread 2".into()]);
    case.spec.haproxy.extra.insert("defaults".into(), vec!["timeout queue 10s".into()]);
    case
}

#[test]
fn rendered_files_match_the_golden_files() {
    let rendered = rendered();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        replace(&rendered);
    }
    let golden = read();
    let mut failures = String::new();
    for path in golden.keys().chain(rendered.keys()).collect::<BTreeSet<_>>() {
        failures += &match (golden.get(path), rendered.get(path)) {
            (old, new) if old == new => continue,
            (Some(_), None) => format!("tests/golden/{}: no case uses it\n", path.display()),
            (old, new) => unified(path, old, new),
        };
    }
    assert!(
        failures.is_empty(),
        "rendered files differ from the golden files:\n\n{failures}\n\
         help: if this is what you want, run `UPDATE_GOLDEN=1 cargo test --test it -- golden spec::` and commit the result\n"
    );
}

#[test]
fn golden_cases_with_redacted_secrets_hold_no_password() {
    let mut case = Case::of(3);
    case.secrets = hanode_core::render::redacted(&case.secrets);
    for (path, content) in tree_of(&case, "node1") {
        let text = String::from_utf8_lossy(&content);
        assert!(!text.contains("0123456789"), "{path}: {text}");
    }
}

#[test]
fn manifest_hashes_that_the_golden_files_omit_are_of_the_content() {
    let entries = [Entry::dir("/a", 0o755), Entry::file("/b", 0o644, "abc"), Entry::link("/c", "abc")];
    let hashes = file_tree::manifest(&entries).into_iter().map(|row| row.sha256).collect::<Vec<_>>();
    let abc = Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_string());
    assert_eq!(hashes, [None, abc.clone(), abc]);
}

fn rendered() -> Golden {
    let mut golden = Golden::new();
    let mut links: BTreeMap<(String, Vec<u8>), &str> = BTreeMap::new();
    for target in TARGETS {
        for (path, content) in tree_of(&Case::of(3).on(target), "node1") {
            let at = format!("{target}/{}", place(&path));
            let first = links.entry((path.clone(), content.clone())).or_insert(target);
            let item = if *first == target {
                Item::File(content)
            } else {
                let up = "../".repeat(at.matches('/').count());
                Item::Link(format!("{up}{first}/{}", place(&path)).into())
            };
            golden.insert(at.into(), item);
        }
    }
    for variant in variants() {
        golden.insert(format!("{}.diff", variant.name).into(), Item::File(variant.diff().into_bytes()));
    }
    golden
}

/// Below the tree's directory.
fn place(path: &str) -> String {
    if path == MANIFEST { path.into() } else { format!("root{path}") }
}

fn tree_of(case: &Case, node: &str) -> Tree {
    let mut entries = case.render(node);
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let manifest: String = entries.iter().zip(file_tree::manifest(&entries)).map(manifest_line).collect();
    let mut made = Tree::from([(MANIFEST.to_string(), manifest.into_bytes())]);
    for entry in entries {
        if let EntryKind::File(content) = entry.kind {
            let before = made.insert(entry.path.clone(), content);
            assert!(before.is_none(), "{} is rendered twice", entry.path);
        }
    }
    made
}

/// A link's target, but no hash: the content is in the tree.
fn manifest_line((entry, row): (&Entry, ManifestRow)) -> String {
    let ManifestRow { path, kind, mode, owner, group, label, sha256: _ } = row;
    assert_eq!(entry.path, path);
    let label = label.map_or(String::new(), |label| format!(" {label}"));
    let target = match &entry.kind {
        EntryKind::Link(target) => format!(" -> {target}"),
        _ => String::new(),
    };
    format!("{path} {kind} {mode} {owner}:{group}{label}{target}\n")
}

impl Variant {
    fn diff(&self) -> String {
        let of_base = NodeTree::new(self.base, &self.base_case, self.nodes[0]);
        let first = NodeTree::new(self.name, &self.case, self.nodes[0]);
        let mut out = first.diff(&of_base);
        for node in &self.nodes[1..] {
            out += &NodeTree::new(self.name, &self.case, node).diff(&first);
        }
        out
    }
}

/// One node of a case, and what it gets.
struct NodeTree {
    name: String,
    header: String,
    tree: Tree,
}

impl NodeTree {
    fn new(case_name: &str, case: &Case, node: &str) -> Self {
        NodeTree {
            name: format!("{case_name}/{node}"),
            header: format!("written by hanode for {node}"),
            tree: tree_of(case, node),
        }
    }

    fn diff(&self, base: &NodeTree) -> String {
        let mut out = format!("diff {} {}\n", base.name, self.name);
        for path in base.tree.keys().chain(self.tree.keys()).collect::<BTreeSet<_>>() {
            // Most files name their node in a header; without this, each of them differs on each node.
            let old = base.tree.get(path).map(|old| text(old).replace(&base.header, &self.header));
            let new = self.tree.get(path).map(|new| text(new));
            if old == new {
                continue;
            }
            let at = |node: &NodeTree| format!("{}/{}", node.name, path.trim_start_matches('/'));
            let from = old.as_ref().map_or("/dev/null".into(), |_| at(base));
            let to = new.as_ref().map_or("/dev/null".into(), |_| at(self));
            // The content of a file that is not there any more is known from the base.
            let hunks = new.map_or(String::new(), |new| Hunks::between(&old.unwrap_or_default(), &new));
            let _ = write!(out, "--- {from}\n+++ {to}\n{hunks}");
        }
        out
    }
}

/// Bytes that are not UTF-8 are shown as escapes.
fn text(content: &[u8]) -> String {
    String::from_utf8(content.to_vec()).unwrap_or_else(|_| {
        content.split_inclusive(|b| *b == b'\n').map(|l| format!("{}\n", l.escape_ascii())).collect()
    })
}

/// The differences of two texts, without context. Together with the old text they determine the new one, and
/// they do not change with a comment that both texts have, nor with its number of lines:
///
/// - `@@ backend redis, line 3 @@` counts lines that are not comments, below the last line without indentation.
/// - `-# …` is a removed comment of one or more lines.
struct Hunks<'a> {
    old: Vec<&'a str>,
    out: String,
}

impl Hunks<'_> {
    fn between(old: &str, new: &str) -> String {
        let (old, new): (Vec<_>, Vec<_>) =
            (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
        let mut hunks = Hunks { old, out: String::new() };
        for op in capture_diff_slices(Algorithm::Myers, &hunks.old, &new) {
            if matches!(op, DiffOp::Equal { .. }) {
                continue;
            }
            hunks.heading(op.old_range().start);
            hunks.removed(op.old_range());
            for line in &new[op.new_range()] {
                hunks.line('+', line);
            }
        }
        hunks.out
    }

    /// Where in the old text a hunk starts.
    fn heading(&mut self, start: usize) {
        let above = &self.old[..start];
        let section = above.iter().rposition(|line| is_section(line));
        let lines = &above[section.map_or(0, |at| at + 1)..];
        let number = 1 + lines.iter().filter(|line| !is_comment(line)).count();
        let section = section.map_or(String::new(), |at| self.section(at) + ", ");
        // A comment has no number of its own: a hunk below one has the number of the line that follows.
        let comment = self.old[start..].iter().take_while(|line| is_comment(line)).count();
        let place = match comment {
            0 => String::new(),
            _ if above.last().is_some_and(|line| is_comment(line)) => {
                format!(", {comment} lines above the comment's end")
            }
            _ => ", above the comment".into(),
        };
        let _ = writeln!(self.out, "@@ {section}line {number}{place} @@");
    }

    /// The name of a section, with a number where an earlier one has the same name.
    fn section(&self, at: usize) -> String {
        let name = |line: &str| line.trim_end().chars().take(72).collect::<String>();
        let this = name(self.old[at]);
        let same = self.old[..at].iter().filter(|line| is_section(line) && name(line) == this).count();
        if same > 0 { format!("{this} (number {})", same + 1) } else { this }
    }

    fn removed(&mut self, range: std::ops::Range<usize>) {
        let comment = |at: usize| self.old.get(at).is_some_and(|line| is_comment(line));
        let mut out = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = (at..range.end).find(|at| !comment(*at)).unwrap_or(range.end);
            let whole = (at == 0 || !comment(at - 1)) && !comment(end);
            if end > at && whole {
                out.push("# …\n");
                at = end;
            } else {
                out.push(self.old[at]);
                at += 1;
            }
        }
        out.into_iter().for_each(|line| self.line('-', line));
    }

    fn line(&mut self, sign: char, line: &str) {
        let end = if line.ends_with('\n') { "" } else { "\n\\ No newline at end of file\n" };
        let _ = write!(self.out, "{sign}{line}{end}");
    }
}

fn is_comment(line: &str) -> bool {
    ["#", "--", "<!--"].iter().any(|sign| line.trim_start().starts_with(sign))
}

fn is_section(line: &str) -> bool {
    line.starts_with(|c: char| c.is_alphanumeric() || c == '/') && !is_comment(line)
}

/// A unified diff for the reader of a failure.
fn unified(path: &Path, old: Option<&Item>, new: Option<&Item>) -> String {
    let shown = |item: Option<&Item>| match item {
        Some(Item::File(content)) => text(content),
        Some(Item::Link(to)) => {
            match path.parent().map(|parent| std::fs::read(Path::new(GOLDEN).join(parent).join(to))) {
                Some(Ok(content)) => text(&content),
                _ => format!("symlink to {}\n", to.display()),
            }
        }
        Some(Item::EmptyDir) => "empty directory\n".into(),
        None => String::new(),
    };
    let (old, new) = (shown(old), shown(new));
    if old == new {
        return format!("tests/golden/{}: a file and a symlink to the same content\n", path.display());
    }
    let name = format!("tests/golden/{}", path.display());
    TextDiff::from_lines(&old, &new).unified_diff().header(&name, "rendered").to_string()
}

fn read() -> Golden {
    let item = |item: walkdir::DirEntry| {
        let kind = item.file_type();
        let found = if kind.is_symlink() {
            Item::Link(std::fs::read_link(item.path()).expect("a readable symlink"))
        } else if kind.is_file() {
            Item::File(std::fs::read(item.path()).expect("a readable golden file"))
        } else if std::fs::read_dir(item.path()).expect("a readable directory").next().is_none() {
            Item::EmptyDir
        } else {
            return None;
        };
        Some((item.path().strip_prefix(GOLDEN).expect("a path below it").to_path_buf(), found))
    };
    walkdir::WalkDir::new(GOLDEN)
        .into_iter()
        .filter_map(|entry| item(entry.expect("a readable directory")))
        .collect()
}

/// Writes everything beside the golden files first, so that an interrupted update leaves them as they are.
fn replace(rendered: &Golden) {
    let new = PathBuf::from(format!("{GOLDEN}.new"));
    if new.exists() {
        std::fs::remove_dir_all(&new).expect("removing an interrupted update");
    }
    for (path, item) in rendered {
        let path = new.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a golden directory");
        match item {
            Item::File(content) => std::fs::write(path, content).expect("writing a golden file"),
            Item::Link(to) => std::os::unix::fs::symlink(to, path).expect("writing a golden symlink"),
            Item::EmptyDir => unreachable!("no case renders one"),
        }
    }
    if Path::new(GOLDEN).exists() {
        std::fs::remove_dir_all(GOLDEN).expect("removing the old golden files");
    }
    std::fs::rename(&new, GOLDEN).expect("moving the new golden files");
}
