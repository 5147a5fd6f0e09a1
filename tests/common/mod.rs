//! What several tests need: a spec, a real image of it, and an eye for what a lab might leave behind.
#![allow(dead_code, clippy::unwrap_used)]

pub mod centos;
pub mod desk;
pub mod fixture;
pub mod lab;
pub mod site;

use hanode::cluster::Cluster;
use hanode::image::{self, Baked, Options};
use hanode::scratch::Scratch;
use hanode::spec::{self, Spec};
use hanode::target::Override;
use std::collections::BTreeSet;
use std::fs::{DirEntry, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

/// The starter spec.
pub fn spec() -> Spec {
    spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"))
}

/// Debian 13's tree.
pub fn debian() -> PathBuf {
    static TREE: LazyLock<PathBuf> = LazyLock::new(|| Ground::debian().tree());
    TREE.clone()
}

/// A tree that no target has, made by `make` at a path that is not there yet; once, under this name.
pub fn tree_of(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock();
    let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tree-{name}"));
    if !at.is_dir() {
        let unfinished = at.with_extension("unfinished");
        let _ = std::fs::remove_dir_all(&unfinished);
        make(&unfinished);
        std::fs::rename(&unfinished, &at).unwrap();
    }
    at
}

/// A test's own directory below target/, gone with it.
pub struct Place {
    home: PathBuf,
    _held: Scratch,
}

impl Place {
    pub fn path(&self) -> &Path {
        &self.home
    }
}

/// What killed tests left goes first: their labs, whose nodes outlive them, and then their directories.
pub fn place() -> Place {
    place_named("test-")
}

/// The name of the directory begins so; each goes after what was left under the same beginning.
pub fn place_named(prefix: &str) -> Place {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let dead: Vec<(PathBuf, File)> = {
        // As when one is made: none is there that is not locked yet.
        let all = File::open(tmp).unwrap();
        all.lock().unwrap();
        let named = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with(prefix);
        let held = |at: PathBuf| {
            let lock = File::open(&at).ok()?;
            lock.try_lock().ok().map(|()| (at, lock))
        };
        tmp.read_dir().unwrap().flatten().filter(named).filter_map(|entry| held(entry.path())).collect()
    };
    for (at, _held) in &dead {
        for cluster in walkdir::WalkDir::new(at).max_depth(2).into_iter().flatten() {
            if cluster.path().join(".lab").is_dir()
                && let Err(error) = hanode::lab::down(cluster.path())
            {
                eprintln!("of a killed test: {error:#}");
            }
        }
    }
    drop(dead);
    let held = Scratch::within(tmp, prefix).unwrap();
    // One below: the directory itself is locked, and so would be who makes a working space of its own in it.
    let home = held.join("home");
    std::fs::create_dir(&home).unwrap();
    Place { home, _held: held }
}

/// Where this machine's own packages of Debian come from.
pub fn mirror() -> String {
    let suite = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixture/suite.sh");
    let output = Command::new("sh").args(["-euc", &format!(". {suite}; echo \"$MIRROR\"")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// The program of the image, as cargo built it for this test.
pub fn program() -> Vec<u8> {
    let hanode = Path::new(env!("CARGO_BIN_EXE_hanode-firstboot"));
    std::fs::read(hanode).unwrap()
}

/// What an image is made for, from what, and with which program.
pub struct Ground {
    pub target: &'static str,
    pub sources: Vec<Override>,
    pub program: Vec<u8>,
    /// Words of the starter spec that this target wants replaced.
    pub edits: Vec<(&'static str, &'static str)>,
}

impl Ground {
    pub fn debian() -> Ground {
        Ground { target: "debian-13", sources: Vec::new(), program: program(), edits: Vec::new() }
    }

    /// A cluster directory in `dir`, and its image under this name.
    pub fn cluster(&self, dir: &Path, image: &str, edits: &[(&str, &str)]) -> (Cluster, PathBuf) {
        let all = self.edits.iter().chain(edits);
        let text = all.fold(spec::STARTER.to_string(), |text, (from, to)| {
            assert!(text.contains(from), "the starter spec has no {from:?}");
            text.replace(from, to)
        });
        let cluster = Cluster::init(&dir.join("demo"), &text).unwrap();
        let out = dir.join(image);
        make(self.target, &self.sources, &self.program, Some(&cluster), &out);
        (cluster, out)
    }

    /// The target's own tree, unpacked once for each base that there was.
    pub fn tree(&self) -> PathBuf {
        let text =
            self.edits.iter().fold(spec::STARTER.to_string(), |text, (from, to)| text.replace(from, to));
        let spec = spec::parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
        let (_, mut target) = image::target(self.target).unwrap();
        target.choose(&spec.versions, &self.sources).unwrap();
        image::tree(&target, Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap()
    }
}

/// A cluster directory of the starter spec in `dir`, and its image under this name.
pub fn cluster_with_image(dir: &Path, image: &str) -> (Cluster, PathBuf) {
    edited_cluster_with_image(dir, image, &[])
}

/// The same with words of the spec replaced.
pub fn edited_cluster_with_image(dir: &Path, image: &str, edits: &[(&str, &str)]) -> (Cluster, PathBuf) {
    Ground::debian().cluster(dir, image, edits)
}

/// An image of a target, by its name or its own file, with this program.
pub fn build_with(program: &[u8], target: &str, cluster: Option<&Cluster>, out: &Path) {
    make(target, &[], program, cluster, out);
}

fn make(target: &str, sources: &[Override], program: &[u8], cluster: Option<&Cluster>, out: &Path) {
    let baked = cluster.map(|cluster| Baked {
        spec_text: &cluster.spec_text,
        spec: &cluster.spec,
        bundle: &cluster.bundle_bytes,
        generation: cluster.bundle.stamp.generation,
    });
    image::build(&Options {
        target,
        sources,
        out,
        fresh: false,
        compress: false,
        baked,
        bare: false,
        program,
    })
    .unwrap();
}

pub fn build(target: &str, cluster: Option<&Cluster>, out: &Path) {
    build_with(&program(), target, cluster, out);
}

/// The files of a tree that have no SELinux label, a line each.
pub fn unlabelled(root: &Path) -> String {
    const FIND: &str = r"
import os, sys
for top, dirs, files in os.walk(sys.argv[1]):
    if top == sys.argv[1]:
        # What is mounted there has labels of its own.
        dirs[:] = [name for name in dirs if name not in ('dev', 'proc')]
    for name in files + dirs:
        if 'security.selinux' not in os.listxattr(os.path.join(top, name), follow_symlinks=False):
            print(os.path.join(top, name))
";
    let output = Command::new("python3").args(["-c", FIND]).arg(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything on this machine that the lab of one directory makes and `down` must take away.
#[derive(Debug, PartialEq)]
pub struct Traces {
    networks: BTreeSet<String>,
    mounts: BTreeSet<String>,
    loops: BTreeSet<String>,
    groups: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl Traces {
    /// `dir`: the cluster directory, by which the lab's processes are known.
    pub fn now(dir: &Path) -> Traces {
        let names = |at: &str| -> Vec<PathBuf> {
            std::fs::read_dir(at).into_iter().flatten().flatten().map(|e| e.path()).collect()
        };
        let text = |p: PathBuf| std::fs::read_to_string(p).unwrap_or_default();
        let shown = |p: &PathBuf| p.display().to_string();
        let name = hanode::lab::name(&dir.canonicalize().unwrap());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = dir.to_str().unwrap();
        let below = dir.replace(' ', "\\040");
        let mounts = mounts.lines().filter(|l| l.contains(&name) || l.contains(&below));
        let groups = walkdir::WalkDir::new("/sys/fs/cgroup").into_iter().flatten();
        let groups = groups.filter(|e| e.file_name().to_string_lossy().starts_with(&name));
        let own = std::process::id().to_string();
        let processes = names("/proc").into_iter().filter(|p| {
            let line = std::fs::read(p.join("cmdline")).unwrap_or_default();
            !p.ends_with(&own) && String::from_utf8_lossy(&line).contains(dir)
        });
        Traces {
            networks: names("/run/netns").iter().map(shown).filter(|n| n.contains(&name)).collect(),
            mounts: mounts.map(str::to_string).collect(),
            loops: names("/sys/block")
                .into_iter()
                .map(|b| text(b.join("loop/backing_file")))
                .filter(|file| file.contains(dir))
                .collect(),
            groups: groups.map(|e| e.path().display().to_string()).collect(),
            processes: processes.map(|p| shown(&p)).collect(),
        }
    }
}
