//! A base of the Debian family: mmdebstrap installs the packages, and each repository is verified with its own key.

use super::{fetch, tarball};
use anyhow::{Context, Result};
use hanode_core::target::{Source, SourceKind, Target};
use hanode_util::command::{self, command, in_chroot};
use hanode_util::file_tree::{Entry, Ids};
use hanode_util::scratch::Scratch;
use std::path::{Path, PathBuf};

/// A hook of mmdebstrap that makes /bin and the like links before the first package is unpacked.
const MERGE_USR_HOOK: &str = "/usr/share/mmdebstrap/hooks/merged-usr/setup00.sh";

pub(crate) const TOOLS: &[&str] = &["mmdebstrap", "tar", "chroot", "unshare"];

/// Installs the packages into `scratch/root`; the `early_files` are in it before the first package is configured.
pub(crate) fn install(
    target: &Target,
    early_files: &[Entry],
    mtime: u64,
    scratch: &Scratch,
    note: &dyn Fn(&str),
) -> Result<()> {
    let suite =
        target.base.suite.as_ref().with_context(|| format!("target {}: no [base] suite", target.name))?;
    let mut archive = tar::Builder::new(Vec::new());
    let root = Ids::parse("root:x:0:0::/:", "root:x:0:");
    tarball::append(&mut archive, early_files, &root, mtime)?;
    scratch.write("early.tar", archive.into_inner()?)?;
    let repositories = repositories(target, scratch)?;
    let mut mmdebstrap = command("mmdebstrap");
    mmdebstrap.args(["--mode=root", "--variant=apt", "--format=directory"]).current_dir(scratch.path());
    let packages: Vec<_> = target.base.packages.iter().map(|p| target.versioned(p)).collect();
    mmdebstrap.arg(format!("--include={}", packages.join(",")));
    for pattern in &target.base.exclude {
        mmdebstrap.arg(match pattern.strip_prefix('!') {
            Some(kept) => format!("--dpkgopt=path-include={kept}"),
            None => format!("--dpkgopt=path-exclude={pattern}"),
        });
    }
    if target.base.merge_usr {
        mmdebstrap.arg(format!("--setup-hook={MERGE_USR_HOOK}"));
    }
    mmdebstrap.arg("--essential-hook=tar-in early.tar /").arg(suite).arg("root");
    mmdebstrap
        .args(repositories.iter().map(|repository| repository.sources_lines(repository.ring.as_deref())));
    command::run_with_progress(&mut mmdebstrap, |line| {
        if let Some(text) = line.strip_prefix("I: ") {
            note(text);
        }
    })?;
    if repositories.is_empty() {
        return Ok(()); // mmdebstrap wrote its default mirrors into sources.list
    }
    write_sources_list(&repositories, &scratch.join("root"))
}

/// A repository with the key ring that verifies it.
struct AptRepository<'a> {
    source: &'a Source,
    ring: Option<PathBuf>,
}

impl AptRepository<'_> {
    /// The lines of `sources.list`, one for each suite.
    fn sources_lines(&self, ring: Option<&Path>) -> String {
        let signed = ring.map(|ring| format!("[signed-by={}] ", ring.display())).unwrap_or_default();
        // mmdebstrap reads a local directory with `copy:` only.
        let url = match self.source.url.strip_prefix("file:") {
            Some(path) => format!("copy:{path}"),
            None => self.source.url.clone(),
        };
        let components = self.source.components.join(" ");
        let line = |suite: &String| format!("deb {signed}{url} {suite} {components}\n");
        self.source.suites.iter().map(line).collect()
    }
}

/// The repositories with a URL; none for the default mirrors.
fn repositories<'a>(target: &'a Target, scratch: &Scratch) -> Result<Vec<AptRepository<'a>>> {
    let with_url = |source: &Source| source.kind == SourceKind::Apt && !source.url.is_empty();
    let sources = target.sources.iter().filter(|(_, source)| with_url(source));
    let repositories = sources.map(|(name, source)| {
        let ring = fetch::key_ring(name, source, &scratch.join("root"), scratch)?;
        Ok(AptRepository { source, ring })
    });
    repositories.collect()
}

/// Writes the image's `sources.list` and copies the key rings. Local directories are left out: they do not exist on
/// the nodes.
fn write_sources_list(repositories: &[AptRepository], root: &Path) -> Result<()> {
    let mut list = String::new();
    for repository in repositories.iter().filter(|repository| !repository.source.is_local()) {
        let Some(ring) = &repository.ring else {
            list += &repository.sources_lines(None);
            continue;
        };
        let name = ring.file_name().context("the key ring has no file name")?;
        let kept = Path::new("/usr/share/keyrings").join(name);
        std::fs::copy(ring, hanode_util::file_tree::below(root, &kept.to_string_lossy()))?;
        list += &repository.sources_lines(Some(&kept));
    }
    hanode_util::file_tree::replace(&root.join("etc/apt/sources.list"), list.as_bytes(), 0o644, None)
}

/// Every installed package with its version.
pub(crate) fn packages(root: &Path) -> Result<Vec<(String, String)>> {
    let output = command::run(in_chroot(root, "dpkg-query").args([
        "-W",
        "-f",
        "${db:Status-Abbrev}\t${Package}\t${Version}\n",
    ]))?;
    let row = |line: &str| {
        let (name, version) = line.strip_prefix("ii ")?.trim_start().split_once('\t')?;
        Some((name.to_string(), version.to_string()))
    };
    Ok(output.text()?.lines().filter_map(row).collect())
}

/// The package that contains a file; `file` is a path in the tree.
pub(crate) fn owner(root: &Path, file: &str) -> Result<String> {
    let output = command::run(in_chroot(root, "dpkg-query").arg("-S").arg(format!("*{file}")))?;
    Ok(output.text()?.split(':').next().unwrap_or_default().trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_remote_sources_with_keys_and_no_local_ones() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for part in ["usr/share/keyrings", "etc/apt"] {
            std::fs::create_dir_all(root.join(part)).unwrap();
        }
        let (_, target) = hanode_admin::embedded::target("ubuntu-20.04").unwrap();
        let mut source = target.sources.into_values().find(|source| source.kind == SourceKind::Apt).unwrap();
        let list = |source: &Source| {
            let ring = dir.path().join("hanode.gpg");
            std::fs::write(&ring, "key").unwrap();
            write_sources_list(&[AptRepository { source, ring: Some(ring) }], &root).unwrap();
            std::fs::read_to_string(root.join("etc/apt/sources.list")).unwrap()
        };
        let kept = list(&source);
        let line = format!("deb [signed-by=/usr/share/keyrings/hanode.gpg] {}", source.url);
        assert!(kept.starts_with(&line) && root.join("usr/share/keyrings/hanode.gpg").is_file(), "{kept}");
        source.url = "file:/srv/mirror".into();
        assert_eq!(list(&source), "", "a directory of the build machine is left out");
    }
}
