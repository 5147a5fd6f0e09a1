//! Bundles: packing is deterministic and lossless, GNU tar reads the result, and hostile bytes are rejected.

use flate2::{Compression, write::GzEncoder};
use hanode_core::bundle::{Bundle, BundleError, METADATA_PATH, SECRETS_PATH};
use hanode_util::file_tree::{Entry, EntryKind};
use proptest::prelude::*;
use std::io::Write;
use std::process::Command;
use std::sync::LazyLock;
use tar::{EntryType, Header};

fn sample() -> Bundle {
    let members = vec![
        Entry::file("/etc/ssl/pgsql/server.key", 0o600, "a key").owned("postgres", "postgres"),
        Entry::dir("/etc/ssl/pgsql", 0o755),
        Entry::file("/etc/ssl/myca/root.crt", 0o644, "a certificate"),
    ];
    Bundle::new("hspas", 7, hanode_admin::cluster_dir::generate_secrets(), members)
}

static PACKED: LazyLock<Vec<u8>> = LazyLock::new(|| sample().pack().expect("packing"));

/// A bundle of its two required members and those that `more` adds, without the checks of `Bundle::pack`.
fn forged(metadata: &str, more: impl FnOnce(&mut tar::Builder<GzEncoder<Vec<u8>>>)) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    add(&mut tar, METADATA_PATH, EntryType::Regular, 0o644, metadata.as_bytes());
    add(
        &mut tar,
        SECRETS_PATH,
        EntryType::Regular,
        0o600,
        hanode_admin::cluster_dir::generate_secrets().to_toml().as_bytes(),
    );
    more(&mut tar);
    tar.into_inner().expect("a tar").finish().expect("a gzip")
}

fn add<W: Write>(tar: &mut tar::Builder<W>, path: &str, kind: EntryType, mode: u32, content: &[u8]) {
    let mut header = Header::new_ustar();
    // The `tar` crate refuses the names under test, so they go into the header directly.
    let name = path.strip_prefix("/etc").map_or(path.to_string(), |rest| format!("etc{rest}"));
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_username("root").expect("a name");
    header.set_groupname("root").expect("a name");
    if kind == EntryType::Symlink || kind == EntryType::Link {
        header.set_link_name("/etc/passwd").expect("a link");
    }
    header.set_cksum();
    tar.append(&header, content).expect("appending");
}

const VALID_METADATA: &str = r#"{"schema":1,"cluster":"hspas","generation":7}"#;

#[test]
fn a_packed_bundle_is_read_back_unchanged() {
    let bundle = sample();
    let bytes = bundle.pack().expect("packing");
    let read = Bundle::read(&bytes).expect("reading");
    assert_eq!(read, bundle);
    assert_eq!((read.metadata.cluster.as_str(), read.metadata.generation), ("hspas", 7));
    assert_eq!(read.file("/etc/ssl/pgsql/server.key"), Some(b"a key".as_slice()));
    assert_eq!(read.file("/etc/ssl/pgsql"), None);
    let key = read.entries.iter().find(|e| e.path.ends_with("server.key")).expect("the key");
    assert_eq!((key.mode, key.owner.as_str(), key.group.as_str()), (0o600, "postgres", "postgres"));
    assert_eq!(key.label.as_deref(), Some("system_u:object_r:cert_t:s0"));
    assert!(read.entries.iter().any(|e| e.kind == EntryKind::Dir));
}

#[test]
fn equal_content_packs_to_equal_bytes() {
    let bundle = sample();
    let bytes = bundle.pack().expect("packing");
    assert_eq!(bundle.pack().expect("packing"), bytes);
    assert_eq!(Bundle::read(&bytes).expect("reading").pack().expect("packing"), bytes);
    let mut members = bundle.entries.clone();
    members.reverse();
    let again = Bundle::new("hspas", 7, bundle.secrets.clone(), members);
    assert_eq!(again.pack().expect("packing"), bytes);
}

#[test]
fn gnu_tar_lists_owners_modes_and_labels() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("bundle.tar.gz");
    std::fs::write(&path, &*PACKED).expect("writing");
    let out = Command::new("tar").args(["--selinux", "-tvvzf"]).arg(&path).output().expect("GNU tar");
    let listing = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    let line =
        listing.lines().position(|l| l.ends_with("etc/ssl/pgsql/server.key")).expect("the key is listed");
    let lines: Vec<&str> = listing.lines().collect();
    assert!(lines[line].starts_with("-rw-------. postgres/postgres"), "{listing}");
    assert_eq!(lines[line + 1].trim(), "s: system_u:object_r:cert_t:s0", "{listing}");
}

