//! A base of the Enterprise Linux family: the distribution's own root file system, and everything else by its
//! own dnf inside it, since another's leaves a package database that this one cannot read.

use super::fetch;
use super::scratch::Scratch;
use super::tool::{self, command, inside, isolated, run};
use crate::target::{Source, SourceKind, Target};
use crate::tree::{self, Entry, Ids};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::{Path, PathBuf};

pub const TOOLS: &[&str] = &["curl", "tar", "chroot", "gpg", "mknod", "unshare"];

const REPOSITORIES: &str = "etc/yum.repos.d";

/// Installs into `scratch/root`; `before` lies there before any package is installed.
pub fn install(target: &Target, before: &[Entry], scratch: &Scratch, note: &dyn Fn(&str)) -> Result<()> {
    let root = scratch.join("root");
    let name = target.sources.iter().find(|(_, source)| source.kind == SourceKind::Root);
    let (name, _) = name.context("its file names no source of the kind \"root\"")?;
    note("fetching the root file system");
    unpack_root(&fetch::file(target, name, scratch)?, &root, scratch)?;
    devices(&root)?;
    tree::write(&root, before, Some(&Ids::read(&root)?))?;
    repositories(target, &root, scratch)?;
    // The host's way to names, while packages are fetched.
    let resolver = root.join("etc/resolv.conf");
    std::fs::copy("/etc/resolv.conf", &resolver).context("copying /etc/resolv.conf")?;
    for module in &target.base.modules {
        note(&format!("module {module}"));
        let (verb, stream) = match module.strip_prefix('!') {
            Some(name) => ("disable", name),
            None => ("enable", module.as_str()),
        };
        dnf(&root, &["module", verb, stream]).with_context(|| format!("module {module}"))?;
    }
    let packages: Vec<_> = target.base.packages.iter().map(|p| target.versioned(p)).collect();
    let mut install = vec!["install", "--setopt=install_weak_deps=False", "--setopt=tsflags=nodocs"];
    install.extend(packages.iter().map(String::as_str));
    note("dnf install");
    let said = dnf(&root, &install).context("installing the packages")?;
    if let Some(failed) = failed_scriptlet(&said) {
        bail!("a package's script failed, and dnf went on: {failed}");
    }
    std::fs::remove_file(&resolver)?;
    remove_excluded(target, &root)
}

/// dnf of the tree, in its own namespaces: whatever it starts and mounts is gone with it.
fn dnf(root: &Path, arguments: &[&str]) -> Result<String> {
    let mut dnf = isolated(root, "dnf");
    dnf.args(["--assumeyes", "--color=never", "--setopt=keepcache=False"]).args(arguments);
    dnf.env("HOME", "/root");
    let said = run(&mut dnf)?;
    Ok(format!("{}\n{}", String::from_utf8_lossy(&said.stdout), said.stderr))
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

/// What packages' scripts expect of /dev.
fn devices(root: &Path) -> Result<()> {
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        let at = root.join("dev").join(name);
        if !at.exists() {
            run(command("mknod").args(["-m", "666"]).arg(at).args(["c", "1", &minor.to_string()]))?;
        }
    }
    Ok(())
}

/// The target's repositories instead of those that the tree came with; signatures are always checked.
fn repositories(target: &Target, root: &Path, scratch: &Scratch) -> Result<()> {
    let dir = root.join(REPOSITORIES);
    std::fs::create_dir_all(&dir)?;
    for file in std::fs::read_dir(&dir)? {
        std::fs::remove_file(file?.path())?;
    }
    let keys = PathBuf::from("/etc/pki/rpm-gpg");
    std::fs::create_dir_all(tree::below(root, &keys.to_string_lossy()))?;
    for (name, source) in target.sources.iter().filter(|(_, source)| source.kind == SourceKind::Dnf) {
        let ring = fetch::key_ring(name, source, root, scratch)?;
        let ring = ring.with_context(|| format!("source {name} names no key"))?;
        let key = keys.join(ring.file_name().context("a key ring without a name")?);
        std::fs::copy(&ring, tree::below(root, &key.to_string_lossy()))?;
        let text = repository(name, source, &key.to_string_lossy());
        tree::replace(&dir.join(format!("hanode-{name}.repo")), text.as_bytes(), 0o644, None)?;
    }
    Ok(())
}

fn repository(name: &str, source: &Source, key: &str) -> String {
    let url = &source.url;
    format!("[{name}]\nname={name}\nbaseurl={url}\nenabled=1\ngpgcheck=1\ngpgkey=file://{key}\n")
}

/// rpm has no way to leave a path out for good, so it goes afterwards.
fn remove_excluded(target: &Target, root: &Path) -> Result<()> {
    for pattern in &target.base.exclude {
        let dir =
            pattern.strip_suffix("/*").with_context(|| format!("exclude {pattern:?} must end in /*"))?;
        for entry in std::fs::read_dir(tree::below(root, dir)).into_iter().flatten() {
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
pub fn packages(root: &Path) -> Result<Vec<(String, String)>> {
    let said = tool::run(inside(root, "rpm").args(["-qa", "--qf", "%{NAME}\t%{VERSION}-%{RELEASE}\n"]))?;
    let row =
        |line: &str| line.split_once('\t').map(|(name, version)| (name.to_string(), version.to_string()));
    Ok(said.text()?.lines().filter_map(row).collect())
}

/// The package that a file came with; `file` is a path of the tree.
pub fn owner(root: &Path, file: &str) -> Result<String> {
    let said = tool::run(inside(root, "rpm").args(["-qf", "--qf", "%{NAME}", file]))?;
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
        let (_, target) = crate::image::target("centos-8").unwrap();
        let text = repository("pgdg", &target.sources["pgdg"], "/etc/pki/rpm-gpg/hanode-pgdg.asc");
        assert!(text.contains("\ngpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/hanode-pgdg.asc\n"), "{text}");
    }
}
