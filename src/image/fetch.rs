//! What a base needs from elsewhere, fetched with curl: files are believed by their checksum, keys by their
//! fingerprint, and nothing else is believed.

use anyhow::{Context, Result, bail, ensure};
use hanode_admin::embedded;
use hanode_core::target::{Source, Target};
use hanode_util::command::{command, run};
use hanode_util::file_tree;
use hanode_util::scratch::Scratch;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The file of a source, checked.
pub(crate) fn file(target: &Target, name: &str, scratch: &Scratch) -> Result<PathBuf> {
    let source = target.sources.get(name).with_context(|| format!("no source {name:?}"))?;
    let wanted = target.checksum(name)?;
    let url = target.versioned(&source.url);
    let at = scratch.join(&format!("fetched-{}", url.rsplit('/').next().unwrap_or(name)));
    fetch(name, &url, &at)?;
    let found = sha256(&at)?;
    ensure!(
        found == wanted,
        "source {name}: {url} has the SHA-256 {found}, not {wanted}: it was damaged on its way, or is another file"
    );
    Ok(at)
}

/// A repository's key ring, checked; `None` where the machine's own counts. `root`: the tree it may come with.
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
    // apt tells an armoured ring from a bare one by its name.
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
    let said = run(&mut gpg).with_context(|| format!("source {name}: its key is no OpenPGP key"))?;
    let found = primary_keys(said.text()?);
    ensure!(!found.is_empty(), "source {name}: no key in {}", source.key.as_deref().unwrap_or_default());
    let strangers: Vec<_> = found.iter().filter(|f| !source.fingerprints.contains(f)).collect();
    // A key that the operator gave needs no other word for it.
    if !source.fingerprints.is_empty() && !strangers.is_empty() {
        bail!(
            "source {name}: {} holds the key {}, which this target does not know; if it is right, give it as --source {name}=URL,key=FILE",
            source.key.as_deref().unwrap_or_default(),
            strangers[0]
        );
    }
    Ok(())
}

/// Fingerprints of the primary keys in gpg's listing: the first after each `pub`.
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
    // A connection that delivers nothing for a minute is dead.
    curl.args(["--connect-timeout", "30", "--speed-limit", "1", "--speed-time", "60", "--output"])
        .arg(to)
        .arg(url);
    run(&mut curl)
        .map(drop)
        .with_context(|| format!("source {name}: fetching {url}; another address: --source {name}=URL"))
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
    fn subkeys_are_not_taken_for_keys() {
        let listing = "pub:-:4096:1:AA:1:::-:\nfpr:::::::::AAAA:\nuid:-::::1::H::x\nsub:-:\nfpr:::::::::BBBB:\npub:-:\nfpr:::::::::CCCC:\n";
        assert_eq!(primary_keys(listing), ["AAAA", "CCCC"]);
    }
}
