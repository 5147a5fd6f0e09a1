//! The bundle: leaf certificates, keys, CA certificates, CRLs and secrets as one reproducible archive, whose members
//! have their paths on the node.

use crate::secrets::Secrets;
use flate2::{Compression, GzBuilder, read::GzDecoder};
use hanode_util::file_tree::{Entry, EntryKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{self, Read};
use thiserror::Error;

/// The bundle in the image.
pub const BAKED_PATH: &str = "/usr/lib/hanode/bundle.tar.gz";
/// A newer bundle, put there by the operator.
pub const OVERRIDE_PATH: &str = "/etc/hanode/bundle.tar.gz";
/// The member with the secrets.
pub const SECRETS_PATH: &str = "/etc/ssl/hanode/secrets.toml";
/// The member with the [`BundleMetadata`].
pub const METADATA_PATH: &str = "/etc/ssl/hanode/bundle.json";

/// The version of the archive's layout.
pub(crate) const SCHEMA: u32 = 1;

/// The directory of all members.
const DIRECTORY: &str = "/etc/ssl/";
const LABEL: &str = "system_u:object_r:cert_t:s0";
const LABEL_KEY: &str = "RHT.security.selinux";
/// 2000-01-01, a time that no tool rejects.
const MTIME: u64 = 946_684_800;

// Upper bounds on untrusted input.
const MAX_PACKED: usize = 1 << 20;
const MAX_UNPACKED: u64 = 4 << 20;
const MAX_MEMBERS: usize = 256;

/// The cluster of a bundle, and its generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BundleMetadata {
    pub(crate) schema: u32,
    pub cluster: String,
    pub generation: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    pub metadata: BundleMetadata,
    pub secrets: Secrets,
    /// All members with their paths on a node, secrets and metadata included.
    pub entries: Vec<Entry>,
}

/// Why a bundle cannot be read.
#[derive(Debug, Error, PartialEq)]
pub enum BundleError {
    #[error("the bundle is truncated or damaged")]
    Truncated,
    #[error("this is not a hanode bundle: {0}")]
    NotABundle(String),
    #[error(
        "the bundle has schema {0}, this hanode supports {SCHEMA}; use the hanode version that made the bundle, or a newer one"
    )]
    UnsupportedSchema(u64),
    #[error("the bundle is too large")]
    TooLarge,
    #[error("the bundle's secrets are invalid: {0}")]
    InvalidSecrets(String),
}

impl Bundle {
    /// Adds secrets and metadata to `members` (replacing existing ones), labels all members and sorts them by path.
    pub fn new(cluster: &str, generation: u64, secrets: Secrets, members: Vec<Entry>) -> Self {
        let metadata = BundleMetadata { schema: SCHEMA, cluster: cluster.into(), generation };
        let json = serde_json::to_vec(&metadata).unwrap_or_default();
        let mut entries = members;
        entries.retain(|e| e.path != SECRETS_PATH && e.path != METADATA_PATH);
        entries.push(Entry::file(SECRETS_PATH, 0o600, secrets.to_toml()));
        entries.push(Entry::file(METADATA_PATH, 0o644, json));
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let entries = entries.into_iter().map(|e| e.labelled(Some(LABEL.into()))).collect();
        Bundle { metadata, secrets, entries }
    }

    /// The content of the file with this path on a node.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.entries.iter().find(|e| e.path == path).and_then(|e| match &e.kind {
            EntryKind::File(content) => Some(content.as_slice()),
            _ => None,
        })
    }

    /// The archive as bytes, reproducible on every machine.
    pub fn pack(&self) -> io::Result<Vec<u8>> {
        let gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
        let mut tar = tar::Builder::new(gzip);
        for entry in &self.entries {
            if let Some(label) = &entry.label {
                tar.append_pax_extensions([(LABEL_KEY, label.as_bytes())])?;
            }
            let content: &[u8] = match &entry.kind {
                EntryKind::File(content) => content,
                EntryKind::Dir => &[],
                EntryKind::Link(_) => return Err(io::Error::other("a bundle cannot contain links")),
            };
            tar.append(&header(entry, content.len())?, content)?;
        }
        tar.into_inner()?.finish()
    }

    /// Reads an untrusted bundle.
    pub fn read(bytes: &[u8]) -> Result<Bundle, BundleError> {
        let plain = unzip(bytes)?;
        let mut entries = Vec::new();
        let mut paths = BTreeSet::new();
        for member in tar::Archive::new(plain.as_slice()).entries().map_err(truncated)? {
            let entry = member.map_err(truncated).and_then(read_member)?;
            if !paths.insert(entry.path.clone()) {
                return Err(not_a_bundle(format!("it contains {} twice", entry.path)));
            }
            if entries.len() == MAX_MEMBERS {
                return Err(BundleError::TooLarge);
            }
            entries.push(entry);
        }
        let find = |path: &str| {
            entries.iter().find_map(|e| match &e.kind {
                EntryKind::File(content) if e.path == path => Some(content.as_slice()),
                _ => None,
            })
        };
        let metadata = read_metadata(
            find(METADATA_PATH).ok_or_else(|| not_a_bundle(format!("it has no {METADATA_PATH}")))?,
        )?;
        let secrets = find(SECRETS_PATH)
            .ok_or_else(|| BundleError::InvalidSecrets(format!("{SECRETS_PATH} is missing")))?;
        let secrets = std::str::from_utf8(secrets)
            .map_err(|_| BundleError::InvalidSecrets("they are not UTF-8".into()))
            .and_then(|text| Secrets::parse(text).map_err(|e| BundleError::InvalidSecrets(e.to_string())))?;
        Ok(Bundle { metadata, secrets, entries })
    }
}

