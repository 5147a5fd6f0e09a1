//! The bundle: leaves, keys, CA certificates, CRLs and secrets as one deterministic archive whose members
//! bear their on-node paths.

use crate::secrets::Secrets;
use flate2::{Compression, GzBuilder, read::GzDecoder};
use hanode_util::file_tree::{Entry, Kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{self, Read};
use thiserror::Error;

/// Where the image carries it, where an operator may lay a newer one, and its members of fixed name.
pub const BAKED_PATH: &str = "/usr/lib/hanode/bundle.tar.gz";
pub const OVERRIDE_PATH: &str = "/etc/hanode/bundle.tar.gz";
pub const SECRETS_PATH: &str = "/etc/ssl/hanode/secrets.toml";
pub const METADATA_PATH: &str = "/etc/ssl/hanode/bundle.json";

/// The version of the layout that this program reads and writes.
pub(crate) const SCHEMA: u32 = 1;

/// Every member lies below it.
const HOME: &str = "/etc/ssl/";
const LABEL: &str = "system_u:object_r:cert_t:s0";
const LABEL_KEY: &str = "RHT.security.selinux";
/// A time that no tool finds implausible: 2000-01-01.
const MTIME: u64 = 946_684_800;

/// No honest bundle comes near these.
const MOST_PACKED: usize = 1 << 20;
const MOST_BYTES: u64 = 4 << 20;
const MOST_MEMBERS: usize = 256;

/// Whose bundle this is and which edition of it.
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
    /// Every member as it lies on a node, secrets and metadata included.
    pub entries: Vec<Entry>,
}

/// Why bytes are not a bundle.
#[derive(Debug, Error, PartialEq)]
pub enum BundleError {
    #[error("the bundle is truncated or damaged")]
    Truncated,
    #[error("this is a foreign file, not a bundle of hanode: {0}")]
    Foreign(String),
    #[error(
        "the bundle has schema {0}, this hanode reads {SCHEMA}: use the hanode that made it, or a newer one"
    )]
    Schema(u64),
    #[error("the bundle is far larger than any hanode makes")]
    TooLarge,
    #[error("the bundle's secrets are faulty: {0}")]
    Secrets(String),
}

impl Bundle {
    /// Adds secrets and metadata to `members` (in place of any they hold), labels all, and puts them in order.
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

    /// The content of the file at an on-node path.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.entries.iter().find(|e| e.path == path).and_then(|e| match &e.kind {
            Kind::File(content) => Some(content.as_slice()),
            _ => None,
        })
    }

    /// The archive: the same bytes for the same content, on every machine.
    pub fn pack(&self) -> io::Result<Vec<u8>> {
        let gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
        let mut tar = tar::Builder::new(gzip);
        for entry in &self.entries {
            if let Some(label) = &entry.label {
                tar.append_pax_extensions([(LABEL_KEY, label.as_bytes())])?;
            }
            let content: &[u8] = match &entry.kind {
                Kind::File(content) => content,
                Kind::Dir => &[],
                Kind::Link(_) => return Err(io::Error::other("a bundle holds no links")),
            };
            tar.append(&header(entry, content.len())?, content)?;
        }
        tar.into_inner()?.finish()
    }

    /// Reads bytes from anywhere: nothing in them is believed before it is checked.
    pub fn read(bytes: &[u8]) -> Result<Bundle, BundleError> {
        let plain = unzip(bytes)?;
        let mut entries = Vec::new();
        let mut paths = BTreeSet::new();
        for member in tar::Archive::new(plain.as_slice()).entries().map_err(damage)? {
            let entry = member.map_err(damage).and_then(read_member)?;
            if !paths.insert(entry.path.clone()) {
                return Err(foreign(format!("{} is in it twice", entry.path)));
            }
            if entries.len() == MOST_MEMBERS {
                return Err(BundleError::TooLarge);
            }
            entries.push(entry);
        }
        let find = |path: &str| {
            entries.iter().find_map(|e| match &e.kind {
                Kind::File(content) if e.path == path => Some(content.as_slice()),
                _ => None,
            })
        };
        let metadata =
            read_metadata(find(METADATA_PATH).ok_or_else(|| foreign(format!("it has no {METADATA_PATH}")))?)?;
        let secrets =
            find(SECRETS_PATH).ok_or_else(|| BundleError::Secrets(format!("{SECRETS_PATH} is missing")))?;
        let secrets = std::str::from_utf8(secrets)
            .map_err(|_| BundleError::Secrets("not a text".into()))
            .and_then(|text| Secrets::parse(text).map_err(|e| BundleError::Secrets(e.to_string())))?;
        Ok(Bundle { metadata, secrets, entries })
    }
}

