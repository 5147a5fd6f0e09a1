//! Writes entries into tar archives; the same entries give the same bytes.

use anyhow::{Context, Result};
use hanode_util::file_tree::{Entry, EntryKind, Ids};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use tar::{Builder, EntryType, Header};

/// Appends the entries in their order. A label goes into a PAX header that GNU `tar --selinux` restores.
pub(crate) fn append<W: Write>(
    archive: &mut Builder<W>,
    entries: &[Entry],
    ids: &Ids,
    mtime: u64,
) -> Result<()> {
    for entry in entries {
        append_entry(archive, entry, ids, mtime)
            .with_context(|| format!("adding {} to the archive", entry.path))?;
    }
    Ok(())
}

fn append_entry<W: Write>(archive: &mut Builder<W>, entry: &Entry, ids: &Ids, mtime: u64) -> Result<()> {
    if let Some(label) = &entry.label {
        let record = pax_record("RHT.security.selinux", label);
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_path("pax")?;
        header.set_size(record.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append(&header, record.as_bytes())?;
    }
    let mut header = Header::new_gnu();
    header.set_uid(ids.uid(&entry.owner)?.into());
    header.set_gid(ids.gid(&entry.group)?.into());
    header.set_mode(entry.mode);
    header.set_mtime(mtime);
    let name = format!("./{}", entry.path.trim_start_matches('/'));
    match &entry.kind {
        EntryKind::File(content) => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content.as_slice())?;
        }
        EntryKind::Dir => {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            archive.append_data(&mut header, name, std::io::empty())?;
        }
        EntryKind::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, name, target)?;
        }
    }
    Ok(())
}

/// `LENGTH key=value\n`, where the length counts its own digits.
fn pax_record(key: &str, value: &str) -> String {
    let body = format!(" {key}={value}\n");
    let mut length = body.len();
    while length != body.len() + length.to_string().len() {
        length = body.len() + length.to_string().len();
    }
    format!("{length}{body}")
}

/// The offset at which the last member ends and the closing zeros start.
fn end_of_members(archive: &Path) -> Result<u64> {
    let mut end = 0;
    for member in tar::Archive::new(File::open(archive)?).entries_with_seek()? {
        let member = member?;
        end = member.raw_file_position() + member.size().div_ceil(512) * 512;
    }
    Ok(end)
}

/// Appends entries to the archive `file` after its last member.
pub(crate) fn extend(file: &Path, entries: &[Entry], ids: &Ids, mtime: u64) -> Result<()> {
    let end = end_of_members(file).with_context(|| format!("reading {}", file.display()))?;
    let mut out = OpenOptions::new().write(true).open(file)?;
    out.set_len(end)?;
    out.seek(SeekFrom::End(0))?;
    let mut archive = Builder::new(BufWriter::new(out));
    append(&mut archive, entries, ids, mtime)?;
    archive.into_inner()?.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Ids {
        Ids::parse("root:x:0:0::/:\nredis:x:103:105::/:\n", "root:x:0:\nredis:x:105:\n")
    }

    fn entries() -> Vec<Entry> {
        let label = Some("system_u:object_r:redis_conf_t:s0".to_string());
        vec![
            Entry::dir("/etc/x", 0o755),
            Entry::file("/etc/x/secret", 0o600, "word").owned("redis", "redis").labelled(label),
            Entry::link("/etc/x/link", "secret"),
        ]
    }

    fn archive(entries: &[Entry]) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        append(&mut archive, entries, &ids(), 7).unwrap();
        archive.into_inner().unwrap()
    }

    #[test]
    fn the_same_entries_give_the_same_bytes() {
        assert_eq!(archive(&entries()), archive(&entries()));
    }

    #[test]
    fn owners_modes_and_labels_are_written() {
        let bytes = archive(&entries());
        let mut read = tar::Archive::new(bytes.as_slice());
        let mut members = read.entries().unwrap();
        members.next();
        let mut secret = members.next().unwrap().unwrap();
        let label = secret.pax_extensions().unwrap().unwrap().next().unwrap().unwrap();
        assert_eq!(label.key().unwrap(), "RHT.security.selinux");
        assert_eq!(label.value().unwrap(), "system_u:object_r:redis_conf_t:s0");
        let header = secret.header();
        assert_eq!((header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0o600, 103, 105));
    }

    #[test]
    fn a_pax_length_counts_itself() {
        for value in ["", "x", &"x".repeat(88), &"x".repeat(89), &"x".repeat(990)] {
            let record = pax_record("k", value);
            let (length, _) = record.split_once(' ').unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), record.len());
        }
    }

    #[test]
    fn an_archive_is_extended_after_its_last_member() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base.tar");
        // The zeros at the end of the last member must not be taken for the end of the archive.
        std::fs::write(&base, archive(&[Entry::file("/zeros", 0o644, vec![0; 1024])])).unwrap();
        extend(&base, &entries(), &ids(), 7).unwrap();
        let mut read = tar::Archive::new(File::open(&base).unwrap());
        let names: Vec<_> = read
            .entries()
            .unwrap()
            .map(|e| (e.as_ref().unwrap().path().unwrap().display().to_string(), e.unwrap().size()))
            .collect();
        assert_eq!(names[0], ("zeros".to_string(), 1024));
        assert_eq!(names.len(), 4);
    }
}
