//! Builds images: a base of the target, the cluster baked into it, written in the format of the file name.

#![forbid(unsafe_code)]

mod bake;
mod base;
mod cache;
mod debian;
mod disk;
mod distro;
mod dry_run;
mod el;
mod ext4;
mod fetch;
mod format;
mod glibc;
mod inspect;
mod inventory;
mod locales;
mod manifest;
mod overlay;
mod packages;
mod parameters;
mod progress;
pub mod selinux;
mod sysprep;
mod tarball;
mod unpack;

pub use bake::bake;
pub(crate) use format::Format;
pub use inspect::{Inspection, inspect};
pub use overlay::{ClusterPayload, program};
pub(crate) use progress::Steps;

use anyhow::{Context, Result, bail};
use cache::Base;
use ext4::Ext4;
use flate2::{Compression, write::GzEncoder};
use hanode_admin::embedded;
use hanode_core::target::SourceOverride;
use hanode_util::command::{self, command, run};
use hanode_util::file_tree::Entry;
use hanode_util::scratch::{self, Scratch};
use overlay::BakeTarget;
use serde::Serialize;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub struct BuildOptions<'a> {
    /// Name of a target, e.g. `debian-13`, or the path of a target file.
    pub target: &'a str,
    /// Other addresses for sources of the target.
    pub sources: &'a [SourceOverride],
    pub out: &'a Path,
    /// Build the base again, from the current packages of its sources.
    pub fresh: bool,
    /// For qcow2: smaller, but slower to build.
    pub compress: bool,
    /// `None`: an image without a cluster, with the target's default versions.
    pub payload: Option<ClusterPayload<'a>>,
    /// Use only the versions and ports of the payload, and leave the cluster out of the image.
    pub base_only: bool,
    /// The bytes of `hanode-firstboot`; [`program`] finds them.
    pub program: &'a [u8],
}

/// The result of a build.
#[derive(Debug, Serialize)]
pub struct BuildSummary {
    pub(crate) schema: u32,
    pub(crate) path: PathBuf,
    /// Allocated size of the file in bytes.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) base: String,
    /// The date of the base's packages.
    pub(crate) packages: String,
}

impl std::fmt::Display for BuildSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (path, mib) = (self.path.display(), self.bytes.div_ceil(1 << 20));
        write!(f, "built {path}: {mib} MiB, {:.1} s, packages of {}", self.seconds, self.packages)
    }
}

/// Builds an image. The base comes from the cache if it is there.
pub fn build(options: &BuildOptions) -> Result<BuildSummary> {
    let started = Instant::now();
    let format = Format::from_path(options.out)?;
    if options.compress && format != Format::Qcow2 {
        bail!("{}: only .qcow2 images can be built with --compress", options.out.display());
    }
    scratch::check_output(options.out)?;
    let (text, mut target) = embedded::target(options.target)?;
    let pins = options.payload.as_ref().map(|payload| payload.spec.versions.clone()).unwrap_or_default();
    target.apply_overrides(&pins, options.sources)?;
    if let (Some(policy), Some(payload)) = (&mut target.selinux, &options.payload) {
        selinux::set_ports(policy, payload.spec)?;
    }
    options.payload.as_ref().map_or(Ok(()), |payload| dry_run::render_all_nodes(payload, &target))?;
    command::require(if format.is_archive() { &["cp"] } else { &["cp", "debugfs", "e2fsck", "qemu-img"] })?;
    let mut steps = Steps::new();
    let base = cache::obtain(&target, options.fresh, &mut steps)?;
    steps.start("baking");
    let bake_target = BakeTarget {
        target_text: &text,
        target: &target,
        inventory: &base.inventory,
        program: options.program,
    };
    let entries = overlay::entries(&bake_target, options.payload.as_ref().filter(|_| !options.base_only))?;
    let scratch = Scratch::beside(options.out)?;
    let written = if format.is_archive() {
        archive(&base, &entries, format, &scratch, &mut steps)
    } else {
        disk_image(&base, &entries, format, options.compress, &scratch, &mut steps)
    };
    let written = written.with_context(|| format!("writing {}", options.out.display()))?;
    scratch::publish(&written, options.out)?;
    steps.finish();
    use std::os::unix::fs::MetadataExt;
    let bytes = std::fs::metadata(options.out)?.blocks() * 512;
    let seconds = started.elapsed().as_secs_f64();
    let (packages, id) = (manifest::date(base.inventory.built_at), base.inventory.base.clone());
    Ok(BuildSummary { schema: 1, path: options.out.into(), bytes, seconds, base: id, packages })
}

/// Unpacks the base of a target into a directory below `dir`, once for each base, and returns the directory.
pub fn base_tree(target: &hanode_core::target::Target, dir: &Path) -> Result<PathBuf> {
    let mut steps = Steps::new();
    let base = cache::obtain(target, false, &mut steps)?;
    let at = dir.join(format!("tree-{}-{}", base.inventory.base, base.inventory.built_at));
    if at.is_dir() {
        return Ok(at);
    }
    steps.start("unpacking");
    let scratch = Scratch::within(dir, ".tree-")?;
    let tree = scratch.join("tree");
    std::fs::create_dir(&tree)?;
    run(command("tar").arg("--numeric-owner").arg("-xpf").arg(base.tar()).arg("-C").arg(&tree))?;
    match std::fs::rename(&tree, &at) {
        // Another caller unpacked the same base meanwhile.
        Err(_) if at.is_dir() => (),
        stored => stored.with_context(|| format!("storing {}", at.display()))?,
    }
    steps.finish();
    Ok(at)
}

fn archive(
    base: &Base,
    entries: &[Entry],
    format: Format,
    scratch: &Scratch,
    steps: &mut Steps,
) -> Result<PathBuf> {
    let tar = scratch.join("tar");
    run(command("cp").arg("--reflink=auto").arg(base.tar()).arg(&tar))?;
    tarball::extend(&tar, entries, &base.inventory.ids(), base.inventory.built_at, &base.inventory.labels)?;
    if format == Format::Tar {
        return Ok(tar);
    }
    steps.start("compressing");
    let out = scratch.join("compressed");
    let mut gzip = GzEncoder::new(File::create(&out)?, Compression::new(5));
    let mut from = File::open(tar)?;
    let mut block = vec![0; 1 << 20];
    loop {
        hanode_util::interrupt::check()?;
        match from.read(&mut block)? {
            0 => break,
            read => gzip.write_all(&block[..read])?,
        }
    }
    gzip.finish()?;
    Ok(out)
}

fn disk_image(
    base: &Base,
    entries: &[Entry],
    format: Format,
    compress: bool,
    scratch: &Scratch,
    steps: &mut Steps,
) -> Result<PathBuf> {
    let raw = scratch.join("raw");
    run(command("cp").args(["--reflink=auto", "--sparse=auto"]).arg(base.raw()).arg(&raw))?;
    let root = Ext4 { image: &raw, offset: disk::ROOT_OFFSET };
    root.write(entries, &base.inventory.ids(), base.inventory.built_at, &base.inventory.labels, scratch)?;
    root.check()?;
    let Some(arguments) = format.qemu_img_args(compress) else { return Ok(raw) };
    steps.start("converting");
    let out = scratch.join("converted");
    run(command("qemu-img").args(["convert", "-f", "raw"]).args(arguments).arg(&raw).arg(&out))?;
    Ok(out)
}
