//! What code that runs as a service's user can make root do: links in the directories of that user.

use crate::cases::Case;
use crate::support::lab::{Lab, other_than, until};
use crate::support::schedule::{self, Shared};
use crate::support::workdir_without_turn;
use hanode_core::bundle::Bundle;
use hanode_util::file_tree::{self, Entry, EntryKind, Ids};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use walkdir::WalkDir;

const TARGETS: [&str; 4] = ["debian-13", "ubuntu-22.04", "ubuntu-20.04", "centos-8"];
/// Files here are configuration of root.
const VICTIM: &str = "etc/tmpfiles.d";
const HEALTHY: Duration = Duration::from_secs(120);

/// The files of one node, in a tree of their own.
struct Tree {
    dir: tempfile::TempDir,
    entries: Vec<Entry>,
    ids: Ids,
}

impl Tree {
    fn new(entries: &[Entry]) -> Tree {
        let names: BTreeSet<&str> =
            entries.iter().flat_map(|e| [e.owner.as_str(), e.group.as_str()]).collect();
        let id = |(at, name): (usize, &&str)| if *name == "root" { 0 } else { 2000 + at };
        let table = names.iter().enumerate().map(|(at, name)| format!("{name}:x:{}:\n", id((at, name))));
        let table: String = table.collect();
        let tree = Tree {
            dir: tempfile::tempdir().unwrap(),
            entries: entries.to_vec(),
            ids: Ids::parse(&table, &table),
        };
        tree.write().unwrap();
        fs::create_dir_all(tree.at(VICTIM)).unwrap();
        // What a followed link would find, so that no missing name stops it.
        for entry in entries {
            let at = tree.at(VICTIM).join(Path::new(&entry.path).file_name().unwrap());
            match entry.kind {
                _ if at.exists() => {}
                EntryKind::Dir => fs::create_dir(at).unwrap(),
                _ => fs::write(at, "root's\n").unwrap(),
            }
        }
        tree
    }

    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self) -> anyhow::Result<Vec<String>> {
        file_tree::write(self.dir.path(), &self.entries, Some(&self.ids))
    }

    /// Paths that the node writes and that a user other than root can replace, with that user.
    fn replaceable(&self) -> BTreeSet<(PathBuf, u32)> {
        let mut found = BTreeSet::new();
        for entry in &self.entries {
            let path = Path::new(entry.path.trim_start_matches('/'));
            for part in path.ancestors().filter(|part| part.parent().is_some()) {
                let above = self.at(part.parent().unwrap()).metadata().unwrap();
                // In a sticky directory only the owner of an entry replaces it.
                let writer = if above.mode() & 0o1022 == 0o020 { Some(above.gid()) } else { None };
                let owner = Some(above.uid()).filter(|uid| *uid != 0).or(writer.filter(|gid| *gid != 0));
                found.extend(owner.map(|owner| (part.to_path_buf(), owner)));
            }
        }
        found
    }

    /// All that belongs to root outside the directories of other users.
    fn victim(&self) -> Vec<String> {
        let lines = WalkDir::new(self.at(VICTIM)).sort_by_file_name().into_iter().map(|entry| {
            let entry = entry.unwrap();
            let found = entry.path().symlink_metadata().unwrap();
            let text =
                if found.is_file() { fs::read_to_string(entry.path()).unwrap() } else { String::new() };
            let path = entry.path().display();
            format!("{path} {:o} {}:{} {} {text:?}", found.mode(), found.uid(), found.gid(), found.len())
        });
        lines.collect()
    }
}

fn node_entries(target: &str) -> Vec<Entry> {
    let scratch = tempfile::tempdir().unwrap();
    let cluster =
        hanode_admin::cluster_dir::ClusterDir::init(&scratch.path().join("c"), hanode_core::spec::STARTER);
    let bundle = fs::read(cluster.unwrap().dir.join("bundle.tar.gz")).unwrap();
    let mut entries = Bundle::read(&bundle).unwrap().entries;
    entries.extend(Case::of(3).on(target).render("node1"));
    entries
}

/// `up/up/PATH` from a place in the tree.
fn relative(from: &Path, to: &str) -> PathBuf {
    let up = from.ancestors().count() - 2;
    std::iter::repeat_n("..", up).collect::<PathBuf>().join(to)
}

