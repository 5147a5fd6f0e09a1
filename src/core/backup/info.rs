//! What pgBackRest lists of a repository.

use crate::restore::{WalPosition, position_of};
use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// The backups of one stanza in pgBackRest's `info --output=json`.
#[derive(Debug, Clone, PartialEq)]
pub struct BackupInfo {
    pub label: String,
    pub full: bool,
    pub started: i64,
    pub finished: i64,
    /// What it added to the repository.
    pub bytes: u64,
    /// What a restore fetches, with the full backup that it needs.
    pub fetched_bytes: u64,
    /// Of the files that a restore writes.
    pub restored_bytes: u64,
    /// Errors such as pages with a wrong checksum.
    pub damaged: bool,
    /// The first WAL segment that it needs.
    pub start_wal: Option<WalPosition>,
    pub stop_wal: Option<WalPosition>,
    /// Where its WAL ends.
    pub stop_lsn: Option<u64>,
    /// The directory of its WAL in the archive of the stanza.
    pub archive: Option<String>,
}

/// What a repository has of one stanza.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PartInfo {
    /// Oldest first.
    pub backups: Vec<BackupInfo>,
    /// The first and the last WAL segment, in the order of their names.
    pub wal: Option<(WalPosition, WalPosition)>,
    /// Why pgBackRest cannot read it.
    pub fault: Option<String>,
}

/// pgBackRest's status code of a repository that it cannot read.
const STATUS_OTHER: i64 = 99;
/// Upper bound on the length of an error; it may have bytes of an encrypted file.
const MAX_FAULT: usize = 300;

/// The parts of a repository, by stanza.
pub fn parse_info(text: &[u8]) -> Result<BTreeMap<String, PartInfo>> {
    // An error message may have bytes of a file that cannot be decrypted.
    let text: String =
        String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let list: Vec<serde_json::Value> =
        serde_json::from_str(&text).context("pgBackRest's list of backups cannot be parsed")?;
    let archive = |of: &serde_json::Value, backup: &serde_json::Value| {
        let archives = of["archive"].as_array()?;
        let found = archives.iter().find(|archive| archive["database"]["id"] == backup["database"]["id"])?;
        Some(found["id"].as_str()?.to_string())
    };
    let segment = |value: &serde_json::Value| WalPosition::parse(value.as_str()?);
    let range = |of: &serde_json::Value| {
        let last = of["archive"].as_array()?.last()?;
        Some((segment(&last["min"])?, segment(&last["max"])?))
    };
    let backup = |of: &serde_json::Value, value: &serde_json::Value| {
        Some(BackupInfo {
            label: value["label"].as_str()?.into(),
            full: value["type"] == "full",
            started: value["timestamp"]["start"].as_i64()?,
            finished: value["timestamp"]["stop"].as_i64()?,
            bytes: value["info"]["repository"]["delta"].as_u64().unwrap_or_default(),
            damaged: value["error"].as_bool().unwrap_or_default(),
            fetched_bytes: value["info"]["repository"]["size"].as_u64().unwrap_or_default(),
            restored_bytes: value["info"]["size"].as_u64().unwrap_or_default(),
            start_wal: segment(&value["archive"]["start"]),
            stop_wal: segment(&value["archive"]["stop"]),
            stop_lsn: value["lsn"]["stop"].as_str().and_then(position_of),
            archive: archive(of, value),
        })
    };
    let stanza = |value: &serde_json::Value| {
        let backups = value["backup"].as_array().map(Vec::as_slice).unwrap_or_default();
        let backups = backups.iter().filter_map(|listed| backup(value, listed)).collect();
        let status = value["repo"].as_array()?.iter().map(|repository| &repository["status"]);
        let fault =
            status.filter(|status| status["code"] == STATUS_OTHER).find_map(|s| s["message"].as_str());
        let fault = fault.map(|message| message.chars().filter(char::is_ascii).take(MAX_FAULT).collect());
        Some((value["name"].as_str()?.to_string(), PartInfo { backups, wal: range(value), fault }))
    };
    Ok(list.iter().filter_map(stanza).collect())
}
