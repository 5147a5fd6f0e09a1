//! Changes to the certificates of a cluster directory. Each makes a new generation of the bundle.
//!
//! A change edits a copy of `pki/`, exchanges it with the original atomically, and then writes the bundle. A kill between
//! the two leaves the bundle with the old, still valid certificates; the next change completes it.

use super::{BUNDLE, PKI, SECRETS, load_bundle, load_spec};
use crate::pki::store::PkiStore;
use anyhow::{Context, Result, bail};
use hanode_core::bundle::Bundle;
use hanode_core::pki::{Ca, Leaf};
use hanode_core::secrets::Secrets;
use hanode_core::spec::Spec;
use hanode_util::file_tree;
use hanode_util::user_error::UserError;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The result of a change.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PkiChange {
    pub(crate) schema: u32,
    pub bundle_generation: u64,
    /// Whether this generation is new.
    pub changed: bool,
    /// The actions, one message each.
    pub done: Vec<String>,
    /// Probably unintended consequences.
    pub warnings: Vec<String>,
}

/// Issues the certificates and revocation lists that are missing, outdated by the spec or due for renewal, and packs the
/// bundle if anything in it changed.
pub fn issue(dir: &Path) -> Result<PkiChange> {
    change(dir, |store, spec| store.reconcile(spec))
}

/// Issues new certificates and keys for all leaves, or for those named.
pub fn renew(dir: &Path, names: &[String]) -> Result<PkiChange> {
    change(dir, |store, spec| store.renew(names, spec))
}

/// Revokes a certificate, by its serial or its leaf's name.
pub fn revoke(dir: &Path, which: &str) -> Result<PkiChange> {
    change(dir, |store, spec| store.revoke(which, spec))
}

/// A client's new certificate.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ClientCert {
    schema: u32,
    pub serial: String,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Issues a certificate with which a client logs in to PostgreSQL as the role `name`. The bundle stays the same: no node
/// has the certificate.
pub fn issue_client(dir: &Path, name: &str) -> Result<ClientCert> {
    check_client_name(name)?;
    let (spec, _) = load_spec(dir)?;
    let _lock = lock(dir)?;
    let pki = dir.join(PKI);
    let staged = Staged::copy_of(&pki)?;
    PkiStore::at(&pki).authority(Ca::Service)?;
    let serial = PkiStore::at(&staged.0).issue_client(name, &spec)?;
    staged.exchange_with(&pki)?;
    let file = |ending: &str| pki.join(format!("service/clients/{name}.{ending}"));
    Ok(ClientCert { schema: 1, serial, certificate: file("crt"), key: file("key") })
}

/// The name is that of a role, and part of a file's name. The nodes' own roles have certificates already, and `admin`
/// logs in on a node only.
fn check_client_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let valid = (1..=63).contains(&name.len()) && name.chars().all(plain) && !name.starts_with(['.', '-']);
    let fault = if !valid {
        "is not a name of 1 to 63 letters, digits, _ - or ."
    } else if Leaf::find(name).is_some() || name == "admin" {
        "is reserved for the nodes"
    } else {
        return Ok(());
    };
    bail!(UserError::with_help(
        format!("\"{}\" {fault}", name.escape_debug()),
        "use the name of the role that logs in with the certificate, e.g. dbadmin"
    ))
}

