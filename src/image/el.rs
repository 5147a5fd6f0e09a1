//! A base of the Enterprise Linux family: the distribution's container image as the root file system, and everything
//! else installed by the dnf inside it, because another version of dnf writes a package database that it cannot read.

use super::fetch;
use anyhow::{Context, Result, bail};
use hanode_core::target::{Source, SourceKind, Target};
use hanode_util::command::{self, command, in_chroot, run};
use hanode_util::file_tree::{self, Entry, Ids};
use hanode_util::scratch::Scratch;
use serde::Deserialize;
use std::path::{Path, PathBuf};

pub(crate) const TOOLS: &[&str] = &["curl", "tar", "chroot", "gpg", "unshare", "mount"];

/// Runs a program in the tree with its own mounts and processes.
pub(crate) const ISOLATE_SH: &str = include_str!("isolate.sh");
const REPOSITORY_DIR: &str = "etc/yum.repos.d";

/// Installs the packages into `scratch/root`; the `early_files` are in it before the first package is installed.
pub(crate) fn install(
    target: &Target,
    early_files: &[Entry],
    scratch: &Scratch,
    note: &dyn Fn(&str),
) -> Result<()> {
    let root = scratch.join("root");
    let name = target.sources.iter().find(|(_, source)| source.kind == SourceKind::Root);
    let (name, _) =
        name.with_context(|| format!("target {}: no source of the kind \"root\"", target.name))?;
    note("fetching the root file system");
    unpack_root(&fetch::file(target, name, scratch)?, &root, scratch)
        .with_context(|| format!("source {name}"))?;
    file_tree::write(&root, early_files, Some(&Ids::read(&root)?))?;
    let repositories = repositories(target, &root, scratch)?;
    write_repositories(&repositories, &root, |r| Some(r.for_build()))?;
    // dnf needs the host's resolver. A link is removed first, because it would lead out of the tree.
    let resolver = root.join("etc/resolv.conf");
    let _ = std::fs::remove_file(&resolver);
    std::fs::copy("/etc/resolv.conf", &resolver).context("copying /etc/resolv.conf")?;
    let dnf = Dnf { root: &root, repositories: &repositories, note };
    for module in &target.base.modules {
        note(&format!("module {module}"));
        let (verb, stream) = match module.strip_prefix('!') {
            Some(name) => ("disable", name),
            None => ("enable", module.as_str()),
        };
        dnf.run(&["module", verb, stream]).with_context(|| format!("module {module}"))?;
    }
    let packages: Vec<_> = target.base.packages.iter().map(|p| target.versioned(p)).collect();
    let mut install = vec!["install", "--setopt=install_weak_deps=False", "--setopt=tsflags=nodocs"];
    install.extend(packages.iter().map(String::as_str));
    note("dnf install");
    let stderr = dnf.run(&install).context("installing the packages")?;
    if let Some(failed) = failed_scriptlet(&stderr) {
        bail!("a package script failed, which dnf ignored: {failed}");
    }
    std::fs::remove_file(&resolver)?;
    write_repositories(&repositories, &root, |r| r.for_image())?;
    remove_excluded(target, &root)
}

/// The dnf of the tree.
struct Dnf<'a> {
    root: &'a Path,
    repositories: &'a [DnfRepository<'a>],
    note: &'a dyn Fn(&str),
}

impl Dnf<'_> {
    /// Runs dnf with these arguments; returns its standard error, to which standard output is redirected.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut dnf = command("unshare");
        dnf.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", ISOLATE_SH, "isolate"]);
        dnf.arg(self.root);
        for repository in self.repositories {
            if let Some(host) = repository.local_dir() {
                dnf.arg(host).arg(repository.mount_point());
            }
        }
        dnf.args(["--", "dnf", "--assumeyes", "--color=never", "--setopt=keepcache=False"]).args(arguments);
        dnf.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root").env("SYSTEMD_OFFLINE", "1");
        let output = command::run_with_progress(&mut dnf, |line| {
            if let Some((_, package)) = line.split_once("Installing       : ") {
                (self.note)(package.trim());
            }
        })?;
        Ok(output.stderr)
    }
}

