//! The `pki/` folder of a cluster directory: both CAs, all leaves, and an index of the issued certificates.
//!
//! Changes happen in a copy of the folder that then replaces it (see `cluster_dir::change`), so that they need not be
//! atomic here.

use super::authority::{Authority, CertifiedKey, RevokedCert};
use anyhow::{Context, Result, bail, ensure};
use hanode_core::pki::read::{self, Validity};
use hanode_core::pki::{self, Ca, DIRECTORIES, LEAVES, Leaf, coverage};
use hanode_core::spec::Spec;
use hanode_util::file_tree::{self, Entry};
use hanode_util::user_error::{UserError, unreadable};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub struct PkiStore {
    dir: PathBuf,
}

/// `index.json` of a CA: every certificate that it issued, for revocation by serial.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaIndex {
    schema: u32,
    pub(crate) crl_number: u64,
    pub issued: Vec<IssuedCert>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IssuedCert {
    pub serial: String,
    pub name: String,
    pub(crate) not_after: i64,
    /// Time of its revocation in seconds since 1970.
    pub revoked: Option<i64>,
}

impl PkiStore {
    pub fn at(dir: impl Into<PathBuf>) -> PkiStore {
        PkiStore { dir: dir.into() }
    }

    /// Creates both CAs, their leaves and revocation lists in an empty folder.
    pub(crate) fn create(dir: &Path, spec: &Spec) -> Result<PkiStore> {
        let store = PkiStore::at(dir);
        for ca in Ca::ALL {
            private_dir(&store.ca_dir(ca).join("leaves"))?;
            let certified = Authority::create(ca, spec)?;
            write(&store.ca_dir(ca).join("ca.key"), 0o600, &certified.key)?;
            write(&store.ca_dir(ca).join("ca.crt"), 0o644, &certified.cert)?;
            store.write_index(ca, &CaIndex { schema: 1, ..CaIndex::default() })?;
        }
        store.set_generation(0)?;
        store.reconcile(spec)?;
        Ok(store)
    }

    pub fn ca_dir(&self, ca: Ca) -> PathBuf {
        self.dir.join(ca.name())
    }

    pub fn leaf_file(&self, leaf: &Leaf, extension: &str) -> PathBuf {
        let dir = self.ca_dir(leaf.ca);
        let dir = if leaf.paths.is_some() { dir.join("leaves") } else { dir };
        dir.join(format!("{}.{extension}", leaf.name))
    }

    /// All files with a private key.
    pub(crate) fn keys(&self) -> impl Iterator<Item = PathBuf> {
        let of_cas = Ca::ALL.into_iter().map(|ca| self.ca_dir(ca).join("ca.key"));
        of_cas.chain(LEAVES.iter().map(|leaf| self.leaf_file(leaf, "key")))
    }

    pub fn certificate(&self, ca: Ca) -> Result<String> {
        text(&self.ca_dir(ca).join("ca.crt"))
    }

    pub fn crl(&self, ca: Ca) -> Result<String> {
        text(&self.ca_dir(ca).join("ca.crl"))
    }

    pub fn leaf(&self, leaf: &Leaf) -> Result<CertifiedKey> {
        Ok(CertifiedKey {
            cert: text(&self.leaf_file(leaf, "crt"))?,
            key: text(&self.leaf_file(leaf, "key"))?,
        })
    }

    pub(crate) fn authority(&self, ca: Ca) -> Result<Authority> {
        let dir = self.ca_dir(ca);
        let certified = CertifiedKey { cert: self.certificate(ca)?, key: text(&dir.join("ca.key"))? };
        Authority::load(&certified).with_context(|| dir.display().to_string())
    }

    pub fn index(&self, ca: Ca) -> Result<CaIndex> {
        let path = self.ca_dir(ca).join("index.json");
        let index: CaIndex =
            serde_json::from_str(&text(&path)?).with_context(|| path.display().to_string())?;
        ensure!(
            index.schema == 1,
            "{}: this version of hanode does not support schema {}",
            path.display(),
            index.schema
        );
        Ok(index)
    }

    fn write_index(&self, ca: Ca, index: &CaIndex) -> Result<()> {
        write(&self.ca_dir(ca).join("index.json"), 0o600, &(serde_json::to_string_pretty(index)? + "\n"))
    }

    /// The generation of the last bundle packed from this folder.
    pub fn generation(&self) -> Result<u64> {
        let path = self.dir.join("generation");
        text(&path)?.trim().parse().with_context(|| format!("{} is not a number", path.display()))
    }

    pub(crate) fn set_generation(&self, generation: u64) -> Result<()> {
        write(&self.dir.join("generation"), 0o600, &format!("{generation}\n"))
    }