fn change(dir: &Path, act: impl FnOnce(&PkiStore, &Spec) -> Result<Vec<String>>) -> Result<PkiChange> {
    let (spec, _) = load_spec(dir)?;
    let mut secrets = Secrets::load(&dir.join(SECRETS))?;
    let _lock = lock(dir)?;
    let pki = dir.join(PKI);
    let staged = Staged::copy_of(&pki)?;
    // Errors must name the original files, not those of the copy.
    Ca::ALL.into_iter().try_for_each(|ca| PkiStore::at(&pki).authority(ca).map(drop))?;
    let store = PkiStore::at(&staged.0);
    let mut done = act(&store, &spec)?;
    let added = secrets.complete(&spec.roles, &spec.redis_users, super::secrets::random);
    done.extend(added.iter().map(|name| format!("generated {name} in {SECRETS}")));
    let needs_key = spec.backup.is_some() && secrets.backup_key.is_none();
    if needs_key {
        secrets.backup_key = super::secrets::generate().backup_key;
        done.push(format!(
            "generated backup_key in {SECRETS}: without it no backup can be read, so keep a copy elsewhere"
        ));
    }

    let old = load_bundle(dir).ok().map(|(bundle, _)| bundle);
    let (stored, mut warnings) = (store.generation(), Vec::new());
    let packed = old.as_ref().map_or(0, |bundle| bundle.metadata.generation);
    let last = stored.as_ref().map_or(0, |generation| *generation).max(packed);
    let same = Bundle::new(&spec.name, last, secrets.clone(), store.bundle_entries()?);
    if stored.is_ok() && done.is_empty() && old.as_ref() == Some(&same) {
        return Ok(PkiChange { schema: 1, bundle_generation: last, changed: false, done, warnings });
    }
    let old = old.filter(|old| old.metadata.cluster == spec.name);
    if let Some(conflict) = old.and_then(|old| old.secrets.conflict(&secrets)) {
        let what = conflict.split(',').next().unwrap_or(conflict);
        warnings.push(format!(
            "{SECRETS} has {what} than bundle generation {last}: running nodes reject this bundle; a new cluster accepts it"
        ));
    }
    if needs_key || !added.is_empty() {
        file_tree::replace(&dir.join(SECRETS), secrets.to_toml().as_bytes(), 0o600, None)?;
    }
    let generation = last + 1;
    store.set_generation(generation)?;
    let bundle = Bundle::new(&spec.name, generation, secrets, same.entries);
    staged.exchange_with(&pki)?;
    file_tree::replace(&dir.join(BUNDLE), &bundle.pack()?, 0o600, None)?;
    done.push(format!("packed bundle generation {generation}"));
    Ok(PkiChange { schema: 1, bundle_generation: generation, changed: true, done, warnings })
}

/// Concurrent changes would lose each other's serials. Closing the file releases the lock.
fn lock(dir: &Path) -> Result<fs::File> {
    let file = fs::File::open(dir)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!(UserError::new(
            "another hanode process is changing the certificates",
            dir.display().to_string(),
            "wait until it has finished"
        )),
        Err(fs::TryLockError::Error(error)) => Err(error).context("locking the cluster directory"),
    }
}

/// A copy of `pki/`; the drop deletes it, or the original after an exchange.
struct Staged(PathBuf);

impl Staged {
    fn copy_of(pki: &Path) -> Result<Staged> {
        let at = pki.with_file_name(".pki.hanode-new");
        if !pki.is_dir() {
            let help = match at.is_dir() {
                true => format!("complete the interrupted change: mv {} {}", at.display(), pki.display()),
                false => "restore it from a backup: without the CA keys no certificate can be issued".into(),
            };
            bail!(UserError::new("the folder is missing", pki.display().to_string(), help));
        }
        if at.exists() {
            fs::remove_dir_all(&at).with_context(|| format!("removing {}", at.display()))?;
        }
        let staged = Staged(at);
        for entry in walkdir::WalkDir::new(pki) {
            let entry = entry?;
            let to = staged.0.join(entry.path().strip_prefix(pki)?);
            if entry.file_type().is_dir() {
                crate::pki::store::private_dir(&to)?;
            } else {
                let mode = entry.metadata()?.permissions().mode() & 0o777;
                file_tree::replace(&to, &fs::read(entry.path())?, mode, None)?;
            }
        }
        Ok(staged)
    }

    fn exchange_with(self, pki: &Path) -> Result<()> {
        match renameat2(AT_FDCWD, &self.0, AT_FDCWD, pki, RenameFlags::RENAME_EXCHANGE) {
            Ok(()) => {}
            // Some file systems cannot exchange: `copy_of` detects a kill between these renames.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                let old = pki.with_file_name(".pki.hanode-old");
                let _ = fs::remove_dir_all(&old);
                fs::rename(pki, &old)?;
                fs::rename(&self.0, pki)?;
                fs::rename(&old, &self.0)?;
            }
            Err(error) => return Err(error).context("replacing the pki folder"),
        }
        if let Some(dir) = pki.parent() {
            fs::File::open(dir)?.sync_all()?;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
