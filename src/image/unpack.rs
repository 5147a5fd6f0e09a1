//! Fetches programs that the target installs without a package, and unpacks them into the tree.

use super::fetch;
use anyhow::{Context, Result};
use hanode_core::target::{Source, SourceKind, Target};
use hanode_util::command::{command, in_chroot, run};
use hanode_util::file_tree;
use hanode_util::scratch::Scratch;
use std::path::{Path, PathBuf};

/// The fetched and verified files of all sources of the kind `file`.
pub(crate) struct Fetched<'a>(Vec<(&'a str, &'a Source, PathBuf)>);

/// Fetches the files. Called before the packages are installed, which takes minutes, so that a wrong file is reported early.
pub(crate) fn fetch_all<'a>(
    target: &'a Target,
    scratch: &Scratch,
    note: &dyn Fn(&str),
) -> Result<Fetched<'a>> {
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

/// Unpacks the files into the tree.
pub(crate) fn unpack_all(target: &Target, fetched: &Fetched, root: &Path) -> Result<()> {
    for (name, source, file) in &fetched.0 {
        let into = source.unpack.as_ref().with_context(|| format!("source {name}: no `unpack` directory"))?;
        std::fs::create_dir_all(file_tree::below(root, into))?;
        let unpacked = match file.extension().is_some_and(|e| e == "whl") {
            true => unpack_wheel(file, root, into),
            false => unpack_archive(target, source, file, &file_tree::below(root, into)),
        };
        unpacked.with_context(|| format!("source {name}: unpacking {}", file.display()))?;
    }
    Ok(())
}

/// A wheel is a zip archive; the tree's Python unpacks it.
fn unpack_wheel(file: &Path, root: &Path, into: &str) -> Result<()> {
    let staged = root.join("tmp/wheel");
    std::fs::copy(file, &staged)?;
    run(in_chroot(root, "python3").args(["-m", "zipfile", "-e", "/tmp/wheel", into]))?;
    std::fs::remove_file(staged)?;
    Ok(())
}

fn unpack_archive(target: &Target, source: &Source, file: &Path, into: &Path) -> Result<()> {
    let mut tar = command("tar");
    tar.args(["--no-same-owner", "--no-same-permissions", "-xf"]).arg(file).arg("-C").arg(into);
    // Existing directories of the tree, and links to directories, stay as they are.
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

    /// An archive of PLV8 as an operator would pack it.
    #[test]
    fn unpacking_leaves_existing_directories_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let (from, root) = (dir.path().join("from"), dir.path().join("root"));
        for dir in [from.join("lib/postgresql"), root.join("usr/lib")] {
            std::fs::create_dir_all(dir).unwrap();
        }
        std::fs::write(from.join("lib/postgresql/plv8.so"), "it").unwrap();
        std::fs::set_permissions(&from, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
        let file = dir.path().join("plv8.tar.gz");
        run(command("tar").arg("-C").arg(&from).arg("-czf").arg(&file).arg(".")).unwrap();
        let (_, target) = embedded::target("ubuntu-20.04").unwrap();
        let source = &target.sources["plv8"];
        unpack_archive(&target, source, &file, &file_tree::below(&root, source.unpack.as_ref().unwrap()))
            .unwrap();
        assert!(root.join("lib").is_symlink());
        assert_eq!(std::fs::read(root.join("usr/lib/postgresql/plv8.so")).unwrap(), b"it");
        assert_eq!(root.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    }
}
