//! Reads and edits an ext4 file system inside a disk image with `debugfs`, without mounts or loop devices.

use anyhow::{Context, Result, bail};
use hanode_util::command::{command, run};
use hanode_util::file_tree::{Entry, EntryKind, Ids};
use hanode_util::scratch::Scratch;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

/// The file system at `offset` bytes of `image`.
pub(crate) struct Ext4<'a> {
    pub(crate) image: &'a Path,
    pub(crate) offset: u64,
}

impl Ext4<'_> {
    fn device(&self) -> String {
        format!("{}?offset={}", self.image.display(), self.offset)
    }

    /// The content of a file; `None` if there is no such file.
    pub(crate) fn cat(&self, path: &str) -> Result<Option<Vec<u8>>> {
        check_name(path)?;
        let output = run(command("debugfs").arg("-R").arg(format!("cat \"{path}\"")).arg(self.device()))?;
        match error_lines(&output.stderr) {
            None => Ok(Some(output.stdout)),
            Some(text) if text.contains("File not found") => Ok(None),
            Some(text) => bail!("reading {path} in {}: {text}", self.image.display()),
        }
    }

    /// Fails if e2fsck finds an error.
    pub(crate) fn check(&self) -> Result<()> {
        run(command("e2fsck").arg("-fn").arg(self.device())).context("the file system is damaged").map(drop)
    }

    /// Writes the entries; existing files are replaced. Missing parent directories are created with the SELinux context
    /// that `labels` has for them.
    pub(crate) fn write(
        &self,
        entries: &[Entry],
        ids: &Ids,
        mtime: u64,
        labels: &BTreeMap<String, String>,
        scratch: &Scratch,
    ) -> Result<()> {
        let present = self.present(entries, scratch)?;
        let script = debugfs_script(entries, ids, mtime, labels, present, scratch)?;
        self.batch(&script, mtime, scratch)
            .map(drop)
            .with_context(|| format!("writing into {}", self.image.display()))
    }

    /// The paths of the entries and of their parent directories that exist already.
    fn present(&self, entries: &[Entry], scratch: &Scratch) -> Result<BTreeSet<String>> {
        let mut paths = BTreeSet::new();
        for entry in entries {
            check_name(&entry.path)?;
            paths.extend(parents(&entry.path).map(str::to_string));
            paths.insert(entry.path.clone());
        }
        let requests: String = paths.iter().map(|p| format!("stat \"{p}\"\n")).collect();
        let requests = scratch.write("stat", requests)?;
        let output = run(command("debugfs").arg("-f").arg(requests).arg(self.device()))?;
        let output = output.text()?;
        let mut found = BTreeSet::new();
        let mut current = "";
        for line in output.lines() {
            if let Some(path) = line.strip_prefix("debugfs: stat ") {
                current = path.trim_matches('"');
            } else if line.starts_with("Inode: ") {
                found.insert(current.to_string());
            }
        }
        Ok(found)
    }

    /// `time` becomes the time of the superblock's last change, which is otherwise now and would make images of the same
    /// input differ.
    fn batch(&self, script: &str, time: u64, scratch: &Scratch) -> Result<()> {
        let file = scratch.write("commands", script)?;
        let mut debugfs = command("debugfs");
        debugfs.env("E2FSPROGS_FAKE_TIME", time.to_string());
        let output = run(debugfs.arg("-w").arg("-f").arg(file).arg(self.device()))?;
        match error_lines(&output.stderr) {
            // The exit code of debugfs is 0 even when a command failed; only its output shows the error.
            Some(text) => bail!("debugfs: {text}"),
            None => Ok(()),
        }
    }
}

/// The error messages of debugfs: its standard error without the line of its version.
fn error_lines(stderr: &str) -> Option<String> {
    let lines: Vec<_> = stderr.lines().filter(|l| !l.starts_with("debugfs 1.") && !l.is_empty()).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// The parent directories of a path, outermost first, without the root.
pub(super) fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter(|(at, _)| *at > 0).map(|(at, _)| &path[..at])
}

/// debugfs cannot quote a quotation mark.
fn check_name(path: &str) -> Result<()> {
    if !path.starts_with('/') || path.contains(['"', '\n']) {
        bail!("{path:?} is not a path that debugfs can write");
    }
    Ok(())
}

