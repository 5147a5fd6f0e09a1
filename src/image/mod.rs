//! Images: a base of the target, a cluster baked into it, written in the format the file name asks for.

mod assets;
mod bake;
mod base;
mod cache;
mod clone;
mod debian;
mod disk;
mod el;
mod ext4;
mod family;
mod fetch;
mod format;
mod glibc;
mod inspect;
mod overlay;
mod packages;
mod parameters;
mod progress;
mod record;
mod rehearse;
pub mod selinux;
mod survey;
mod tarball;
pub mod tool;
mod unpack;

pub use assets::{target, targets};
pub use bake::bake;
pub use format::Format;
pub use inspect::{Inspection, inspect};
pub use overlay::{Baked, program};
pub use progress::Steps;
pub use record::{Cluster, Record};

pub use crate::scratch;

use crate::spec::Spec;
use crate::target::Override;
use crate::tree::Entry;
use anyhow::{Context, Result, bail};
use cache::Base;
use ext4::Ext4;
use flate2::{Compression, write::GzEncoder};
use overlay::Ground;
use scratch::Scratch;
use serde::Serialize;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tool::{command, run};

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
    pub baked: Option<Baked<'a>>,
    /// Of the cluster only the choice of versions and ports; nothing of it goes in.
    pub bare: bool,
    /// The bytes of `hanode-firstboot`; [`program`] finds them.
    pub program: &'a [u8],
}

/// What was built.
#[derive(Debug, Serialize)]
pub struct Built {
    pub schema: u32,
    pub path: PathBuf,
    /// Bytes the file takes on disk.
    pub bytes: u64,
    pub seconds: f64,
    pub base: String,
    /// The day of the base's packages.
    pub packages: String,
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
    let (text, mut target) = assets::target(options.target)?;
    let pins = options.baked.as_ref().map(|baked| baked.spec.versions.clone()).unwrap_or_default();
    target.choose(&pins, options.sources)?;
    if let (Some(policy), Some(baked)) = (&mut target.selinux, &options.baked) {
        selinux::take_ports(policy, baked.spec)?;
    }
    options.baked.as_ref().map_or(Ok(()), |baked| rehearse::rehearse(baked, &target))?;
    tool::need(if format.is_archive() { &["cp"] } else { &["cp", "debugfs", "e2fsck", "qemu-img"] })?;
    let mut steps = Steps::new();
    let base = cache::obtain(&target, options.fresh, &mut steps)?;
    steps.begin("baking");
    let ground = Ground { target_text: &text, target: &target, facts: &base.facts, program: options.program };
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
    let (packages, id) = (record::day(base.facts.built_at), base.facts.base.clone());
    Ok(Built { schema: 1, path: options.out.into(), bytes, seconds, base: id, packages })
}

/// What is known against the versions that a spec asks for, each with what to do.
pub fn doubts(spec: &Spec) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let all = targets().iter().map(|name| Ok(target(name)?.1)).collect::<Result<Vec<_>>>()?;
    for (component, version) in &spec.versions {
        if let Some(pitfall) = all.iter().find_map(|target| target.pitfall(component, version)) {
            let fix = format!("leave versions.{component} out: each target's own version is sound");
            found.push((pitfall.what.clone(), fix));
        }
        let able: Vec<_> = all.iter().filter(|t| t.can_pin(component)).map(|t| t.name.as_str()).collect();
        if able.len() < all.len() {
            let what = format!("versions.{component} cannot be had on every target");
            found.push((what, format!("it holds for an image of {} only", able.join(" or "))));
        }
    }
    Ok(found)
}

/// A target's base as a directory below `dir`, for looking into it or running its programs; made once for
/// each base.
pub fn tree(target: &crate::target::Target, dir: &Path) -> Result<PathBuf> {
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
        crate::interrupt::check()?;
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
