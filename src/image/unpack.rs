//! Programs that come in no package of the target's: fetched, checked, unpacked where its file says.

use super::fetch;
use anyhow::{Context, Result};
use hanode_core::target::{Source, SourceKind, Target};
use hanode_util::command::{command, in_chroot, run};
use hanode_util::file_tree;
use hanode_util::scratch::Scratch;
use std::path::{Path, PathBuf};

/// Every source of the kind `file`, fetched and checked.
pub(crate) struct Fetched<'a>(Vec<(&'a str, &'a Source, PathBuf)>);

/// Before the packages, which take minutes: what is not as it should be is told at once.
pub(crate) fn fetch<'a>(target: &'a Target, scratch: &Scratch, note: &dyn Fn(&str)) -> Result<Fetched<'a>> {
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
pub(crate) fn all(target: &Target, fetched: &Fetched, root: &Path) -> Result<()> {
    for (name, source, file) in &fetched.0 {
        let into =
            source.unpack.as_ref().with_context(|| format!("source {name} says not where to unpack it"))?;
        std::fs::create_dir_all(file_tree::below(root, into))?;
        let unpacked = match file.extension().is_some_and(|e| e == "whl") {
            true => wheel(file, root, into),
            false => archive(target, source, file, &file_tree::below(root, into)),
        };
        unpacked.with_context(|| format!("source {name}: unpacking it"))?;
    }
    Ok(())
}

/// A wheel is a zip archive; the tree's Python unpacks it.
fn wheel(file: &Path, root: &Path, into: &str) -> Result<()> {
    let staged = root.join("tmp/wheel");
    std::fs::copy(file, &staged)?;
    run(in_chroot(root, "python3").args(["-m", "zipfile", "-e", "/tmp/wheel", into]))?;
    std::fs::remove_file(staged)?;
    Ok(())
}

fn archive(target: &Target, source: &Source, file: &Path, into: &Path) -> Result<()> {
    let mut tar = command("tar");
    tar.args(["--no-same-owner", "--no-same-permissions", "-xf"]).arg(file).arg("-C").arg(into);
    // What it says of directories that the tree has already counts for nothing, links among them.
    tar.args(["--no-overwrite-dir", "--keep-directory-symlink"]);
    tar.arg(format!("--strip-components={}", source.strip));
    run(tar.args(source.members.iter().map(|member| target.versioned(member))))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_admin::embedded;
    use std::os::unix::fs::PermissionsExt;

    /// PLV8, as an operator would pack it: what the tree has already stays as it is.
    #[test]
    fn an_archive_of_files_below_the_root_leaves_the_trees_own_directories_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (from, root) = (dir.path().join("from"), dir.path().join("root"));
        for made in [from.join("lib/postgresql"), root.join("usr/lib")] {
            std::fs::create_dir_all(made).unwrap();
        }
        std::fs::write(from.join("lib/postgresql/plv8.so"), "it").unwrap();
        std::fs::set_permissions(&from, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
        let file = dir.path().join("plv8.tar.gz");
        run(command("tar").arg("-C").arg(&from).arg("-czf").arg(&file).arg(".")).unwrap();
        let (_, target) = embedded::target("ubuntu-20.04").unwrap();
        let source = &target.sources["plv8"];
        archive(&target, source, &file, &file_tree::below(&root, source.unpack.as_ref().unwrap())).unwrap();
        assert!(root.join("lib").is_symlink());
        assert_eq!(std::fs::read(root.join("usr/lib/postgresql/plv8.so")).unwrap(), b"it");
        assert_eq!(root.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    }
}
