//! Whether Redis' files have any keys. A replica that never reached its primary has files too; if they
//! counted as data, a bootstrap interrupted at that moment would wait for a promotion without end.

use std::path::Path;

/// An empty database takes less than a hundred bytes; larger files are not parsed.
const MAX_EMPTY_BYTES: u64 = 4096;

/// A file that cannot be read completely counts as data.
pub(super) fn has_data(redis: &Path) -> bool {
    let parts = std::fs::read_dir(redis.join("appendonlydir")).into_iter().flatten();
    let parts = parts.map(|entry| entry.map(|e| e.path()));
    let single = ["dump.rdb", "appendonly.aof"].map(|name| Ok(redis.join(name)));
    parts.chain(single).any(|file| file.map_or(true, |f| file_has_data(&f)))
}

fn file_has_data(file: &Path) -> bool {
    let size = match std::fs::metadata(file) {
        Ok(found) => found.len(),
        Err(error) => return error.kind() != std::io::ErrorKind::NotFound,
    };
    let manifest = file.extension().is_some_and(|e| e == "manifest");
    size > 0
        && !manifest
        && (size > MAX_EMPTY_BYTES || std::fs::read(file).map_or(true, |bytes| !is_empty_rdb(&bytes)))
}

/// Whether this is an RDB file without a key: magic, auxiliary fields, end marker and checksum.
fn is_empty_rdb(bytes: &[u8]) -> bool {
    const AUX: u8 = 0xFA;
    const END: u8 = 0xFF;
    const CHECKSUM: usize = 8;
    let Some(mut rest) = bytes.strip_prefix(b"REDIS").and_then(|r| r.get(4..)) else { return false };
    loop {
        match rest {
            [AUX, aux @ ..] => match skip_string(aux).and_then(skip_string) {
                Some(after) => rest = after,
                None => return false,
            },
            [END, sum @ ..] => return sum.len() == CHECKSUM,
            _ => return false,
        }
    }
}

/// The bytes after a string: of up to 63 bytes, of up to 16383 bytes, or a number of 1, 2 or 4 bytes.
fn skip_string(bytes: &[u8]) -> Option<&[u8]> {
    let (first, rest) = bytes.split_first()?;
    let low = usize::from(first & 0x3F);
    match (first >> 6, low) {
        (0, length) => rest.get(length..),
        (1, high) => rest.get(1 + (high << 8 | usize::from(*rest.first()?))..),
        (3, width @ 0..=2) => rest.get(1 << width..),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Written by Redis 8.0.2 for a database without a key.
    const EMPTY: &[u8] =
        b"REDIS0012\xfa\x09redis-ver\x058.0.2\xfa\x0aredis-bits\xc0\x40\xfa\x05ctime\xc2\x2d\xdc\x03\x6b\
        \xfa\x08used-mem\xc2\xf0\x3c\x0a\x00\xfa\x08aof-base\xc0\x01\xff\x1e\x97\xfa\xe5\x7d\x80\x1c\x85";

    fn redis(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("appendonlydir")).unwrap();
        files.iter().for_each(|(name, bytes)| std::fs::write(dir.path().join(name), bytes).unwrap());
        dir
    }

    #[test]
    fn files_of_a_server_without_a_key_are_no_data() {
        assert!(!has_data(Path::new("/nowhere")));
        let manifest =
            ("appendonlydir/appendonly.aof.manifest", &b"file appendonly.aof.1.base.rdb seq 1 type b\n"[..]);
        let base = ("appendonlydir/appendonly.aof.1.base.rdb", EMPTY);
        let log = |bytes: &'static [u8]| ("appendonlydir/appendonly.aof.1.incr.aof", bytes);
        assert!(!has_data(redis(&[manifest, base, log(b"")]).path()));
        assert!(has_data(redis(&[manifest, base, log(b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n")]).path()));
        assert!(
            has_data(redis(&[("dump.rdb", &[&EMPTY[..80], b"\xfe\x00"].concat()[..])]).path()),
            "a database starts"
        );
        assert!(
            has_data(redis(&[("appendonlydir/appendonly.aof.1.base.rdb", &EMPTY[..85])]).path()),
            "truncated"
        );
        assert!(has_data(redis(&[("appendonly.aof", b"*1\r\n$4\r\nPING\r\n")]).path()), "Redis before 7");
        assert!(!has_data(redis(&[("appendonly.aof", b"")]).path()));
    }

    proptest! {
        #[test]
        fn a_changed_file_is_not_empty(at in 0..EMPTY.len(), more in prop::collection::vec(any::<u8>(), 1..200)) {
            let garbled = [&EMPTY[..at], &more].concat();
            prop_assume!(garbled.len() != EMPTY.len());
            // An auxiliary field may be longer; the end marker must still be at the end.
            if is_empty_rdb(&garbled) { prop_assert_eq!(garbled[garbled.len() - 9], 0xFF); }
            prop_assert!(!is_empty_rdb(&[EMPTY, &more].concat()));
        }
    }
}
