//! The differences between families of distributions in building and inspecting a base.

use super::{debian, el};
use anyhow::Result;
use hanode_core::target::{Family, Target};
use hanode_util::file_tree::Entry;
use hanode_util::scratch::Scratch;
use std::path::Path;

pub(crate) trait Distro {
    /// The programs of the build machine that `install` needs.
    fn tools(self) -> &'static [&'static str];

    /// Installs the target's packages into `scratch/root`.
    fn install(
        self,
        target: &Target,
        early_files: &[Entry],
        mtime: u64,
        scratch: &Scratch,
        note: &dyn Fn(&str),
    ) -> Result<()>;

    /// Every installed package with its version.
    fn packages(self, root: &Path) -> Result<Vec<(String, String)>>;

    /// The package that contains a file.
    fn owner(self, root: &Path, file: &str) -> Result<String>;
}

impl Distro for Family {
    fn tools(self) -> &'static [&'static str] {
        match self {
            Family::Debian => debian::TOOLS,
            Family::El => el::TOOLS,
        }
    }

    fn install(
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

    fn packages(self, root: &Path) -> Result<Vec<(String, String)>> {
        match self {
            Family::Debian => debian::packages(root),
            Family::El => el::packages(root),
        }
    }

    fn owner(self, root: &Path, file: &str) -> Result<String> {
        match self {
            Family::Debian => debian::owner(root, file),
            Family::El => el::owner(root, file),
        }
    }
}