fn debugfs_script(
    entries: &[Entry],
    ids: &Ids,
    mtime: u64,
    labels: &BTreeMap<String, String>,
    mut present: BTreeSet<String>,
    scratch: &Scratch,
) -> Result<String> {
    let mut out = String::new();
    for (number, entry) in entries.iter().enumerate() {
        for dir in parents(&entry.path) {
            if present.insert(dir.to_string()) {
                writeln!(out, "mkdir \"{dir}\"")?;
                set_inode(&mut out, dir, 0o040755, (0, 0), mtime)?;
                label(&mut out, dir, labels.get(dir))?;
            }
        }
        let path = &entry.path;
        let new = present.insert(path.clone());
        if !new && entry.kind != EntryKind::Dir {
            writeln!(out, "rm \"{path}\"")?;
        }
        let kind = match &entry.kind {
            EntryKind::Dir => {
                if new {
                    writeln!(out, "mkdir \"{path}\"")?;
                }
                0o040000
            }
            EntryKind::Link(target) => {
                check_name(&format!("/{target}"))?;
                writeln!(out, "symlink \"{path}\" \"{target}\"")?;
                0o120000
            }
            EntryKind::File(content) => {
                let staged = scratch.write(&format!("content-{number}"), content)?;
                writeln!(out, "write \"{}\" \"{path}\"", staged.display())?;
                0o100000
            }
        };
        let owner = (ids.uid(&entry.owner)?, ids.gid(&entry.group)?);
        set_inode(&mut out, path, kind | entry.mode, owner, mtime)?;
        label(&mut out, path, entry.label.as_ref())?;
    }
    Ok(out)
}

fn label(out: &mut String, path: &str, label: Option<&String>) -> std::fmt::Result {
    match label {
        Some(label) => writeln!(out, "ea_set \"{path}\" security.selinux {label}"),
        None => Ok(()),
    }
}

fn set_inode(out: &mut String, path: &str, mode: u32, owner: (u32, u32), mtime: u64) -> std::fmt::Result {
    writeln!(out, "sif \"{path}\" mode 0{mode:o}")?;
    writeln!(out, "sif \"{path}\" uid {}", owner.0)?;
    writeln!(out, "sif \"{path}\" gid {}", owner.1)?;
    for time in ["mtime", "ctime", "atime", "crtime"] {
        writeln!(out, "sif \"{path}\" {time} @{mtime}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_system(dir: &Path) -> std::path::PathBuf {
        let image = dir.join("disk");
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(18 << 20).unwrap();
        run(command("mke2fs")
            .args(["-q", "-t", "ext4", "-F", "-E", "offset=1048576"])
            .arg(&image)
            .arg("16m"))
        .unwrap();
        image
    }

    #[test]
    fn written_entries_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let image = file_system(dir.path());
        let fs = Ext4 { image: &image, offset: 1 << 20 };
        let ids = Ids::parse("root:x:0:0::/:\nredis:x:103:105::/:\n", "root:x:0:\nredis:x:105:\n");
        let scratch = Scratch::within(dir.path(), "s").unwrap();
        let label = Some("system_u:object_r:redis_conf_t:s0".to_string());
        let first = [Entry::file("/etc/a b/old", 0o644, "old"), Entry::link("/etc/link", "nowhere")];
        fs.write(&first, &ids, 7, &BTreeMap::new(), &scratch).unwrap();
        let second = [
            Entry::file("/etc/a b/old", 0o600, "new").owned("redis", "redis").labelled(label),
            Entry::link("/etc/link", "a b"),
            Entry::dir("/etc/a b", 0o750),
            Entry::file("/empty", 0o644, ""),
        ];
        fs.write(&second, &ids, 7, &BTreeMap::new(), &scratch).unwrap();
        fs.check().unwrap();
        assert_eq!(fs.cat("/etc/a b/old").unwrap().unwrap(), b"new");
        assert_eq!(fs.cat("/etc/link/old").unwrap().unwrap(), b"new");
        assert_eq!(fs.cat("/empty").unwrap().unwrap(), b"");
        assert_eq!(fs.cat("/not/there").unwrap(), None);
        let stat = run(command("debugfs").arg("-R").arg("stat \"/etc/a b/old\"").arg(fs.device())).unwrap();
        let stat = stat.text().unwrap();
        for part in ["Mode:  0600", "User:   103", "Group:   105", "redis_conf_t", "mtime: 0x00000007"] {
            assert!(stat.contains(part), "no {part} in {stat}");
        }
    }

    #[test]
    fn a_full_file_system_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let image = file_system(dir.path());
        let fs = Ext4 { image: &image, offset: 1 << 20 };
        let ids = Ids::parse("root:x:0:0::/:\n", "root:x:0:\n");
        let scratch = Scratch::within(dir.path(), "s").unwrap();
        let large = [Entry::file("/large", 0o644, vec![1; 17 << 20])];
        let failed = format!("{:#}", fs.write(&large, &ids, 7, &BTreeMap::new(), &scratch).unwrap_err());
        assert!(failed.contains("Could not allocate block"), "{failed}");
    }

    #[test]
    fn a_name_that_cannot_be_quoted_is_refused() {
        assert!(check_name("/a\"b").is_err());
        assert!(check_name("a").is_err());
    }
}
