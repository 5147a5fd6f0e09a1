//! Changes to a directory's certificates: each makes a new generation of the bundle, whole or not at all.
//!
//! The new `pki/` is prepared beside the old one and takes its place in one step; the bundle follows. A kill
//! between the two leaves a bundle of the old certificates, which still work, and the next change completes it.

use super::{BUNDLE, PKI, SECRETS, load_bundle, load_spec};
use crate::pki::store::Store;
use anyhow::{Context, Result, bail};
use hanode_core::bundle::Bundle;
use hanode_core::pki::Ca;
use hanode_core::secrets::Secrets;
use hanode_core::spec::Spec;
use hanode_util::file_tree;
use hanode_util::user_error::UserError;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PkiChange {
    pub(crate) schema: u32,
    pub generation: u64,
    /// Whether this is a new generation.
    pub changed: bool,
    /// What was done, a sentence each.
    pub done: Vec<String>,
    /// What the operator may not have meant.
    pub warnings: Vec<String>,
}

/// Brings leaves, revocation lists and bundle in line with the spec, the secrets and the calendar.
pub fn issue(dir: &Path) -> Result<PkiChange> {
    change(dir, |store, spec| store.reconcile(spec))
}

/// New certificates and keys, for all leaves or for those named.
pub fn renew(dir: &Path, names: &[String]) -> Result<PkiChange> {
    change(dir, |store, spec| store.renew(names, spec))
}

/// Puts a certificate, by serial or by leaf, on its CA's revocation list.
pub fn revoke(dir: &Path, which: &str) -> Result<PkiChange> {
    change(dir, |store, spec| store.revoke(which, spec))
}

fn change(dir: &Path, act: impl FnOnce(&Store, &Spec) -> Result<Vec<String>>) -> Result<PkiChange> {
    let (spec, _) = load_spec(dir)?;
    let secrets = Secrets::load(&dir.join(SECRETS))?;
    let _lock = lock(dir)?;
    let pki = dir.join(PKI);
    let staged = Staged::copy_of(&pki)?;
    // What is missing is told by its own name, not by the copy's.
    Ca::ALL.into_iter().try_for_each(|ca| Store::at(&pki).authority(ca).map(drop))?;
    let store = Store::at(&staged.0);
    let mut done = act(&store, &spec)?;

    let old = load_bundle(dir).ok().map(|(bundle, _)| bundle);
    let (known, mut warnings) = (store.generation(), Vec::new());
    let last =
        known.as_ref().map_or(0, |known| *known).max(old.as_ref().map_or(0, |b| b.metadata.generation));
    let same = Bundle::new(&spec.name, last, secrets.clone(), store.members()?);
    if known.is_ok() && done.is_empty() && old.as_ref() == Some(&same) {
        return Ok(PkiChange { schema: 1, generation: last, changed: false, done, warnings });
    }
    if old.is_some_and(|old| old.metadata.cluster == spec.name && old.secrets != secrets) {
        warnings.push(format!(
            "{SECRETS} has other passwords than bundle generation {last}: nodes that run refuse them, a new cluster takes them"
        ));
    }
    let generation = last + 1;
    store.set_generation(generation)?;
    let bundle = Bundle::new(&spec.name, generation, secrets, same.entries);
    staged.take_place_of(&pki)?;
    file_tree::replace(&dir.join(BUNDLE), &bundle.pack()?, 0o600, None)?;
    done.push(format!("packed bundle generation {generation}"));
    Ok(PkiChange { schema: 1, generation, changed: true, done, warnings })
}

/// Two changes at once would each lose the other's serials. Released when the file is closed.
fn lock(dir: &Path) -> Result<fs::File> {
    let file = fs::File::open(dir)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!(UserError::new(
            "another hanode is changing this cluster's certificates",
            dir.display().to_string(),
            "wait until it is done"
        )),
        Err(fs::TryLockError::Error(error)) => Err(error).context("locking the cluster directory"),
    }
}

/// A copy of `pki/` that is removed again unless it takes the original's place.
struct Staged(PathBuf);

impl Staged {
    fn copy_of(pki: &Path) -> Result<Staged> {
        let at = pki.with_file_name(".pki.hanode-new");
        if !pki.is_dir() {
            let help = match at.is_dir() {
                true => format!("a change was cut off; mv {} {}", at.display(), pki.display()),
                false => "restore it from a backup: without the CA keys nothing can be issued".into(),
            };
            bail!(UserError::new("the pki folder is missing", pki.display().to_string(), help));
        }
        if at.exists() {
            fs::remove_dir_all(&at).with_context(|| format!("removing what was left in {}", at.display()))?;
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

    fn take_place_of(self, pki: &Path) -> Result<()> {
        match renameat2(AT_FDCWD, &self.0, AT_FDCWD, pki, RenameFlags::RENAME_EXCHANGE) {
            Ok(()) => {}
            // A file system without an exchange: two steps, and `copy_of` knows what a kill between them left.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                let aside = pki.with_file_name(".pki.hanode-old");
                let _ = fs::remove_dir_all(&aside);
                fs::rename(pki, &aside)?;
                fs::rename(&self.0, pki)?;
                fs::rename(&aside, &self.0)?;
            }
            Err(error) => return Err(error).context("putting the new pki folder in place"),
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
