//! Shared by tests of images and clusters: images, trees of distributions, labs, emulated machines.

pub mod balancer;
pub mod centos;
pub mod clients;
pub mod cloud;
pub mod fixture;
pub mod lab;
pub mod leftovers;
pub mod qemu;
pub mod sandbox;
pub mod schedule;
pub mod target_build;
mod workdir;

pub use workdir::{Workdir, workdir, workdir_alone, workdir_named, workdir_without_turn};

use crate::common::programs::firstboot_program;
use hanode_admin::cluster_dir::ClusterDir;
use hanode_core::spec;
use hanode_core::target::SourceOverride;
use hanode_image::{self, BuildOptions, ClusterPayload};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

/// The path of `hanode-firstboot` on a node.
pub const FIRSTBOOT: &str = "/usr/lib/hanode/hanode-firstboot";

/// Debian 13's tree.
pub fn debian() -> PathBuf {
    static TREE: LazyLock<PathBuf> = LazyLock::new(|| ImageSetup::debian().tree());
    TREE.clone()
}

/// A tree that is not of a target. `make` creates it once, at a path that does not exist.
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

/// The Debian mirror of this machine.
pub fn mirror() -> String {
    let suite = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixture/suite.sh");
    let output = Command::new("sh").args(["-euc", &format!(". {suite}; echo \"$MIRROR\"")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// The content of `hanode-firstboot`, as cargo built it for the tests.
pub fn program() -> Vec<u8> {
    std::fs::read(firstboot_program()).unwrap()
}

/// Target, sources and program of an image.
pub struct ImageSetup {
    pub target: &'static str,
    pub sources: Vec<SourceOverride>,
    pub program: Vec<u8>,
    /// Edits of the starter spec for this target.
    pub edits: Vec<(&'static str, &'static str)>,
}

impl ImageSetup {
    pub fn debian() -> ImageSetup {
        ImageSetup { target: "debian-13", sources: Vec::new(), program: program(), edits: Vec::new() }
    }

    /// A cluster directory in `dir`, and its image under this name.
    pub fn cluster(&self, dir: &Path, image: &str, edits: &[(&str, &str)]) -> (ClusterDir, PathBuf) {
        let all = self.edits.iter().chain(edits);
        let text = all.fold(spec::STARTER.to_string(), |text, (from, to)| {
            assert!(text.contains(from), "the starter spec has no {from:?}");
            text.replace(from, to)
        });
        let cluster = ClusterDir::init(&dir.join("demo"), &text).unwrap();
        let out = dir.join(image);
        build_image(self.target, &self.sources, &self.program, Some(&cluster), &out);
        (cluster, out)
    }

    /// The target's tree, unpacked once for each base.
    pub fn tree(&self) -> PathBuf {
        let text =
            self.edits.iter().fold(spec::STARTER.to_string(), |text, (from, to)| text.replace(from, to));
        let spec = spec::parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
        let (_, mut target) = hanode_admin::embedded::target(self.target).unwrap();
        target.apply_overrides(&spec.versions, &self.sources).unwrap();
        hanode_image::base_tree(&target, Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap()
    }
}

/// A cluster directory of the starter spec in `dir`, and its image under this name.
pub fn cluster_with_image(dir: &Path, image: &str) -> (ClusterDir, PathBuf) {
    edited_cluster_with_image(dir, image, &[])
}

/// The same with edits of the spec.
pub fn edited_cluster_with_image(dir: &Path, image: &str, edits: &[(&str, &str)]) -> (ClusterDir, PathBuf) {
    ImageSetup::debian().cluster(dir, image, edits)
}

/// An image of a target, by its name or its own file, with this program.
pub fn build_with(program: &[u8], target: &str, cluster: Option<&ClusterDir>, out: &Path) {
    build_image(target, &[], program, cluster, out);
}

fn build_image(
    target: &str,
    sources: &[SourceOverride],
    program: &[u8],
    cluster: Option<&ClusterDir>,
    out: &Path,
) {
    let payload = cluster.map(|cluster| ClusterPayload {
        spec_text: &cluster.spec_text,
        spec: &cluster.spec,
        bundle: &cluster.bundle_bytes,
        bundle_generation: cluster.bundle.metadata.generation,
    });
    hanode_image::build(&BuildOptions {
        target,
        sources,
        out,
        fresh: false,
        compress: false,
        payload,
        base_only: false,
        program,
    })
    .unwrap();
}

pub fn build(target: &str, cluster: Option<&ClusterDir>, out: &Path) {
    build_with(&program(), target, cluster, out);
}

/// The files of a tree that have no SELinux label, a line each.
pub fn unlabelled(root: &Path) -> String {
    const FIND: &str = r"
import os, sys
for top, dirs, files in os.walk(sys.argv[1]):
    if top == sys.argv[1]:
        # Mounted file systems have their own labels.
        dirs[:] = [name for name in dirs if name not in ('dev', 'proc')]
    for name in files + dirs:
        if 'security.selinux' not in os.listxattr(os.path.join(top, name), follow_symlinks=False):
            print(os.path.join(top, name))
";
    let output = Command::new("python3").args(["-c", FIND]).arg(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
