//! The differences between families of distributions in building and inspecting a base.

use super::{debian, el};
use anyhow::{Result, bail};
use hanode_core::target::Target;
use hanode_util::file_tree::Entry;
use hanode_util::scratch::Scratch;
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Debian,
    El,
}

impl Family {
    pub(crate) fn of(target: &Target) -> Result<Family> {
        match target.family.as_str() {
            "debian" => Ok(Family::Debian),
            "el" => Ok(Family::El),
            other => bail!("target {}: family {other:?} is neither \"debian\" nor \"el\"", target.name),
        }
    }

    /// The programs of the build machine that `install` needs.
    pub(crate) fn tools(self) -> &'static [&'static str] {
        match self {
            Family::Debian => debian::TOOLS,
            Family::El => el::TOOLS,
        }
    }

    /// Installs the target's packages into `scratch/root`.
    pub(crate) fn install(
        self,
        target: &Target,
        early_files: &[Entry],
        mtime: u64,
        scratch: &Scratch,
        note: &dyn Fn(&str),
    ) -> Result<()> {
        match self {
            Family::Debian => debian::install(target, early_files, mtime, scratch, note),
            Family::El => el::install(target, early_files, scratch, note),
        }
    }

    /// Every installed package with its version.
    pub(crate) fn packages(self, root: &Path) -> Result<Vec<(String, String)>> {
        match self {
            Family::Debian => debian::packages(root),
            Family::El => el::packages(root),
        }
    }

    /// The package that contains a file.
    pub(crate) fn owner(self, root: &Path, file: &str) -> Result<String> {
        match self {
            Family::Debian => debian::owner(root, file),
            Family::El => el::owner(root, file),
        }
    }
}
