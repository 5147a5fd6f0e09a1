//! An ext4 file system inside a disk image, read and edited by `debugfs`: no mount, no loop device.

use anyhow::{Context, Result, bail};
use hanode_util::command::{command, run};
use hanode_util::file_tree::{Entry, Ids, Kind};
use hanode_util::scratch::Scratch;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

/// The file system that begins at `offset` bytes of `image`.
pub(crate) struct Ext4<'a> {
    pub(crate) image: &'a Path,
    pub(crate) offset: u64,
}

impl Ext4<'_> {
    fn device(&self) -> String {
        format!("{}?offset={}", self.image.display(), self.offset)
    }

    /// A file's content; `None` where there is no such file.
    pub(crate) fn cat(&self, path: &str) -> Result<Option<Vec<u8>>> {
        check_name(path)?;
        let said = run(command("debugfs").arg("-R").arg(format!("cat \"{path}\"")).arg(self.device()))?;
        match complaint(&said.stderr) {
            None => Ok(Some(said.stdout)),
            Some(text) if text.contains("File not found") => Ok(None),
            Some(text) => bail!("reading {path} in {}: {text}", self.image.display()),
        }
    }

    /// Fails unless the file system is without fault.
    pub(crate) fn check(&self) -> Result<()> {
        run(command("e2fsck").arg("-fn").arg(self.device())).context("the file system is damaged").map(drop)
    }

    /// Puts the entries in, replacing what is there. `labels`: SELinux contexts of directories that come with them.
    pub(crate) fn put(
        &self,
        entries: &[Entry],
        ids: &Ids,
        mtime: u64,
        labels: &BTreeMap<String, String>,
        scratch: &Scratch,
    ) -> Result<()> {
        let present = self.present(entries, scratch)?;
        let script = script(entries, ids, mtime, labels, present, scratch)?;
        self.batch(&script, scratch)
            .map(drop)
            .with_context(|| format!("writing into {}", self.image.display()))
    }

    /// Which of the entries' paths, and of the directories above them, are there already.
    fn present(&self, entries: &[Entry], scratch: &Scratch) -> Result<BTreeSet<String>> {
        let mut paths = BTreeSet::new();
        for entry in entries {
            check_name(&entry.path)?;
            paths.extend(above(&entry.path).map(str::to_string));
            paths.insert(entry.path.clone());
        }
        let asked: String = paths.iter().map(|p| format!("stat \"{p}\"\n")).collect();
        let asked = scratch.write("stat", asked)?;
        let said = run(command("debugfs").arg("-f").arg(asked).arg(self.device()))?;
        let said = said.text()?;
        let mut found = BTreeSet::new();
        let mut current = "";
        for line in said.lines() {
            if let Some(asked) = line.strip_prefix("debugfs: stat ") {
                current = asked.trim_matches('"');
            } else if line.starts_with("Inode: ") {
                found.insert(current.to_string());
            }
        }
        Ok(found)
    }

    fn batch(&self, script: &str, scratch: &Scratch) -> Result<()> {
        let file = scratch.write("commands", script)?;
        let said = run(command("debugfs").arg("-w").arg("-f").arg(file).arg(self.device()))?;
        match complaint(&said.stderr) {
            // debugfs ends well even when a command failed: what it says is all there is.
            Some(text) => bail!("debugfs: {text}"),
            None => Ok(()),
        }
    }
}

/// What debugfs says on standard error apart from its own name.
fn complaint(stderr: &str) -> Option<String> {
    let lines: Vec<_> = stderr.lines().filter(|l| !l.starts_with("debugfs 1.") && !l.is_empty()).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// The directories above a path, outermost first, without the root.
pub(super) fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter(|(at, _)| *at > 0).map(|(at, _)| &path[..at])
}

/// debugfs knows no way to quote a quotation mark.
fn check_name(path: &str) -> Result<()> {
    if !path.starts_with('/') || path.contains(['"', '\n']) {
        bail!("{path:?} is no path debugfs can write");
    }
    Ok(())
}

fn script(
    entries: &[Entry],
    ids: &Ids,
    mtime: u64,
    labels: &BTreeMap<String, String>,
    mut present: BTreeSet<String>,
    scratch: &Scratch,
) -> Result<String> {
    let mut out = String::new();
    for (number, entry) in entries.iter().enumerate() {
        for dir in above(&entry.path) {
            if present.insert(dir.to_string()) {
                writeln!(out, "mkdir \"{dir}\"")?;
                set(&mut out, dir, 0o040755, (0, 0), mtime)?;
                label(&mut out, dir, labels.get(dir))?;
            }
        }
        let path = &entry.path;
        let new = present.insert(path.clone());
        if !new && entry.kind != Kind::Dir {
            writeln!(out, "rm \"{path}\"")?;
        }
        let kind = match &entry.kind {
            Kind::Dir => {
                if new {
                    writeln!(out, "mkdir \"{path}\"")?;
                }
                0o040000
            }
            Kind::Link(target) => {
                check_name(&format!("/{target}"))?;
                writeln!(out, "symlink \"{path}\" \"{target}\"")?;
                0o120000
            }
            Kind::File(content) => {
                let staged = scratch.write(&format!("content-{number}"), content)?;
                writeln!(out, "write \"{}\" \"{path}\"", staged.display())?;
                0o100000
            }
        };
        let owner = (ids.uid(&entry.owner)?, ids.gid(&entry.group)?);
        set(&mut out, path, kind | entry.mode, owner, mtime)?;
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

fn set(out: &mut String, path: &str, mode: u32, owner: (u32, u32), mtime: u64) -> std::fmt::Result {
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
    fn entries_are_put_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let image = file_system(dir.path());
        let fs = Ext4 { image: &image, offset: 1 << 20 };
        let ids = Ids::parse("root:x:0:0::/:\nredis:x:103:105::/:\n", "root:x:0:\nredis:x:105:\n");
        let scratch = Scratch::within(dir.path(), "s").unwrap();
        let label = Some("system_u:object_r:redis_conf_t:s0".to_string());
        let first = [Entry::file("/etc/a b/old", 0o644, "old"), Entry::link("/etc/link", "nowhere")];
        fs.put(&first, &ids, 7, &BTreeMap::new(), &scratch).unwrap();
        let second = [
            Entry::file("/etc/a b/old", 0o600, "new").owned("redis", "redis").labelled(label),
            Entry::link("/etc/link", "a b"),
            Entry::dir("/etc/a b", 0o750),
            Entry::file("/empty", 0o644, ""),
        ];
        fs.put(&second, &ids, 7, &BTreeMap::new(), &scratch).unwrap();
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
        let failed = format!("{:#}", fs.put(&large, &ids, 7, &BTreeMap::new(), &scratch).unwrap_err());
        assert!(failed.contains("Could not allocate block"), "{failed}");
    }

    #[test]
    fn a_name_that_cannot_be_quoted_is_refused() {
        assert!(check_name("/a\"b").is_err());
        assert!(check_name("a").is_err());
    }
}
