//! Which kind of image a file name asks for.

use anyhow::{Result, bail};
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
    pub(crate) fn of(path: &Path) -> Result<Format> {
        let name = path.to_string_lossy();
        match ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)) {
            Some((_, format)) => Ok(*format),
            None => {
                let endings: Vec<_> = ENDINGS.iter().map(|(ending, _)| *ending).collect();
                bail!("{name}: the ending decides the format; use one of {}", endings.join(" "))
            }
        }
    }

    /// What to tell qemu-img; nothing for an archive.
    pub(crate) fn convert(self, compress: bool) -> Option<Vec<&'static str>> {
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
    fn the_ending_decides() {
        assert_eq!(Format::of(Path::new("a/node.tar.gz")).unwrap(), Format::TarGz);
        assert_eq!(Format::of(Path::new("node.qcow2")).unwrap(), Format::Qcow2);
        let said = Format::of(Path::new("node.iso")).unwrap_err().to_string();
        assert!(said.contains("node.iso") && said.contains(".vmdk"), "{said}");
    }
}
