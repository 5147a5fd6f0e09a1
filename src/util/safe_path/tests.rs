use super::*;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use tempfile::TempDir;

/// A tree, and a directory that nothing in the tree may change.
struct Area {
    dir: TempDir,
}

/// Each way to change a path.
const CHANGES: [&str; 9] =
    ["dir", "file", "replace", "create", "link", "rename", "remove_file", "remove_dir_all", "create_dir_all"];

impl Area {
    fn new() -> Area {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("tree/var/data")).unwrap();
        fs::create_dir_all(dir.path().join("outside/deep")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        fs::write(dir.path().join("outside/deep/secret"), "secret").unwrap();
        fs::set_permissions(dir.path().join("outside/secret"), fs::Permissions::from_mode(0o640)).unwrap();
        Area { dir }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// A tree in which every user may change everything.
    fn untrusted(&self) -> SafeTree {
        SafeTree::trusting(&self.at("tree"), vec![]).unwrap()
    }

    fn trusted(&self) -> SafeTree {
        SafeTree::open(&self.at("tree")).unwrap()
    }

    fn outside(&self) -> String {
        let facts = |path: &str| {
            let found = self.at(path).symlink_metadata().unwrap();
            format!("{path} {:o} {} {} {}\n", found.mode(), found.uid(), found.gid(), found.nlink())
        };
        let mut names: Vec<_> = walk_names(&self.at("outside"));
        names.sort();
        let texts =
            ["outside/secret", "outside/deep/secret"].map(|p| fs::read_to_string(self.at(p)).unwrap());
        format!("{names:?} {texts:?} {}{}", facts("outside"), facts("outside/secret"))
    }
}

fn walk_names(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries
        .flat_map(|e| {
            let below = if e.file_type().unwrap().is_dir() { walk_names(&e.path()) } else { vec![] };
            below.into_iter().chain([e.path()]).collect::<Vec<_>>()
        })
        .collect()
}

fn change(tree: &SafeTree, how: &str, path: &str) -> Result<()> {
    match how {
        "dir" => tree.dir(path, 0o777, None).map(drop),
        "file" => tree.file(path, b"new", 0o666, None).map(drop),
        "replace" => tree.replace(path, b"new", 0o666, None),
        "create" => tree.create(path).and_then(|mut file| file.write_all(b"new")),
        "link" => tree.link(path, "/etc").map(drop),
        "rename" => tree.rename(path, "renamed"),
        "remove_file" => tree.remove_file(path),
        "remove_dir_all" => tree.remove_dir_all(path),
        "create_dir_all" => tree.create_dir_all(path),
        _ => unreachable!(),
    }
}

#[test]
fn a_link_in_the_middle_of_a_path_is_refused() {
    for how in CHANGES {
        for link in ["tree/var", "tree/var/data", "tree/var/data/deep"] {
            for target in ["outside", "missing", "../outside", "../../outside", "/etc"] {
                let area = Area::new();
                let at = area.at(link);
                if at.exists() {
                    fs::rename(&at, area.at("tree/moved")).unwrap();
                }
                let to = if target.starts_with(['.', '/']) { PathBuf::from(target) } else { area.at(target) };
                symlink(to, &at).unwrap();
                let before = area.outside();
                let error = change(&area.untrusted(), how, "/var/data/deep/secret").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{how} {link} {target}: {error}");
                assert!(error.to_string().contains("symbolic link"), "{error}");
                assert_eq!(before, area.outside(), "{how} {link} {target}");
            }
        }
    }
}

#[test]
fn a_link_at_the_end_of_a_path_is_replaced_or_removed() {
    for how in CHANGES {
        for target in ["outside", "outside/secret", "missing"] {
            let area = Area::new();
            symlink(area.at(target), area.at("tree/var/data/name")).unwrap();
            let before = area.outside();
            let done = change(&area.untrusted(), how, "/var/data/name");
            assert_eq!(
                done.is_err(),
                how.contains("dir") && how != "remove_dir_all",
                "{how} {target}: {done:?}"
            );
            assert_eq!(before, area.outside(), "{how} {target}");
            assert!(!area.at("missing").exists(), "{how} {target}");
        }
    }
}

#[test]
fn another_name_of_a_file_keeps_its_content_mode_and_owner() {
    for how in ["file", "replace", "create"] {
        for name in ["name", ".name.hanode-new"] {
            let area = Area::new();
            fs::hard_link(area.at("outside/secret"), area.at(&format!("tree/var/data/{name}"))).unwrap();
            assert!(area.untrusted().read(format!("/var/data/{name}")).is_err(), "a hard link is not read");
            let content = if how == "file" { "secret" } else { "new" };
            let owner = Some((geteuid().as_raw(), nix::unistd::getegid().as_raw()));
            match how {
                "create" => change(&area.untrusted(), how, "/var/data/name").unwrap(),
                _ => area.untrusted().replace("/var/data/name", content.as_bytes(), 0o666, owner).unwrap(),
            }
            let found = area.at("outside/secret").metadata().unwrap();
            assert_eq!(fs::read_to_string(area.at("outside/secret")).unwrap(), "secret");
            assert_eq!(found.mode() & 0o777, 0o640, "{how} {name}");
            assert_eq!(area.at("tree/var/data/name").metadata().unwrap().nlink(), 1);
        }
    }
}

#[test]
fn a_file_that_is_as_wanted_is_left_alone() {
    let area = Area::new();
    let tree = area.untrusted();
    assert!(tree.file("/var/data/a/b", b"text", 0o640, None).unwrap());
    let first = area.at("tree/var/data/a/b").metadata().unwrap().ino();
    assert!(!tree.file("/var/data/a/b", b"text", 0o640, None).unwrap());
    assert_eq!(first, area.at("tree/var/data/a/b").metadata().unwrap().ino());
    assert!(tree.file("/var/data/a/b", b"text", 0o600, None).unwrap(), "another mode");
    assert!(tree.file("/var/data/a/b", b"texts", 0o600, None).unwrap(), "other content");
    assert_eq!(tree.read("/var/data/a/b").unwrap(), b"texts");
    assert_eq!(tree.read("/var/data/none").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn fifos_and_directories_are_not_read() {
    let area = Area::new();
    nix::unistd::mkfifo(&area.at("tree/var/data/fifo"), Mode::S_IRWXU).unwrap();
    assert!(area.untrusted().read("/var/data/fifo").is_err());
    assert!(area.untrusted().read("/var/data").is_err());
    area.untrusted().replace("/var/data/fifo", b"x", 0o600, None).unwrap();
}

#[test]
fn a_trusted_link_is_followed_inside_the_tree() {
    let area = Area::new();
    fs::create_dir_all(area.at("tree/volume/deep")).unwrap();
    symlink("/volume", area.at("tree/var/absolute")).unwrap();
    symlink("../volume/deep", area.at("tree/var/relative")).unwrap();
    symlink("../../../../../../volume", area.at("tree/var/above")).unwrap();
    symlink("loop", area.at("tree/var/loop")).unwrap();
    let tree = area.trusted();
    tree.replace("/var/absolute/a", b"a", 0o600, None).unwrap();
    tree.replace("/var/relative/b", b"b", 0o600, None).unwrap();
    tree.replace("/var/above/c", b"c", 0o600, None).unwrap();
    assert!(!tree.dir("/var/absolute", 0o750, None).unwrap(), "it exists");
    for name in ["volume/a", "volume/deep/b", "volume/c"] {
        assert!(area.at("tree").join(name).is_file(), "{name}");
    }
    assert!(area.at("tree/var/absolute").is_symlink());
    assert_eq!(area.at("tree/volume").metadata().unwrap().mode() & 0o777, 0o750);
    assert!(tree.replace("/var/loop/d", b"d", 0o600, None).is_err());
}

#[test]
fn a_link_of_root_is_refused_where_others_may_write() {
    for (open, mode) in [("tree/var", 0o777), ("tree/var", 0o1777), ("tree/var", 0o775), ("tree", 0o777)] {
        let area = Area::new();
        symlink("/volume", area.at("tree/var/link")).unwrap();
        fs::set_permissions(area.at(open), fs::Permissions::from_mode(mode)).unwrap();
        let error = area.trusted().replace("/var/link/a", b"a", 0o600, None).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{open} {mode:o}: {error}");
    }
}

#[test]
fn removal_and_change_of_owner_do_not_follow_links() {
    let area = Area::new();
    symlink(area.at("outside"), area.at("tree/var/data/link")).unwrap();
    symlink(area.at("outside/secret"), area.at("tree/var/data/file")).unwrap();
    fs::create_dir_all(area.at("tree/var/data/a/b")).unwrap();
    let before = area.outside();
    let own = (geteuid().as_raw(), nix::unistd::getegid().as_raw());
    assert_eq!(area.untrusted().change_owner("/var/data", own).unwrap(), None);
    if geteuid().is_root() {
        assert_eq!(area.untrusted().change_owner("/var/data", (1234, 1234)).unwrap(), Some(0));
        assert_eq!(area.at("tree/var/data/link").symlink_metadata().unwrap().uid(), 1234);
        assert_eq!(area.at("tree/var/data/a/b").metadata().unwrap().uid(), 1234);
    }
    area.untrusted().remove_dir_all("/var/data").unwrap();
    assert!(!area.at("tree/var/data").exists());
    assert_eq!(before, area.outside());
    assert_eq!(area.untrusted().remove_dir_all("/var/data").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!area.untrusted().exists("/var/data").unwrap());
}

/// While another thread swaps a directory for a link and back, nothing outside changes.
#[test]
fn a_directory_swapped_for_a_link_leads_nowhere() {
    let area = Area::new();
    let (inside, link) = (area.at("tree/var/data"), area.at("tree/link"));
    symlink(area.at("outside"), &link).unwrap();
    let before = area.outside();
    let tree = area.untrusted();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let is_over = || stop.load(std::sync::atomic::Ordering::Relaxed);
    let (mut done, mut refused) = (0, 0);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let swap = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
            while !is_over() {
                nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &inside, nix::fcntl::AT_FDCWD, &link, swap)
                    .unwrap();
            }
        });
        for round in 0..2000 {
            let how = CHANGES[round % CHANGES.len()];
            match change(&tree, how, "/var/data/secret") {
                Ok(()) => done += 1,
                Err(_) => refused += 1,
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(before, area.outside(), "{done} done, {refused} refused");
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever links are in a tree, changes stay inside it.
    #[test]
    fn nothing_outside_the_tree_changes(
        links in prop::collection::vec(("[abc](/[abc]){0,2}", "(\\.\\./){0,4}(outside|tree|a|b|deep)(/[abc]|/secret)?"), 0..6),
        hard in prop::collection::vec("[abc](/[abc]){0,2}", 0..2),
        path in "/[abc](/[abc]|/secret|/\\.\\.){0,3}/(a|b|secret)",
        how in prop::sample::select(CHANGES.to_vec()),
        is_trusted in any::<bool>(),
    ) {
        let area = Area::new();
        for name in &hard {
            let at = area.at("tree").join(name);
            if fs::create_dir_all(at.parent().unwrap()).is_ok() {
                let _ = fs::hard_link(area.at("outside/deep/secret"), at);
            }
        }
        for (name, target) in &links {
            let at = area.at("tree").join(name);
            // Earlier links may lead out of the tree.
            let leads_out = at.ancestors().take_while(|above| *above != area.at("tree")).any(Path::is_symlink);
            if !leads_out && fs::create_dir_all(at.parent().unwrap()).is_ok() {
                let _ = symlink(target, &at);
            }
        }
        let before = area.outside();
        let tree = if is_trusted { area.trusted() } else { area.untrusted() };
        let _ = change(&tree, how, &path);
        prop_assert_eq!(before, area.outside());
    }
}