fn header(entry: &Entry, size: usize) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    let name = entry.path.trim_start_matches('/');
    if entry.kind == EntryKind::Dir {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_path(format!("{name}/"))?;
    } else {
        header.set_entry_type(tar::EntryType::Regular);
        header.set_path(name)?;
    }
    header.set_size(size as u64);
    header.set_mode(entry.mode);
    header.set_mtime(MTIME);
    // By name: user and group ids differ between images.
    header.set_uid(0);
    header.set_gid(0);
    header.set_username(&entry.owner)?;
    header.set_groupname(&entry.group)?;
    header.set_cksum();
    Ok(header)
}

fn not_a_bundle(why: impl Into<String>) -> BundleError {
    BundleError::NotABundle(why.into())
}

/// A read error within the archive.
fn truncated(_: io::Error) -> BundleError {
    BundleError::Truncated
}

fn unzip(bytes: &[u8]) -> Result<Vec<u8>, BundleError> {
    if bytes.len() > MAX_PACKED {
        return Err(BundleError::TooLarge);
    }
    let magic = [0x1f, 0x8b];
    if !bytes.starts_with(&magic[..bytes.len().min(2)]) {
        return Err(not_a_bundle("it is not a gzip file"));
    }
    let mut plain = Vec::new();
    GzDecoder::new(bytes).take(MAX_UNPACKED + 1).read_to_end(&mut plain).map_err(truncated)?;
    if plain.len() as u64 > MAX_UNPACKED { Err(BundleError::TooLarge) } else { Ok(plain) }
}

fn read_member(mut member: tar::Entry<'_, &[u8]>) -> Result<Entry, BundleError> {
    let name = member.path_bytes().into_owned();
    let name = std::str::from_utf8(&name).map_err(|_| not_a_bundle("a member's name is not UTF-8"))?;
    let path = format!("/{}", name.trim_end_matches('/'));
    if !is_safe(&path) {
        return Err(not_a_bundle(format!("its member {} is not below {DIRECTORY}", path.escape_debug())));
    }
    let label = read_label(&mut member)?;
    let header = member.header();
    let kind = header.entry_type();
    let (owner, group) = (name_in(header.username()), name_in(header.groupname()));
    let (Some(owner), Some(group)) = (owner, group) else {
        return Err(not_a_bundle(format!("{path} has no user or group name")));
    };
    let mode = header.mode().map_err(truncated)?;
    if mode & !0o777 != 0 {
        return Err(not_a_bundle(format!("{path} has mode {mode:o}")));
    }
    let kind = match kind {
        tar::EntryType::Directory => EntryKind::Dir,
        tar::EntryType::Regular => {
            let mut content = Vec::new();
            // Bounded by the unpacked size, whatever size the header has.
            member.read_to_end(&mut content).map_err(truncated)?;
            if content.len() as u64 != member.size() {
                return Err(BundleError::Truncated);
            }
            EntryKind::File(content)
        }
        _ => return Err(not_a_bundle(format!("{path} is neither a file nor a directory"))),
    };
    Ok(Entry { path, kind, mode, owner, group, label })
}

fn is_safe(path: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    path.strip_prefix(DIRECTORY).is_some_and(|rest| rest.split('/').all(part))
}

fn read_label(member: &mut tar::Entry<'_, &[u8]>) -> Result<Option<String>, BundleError> {
    let Some(extensions) = member.pax_extensions().map_err(truncated)? else { return Ok(None) };
    let mut label = None;
    for extension in extensions {
        let extension = extension.map_err(truncated)?;
        if extension.key_bytes() == LABEL_KEY.as_bytes() {
            let text = extension.value().unwrap_or_default();
            let plain = |c: char| c.is_ascii_alphanumeric() || "_:.,-".contains(c);
            if text.is_empty() || text.len() > 255 || !text.chars().all(plain) {
                return Err(not_a_bundle("a member's SELinux label is malformed"));
            }
            label = Some(text.to_string());
        }
    }
    Ok(label)
}

fn name_in<E>(field: Result<Option<&str>, E>) -> Option<String> {
    let name = field.ok().flatten()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    (!name.is_empty() && name.chars().all(plain)).then(|| name.to_string())
}

/// Checks the schema first: a later schema may have other fields.
fn read_metadata(json: &[u8]) -> Result<BundleMetadata, BundleError> {
    let value: serde_json::Value =
        serde_json::from_slice(json).map_err(|_| not_a_bundle(format!("{METADATA_PATH} is not JSON")))?;
    let schema =
        value["schema"].as_u64().ok_or_else(|| not_a_bundle(format!("{METADATA_PATH} has no schema")))?;
    if schema != u64::from(SCHEMA) {
        return Err(BundleError::UnsupportedSchema(schema));
    }
    serde_json::from_value(value)
        .map_err(|_| not_a_bundle(format!("{METADATA_PATH} has an unexpected structure")))
}