/// The line in which dnf or rpm reports a failed script, which does not change their exit code.
fn failed_scriptlet(stderr: &str) -> Option<&str> {
    let reports_failure = |line: &&str| {
        (line.contains("Error in ") && line.contains("scriptlet"))
            || (line.contains("scriptlet failed") && !line.contains("triggerin"))
            || line.contains("Non-fatal") && line.contains("scriptlet")
    };
    stderr.lines().find(reports_failure).map(str::trim)
}

/// Unpacks an archive of a tree, or one written by `docker save`: layers in the order of its manifest.
fn unpack_root(archive: &Path, root: &Path, scratch: &Scratch) -> Result<()> {
    let unpacked = scratch.join("unpacked");
    untar(archive, &unpacked)?;
    let manifest = unpacked.join("manifest.json");
    if !manifest.is_file() {
        std::fs::rename(&unpacked, root)?;
        return Ok(());
    }
    #[derive(Deserialize)]
    struct Image {
        #[serde(rename = "Layers")]
        layers: Vec<String>,
    }
    let images: Vec<Image> = serde_json::from_slice(&std::fs::read(&manifest)?).with_context(|| {
        format!("{}: manifest.json is not that of a saved container image", archive.display())
    })?;
    let [image] = images.as_slice() else {
        bail!("{} has {} images, not one", archive.display(), images.len())
    };
    for layer in &image.layers {
        untar(&unpacked.join(layer), root)?;
    }
    std::fs::remove_dir_all(&unpacked)?;
    Ok(())
}

fn untar(archive: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    run(command("tar").args(["--numeric-owner", "-xpf"]).arg(archive).arg("-C").arg(to))
        .map(drop)
        .with_context(|| format!("unpacking {}", archive.display()))
}

/// A repository with the key that verifies it, a path in the tree.
struct DnfRepository<'a> {
    name: &'a str,
    source: &'a Source,
    key: String,
}

impl DnfRepository<'_> {
    /// The directory of a repository on this machine.
    fn local_dir(&self) -> Option<&Path> {
        let path = self.source.url.strip_prefix("file:")?;
        Some(Path::new(path.strip_prefix("//").unwrap_or(path)))
    }

    /// Where `isolate.sh` mounts the local directory in the tree.
    fn mount_point(&self) -> String {
        format!("/run/hanode-source/{}", self.name)
    }

    fn for_build(&self) -> String {
        let mounted = self.local_dir().map(|_| format!("file://{}", self.mount_point()));
        self.text(mounted.as_ref().unwrap_or(&self.source.url))
    }

    /// `None` for a local directory, which does not exist on the nodes.
    fn for_image(&self) -> Option<String> {
        (!self.source.is_local()).then(|| self.text(&self.source.url))
    }

    fn text(&self, url: &str) -> String {
        let (name, key) = (self.name, &self.key);
        format!("[{name}]\nname={name}\nbaseurl={url}\nenabled=1\ngpgcheck=1\ngpgkey=file://{key}\n")
    }
}

/// The target's repositories, with their keys written into the tree; the distribution's `.repo` files are removed.
/// Signatures are always checked.
fn repositories<'a>(target: &'a Target, root: &Path, scratch: &Scratch) -> Result<Vec<DnfRepository<'a>>> {
    let dir = root.join(REPOSITORY_DIR);
    std::fs::create_dir_all(&dir)?;
    for file in std::fs::read_dir(&dir)? {
        std::fs::remove_file(file?.path())?;
    }
    let keys = PathBuf::from("/etc/pki/rpm-gpg");
    std::fs::create_dir_all(file_tree::below(root, &keys.to_string_lossy()))?;
    let sources = target.sources.iter().filter(|(_, source)| source.kind == SourceKind::Dnf);
    let repositories = sources.map(|(name, source)| {
        let ring = fetch::key_ring(name, source, root, scratch)?;
        let ring = ring.with_context(|| format!("source {name} has no key"))?;
        let key = keys.join(ring.file_name().context("the key ring has no file name")?);
        let key = key.to_string_lossy().into_owned();
        std::fs::copy(&ring, file_tree::below(root, &key))?;
        Ok(DnfRepository { name, source, key })
    });
    repositories.collect()
}