#[test]
fn a_cut_bundle_is_reported_as_truncated() {
    for length in 0..PACKED.len() {
        assert_eq!(
            Bundle::read(&PACKED[..length]).expect_err("too short"),
            BundleError::Truncated,
            "at {length}"
        );
    }
    // Cut before compression: the archive inside ends early.
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(PACKED.as_slice()), &mut plain)
        .expect("gunzip");
    for length in (0..plain.len()).step_by(100) {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&plain[..length]).expect("gzip");
        if let Ok(bundle) = Bundle::read(&gzip.finish().expect("gzip")) {
            // A cut after the last member loses no entry.
            assert_eq!(bundle.entries, Bundle::read(&PACKED).expect("whole").entries);
        }
    }
}

#[test]
fn other_files_are_reported_as_no_bundle() {
    let refused = |bytes: &[u8], what: &str| {
        let message = Bundle::read(bytes).expect_err("no bundle").to_string();
        assert!(
            message.contains("not a hanode bundle") && message.contains(what),
            "{message:?} does not contain {what:?}"
        );
    };
    refused(b"PK\x03\x04 some zip", "gzip");
    let empty = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    refused(&empty.into_inner().expect("a tar").finish().expect("a gzip"), "bundle.json");
    assert!(Bundle::read(&forged(VALID_METADATA, |_| {})).is_ok(), "a forged bundle without faults is read");
    refused(&forged("nonsense", |_| {}), "not JSON");
    refused(&forged("{}", |_| {}), "no schema");
    refused(&forged(r#"{"schema":1}"#, |_| {}), "unexpected structure");
    for path in [
        "/etc/shadow",
        "etc/ssl/../shadow",
        "../x",
        "/etc/ssl/a//b",
        "/etc/ssl/./a",
        "/etc/ssl/a\nb",
        "/etc/ssl",
    ] {
        refused(&forged(VALID_METADATA, |tar| add(tar, path, EntryType::Regular, 0o644, b"x")), "not below");
    }
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Fifo, EntryType::Char] {
        refused(&forged(VALID_METADATA, |tar| add(tar, "/etc/ssl/a", kind, 0o644, b"")), "neither a file");
    }
    refused(&forged(VALID_METADATA, |tar| add(tar, "/etc/ssl/a", EntryType::Regular, 0o4755, b"")), "mode");
    refused(
        &forged(VALID_METADATA, |tar| add(tar, METADATA_PATH, EntryType::Regular, 0o644, b"{}")),
        "twice",
    );
}

#[test]
fn a_later_schema_is_named() {
    let later = forged(r#"{"schema":2,"something":"else"}"#, |_| {});
    assert_eq!(Bundle::read(&later).expect_err("later"), BundleError::UnsupportedSchema(2));
}

#[test]
fn a_bomb_is_too_large() {
    let bomb =
        forged(VALID_METADATA, |tar| add(tar, "/etc/ssl/a", EntryType::Regular, 0o644, &vec![0; 8 << 20]));
    assert!(bomb.len() < 1 << 20, "the bomb is small when packed");
    assert_eq!(Bundle::read(&bomb).expect_err("too large"), BundleError::TooLarge);
    let many = forged(VALID_METADATA, |tar| {
        (0..300).for_each(|i| add(tar, &format!("/etc/ssl/{i}"), EntryType::Regular, 0o644, b""))
    });
    assert_eq!(Bundle::read(&many).expect_err("too many"), BundleError::TooLarge);
    assert_eq!(Bundle::read(&vec![0x1f; 2 << 20]).expect_err("too large"), BundleError::TooLarge);
}

#[test]
fn faulty_secrets_are_reported_without_their_values() {
    let bytes = {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        add(&mut tar, METADATA_PATH, EntryType::Regular, 0o644, VALID_METADATA.as_bytes());
        add(&mut tar, SECRETS_PATH, EntryType::Regular, 0o600, b"redis = \"hush hush\"");
        tar.into_inner().expect("a tar").finish().expect("a gzip")
    };
    let message = Bundle::read(&bytes).expect_err("faulty").to_string();
    assert!(message.contains("vrrp is missing") && !message.contains("hush"), "{message}");
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(Bundle::read(&bytes).is_err());
    }

    /// Damage inside a valid gzip stream, so that its checksum does not catch it.
    #[test]
    fn a_damaged_archive_never_panics(
        spots in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(PACKED.as_slice()), &mut plain)?;
        for (at, byte) in spots {
            let at = at.index(plain.len());
            plain[at] = byte;
        }
        if cuts {
            plain.truncate(cut.index(plain.len()));
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&plain)?;
        if let Ok(bundle) = Bundle::read(&gzip.finish()?) {
            for entry in &bundle.entries {
                prop_assert!(entry.path.starts_with("/etc/ssl/") && !entry.path.contains(".."));
                prop_assert!(entry.mode <= 0o777 && !matches!(entry.kind, EntryKind::Link(_)));
            }
        }
    }
}
