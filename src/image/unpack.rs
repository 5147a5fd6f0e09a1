//! Programs that come in no package of the target's: fetched, checked, unpacked where its file says.

use super::fetch;
use super::scratch::Scratch;
use super::tool::{command, inside, run};
use crate::target::{Source, SourceKind, Target};
use crate::tree;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Every source of the kind `file`, fetched and checked.
pub struct Fetched<'a>(Vec<(&'a str, &'a Source, PathBuf)>);

/// Before the packages, which take minutes: what is not as it should be is told at once.
pub fn fetch<'a>(target: &'a Target, scratch: &Scratch, note: &dyn Fn(&str)) -> Result<Fetched<'a>> {
    let sources = target.sources.iter().filter(|(_, source)| source.kind == SourceKind::File);
    let fetched = sources.map(|(name, source)| {
        note(&format!(
            "fetching {name} {}",
            target.versions.get(name).map(String::as_str).unwrap_or_default()
        ));
        Ok((name.as_str(), source, fetch::file(target, name, scratch)?))
    });
    fetched.collect::<Result<_>>().map(Fetched)
}

/// Unpacks them into the tree.
pub fn all(target: &Target, fetched: &Fetched, root: &Path) -> Result<()> {
    for (name, source, file) in &fetched.0 {
        let into =
            source.unpack.as_ref().with_context(|| format!("source {name} says not where to unpack it"))?;
        std::fs::create_dir_all(tree::below(root, into))?;
        let unpacked = match file.extension().is_some_and(|e| e == "whl") {
            true => wheel(file, root, into),
            false => archive(target, source, file, &tree::below(root, into)),
        };
        unpacked.with_context(|| format!("source {name}: unpacking it"))?;
    }
    Ok(())
}

/// A wheel is a zip archive; the tree's Python unpacks it.
fn wheel(file: &Path, root: &Path, into: &str) -> Result<()> {
    let staged = root.join("tmp/wheel");
    std::fs::copy(file, &staged)?;
    run(inside(root, "python3").args(["-m", "zipfile", "-e", "/tmp/wheel", into]))?;
    std::fs::remove_file(staged)?;
    Ok(())
}

fn archive(target: &Target, source: &Source, file: &Path, into: &Path) -> Result<()> {
    let mut tar = command("tar");
    tar.args(["--no-same-owner", "--no-same-permissions", "-xf"]).arg(file).arg("-C").arg(into);
    tar.arg(format!("--strip-components={}", source.strip));
    run(tar.args(source.members.iter().map(|member| target.versioned(member))))?;
    Ok(())
}