/// Writes the `.repo` files; removes those for which `text` returns `None`.
fn write_repositories(
    all: &[DnfRepository],
    root: &Path,
    text: impl Fn(&DnfRepository) -> Option<String>,
) -> Result<()> {
    let dir = root.join(REPOSITORY_DIR);
    for repository in all {
        let at = dir.join(format!("hanode-{}.repo", repository.name));
        match text(repository) {
            Some(text) => file_tree::replace(&at, text.as_bytes(), 0o644, None)?,
            None => std::fs::remove_file(&at)?,
        }
    }
    Ok(())
}

/// Removes the excluded files after the installation, because rpm cannot exclude paths permanently.
fn remove_excluded(target: &Target, root: &Path) -> Result<()> {
    for pattern in &target.base.exclude {
        let dir =
            pattern.strip_suffix("/*").with_context(|| format!("exclude {pattern:?} must end in /*"))?;
        for entry in std::fs::read_dir(file_tree::below(root, dir)).into_iter().flatten() {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                std::fs::remove_dir_all(path)?;
            } else {
                std::fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}

/// Every installed package with its version.
pub(crate) fn packages(root: &Path) -> Result<Vec<(String, String)>> {
    let output =
        command::run(in_chroot(root, "rpm").args(["-qa", "--qf", "%{NAME}\t%{VERSION}-%{RELEASE}\n"]))?;
    let row =
        |line: &str| line.split_once('\t').map(|(name, version)| (name.to_string(), version.to_string()));
    Ok(output.text()?.lines().filter_map(row).collect())
}

/// The package that contains a file; `file` is a path in the tree.
pub(crate) fn owner(root: &Path, file: &str) -> Result<String> {
    let output = command::run(in_chroot(root, "rpm").args(["-qf", "--qf", "%{NAME}", file]))?;
    Ok(output.text()?.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_script_is_found_in_the_output_of_dnf() {
        let stderr = "Running transaction\n  Running scriptlet: bad-1.0-1.noarch  1/1\nError in POSTIN scriptlet in rpm package bad\nComplete!\n";
        assert_eq!(failed_scriptlet(stderr), Some("Error in POSTIN scriptlet in rpm package bad"));
        assert!(failed_scriptlet("warning: %post(bad-1-1.noarch) scriptlet failed, exit status 1").is_some());
        assert_eq!(failed_scriptlet("  Running scriptlet: good-1.0-1.noarch\nComplete!\n"), None);
    }

    #[test]
    fn every_repository_checks_signatures() {
        let (_, target) = hanode_admin::embedded::target("centos-8").unwrap();
        let mut source = target.sources["pgdg"].clone();
        let text = |source: &Source| {
            let key = "/etc/pki/rpm-gpg/hanode-pgdg.asc".to_string();
            let repository = DnfRepository { name: "pgdg", source, key };
            (repository.for_build(), repository.for_image())
        };
        let checked = "\nenabled=1\ngpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/hanode-pgdg.asc\n";
        let (build, image) = text(&source);
        assert!(build.contains(&source.url) && build.contains(checked), "{build}");
        assert_eq!(image, Some(build), "build and image use the same repository");
        source.url = "file:///mirror".into();
        let (build, image) = text(&source);
        assert!(
            build.contains("baseurl=file:///run/hanode-source/pgdg\n") && build.contains(checked),
            "{build}"
        );
        assert_eq!(image, None, "a directory of the build machine is left out");
    }
}
