//! A base of the Enterprise Linux family: the distribution's own root file system, and everything else by its
//! own dnf inside it, since another's leaves a package database that this one cannot read.

use super::fetch;
use anyhow::{Context, Result, bail};
use hanode_core::target::{Source, SourceKind, Target};
use hanode_util::command::{self, command, in_chroot, run};
use hanode_util::file_tree::{self, Entry, Ids};
use hanode_util::scratch::Scratch;
use serde::Deserialize;
use std::path::{Path, PathBuf};

pub(crate) const TOOLS: &[&str] = &["curl", "tar", "chroot", "gpg", "unshare", "mount"];

pub(crate) const ENCLOSED: &str = include_str!("enclosed.sh");
const REPOSITORIES: &str = "etc/yum.repos.d";

/// Installs into `scratch/root`; `before` lies there before any package is installed.
pub(crate) fn install(
    target: &Target,
    before: &[Entry],
    scratch: &Scratch,
    note: &dyn Fn(&str),
) -> Result<()> {
    let root = scratch.join("root");
    let name = target.sources.iter().find(|(_, source)| source.kind == SourceKind::Root);
    let (name, _) = name.context("its file names no source of the kind \"root\"")?;
    note("fetching the root file system");
    unpack_root(&fetch::file(target, name, scratch)?, &root, scratch)
        .with_context(|| format!("source {name}"))?;
    file_tree::write(&root, before, Some(&Ids::read(&root)?))?;
    let repositories = repositories(target, &root, scratch)?;
    write_repositories(&repositories, &root, |r| Some(r.for_the_build()))?;
    // The host's way to names, while packages are fetched; a link there would lead out of the tree.
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
    let said = dnf.run(&install).context("installing the packages")?;
    if let Some(failed) = failed_scriptlet(&said) {
        bail!("a package's script failed, and dnf went on: {failed}");
    }
    std::fs::remove_file(&resolver)?;
    write_repositories(&repositories, &root, |r| r.for_the_image())?;
    remove_excluded(target, &root)
}

/// dnf of the tree.
struct Dnf<'a> {
    root: &'a Path,
    repositories: &'a [Repository<'a>],
    note: &'a dyn Fn(&str),
}

impl Dnf<'_> {
    /// Everything it says.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut dnf = command("unshare");
        dnf.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", ENCLOSED, "enclosed"]);
        dnf.arg(self.root);
        for repository in self.repositories {
            if let Some(host) = repository.directory() {
                dnf.arg(host).arg(repository.place());
            }
        }
        dnf.args(["--", "dnf", "--assumeyes", "--color=never", "--setopt=keepcache=False"]).args(arguments);
        dnf.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root").env("SYSTEMD_OFFLINE", "1");
        let said = command::run_with_progress(&mut dnf, |line| {
            if let Some((_, package)) = line.split_once("Installing       : ") {
                (self.note)(package.trim());
            }
        })?;
        Ok(said.stderr)
    }
}

/// The line in which dnf or rpm tells of a script that failed; their exit code does not.
fn failed_scriptlet(said: &str) -> Option<&str> {
    let tells = |line: &&str| {
        (line.contains("Error in ") && line.contains("scriptlet"))
            || (line.contains("scriptlet failed") && !line.contains("triggerin"))
            || line.contains("Non-fatal") && line.contains("scriptlet")
    };
    said.lines().find(tells).map(str::trim)
}

/// One that is a tree as it is, or one written by `docker save`: layers in the order of its manifest.
fn unpack_root(archive: &Path, root: &Path, scratch: &Scratch) -> Result<()> {
    let first = scratch.join("unpacked");
    untar(archive, &first)?;
    let manifest = first.join("manifest.json");
    if !manifest.is_file() {
        std::fs::rename(&first, root)?;
        return Ok(());
    }
    #[derive(Deserialize)]
    struct Image {
        #[serde(rename = "Layers")]
        layers: Vec<String>,
    }
    let images: Vec<Image> = serde_json::from_slice(&std::fs::read(&manifest)?)
        .with_context(|| format!("{}: not the manifest of a saved container image", archive.display()))?;
    let [image] = images.as_slice() else { bail!("{} holds {} images", archive.display(), images.len()) };
    for layer in &image.layers {
        untar(&first.join(layer), root)?;
    }
    std::fs::remove_dir_all(&first)?;
    Ok(())
}

fn untar(archive: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    run(command("tar").args(["--numeric-owner", "-xpf"]).arg(archive).arg("-C").arg(to))
        .map(drop)
        .with_context(|| format!("unpacking {}", archive.display()))
}

/// A repository, and the key that counts for it, as a path of the tree.
struct Repository<'a> {
    name: &'a str,
    source: &'a Source,
    key: String,
}

