//! The image format, chosen by the ending of the file name.

use anyhow::{Result, bail};
use hanode_util::user_error::UserError;
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Raw,
    Qcow2,
    Vmdk,
    Tar,
    TarGz,
}

const ENDINGS: &[(&str, Format)] = &[
    (".raw", Format::Raw),
    (".qcow2", Format::Qcow2),
    (".vmdk", Format::Vmdk),
    (".tar", Format::Tar),
    (".tar.gz", Format::TarGz),
];

impl Format {
    pub(crate) fn from_path(path: &Path) -> Result<Format> {
        let name = path.to_string_lossy();
        match ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)) {
            Some((_, format)) => Ok(*format),
            None => {
                let endings: Vec<_> = ENDINGS.iter().map(|(ending, _)| *ending).collect();
                bail!(UserError::with_help(
                    format!("{name}: no image format has this ending"),
                    format!("use one of {}", endings.join(" "))
                ))
            }
        }
    }

    /// The arguments of `qemu-img convert`; `None` for formats that need no conversion.
    pub(crate) fn qemu_img_args(self, compress: bool) -> Option<Vec<&'static str>> {
        match (self, compress) {
            (Format::Qcow2, false) => Some(vec!["-O", "qcow2"]),
            (Format::Qcow2, true) => {
                Some(vec!["-O", "qcow2", "-o", "compression_type=zstd", "-c", "-m", "8", "-W"])
            }
            (Format::Vmdk, _) => Some(vec!["-O", "vmdk", "-o", "subformat=streamOptimized"]),
            (Format::Raw | Format::Tar | Format::TarGz, _) => None,
        }
    }

    pub(crate) fn is_archive(self) -> bool {
        matches!(self, Format::Tar | Format::TarGz)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_decides_the_format() {
        assert_eq!(Format::from_path(Path::new("a/node.tar.gz")).unwrap(), Format::TarGz);
        assert_eq!(Format::from_path(Path::new("node.qcow2")).unwrap(), Format::Qcow2);
        let report = hanode_util::user_error::report(&Format::from_path(Path::new("node.iso")).unwrap_err());
        assert!(report.contains("node.iso") && report.contains(".vmdk"), "{report}");
    }
}
