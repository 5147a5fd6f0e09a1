//! The `pki/` folder of a cluster directory: both CAs, every leaf, and the account of what was issued.
//!
//! Changes are made in a copy that then takes the folder's place (see `cluster::change`), so nothing here
//! needs to survive being cut off halfway.

use super::authority::{Authority, CertifiedKey, Revoked};
use anyhow::{Context, Result, bail, ensure};
use hanode_core::pki::read::{self, Validity};
use hanode_core::pki::{self, Ca, DIRECTORIES, LEAVES, Leaf, coverage};
use hanode_core::spec::Spec;
use hanode_util::file_tree::{self, Entry};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub struct Store {
    dir: PathBuf,
}

/// `index.json` of a CA: every certificate it issued, which a revocation list needs by serial.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    schema: u32,
    pub(crate) crl_number: u64,
    pub issued: Vec<Issued>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Issued {
    pub serial: String,
    pub name: String,
    pub(crate) not_after: i64,
    /// When it was revoked, if it was.
    pub revoked: Option<i64>,
}

impl Store {
    pub fn at(dir: impl Into<PathBuf>) -> Store {
        Store { dir: dir.into() }
    }

    /// Fills an empty folder: both CAs, their leaves and revocation lists.
    pub(crate) fn create(dir: &Path, spec: &Spec) -> Result<Store> {
        let store = Store::at(dir);
        for ca in Ca::ALL {
            private_dir(&store.ca_dir(ca).join("leaves"))?;
            let pair = Authority::create(ca, spec)?;
            write(&store.ca_dir(ca).join("ca.key"), 0o600, &pair.key)?;
            write(&store.ca_dir(ca).join("ca.crt"), 0o644, &pair.cert)?;
            store.write_index(ca, &Index { schema: 1, ..Index::default() })?;
        }
        store.set_generation(0)?;
        store.reconcile(spec)?;
        Ok(store)
    }

    pub fn ca_dir(&self, ca: Ca) -> PathBuf {
        self.dir.join(ca.name())
    }

    pub fn leaf_file(&self, leaf: &Leaf, ending: &str) -> PathBuf {
        let dir = self.ca_dir(leaf.ca);
        let dir = if leaf.paths.is_some() { dir.join("leaves") } else { dir };
        dir.join(format!("{}.{ending}", leaf.name))
    }