    /// Issues certificates and revocation lists that are missing, do not match the spec, or are due; returns a message
    /// for each.
    pub(crate) fn reconcile(&self, spec: &Spec) -> Result<Vec<String>> {
        let mut done = Vec::new();
        for ca in Ca::ALL {
            let authority = self.authority(ca)?;
            for leaf in LEAVES.iter().filter(|leaf| leaf.ca == ca) {
                if let Some(reason) = self.reissue_reason(leaf, &authority, spec)? {
                    self.issue(leaf, &authority, spec)?;
                    done.push(format!("issued {} ({reason})", leaf.name));
                }
            }
            if let Some(reason) = self.crl_reissue_reason(ca, &authority)? {
                self.write_crl(ca, &authority, spec)?;
                done.push(format!("new {} revocation list ({reason})", ca.name()));
            }
        }
        Ok(done)
    }

    /// Issues new certificates and keys for all leaves, or for those named, and new revocation lists.
    pub(crate) fn renew(&self, names: &[String], spec: &Spec) -> Result<Vec<String>> {
        if let Some(unknown) = names.iter().find(|name| Leaf::find(name).is_none()) {
            bail!(UserError::with_help(
                format!("unknown certificate {}", unknown.escape_debug()),
                format!("use one of {}", leaf_names())
            ));
        }
        let mut done = Vec::new();
        for ca in Ca::ALL {
            let authority = self.authority(ca)?;
            let chosen = |leaf: &&Leaf| names.is_empty() || names.iter().any(|name| name == leaf.name);
            for leaf in LEAVES.iter().filter(|leaf| leaf.ca == ca).filter(chosen) {
                self.issue(leaf, &authority, spec)?;
                done.push(format!("renewed {}", leaf.name));
            }
            self.write_crl(ca, &authority, spec)?;
            done.push(format!("new {} revocation list", ca.name()));
        }
        Ok(done)
    }

    /// Revokes a certificate by its serial, or the current one of a leaf, which then gets a new one.
    pub(crate) fn revoke(&self, which: &str, spec: &Spec) -> Result<Vec<String>> {
        let (ca, serial) = self.resolve(which)?;
        let mut index = self.index(ca)?;
        let entry = index.issued.iter_mut().find(|issued| issued.serial == serial);
        let entry = entry.with_context(|| format!("the {} CA issued no certificate {serial}", ca.name()))?;
        ensure!(entry.revoked.is_none(), "certificate {serial} ({}) is already revoked", entry.name);
        entry.revoked = Some(pki::now());
        let mut done = vec![format!("revoked {serial} ({})", entry.name)];
        self.write_index(ca, &index)?;
        for ca in Ca::ALL {
            self.write_crl(ca, &self.authority(ca)?, spec)?;
            done.push(format!("new {} revocation list", ca.name()));
        }
        done.extend(self.reconcile(spec)?);
        Ok(done)
    }

    /// CA and serial of `which`, the name of a leaf or a serial.
    fn resolve(&self, which: &str) -> Result<(Ca, String)> {
        if let Some(leaf) = Leaf::find(which) {
            let cert = read::certificate(self.leaf(leaf)?.cert.as_bytes())?;
            return Ok((leaf.ca, cert.serial));
        }
        if let Some(pem) = self.client_certificates()?.get(which) {
            return Ok((Ca::Service, read::certificate(pem.as_bytes())?.serial));
        }
        let serial = which.replace(':', "").to_ascii_lowercase();
        for ca in Ca::ALL {
            if self.index(ca)?.issued.iter().any(|issued| issued.serial == serial) {
                return Ok((ca, serial));
            }
        }
        bail!(UserError::with_help(
            format!("unknown certificate {}", which.escape_debug()),
            format!(
                "use the serial of an issued certificate, the name of a client, or one of {}",
                leaf_names()
            )
        ))
    }

    /// The reason to issue `leaf` again; `None` if its certificate is up to date.
    fn reissue_reason(&self, leaf: &Leaf, authority: &Authority, spec: &Spec) -> Result<Option<String>> {
        let Ok(certified) = self.leaf(leaf) else { return Ok(Some("missing".into())) };
        let pem = certified.cert.as_bytes();
        let Ok(cert) = read::certificate(pem) else { return Ok(Some("unreadable".into())) };
        if read::signed_by(pem, authority.cert.as_bytes()).is_err() {
            return Ok(Some("its CA changed".into()));
        }
        if read::key_matches(pem, certified.key.as_bytes()).is_err() {
            return Ok(Some("its key does not match".into()));
        }
        if self.index(leaf.ca)?.issued.iter().any(|i| i.serial == cert.serial && i.revoked.is_some()) {
            return Ok(Some("revoked".into()));
        }
        if cert.validity(pki::now()) != Validity::Valid {
            return Ok(Some(format!("expires on {}", read::date(cert.not_after))));
        }
        if let Some(surplus) = cert.sans.difference(&leaf.names(spec)).next() {
            return Ok(Some(format!("covers {surplus}")));
        }
        Ok(coverage::gaps(leaf, &cert, spec).into_iter().next())
    }

