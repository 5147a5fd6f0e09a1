//! Fetches files and keys with curl. Files are verified by their checksum and keys by their fingerprint.

use anyhow::{Context, Result, bail, ensure};
use hanode_admin::embedded;
use hanode_core::target::{Source, Target};
use hanode_util::command::{command, run};
use hanode_util::file_tree;
use hanode_util::scratch::Scratch;
use hanode_util::user_error::UserError;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Fetches the file of a source and verifies its checksum.
pub(crate) fn file(target: &Target, name: &str, scratch: &Scratch) -> Result<PathBuf> {
    let source = target.sources.get(name).with_context(|| format!("no source {name:?}"))?;
    let wanted = target.checksum(name)?;
    let url = target.versioned(&source.url);
    let at = scratch.join(&format!("fetched-{}", url.rsplit('/').next().unwrap_or(name)));
    fetch(name, &url, &at)?;
    let found = sha256(&at)?;
    ensure!(
        found == wanted,
        "source {name}: {url} has the SHA-256 {found}, not {wanted}: the download is damaged or another file"
    );
    Ok(at)
}

/// The key ring of a repository, with verified fingerprints; `None` if the source names no key, so that apt uses those
/// of this machine. A key may come from the tree `root`.
pub(crate) fn key_ring(
    name: &str,
    source: &Source,
    root: &Path,
    scratch: &Scratch,
) -> Result<Option<PathBuf>> {
    let Some(key) = &source.key else { return Ok(None) };
    let read = |at: &Path| {
        std::fs::read(at).with_context(|| format!("source {name}: reading the key {}", at.display()))
    };
    let ring = if let Some(path) = key.strip_prefix("tree:") {
        read(&file_tree::below(root, path))?
    } else if key.contains("://") {
        let at = scratch.join(&format!("fetched-key-{name}"));
        fetch(name, key, &at)?;
        read(&at)?
    } else if key.starts_with('/') {
        read(Path::new(key))?
    } else {
        embedded::key(key)?.to_vec()
    };
    // apt recognises an armoured key ring by the ending of its name.
    let armoured = ring.starts_with(b"-----BEGIN");
    let at = scratch.write(&format!("hanode-{name}.{}", if armoured { "asc" } else { "gpg" }), ring)?;
    check_fingerprints(name, source, &at, scratch)?;
    Ok(Some(at))
}

fn check_fingerprints(name: &str, source: &Source, ring: &Path, scratch: &Scratch) -> Result<()> {
    let home = scratch.join("gpg");
    std::fs::create_dir_all(&home)?;
    let mut gpg = command("gpg");
    gpg.arg("--homedir").arg(&home).args(["--batch", "--with-colons", "--show-keys"]).arg(ring);
    let output = run(&mut gpg).with_context(|| format!("source {name}: the key is not an OpenPGP key"))?;
    let found = primary_keys(output.text()?);
    ensure!(!found.is_empty(), "source {name}: no key in {}", source.key.as_deref().unwrap_or_default());
    let unknown: Vec<_> = found.iter().filter(|f| !source.fingerprints.contains(f)).collect();
    // A key chosen with --source comes without fingerprints and is trusted.
    if !source.fingerprints.is_empty() && !unknown.is_empty() {
        let key = source.key.as_deref().unwrap_or_default();
        bail!(UserError::with_help(
            format!(
                "source {name}: {key} has the key {}, whose fingerprint is not in the target file",
                unknown[0]
            ),
            format!("if the key is right, pass it with --source {name}=URL,key=FILE"),
        ));
    }
    Ok(())
}

/// The fingerprints of the primary keys in gpg's listing: the first `fpr` after each `pub`.
fn primary_keys(listing: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut primary = false;
    for line in listing.lines() {
        let fields: Vec<_> = line.split(':').collect();
        match fields[0] {
            "pub" => primary = true,
            "fpr" if primary => {
                keys.extend(fields.get(9).map(|f| f.to_string()));
                primary = false;
            }
            _ => {}
        }
    }
    keys
}

fn fetch(name: &str, url: &str, to: &Path) -> Result<()> {
    let mut curl = command("curl");
    curl.args(["--fail", "--location", "--silent", "--show-error", "--retry", "2"]);
    // Give up a connection that delivers nothing for a minute.
    curl.args(["--connect-timeout", "30", "--speed-limit", "1", "--speed-time", "60", "--output"])
        .arg(to)
        .arg(url);
    run(&mut curl).map(drop).map_err(|error| {
        let what = format!("source {name}: fetching {url}: {error:#}");
        UserError::with_help(what, format!("use another address with --source {name}=URL")).into()
    })
}

fn sha256(at: &Path) -> Result<String> {
    let mut file = File::open(at)?;
    let mut sum = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        hanode_util::interrupt::check()?;
        match file.read(&mut block)? {
            0 => return Ok(hex::encode(sum.finalize())),
            read => sum.update(&block[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_of_subkeys_are_ignored() {
        let listing = "pub:-:4096:1:AA:1:::-:\nfpr:::::::::AAAA:\nuid:-::::1::H::x\nsub:-:\nfpr:::::::::BBBB:\npub:-:\nfpr:::::::::CCCC:\n";
        assert_eq!(primary_keys(listing), ["AAAA", "CCCC"]);
    }
}