fn set_owner(at: &Path, owner: u32) {
    lchown(at, Some(owner), Some(owner)).unwrap();
}

#[test]
fn a_link_in_a_service_s_directory_leads_no_write_out_of_it() {
    for target in TARGETS {
        let entries = node_entries(target);
        let replaceable = Tree::new(&entries).replaceable();
        let names: Vec<String> = replaceable.iter().map(|(path, _)| format!("/{}", path.display())).collect();
        let live = format!("{}/sentinel.conf", Case::of(3).on(target).target.paths["redis_live"]);
        assert!(names.contains(&live), "{target}: {names:?}");
        for (path, owner) in &replaceable {
            let name = path.file_name().unwrap();
            for to in [VICTIM.to_string(), format!("{VICTIM}/{}", name.display()), "etc/missing".into()] {
                let tree = Tree::new(&entries);
                let before = tree.victim();
                let at = tree.at(path);
                fs::rename(&at, at.with_file_name("moved")).unwrap();
                symlink(relative(path, &to), &at).unwrap();
                set_owner(&at, *owner);
                let done = tree.write();
                let what = format!("{target}: {} -> {to}: {done:?}", path.display());
                assert_eq!(before, tree.victim(), "{what}");
                assert!(!tree.at("etc/missing").exists(), "{what}");
                // A directory's link stops the writer, a file's is replaced.
                assert_eq!(done.is_err(), tree.at(path.with_file_name("moved")).is_dir(), "{what}");
            }
        }
    }
}

#[test]
fn another_name_of_root_s_file_in_a_service_s_directory_changes_nothing() {
    for target in TARGETS {
        let entries = node_entries(target);
        for (path, _) in Tree::new(&entries).replaceable() {
            let name = path.file_name().unwrap().display().to_string();
            for planted in [name.clone(), format!(".{name}.hanode-new")] {
                for is_link in [true, false] {
                    let tree = Tree::new(&entries);
                    if tree.at(&path).is_dir() {
                        continue;
                    }
                    let at = tree.at(path.with_file_name(&planted));
                    // The same content as wanted: only owner and mode would be set.
                    let victim = tree.at(VICTIM).join(&name);
                    fs::copy(tree.at(&path), &victim).unwrap();
                    set_owner(&victim, 0);
                    let before = tree.victim();
                    let _ = fs::remove_file(&at);
                    match is_link {
                        true => symlink(relative(&path, &format!("{VICTIM}/{name}")), &at).unwrap(),
                        false => fs::hard_link(&victim, &at).unwrap(),
                    }
                    tree.write().unwrap();
                    assert_eq!(before, tree.victim(), "{target}: {}", at.display());
                    assert_eq!(tree.at(&path).metadata().unwrap().nlink(), 1);
                }
            }
        }
    }
}

/// An operator moves a service's directory to another disk by a link.
#[test]
fn a_link_of_root_outside_the_services_directories_is_followed() {
    for target in TARGETS {
        let case = Case::of(3).on(target);
        let tree = Tree::new(&case.render("node1"));
        for (number, place) in ["redis_data", "postgres_home", "etcd_home"].iter().enumerate() {
            let path = Path::new(case.target.paths[*place].trim_start_matches('/'));
            let at = tree.at(path);
            let disk = format!("srv/disk{number}");
            fs::create_dir_all(tree.at("srv")).unwrap();
            fs::rename(&at, tree.at(&disk)).unwrap();
            symlink(relative(path, &disk), &at).unwrap();
        }
        fs::remove_file(tree.at("srv/disk0/hanode/redis.conf")).unwrap();
        tree.write().unwrap_or_else(|error| panic!("{target}: {error:#}"));
        assert!(tree.at("srv/disk0/hanode/redis.conf").is_file(), "{target}");
    }
}

/// The tests by the position of an attacker share this cluster.
pub fn cluster() -> Shared {
    schedule::shared("service_users", || Lab::up_on_debian(workdir_without_turn(), &[]))
}

