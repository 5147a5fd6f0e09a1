//! The cluster directory: `cluster.toml`, `pki/`, `secrets.toml` and `bundle.tar.gz` of one cluster.

pub mod change;
pub mod check;
mod secrets;

use crate::pki::store::{PkiStore, private_dir};
use anyhow::{Context, Result, bail};
use hanode_core::bundle::{Bundle, BundleMetadata};
use hanode_core::secrets::Secrets;
use hanode_core::spec::{self, Faults, Spec};
use hanode_util::file_tree;
use hanode_util::scratch::Scratch;
use hanode_util::user_error::{UserError, unreadable};
use std::path::{Path, PathBuf};

pub use check::{check, check_copy};
pub use secrets::generate as generate_secrets;

pub const SPEC: &str = "cluster.toml";
pub const SECRETS: &str = "secrets.toml";
pub const BUNDLE: &str = "bundle.tar.gz";
pub const PKI: &str = "pki";

/// A cluster directory, with the parts that go into images and seeds.
#[derive(Debug)]
pub struct ClusterDir {
    pub dir: PathBuf,
    pub spec: Spec,
    pub spec_text: String,
    pub secrets: Secrets,
    pub bundle: Bundle,
    pub bundle_bytes: Vec<u8>,
}

impl ClusterDir {
    /// Creates a directory for the cluster of `spec_text`, atomically.
    pub fn init(dir: &Path, spec_text: &str) -> Result<ClusterDir> {
        let spec = spec::parse(spec_text)?;
        refuse_existing(dir)?;
        let full = dir.canonicalize().or_else(|_| std::path::absolute(dir))?;
        let (parent, name) = split(&full)?;
        let staged = Scratch::within(&parent, &format!(".{name}.hanode-new-"))?;
        fill(staged.path(), &spec, spec_text)?;
        // The rename replaces an empty directory, and fails if there is anything else.
        std::fs::rename(staged.path(), &full).with_context(|| format!("creating {}", dir.display()))?;
        ClusterDir::load(dir)
    }

    /// Reads the directory; fails if a part is missing or malformed. [`check()`] verifies that the parts are consistent.
    pub fn load(dir: &Path) -> Result<ClusterDir> {
        let (spec, spec_text) = load_spec(dir)?;
        let secrets = Secrets::load(&dir.join(SECRETS))?;
        let (bundle, bundle_bytes) = load_bundle(dir)?;
        Ok(ClusterDir { dir: dir.into(), spec, spec_text, secrets, bundle, bundle_bytes })
    }

    /// Certificate and key of the operator (PEM), with which `status` authenticates to the nodes.
    pub fn operator(&self) -> Result<(String, String)> {
        let leaf = hanode_core::pki::Leaf::find("operator").context("no operator certificate is defined")?;
        let pair = PkiStore::at(self.dir.join(PKI)).leaf(leaf)?;
        Ok((pair.cert, pair.key))
    }
}

fn fill(dir: &Path, spec: &Spec, spec_text: &str) -> Result<()> {
    let secrets = secrets::generate();
    file_tree::replace(&dir.join(SPEC), spec_text.as_bytes(), 0o644, None)?;
    file_tree::replace(&dir.join(SECRETS), secrets.to_toml().as_bytes(), 0o600, None)?;
    let pki = dir.join(PKI);
    private_dir(&pki)?;
    let store = PkiStore::create(&pki, spec)?;
    store.set_generation(1)?;
    let bundle = Bundle::new(&spec.name, 1, secrets, store.bundle_entries()?);
    file_tree::replace(&dir.join(BUNDLE), &bundle.pack()?, 0o600, None)
}

fn refuse_existing(dir: &Path) -> Result<()> {
    let place = dir.display().to_string();
    let refuse = |what: &str, help: &str| Err(UserError::new(what, &place, help).into());
    if dir.join(SPEC).exists() {
        return refuse(
            "the cluster directory already exists",
            "edit its cluster.toml, or name another directory",
        );
    }
    // Replacing the current directory would leave the shell in a deleted one.
    if std::env::current_dir().is_ok_and(|here| dir.canonicalize().is_ok_and(|dir| dir == here)) {
        return refuse(
            "cannot replace the directory you are in",
            "name a new directory, or run this in another one",
        );
    }
    match std::fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => refuse("the directory is not empty", "name a new directory"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            refuse("is a file, not a directory", "name a new directory")
        }
        Err(error) => Err(unreadable(dir, error).into()),
    }
}

/// Parent and name of a directory; fails if the parent does not exist.
fn split(dir: &Path) -> Result<(PathBuf, String)> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        bail!("{} cannot be a cluster directory", dir.display())
    };
    if !parent.is_dir() {
        bail!(UserError::new("no such directory", parent.display().to_string(), "create it first"));
    }
    Ok((parent.into(), name.to_string_lossy().into_owned()))
}

/// The spec and its text. An invalid spec is an error of type [`SpecFaults`].
pub fn load_spec(dir: &Path) -> Result<(Spec, String)> {
    let path = dir.join(SPEC);
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(UserError::new(
            format!("not a cluster directory: {SPEC} is missing"),
            dir.display().to_string(),
            format!("name the right directory, or create one: hanode init {}", dir.display())
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            bail!(UserError::with_help(format!("{} is a file", dir.display()), cluster_dir_of(dir)))
        }
        read => read.map_err(|error| unreadable(&path, error))?,
    };
    let spec = spec::parse(&text).map_err(|faults| SpecFaults { path, faults })?;
    Ok((spec, text))
}

/// The remedy for a file in place of a cluster directory: probably its `cluster.toml`.
fn cluster_dir_of(file: &Path) -> String {
    match file.parent() {
        // A file in the current directory has an empty parent.
        Some(dir) if dir.as_os_str().is_empty() && Path::new(SPEC).is_file() => {
            "name the directory: .".into()
        }
        Some(dir) if dir.join(SPEC).is_file() => format!("name the directory: {}", dir.display()),
        _ => "name the cluster directory".into(),
    }
}

pub(crate) fn load_bundle(dir: &Path) -> Result<(Bundle, Vec<u8>)> {
    let path = dir.join(BUNDLE);
    let place = path.display().to_string();
    let help = format!("pack a new one: `hanode certs issue {}`", dir.display());
    let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => UserError { help: help.clone(), ..unreadable(&path, error) },
        _ => unreadable(&path, error),
    })?;
    let bundle = Bundle::read(&bytes).map_err(|error| UserError::new(error.to_string(), place, help))?;
    Ok((bundle, bytes))
}

/// All faults of one `cluster.toml`.
#[derive(Debug)]
pub struct SpecFaults {
    pub path: PathBuf,
    pub faults: Faults,
}

impl std::error::Error for SpecFaults {}

impl std::fmt::Display for SpecFaults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.faults.0.len();
        let s = if count == 1 { "" } else { "s" };
        write!(f, "{} has {count} fault{s}", self.path.display())?;
        for fault in &self.faults.0 {
            if fault.line > 0 {
                write!(f, "\n  line {}: {}", fault.line, fault.what)?;
            } else {
                write!(f, "\n  {}", fault.what)?;
            }
            write!(f, "\n    help: {}", fault.help)?;
        }
        Ok(())
    }
}