    /// Every file that holds a private key.
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
        let pair = CertifiedKey { cert: self.certificate(ca)?, key: text(&dir.join("ca.key"))? };
        Authority::load(&pair).with_context(|| dir.display().to_string())
    }

    pub fn index(&self, ca: Ca) -> Result<Index> {
        let path = self.ca_dir(ca).join("index.json");
        let index: Index = serde_json::from_str(&text(&path)?).with_context(|| path.display().to_string())?;
        ensure!(
            index.schema == 1,
            "{}: schema {} is not one this hanode knows",
            path.display(),
            index.schema
        );
        Ok(index)
    }

    fn write_index(&self, ca: Ca, index: &Index) -> Result<()> {
        write(&self.ca_dir(ca).join("index.json"), 0o600, &(serde_json::to_string_pretty(index)? + "\n"))
    }

    /// The highest generation that any bundle from here may bear.
    pub fn generation(&self) -> Result<u64> {
        let path = self.dir.join("generation");
        text(&path)?.trim().parse().with_context(|| format!("{} holds no number", path.display()))
    }

    pub(crate) fn set_generation(&self, generation: u64) -> Result<()> {
        write(&self.dir.join("generation"), 0o600, &format!("{generation}\n"))
    }

    /// Issues what is missing, no longer fits the spec, or is due; says what and why.
    pub(crate) fn reconcile(&self, spec: &Spec) -> Result<Vec<String>> {
        let mut done = Vec::new();
        for ca in Ca::ALL {
            let authority = self.authority(ca)?;
            for leaf in LEAVES.iter().filter(|leaf| leaf.ca == ca) {
                if let Some(why) = self.reissue_reason(leaf, &authority, spec)? {
                    self.issue(leaf, &authority, spec)?;
                    done.push(format!("issued {} ({why})", leaf.name));
                }
            }
            if let Some(why) = self.crl_reissue_reason(ca, &authority)? {
                self.write_crl(ca, &authority, spec)?;
                done.push(format!("new {} revocation list ({why})", ca.name()));
            }
        }
        Ok(done)
    }

    /// New certificates and keys for the leaves of these names, or all; and new revocation lists.
    pub(crate) fn renew(&self, names: &[String], spec: &Spec) -> Result<Vec<String>> {
        if let Some(unknown) = names.iter().find(|name| Leaf::find(name).is_none()) {
            bail!("there is no certificate {}; there are {}", unknown.escape_debug(), known_leaves());
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

    /// Revokes a certificate by its serial, or the one that a leaf uses now. What is in use is replaced.
    pub(crate) fn revoke(&self, which: &str, spec: &Spec) -> Result<Vec<String>> {
        let (ca, serial) = self.resolve(which)?;
        let mut index = self.index(ca)?;
        let entry = index.issued.iter_mut().find(|issued| issued.serial == serial);
        let entry = entry.with_context(|| format!("the {} CA issued no certificate {serial}", ca.name()))?;
        ensure!(entry.revoked.is_none(), "certificate {serial} ({}) is revoked already", entry.name);
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

    /// The CA and serial that `which`, a leaf's name or a serial, means.
    fn resolve(&self, which: &str) -> Result<(Ca, String)> {
        if let Some(leaf) = Leaf::find(which) {
            let cert = read::certificate(self.leaf(leaf)?.cert.as_bytes())?;
            return Ok((leaf.ca, cert.serial));
        }
        let serial = which.replace(':', "").to_ascii_lowercase();
        for ca in Ca::ALL {
            if self.index(ca)?.issued.iter().any(|issued| issued.serial == serial) {
                return Ok((ca, serial));
            }
        }
        bail!(
            "{} is neither the serial of a certificate issued here nor one of {}",
            which.escape_debug(),
            known_leaves()
        )
    }

    /// Why `leaf` must be issued anew, if it must.
    fn reissue_reason(&self, leaf: &Leaf, authority: &Authority, spec: &Spec) -> Result<Option<String>> {
        let Ok(pair) = self.leaf(leaf) else { return Ok(Some("there was none".into())) };
        let pem = pair.cert.as_bytes();
        let Ok(cert) = read::certificate(pem) else { return Ok(Some("it could not be read".into())) };
        if read::signed_by(pem, authority.cert.as_bytes()).is_err() {
            return Ok(Some("its CA is another now".into()));
        }
        if read::key_matches(pem, pair.key.as_bytes()).is_err() {
            return Ok(Some("its key was another's".into()));
        }
        if self.index(leaf.ca)?.issued.iter().any(|i| i.serial == cert.serial && i.revoked.is_some()) {
            return Ok(Some("it was revoked".into()));
        }
        if cert.validity(pki::now()) != Validity::Valid {
            return Ok(Some(format!("it ends on {}", read::date(cert.not_after))));
        }
        if let Some(surplus) = cert.sans.difference(&leaf.names(spec)).next() {
            return Ok(Some(format!("it covered {surplus}")));
        }
        Ok(coverage::gaps(leaf, &cert, spec)
            .into_iter()
            .next()
            .map(|gap| format!("it {}", gap.replacen("does", "did", 1))))
    }

    fn crl_reissue_reason(&self, ca: Ca, authority: &Authority) -> Result<Option<&'static str>> {
        let Ok(pem) = self.crl(ca) else { return Ok(Some("there was none")) };
        let Ok(crl) = read::crl(pem.as_bytes()) else { return Ok(Some("it could not be read")) };
        if read::crl_signed_by(pem.as_bytes(), authority.cert.as_bytes()).is_err() {
            return Ok(Some("its CA is another now"));
        }
        if self.index(ca)?.revoked_serials() != crl.entries {
            return Ok(Some("it lacked entries"));
        }
        Ok((crl.validity(pki::now()) != Validity::Valid).then_some("half its life was over"))
    }

    fn issue(&self, leaf: &Leaf, authority: &Authority, spec: &Spec) -> Result<()> {
        let pair = authority.issue(leaf, spec)?;
        let cert = read::certificate(pair.cert.as_bytes())?;
        let mut index = self.index(leaf.ca)?;
        index.issued.push(Issued {
            serial: cert.serial,
            name: leaf.name.into(),
            not_after: cert.not_after,
            revoked: None,
        });
        self.write_index(leaf.ca, &index)?;
        write(&self.leaf_file(leaf, "key"), 0o600, &pair.key)?;
        write(&self.leaf_file(leaf, "crt"), 0o644, &pair.cert)
    }

    fn write_crl(&self, ca: Ca, authority: &Authority, spec: &Spec) -> Result<()> {
        let mut index = self.index(ca)?;
        index.crl_number += 1;
        let revoked = index.issued.iter().filter_map(|issued| {
            let when = issued.revoked?;
            Some(bytes_of(&issued.serial).map(|serial| Revoked { serial, when }))
        });
        let revoked = revoked.collect::<Result<Vec<_>>>()?;
        let pem = authority.crl(index.crl_number, &revoked, spec.pki.crl_days)?;
        self.write_index(ca, &index)?;
        write(&self.ca_dir(ca).join("ca.crl"), 0o644, &pem)
    }

    /// What of all this goes to the nodes, as it lies there: never a CA's key, never the operator's leaf.
    pub(crate) fn members(&self) -> Result<Vec<Entry>> {
        let mut members: Vec<Entry> = DIRECTORIES.into_iter().map(|path| Entry::dir(path, 0o755)).collect();
        for ca in Ca::ALL {
            members.push(Entry::file(ca.certificate_path(), 0o644, self.certificate(ca)?));
            members.push(Entry::file(ca.crl_path(), 0o644, self.crl(ca)?));
        }
        for leaf in &LEAVES {
            let Some((cert_path, key_path)) = leaf.paths else { continue };
            let CertifiedKey { cert, key } = self.leaf(leaf)?;
            let files = if cert_path == key_path {
                vec![Entry::file(cert_path, 0o600, cert + &key)]
            } else {
                vec![Entry::file(cert_path, 0o644, cert), Entry::file(key_path, 0o600, key)]
            };
            members.extend(files.into_iter().map(|file| file.owned(leaf.owner, leaf.owner)));
        }
        Ok(members)
    }
}

impl Index {
    fn revoked_serials(&self) -> BTreeSet<String> {
        self.issued.iter().filter(|i| i.revoked.is_some()).map(|i| i.serial.clone()).collect()
    }
}

fn known_leaves() -> String {
    LEAVES.iter().map(|leaf| leaf.name).collect::<Vec<_>>().join(", ")
}

pub(crate) fn private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("making {}", path.display()))
}

fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn write(path: &Path, mode: u32, content: &str) -> Result<()> {
    file_tree::replace(path, content.as_bytes(), mode, None)
}

fn bytes_of(serial: &str) -> Result<Vec<u8>> {
    hex::decode(serial).with_context(|| format!("{serial} is no serial"))
}