/// PostgreSQL's certificate on the port of a stopped Redis: HAProxy and hanode send it no password, and no client of Redis
/// ends up there. Redis and Sentinel themselves check no name (docs/security.md).
#[test]
fn user_postgres_does_not_pass_for_redis() {
    const IMPOSTOR: &str = r#"
import socket, ssl, sys, threading, time
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/etc/ssl/pgsql/server.crt", "/etc/ssl/pgsql/server.key")
received, refused = [], []
def serve(client):
    try:
        with context.wrap_socket(client, server_side=True) as tls:
            received.append(tls.recv(4096).decode(errors="replace"))
            tls.sendall(bytes([13, 10]).join([b"+OK", b"$11", b"role:master", b""]))
            tls.recv(4096)
    except OSError as error:
        refused.append(str(error))
listener = socket.create_server((sys.argv[1], 6378), backlog=100)
listener.settimeout(0.5)
end = time.monotonic() + 10
while time.monotonic() < end:
    try:
        client, _ = listener.accept()
        client.settimeout(5)
        threading.Thread(target=serve, args=(client,), daemon=True).start()
    except TimeoutError:
        pass
print(len(refused), "refused", received)
"#;
    let cluster = cluster();
    let lab: &Lab = &cluster;
    lab.healthy_within(HEALTHY);
    let primary = lab.redis_primary().unwrap();
    let node = other_than(&primary)[0];
    let address = lab.cluster.spec.node(node).unwrap().address.to_string();
    lab.sh(node, "systemctl stop redis-server");
    let seen = lab.output(node, &["runuser", "-u", "postgres", "--", "python3", "-c", IMPOSTOR, &address]);
    lab.sh(node, "systemctl start redis-server");
    let secrets = &lab.cluster.secrets;
    let names = [
        ("applications", Some(&secrets.redis)),
        ("hanode", secrets.redis_admin.as_ref()),
        ("replicas", secrets.redis_replica.as_ref()),
        ("Sentinels", secrets.redis_sentinel.as_ref()),
    ];
    let collected: Vec<&str> = names
        .iter()
        .filter(|(_, secret)| secret.is_some_and(|s| seen.contains(s.as_str())))
        .map(|n| n.0)
        .collect();
    eprintln!("{} and the passwords of {collected:?}", &seen[..30.min(seen.len())]);
    assert!(!seen.starts_with("0 refused"), "nobody connected: {seen}");
    assert!(collected.iter().all(|name| ["replicas", "Sentinels"].contains(name)), "{collected:?}");
    lab.healthy_within(HEALTHY);
}

/// Root's gate writes the configuration of Sentinel at each of its starts.
#[test]
fn user_redis_does_not_make_root_write_elsewhere() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    lab.healthy_within(HEALTHY);
    let before = lab.sh("node3", "stat -c '%n %A %U %G' /etc/tmpfiles.d /etc/tmpfiles.d/*");
    lab.sh(
        "node3",
        "runuser -u redis -- sh -ec 'cd /var/lib/redis; mv hanode moved; ln -s /etc/tmpfiles.d hanode; \
         kill -9 $(cat /run/sentinel/redis-sentinel.pid)'",
    );
    until("the gate refuses the link", Duration::from_secs(60), || {
        let journal = lab.sh("node3", "journalctl -b --no-pager -u redis-sentinel");
        journal.contains("/var/lib/redis/hanode is a symbolic link that user id")
    });
    lab.sh("node3", "systemctl restart hanode-plan || true");
    assert_eq!(before, lab.sh("node3", "stat -c '%n %A %U %G' /etc/tmpfiles.d /etc/tmpfiles.d/*"));
    lab.sh("node3", "cd /var/lib/redis; rm hanode; mv moved hanode; systemctl restart hanode-plan");
    lab.healthy_within(HEALTHY);
}

/// `arping -U` for the virtual IP would cut clients off: `ip_nonlocal_bind` lets it use any address.
#[test]
fn an_ordinary_user_sends_no_arp() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let arping = "arping -c 1 -w 1 -I host0 -s 192.168.18.20 192.168.18.20";
    for user in ["daemon", "postgres", "redis"] {
        let output = lab.sh("node2", &format!("runuser -u {user} -- {arping} 2>&1 || echo it failed"));
        assert!(output.contains("ermitted") && output.contains("it failed"), "{user}: {output}");
    }
    // The agent, as root, searches with it for a duplicate of its address.
    lab.sh("node2", "arping -c 1 -w 1 -I host0 192.168.18.21");
}
