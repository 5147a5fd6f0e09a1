//! Images: a base of the target, a cluster baked into it, written in the format the file name asks for.

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
use hanode_core::target::Override;
use hanode_util::command::{self, command, run};
use hanode_util::file_tree::Entry;
use hanode_util::scratch::{self, Scratch};
use overlay::BakeTarget;

use serde::Serialize;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub struct Options<'a> {
    /// Name of a target, e.g. `debian-13`.
    pub target: &'a str,
    /// Sources that are taken from elsewhere.
    pub sources: &'a [Override],
    pub out: &'a Path,
    /// The base is made anew, of the packages that its sources have today.
    pub fresh: bool,
    /// For qcow2: smaller, and slower to make.
    pub compress: bool,
    /// `None`: an image without a cluster, in the target's own versions.
    pub baked: Option<ClusterPayload<'a>>,
    /// Of the cluster only the choice of versions and ports; nothing of it goes in.
    pub bare: bool,
    /// The bytes of `hanode-firstboot`; [`program`] finds them.
    pub program: &'a [u8],
}

/// What was built.
#[derive(Debug, Serialize)]
pub struct Built {
    pub(crate) schema: u32,
    pub(crate) path: PathBuf,
    /// Bytes the file takes on disk.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) base: String,
    /// The day of the base's packages.
    pub(crate) packages: String,
}

impl std::fmt::Display for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (path, mib) = (self.path.display(), self.bytes.div_ceil(1 << 20));
        write!(f, "{path} is built: {mib} MiB, {:.1} s, packages of {}", self.seconds, self.packages)
    }
}

/// Builds an image. The base comes from the cache if it was made before.
pub fn build(options: &Options) -> Result<Built> {
    let begun = Instant::now();
    let format = Format::of(options.out)?;
    if options.compress && format != Format::Qcow2 {
        bail!("{}: only .qcow2 is compressed on demand", options.out.display());
    }
    scratch::check_output(options.out)?;
    let (text, mut target) = embedded::target(options.target)?;
    let pins = options.baked.as_ref().map(|baked| baked.spec.versions.clone()).unwrap_or_default();
    target.choose(&pins, options.sources)?;
    if let (Some(policy), Some(baked)) = (&mut target.selinux, &options.baked) {
        selinux::take_ports(policy, baked.spec)?;
    }
    options.baked.as_ref().map_or(Ok(()), |baked| dry_run::rehearse(baked, &target))?;
    command::require(if format.is_archive() { &["cp"] } else { &["cp", "debugfs", "e2fsck", "qemu-img"] })?;
    let mut steps = Steps::new();
    let base = cache::obtain(&target, options.fresh, &mut steps)?;
    steps.begin("baking");
    let ground =
        BakeTarget { target_text: &text, target: &target, facts: &base.facts, program: options.program };
    let entries = overlay::entries(&ground, options.baked.as_ref().filter(|_| !options.bare))?;
    let scratch = Scratch::beside(options.out)?;
    let made = if format.is_archive() {
        archive(&base, &entries, format, &scratch, &mut steps)
    } else {
        disk_image(&base, &entries, format, options.compress, &scratch, &mut steps)
    };
    let made = made.with_context(|| format!("writing {}", options.out.display()))?;
    scratch::publish(&made, options.out)?;
    steps.done();
    use std::os::unix::fs::MetadataExt;
    let bytes = std::fs::metadata(options.out)?.blocks() * 512;
    let seconds = begun.elapsed().as_secs_f64();
    let (packages, id) = (manifest::day(base.facts.built_at), base.facts.base.clone());
    Ok(Built { schema: 1, path: options.out.into(), bytes, seconds, base: id, packages })
}

/// A target's base as a directory below `dir`, for looking into it or running its programs; made once for
/// each base.
pub fn tree(target: &hanode_core::target::Target, dir: &Path) -> Result<PathBuf> {
    let mut steps = Steps::new();
    let base = cache::obtain(target, false, &mut steps)?;
    let at = dir.join(format!("tree-{}-{}", base.facts.base, base.facts.built_at));
    if at.is_dir() {
        return Ok(at);
    }
    steps.begin("unpacking");
    let scratch = Scratch::within(dir, ".tree-")?;
    let made = scratch.join("tree");
    std::fs::create_dir(&made)?;
    run(command("tar").arg("--numeric-owner").arg("-xpf").arg(base.tar()).arg("-C").arg(&made))?;
    std::fs::rename(&made, &at).with_context(|| format!("keeping {}", at.display()))?;
    steps.done();
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
    tarball::extend(&tar, entries, &base.facts.ids(), base.facts.built_at, &base.facts.labels)?;
    if format == Format::Tar {
        return Ok(tar);
    }
    steps.begin("compressing");
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
    root.put(entries, &base.facts.ids(), base.facts.built_at, &base.facts.labels, scratch)?;
    root.check()?;
    let Some(convert) = format.convert(compress) else { return Ok(raw) };
    steps.begin("converting");
    let out = scratch.join("converted");
    run(command("qemu-img").args(["convert", "-f", "raw"]).args(convert).arg(&raw).arg(&out))?;
    Ok(out)
}