fn header(entry: &Entry, size: usize) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    let name = entry.path.trim_start_matches('/');
    if entry.kind == Kind::Dir {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_path(format!("{name}/"))?;
    } else {
        header.set_entry_type(tar::EntryType::Regular);
        header.set_path(name)?;
    }
    header.set_size(size as u64);
    header.set_mode(entry.mode);
    header.set_mtime(MTIME);
    // By name only: the numbers differ from image to image.
    header.set_uid(0);
    header.set_gid(0);
    header.set_username(&entry.owner)?;
    header.set_groupname(&entry.group)?;
    header.set_cksum();
    Ok(header)
}

fn foreign(why: impl Into<String>) -> BundleError {
    BundleError::Foreign(why.into())
}

/// An archive that cannot be read on: what is left of one, unless it never was one.
fn damage(_: io::Error) -> BundleError {
    BundleError::Truncated
}

fn unzip(bytes: &[u8]) -> Result<Vec<u8>, BundleError> {
    if bytes.len() > MOST_PACKED {
        return Err(BundleError::TooLarge);
    }
    let magic = [0x1f, 0x8b];
    if !bytes.starts_with(&magic[..bytes.len().min(2)]) {
        return Err(foreign("it is not compressed with gzip"));
    }
    let mut plain = Vec::new();
    GzDecoder::new(bytes).take(MOST_BYTES + 1).read_to_end(&mut plain).map_err(damage)?;
    if plain.len() as u64 > MOST_BYTES { Err(BundleError::TooLarge) } else { Ok(plain) }
}

fn read_member(mut member: tar::Entry<'_, &[u8]>) -> Result<Entry, BundleError> {
    let name = member.path_bytes().into_owned();
    let name = std::str::from_utf8(&name).map_err(|_| foreign("a member's name is not text"))?;
    let path = format!("/{}", name.trim_end_matches('/'));
    if !is_safe(&path) {
        return Err(foreign(format!("its member {} is not below {HOME}", path.escape_debug())));
    }
    let label = read_label(&mut member)?;
    let header = member.header();
    let kind = header.entry_type();
    let (owner, group) = (name_in(header.username()), name_in(header.groupname()));
    let (Some(owner), Some(group)) = (owner, group) else {
        return Err(foreign(format!("{path} has no owner by name")));
    };
    let mode = header.mode().map_err(damage)?;
    if mode & !0o777 != 0 {
        return Err(foreign(format!("{path} has mode {mode:o}")));
    }
    let kind = match kind {
        tar::EntryType::Directory => Kind::Dir,
        tar::EntryType::Regular => {
            let mut content = Vec::new();
            // What the header promises is bounded by what was unpacked.
            member.read_to_end(&mut content).map_err(damage)?;
            if content.len() as u64 != member.size() {
                return Err(BundleError::Truncated);
            }
            Kind::File(content)
        }
        _ => return Err(foreign(format!("{path} is neither a file nor a directory"))),
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
    path.strip_prefix(HOME).is_some_and(|rest| rest.split('/').all(part))
}

fn read_label(member: &mut tar::Entry<'_, &[u8]>) -> Result<Option<String>, BundleError> {
    let Some(extensions) = member.pax_extensions().map_err(damage)? else { return Ok(None) };
    let mut label = None;
    for extension in extensions {
        let extension = extension.map_err(damage)?;
        if extension.key_bytes() == LABEL_KEY.as_bytes() {
            let text = extension.value().unwrap_or_default();
            let plain = |c: char| c.is_ascii_alphanumeric() || "_:.,-".contains(c);
            if text.is_empty() || text.len() > 255 || !text.chars().all(plain) {
                return Err(foreign("a member's SELinux label is malformed"));
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

/// The schema first: of a later one nothing else can be known.
fn read_metadata(json: &[u8]) -> Result<BundleMetadata, BundleError> {
    let value: serde_json::Value =
        serde_json::from_slice(json).map_err(|_| foreign(format!("{METADATA_PATH} is not JSON")))?;
    let schema =
        value["schema"].as_u64().ok_or_else(|| foreign(format!("{METADATA_PATH} names no schema")))?;
    if schema != u64::from(SCHEMA) {
        return Err(BundleError::Schema(schema));
    }
    serde_json::from_value(value).map_err(|_| foreign(format!("{METADATA_PATH} has an unexpected form")))
}