    fn crl_reissue_reason(&self, ca: Ca, authority: &Authority) -> Result<Option<&'static str>> {
        let Ok(pem) = self.crl(ca) else { return Ok(Some("missing")) };
        let Ok(crl) = read::crl(pem.as_bytes()) else { return Ok(Some("unreadable")) };
        if read::crl_signed_by(pem.as_bytes(), authority.cert.as_bytes()).is_err() {
            return Ok(Some("its CA changed"));
        }
        if self.index(ca)?.revoked_serials() != crl.entries {
            return Ok(Some("incomplete"));
        }
        Ok((crl.validity(pki::now()) != Validity::Valid).then_some("past half of its lifetime"))
    }

    fn issue(&self, leaf: &Leaf, authority: &Authority, spec: &Spec) -> Result<()> {
        let certified = authority.issue(leaf, spec)?;
        self.record(leaf.ca, leaf.name, &certified)?;
        write(&self.leaf_file(leaf, "key"), 0o600, &certified.key)?;
        write(&self.leaf_file(leaf, "crt"), 0o644, &certified.cert)
    }

    /// Issues a certificate with which a client logs in to PostgreSQL as the role `name`; returns its serial.
    pub(crate) fn issue_client(&self, name: &str, spec: &Spec) -> Result<String> {
        let ca = Ca::Service;
        let certified = self.authority(ca)?.issue_client(name, spec)?;
        private_dir(&self.clients())?;
        write(&self.client_file(name, "key"), 0o600, &certified.key)?;
        write(&self.client_file(name, "crt"), 0o644, &certified.cert)?;
        self.record(ca, name, &certified)
    }

    fn clients(&self) -> PathBuf {
        self.ca_dir(Ca::Service).join("clients")
    }

    fn client_file(&self, name: &str, extension: &str) -> PathBuf {
        self.clients().join(format!("{name}.{extension}"))
    }

    /// The current certificate of each client, by name.
    pub fn client_certificates(&self) -> Result<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        if !self.clients().is_dir() {
            return Ok(found);
        }
        for entry in std::fs::read_dir(self.clients())? {
            let path = entry?.path();
            if let (Some(name), Some("crt")) =
                (path.file_stem().and_then(|n| n.to_str()), path.extension().and_then(|e| e.to_str()))
            {
                found.insert(name.to_string(), text(&path)?);
            }
        }
        Ok(found)
    }

    /// Adds a new certificate to the CA's index; returns its serial.
    fn record(&self, ca: Ca, name: &str, certified: &CertifiedKey) -> Result<String> {
        let cert = read::certificate(certified.cert.as_bytes())?;
        let mut index = self.index(ca)?;
        index.issued.push(IssuedCert {
            serial: cert.serial.clone(),
            name: name.into(),
            not_after: cert.not_after,
            revoked: None,
        });
        self.write_index(ca, &index)?;
        Ok(cert.serial)
    }

    fn write_crl(&self, ca: Ca, authority: &Authority, spec: &Spec) -> Result<()> {
        let mut index = self.index(ca)?;
        index.crl_number += 1;
        let revoked = index.issued.iter().filter_map(|issued| {
            let when = issued.revoked?;
            Some(bytes_of(&issued.serial).map(|serial| RevokedCert { serial, when }))
        });
        let revoked = revoked.collect::<Result<Vec<_>>>()?;
        let pem = authority.crl(index.crl_number, &revoked, spec.pki.crl_days)?;
        self.write_index(ca, &index)?;
        write(&self.ca_dir(ca).join("ca.crl"), 0o644, &pem)
    }

    /// The files for the nodes, with path, mode and owner: neither a CA's key nor the operator's leaf.
    pub(crate) fn bundle_entries(&self) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = DIRECTORIES.into_iter().map(|path| Entry::dir(path, 0o755)).collect();
        for ca in Ca::ALL {
            entries.push(Entry::file(ca.certificate_path(), 0o644, self.certificate(ca)?));
            entries.push(Entry::file(ca.crl_path(), 0o644, self.crl(ca)?));
        }
        for leaf in &LEAVES {
            let Some((cert_path, key_path)) = leaf.paths else { continue };
            let CertifiedKey { cert, key } = self.leaf(leaf)?;
            let files = if cert_path == key_path {
                vec![Entry::file(cert_path, 0o600, cert + &key)]
            } else {
                vec![Entry::file(cert_path, 0o644, cert), Entry::file(key_path, 0o600, key)]
            };
            entries.extend(files.into_iter().map(|file| file.owned(leaf.owner, leaf.owner)));
        }
        Ok(entries)
    }
}

impl CaIndex {
    fn revoked_serials(&self) -> BTreeSet<String> {
        self.issued.iter().filter(|i| i.revoked.is_some()).map(|i| i.serial.clone()).collect()
    }
}

fn leaf_names() -> String {
    LEAVES.iter().map(|leaf| leaf.name).collect::<Vec<_>>().join(", ")
}

pub(crate) fn private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let created = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.with_context(|| format!("creating {}", path.display()))
}

fn text(path: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?)
}

fn write(path: &Path, mode: u32, content: &str) -> Result<()> {
    file_tree::replace(path, content.as_bytes(), mode, None)
}

fn bytes_of(serial: &str) -> Result<Vec<u8>> {
    hex::decode(serial).with_context(|| format!("{serial} is not a serial"))
}