impl Repository<'_> {
    /// One that is a directory of this machine.
    fn directory(&self) -> Option<&Path> {
        let path = self.source.url.strip_prefix("file:")?;
        Some(Path::new(path.strip_prefix("//").unwrap_or(path)))
    }

    /// Where dnf finds that.
    fn place(&self) -> String {
        format!("/run/hanode-source/{}", self.name)
    }

    fn for_the_build(&self) -> String {
        let local = self.directory().map(|_| format!("file://{}", self.place()));
        self.text(local.as_ref().unwrap_or(&self.source.url))
    }

    /// A directory of the machine that built the image is nothing to the image.
    fn for_the_image(&self) -> Option<String> {
        (!self.source.is_local()).then(|| self.text(&self.source.url))
    }

    fn text(&self, url: &str) -> String {
        let (name, key) = (self.name, &self.key);
        format!("[{name}]\nname={name}\nbaseurl={url}\nenabled=1\ngpgcheck=1\ngpgkey=file://{key}\n")
    }
}

/// The target's repositories instead of those that the tree came with; signatures are always checked.
fn repositories<'a>(target: &'a Target, root: &Path, scratch: &Scratch) -> Result<Vec<Repository<'a>>> {
    let dir = root.join(REPOSITORIES);
    std::fs::create_dir_all(&dir)?;
    for file in std::fs::read_dir(&dir)? {
        std::fs::remove_file(file?.path())?;
    }
    let keys = PathBuf::from("/etc/pki/rpm-gpg");
    std::fs::create_dir_all(file_tree::below(root, &keys.to_string_lossy()))?;
    let sources = target.sources.iter().filter(|(_, source)| source.kind == SourceKind::Dnf);
    let made = sources.map(|(name, source)| {
        let ring = fetch::key_ring(name, source, root, scratch)?;
        let ring = ring.with_context(|| format!("source {name} names no key"))?;
        let key = keys.join(ring.file_name().context("a key ring without a name")?);
        let key = key.to_string_lossy().into_owned();
        std::fs::copy(&ring, file_tree::below(root, &key))?;
        Ok(Repository { name, source, key })
    });
    made.collect()
}

/// One without a text goes.
fn write_repositories(
    all: &[Repository],
    root: &Path,
    text: impl Fn(&Repository) -> Option<String>,
) -> Result<()> {
    let dir = root.join(REPOSITORIES);
    for repository in all {
        let at = dir.join(format!("hanode-{}.repo", repository.name));
        match text(repository) {
            Some(text) => file_tree::replace(&at, text.as_bytes(), 0o644, None)?,
            None => std::fs::remove_file(&at)?,
        }
    }
    Ok(())
}

/// rpm has no way to leave a path out for good, so it goes afterwards.
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
    let said =
        command::run(in_chroot(root, "rpm").args(["-qa", "--qf", "%{NAME}\t%{VERSION}-%{RELEASE}\n"]))?;
    let row =
        |line: &str| line.split_once('\t').map(|(name, version)| (name.to_string(), version.to_string()));
    Ok(said.text()?.lines().filter_map(row).collect())
}

/// The package that a file came with; `file` is a path of the tree.
pub(crate) fn owner(root: &Path, file: &str) -> Result<String> {
    let said = command::run(in_chroot(root, "rpm").args(["-qf", "--qf", "%{NAME}", file]))?;
    Ok(said.text()?.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_script_is_found_in_what_dnf_says() {
        let said = "Running transaction\n  Running scriptlet: bad-1.0-1.noarch  1/1\nError in POSTIN scriptlet in rpm package bad\nComplete!\n";
        assert_eq!(failed_scriptlet(said), Some("Error in POSTIN scriptlet in rpm package bad"));
        assert!(failed_scriptlet("warning: %post(bad-1-1.noarch) scriptlet failed, exit status 1").is_some());
        assert_eq!(failed_scriptlet("  Running scriptlet: good-1.0-1.noarch\nComplete!\n"), None);
    }

    #[test]
    fn every_repository_checks_signatures() {
        let (_, target) = hanode_admin::embedded::target("centos-8").unwrap();
        let mut source = target.sources["pgdg"].clone();
        let text = |source: &Source| {
            let key = "/etc/pki/rpm-gpg/hanode-pgdg.asc".to_string();
            let repository = Repository { name: "pgdg", source, key };
            (repository.for_the_build(), repository.for_the_image())
        };
        let checked = "\nenabled=1\ngpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/hanode-pgdg.asc\n";
        let (build, image) = text(&source);
        assert!(build.contains(&source.url) && build.contains(checked), "{build}");
        assert_eq!(image, Some(build), "the image has the same");
        source.url = "file:///mirror".into();
        let (build, image) = text(&source);
        assert!(
            build.contains("baseurl=file:///run/hanode-source/pgdg\n") && build.contains(checked),
            "{build}"
        );
        assert_eq!(image, None, "a directory of the machine that builds");
    }
}
