//! A base of the Debian family: the distribution's packages by mmdebstrap, each repository by its own key.

use super::{fetch, tarball};
use anyhow::{Context, Result};
use hanode_core::target::{Source, SourceKind, Target};
use hanode_util::command::{self, command, in_chroot};
use hanode_util::file_tree::{Entry, Ids};
use hanode_util::scratch::Scratch;
use std::path::{Path, PathBuf};

/// mmdebstrap's own: directories like /bin become links before the first package is unpacked.
const MERGE_USR: &str = "/usr/share/mmdebstrap/hooks/merged-usr/setup00.sh";

pub(crate) const TOOLS: &[&str] = &["mmdebstrap", "tar", "chroot", "unshare"];

/// Installs into `scratch/root`; `before` lies there before any package is configured.
pub(crate) fn install(
    target: &Target,
    before: &[Entry],
    mtime: u64,
    scratch: &Scratch,
    note: &dyn Fn(&str),
) -> Result<()> {
    let suite = target.base.suite.as_ref().context("its file names no suite")?;
    let mut archive = tar::Builder::new(Vec::new());
    let root = Ids::parse("root:x:0:0::/:", "root:x:0:");
    tarball::append(&mut archive, before, &root, mtime)?;
    scratch.write("before.tar", archive.into_inner()?)?;
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
        mmdebstrap.arg(format!("--setup-hook={MERGE_USR}"));
    }
    mmdebstrap.arg("--essential-hook=tar-in before.tar /").arg(suite).arg("root");
    mmdebstrap.args(repositories.iter().map(|repository| repository.lines(repository.ring.as_deref())));
    command::run_with_progress(&mut mmdebstrap, |line| {
        if let Some(told) = line.strip_prefix("I: ") {
            note(told);
        }
    })?;
    keep_sources(&repositories, &scratch.join("root"))
}

/// A repository, and the key ring that counts for it.
struct Repository<'a> {
    source: &'a Source,
    ring: Option<PathBuf>,
}

impl Repository<'_> {
    /// As in `sources.list`, one line for each suite.
    fn lines(&self, ring: Option<&Path>) -> String {
        let signed = ring.map(|ring| format!("[signed-by={}] ", ring.display())).unwrap_or_default();
        // mmdebstrap reads a directory of this machine by `copy:` alone.
        let url = match self.source.url.strip_prefix("file:") {
            Some(path) => format!("copy:{path}"),
            None => self.source.url.clone(),
        };
        let components = self.source.components.join(" ");
        let line = |suite: &String| format!("deb {signed}{url} {suite} {components}\n");
        self.source.suites.iter().map(line).collect()
    }
}

fn repositories<'a>(target: &'a Target, scratch: &Scratch) -> Result<Vec<Repository<'a>>> {
    let sources = target.sources.iter().filter(|(_, source)| source.kind == SourceKind::Apt);
    let made = sources.map(|(name, source)| {
        let ring = fetch::key_ring(name, source, &scratch.join("root"), scratch)?;
        Ok(Repository { source, ring })
    });
    made.collect()
}

/// The image's own list of sources, with the key rings where it will find them. A directory of the machine that built
/// the image is nothing to the image.
fn keep_sources(repositories: &[Repository], root: &Path) -> Result<()> {
    let mut list = String::new();
    for repository in repositories.iter().filter(|repository| !repository.source.is_local()) {
        let Some(ring) = &repository.ring else {
            list += &repository.lines(None);
            continue;
        };
        let name = ring.file_name().context("a key ring without a name")?;
        let kept = Path::new("/usr/share/keyrings").join(name);
        std::fs::copy(ring, hanode_util::file_tree::below(root, &kept.to_string_lossy()))?;
        list += &repository.lines(Some(&kept));
    }
    hanode_util::file_tree::replace(&root.join("etc/apt/sources.list"), list.as_bytes(), 0o644, None)
}

/// Every installed package with its version.
pub(crate) fn packages(root: &Path) -> Result<Vec<(String, String)>> {
    let said = command::run(in_chroot(root, "dpkg-query").args([
        "-W",
        "-f",
        "${db:Status-Abbrev}\t${Package}\t${Version}\n",
    ]))?;
    let row = |line: &str| {
        let (name, version) = line.strip_prefix("ii ")?.trim_start().split_once('\t')?;
        Some((name.to_string(), version.to_string()))
    };
    Ok(said.text()?.lines().filter_map(row).collect())
}

/// The package that a file came with; `file` is a path of the tree.
pub(crate) fn owner(root: &Path, file: &str) -> Result<String> {
    let said = command::run(in_chroot(root, "dpkg-query").arg("-S").arg(format!("*{file}")))?;
    Ok(said.text()?.split(':').next().unwrap_or_default().trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_sources_it_can_reach_and_their_keys() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for part in ["usr/share/keyrings", "etc/apt"] {
            std::fs::create_dir_all(root.join(part)).unwrap();
        }
        let (_, target) = hanode_admin::embedded::target("debian-13").unwrap();
        let mut source = target.sources.into_values().find(|source| source.kind == SourceKind::Apt).unwrap();
        let list = |source: &Source| {
            let ring = dir.path().join("hanode.gpg");
            std::fs::write(&ring, "key").unwrap();
            keep_sources(&[Repository { source, ring: Some(ring) }], &root).unwrap();
            std::fs::read_to_string(root.join("etc/apt/sources.list")).unwrap()
        };
        let kept = list(&source);
        let line = format!("deb [signed-by=/usr/share/keyrings/hanode.gpg] {}", source.url);
        assert!(kept.starts_with(&line) && root.join("usr/share/keyrings/hanode.gpg").is_file(), "{kept}");
        source.url = "file:/srv/mirror".into();
        assert_eq!(list(&source), "", "a directory of the machine that builds");
    }
}
