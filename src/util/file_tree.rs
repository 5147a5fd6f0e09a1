//! Files to write into a tree: the output of `render` and `bake`, and how it is written below a root.

use crate::safe_path::SafeTree;
use anyhow::{Context, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One file, directory or link. `path` is absolute, as it will be inside the tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub path: String,
    pub kind: EntryKind,
    /// Permission bits; ignored for a link.
    pub mode: u32,
    pub owner: String,
    pub group: String,
    /// SELinux context; `None` where the target has no SELinux policy.
    pub label: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum EntryKind {
    File(Vec<u8>),
    Dir,
    /// A symbolic link to this target.
    Link(String),
}

impl Entry {
    pub fn file(path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Entry::root_owned(path, EntryKind::File(content.into()), mode)
    }

    pub fn dir(path: impl Into<String>, mode: u32) -> Self {
        Entry::root_owned(path, EntryKind::Dir, mode)
    }

    pub fn link(path: impl Into<String>, target: impl Into<String>) -> Self {
        Entry::root_owned(path, EntryKind::Link(target.into()), 0o777)
    }

    fn root_owned(path: impl Into<String>, kind: EntryKind, mode: u32) -> Self {
        let root = || "root".to_string();
        Entry { path: path.into(), kind, mode, owner: root(), group: root(), label: None }
    }

    pub fn owned(mut self, owner: &str, group: &str) -> Self {
        self.owner = owner.into();
        self.group = group.into();
        self
    }

    pub fn labelled(mut self, label: Option<String>) -> Self {
        self.label = label;
        self
    }
}

/// A row of `OUT.manifest.json`.
#[derive(Debug, Serialize)]
pub struct ManifestRow<'a> {
    pub path: &'a str,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub mode: String,
    pub owner: &'a str,
    pub group: &'a str,
    pub label: Option<&'a str>,
    /// The hash of a file's content or of a link's target.
    pub sha256: Option<String>,
}

pub fn manifest(entries: &[Entry]) -> Vec<ManifestRow<'_>> {
    let row = |e: &'_ Entry| {
        let (kind, sum) = match &e.kind {
            EntryKind::File(content) => ("file", Some(hex::encode(Sha256::digest(content)))),
            EntryKind::Dir => ("dir", None),
            EntryKind::Link(target) => ("link", Some(hex::encode(Sha256::digest(target)))),
        };
        (kind, sum)
    };
    let mut rows: Vec<ManifestRow> = entries
        .iter()
        .map(|e| {
            let (kind, sha256) = row(e);
            ManifestRow {
                path: &e.path,
                kind,
                mode: format!("{:04o}", e.mode),
                owner: &e.owner,
                group: &e.group,
                label: e.label.as_deref(),
                sha256,
            }
        })
        .collect();
    rows.sort_by(|a, b| a.path.cmp(b.path));
    rows
}

/// User and group ids of a tree by name: ids differ between images.
#[derive(Debug, Default)]
pub struct Ids {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl Ids {
    /// Reads `etc/passwd` and `etc/group` below `root`.
    pub fn read(root: &Path) -> Result<Self> {
        let table = |name: &str| {
            let path = root.join(name);
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok::<_, anyhow::Error>(Self::table(&text))
        };
        Ok(Ids { users: table("etc/passwd")?, groups: table("etc/group")? })
    }

    /// From the texts of `/etc/passwd` and `/etc/group`.
    pub fn parse(passwd: &str, group: &str) -> Self {
        Ids { users: Self::table(passwd), groups: Self::table(group) }
    }

    fn table(text: &str) -> BTreeMap<String, u32> {
        text.lines()
            .filter_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                Some((name.to_string(), fields.nth(1)?.parse().ok()?))
            })
            .collect()
    }

    pub fn uid(&self, name: &str) -> Result<u32> {
        self.users.get(name).copied().with_context(|| format!("no user {name:?} in this tree"))
    }

    pub fn gid(&self, name: &str) -> Result<u32> {
        self.groups.get(name).copied().with_context(|| format!("no group {name:?} in this tree"))
    }
}

/// The location below `root` of an absolute path of the tree.
pub fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Writes `entries` below `root`; returns the paths that changed. Every file appears whole or not at all, and links that
/// users other than root can change are refused: see [`SafeTree`].
/// `ids`: `None` leaves owners alone, for a caller that is not root.
pub fn write(root: &Path, entries: &[Entry], ids: Option<&Ids>) -> Result<Vec<String>> {
    std::fs::create_dir_all(root)?;
    let tree = SafeTree::open(root)?;
    let mut changed = Vec::new();
    for entry in entries {
        let new = write_entry(&tree, entry, ids).with_context(|| format!("writing {}", entry.path))?;
        if new {
            changed.push(entry.path.clone());
        }
    }
    Ok(changed)
}

fn write_entry(tree: &SafeTree, entry: &Entry, ids: Option<&Ids>) -> Result<bool> {
    let owner = match ids {
        Some(ids) => Some((ids.uid(&entry.owner)?, ids.gid(&entry.group)?)),
        None => None,
    };
    Ok(match &entry.kind {
        EntryKind::Dir => tree.dir(&entry.path, entry.mode, owner)?,
        EntryKind::Link(target) => tree.link(&entry.path, target)?,
        EntryKind::File(content) => tree.file(&entry.path, content, entry.mode, owner)?,
    })
}

/// Replaces one file's content atomically and durably, where only the caller can change the path; elsewhere
/// [`SafeTree::replace`] does it.
pub fn replace(at: &Path, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = temporary_path(at);
    let _ = std::fs::remove_file(&temporary);
    let written = (|| {
        // Not readable by others at any time.
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        set_mode_and_owner(&file, mode, owner)?;
        file.sync_all()?;
        std::fs::rename(&temporary, at)?;
        anyhow::Ok(())
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
        return written.with_context(|| format!("writing {}", at.display()));
    }
    if let Some(parent) = at.parent() {
        // A name without a directory is in the current directory.
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn set_mode_and_owner(file: &std::fs::File, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt, fchown};
    if let Some((uid, gid)) = owner {
        fchown(file, Some(uid), Some(gid))?;
    }
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn temporary_path(at: &Path) -> PathBuf {
    let name = at.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    at.with_file_name(format!(".{name}.hanode-new"))
}
