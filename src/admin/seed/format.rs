//! What a seed is handed over as. The ending says which: `.iso` and `.img` (vfat) are disks labelled CIDATA,
//! a final slash a directory, `.smbios` the string for the firmware's serial number.

use super::Seed;
use anyhow::{Context, Result, bail};
use hanode_util::command::{self, command, run};
use hanode_util::file_tree;
use hanode_util::scratch::{self, Scratch};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;

/// All that a seed may have.
const FILES: [&str; 3] = ["meta-data", "user-data", "network-config"];

/// cloud-init reads a vfat disk of any size; this one holds the largest user-data that clouds take.
const VFAT_BYTES: u64 = 1 << 20;

impl Seed {
    pub fn write(&self, out: &Path) -> Result<()> {
        if out.to_string_lossy().ends_with('/') {
            return self.write_directory(out);
        }
        match out.extension().and_then(OsStr::to_str) {
            Some("iso") => self.write_iso(out),
            Some("img") => self.write_vfat(out),
            Some("smbios") => self.write_smbios(out),
            _ => bail!(
                "{}: a seed is a disk (.iso, or .img for vfat), a string for the firmware (.smbios), or a directory, named with a final slash",
                out.display()
            ),
        }
    }

    /// Writes the files into a directory, which is made if need be. What another seed left there would be read too.
    pub fn write_directory(&self, at: &Path) -> Result<()> {
        std::fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
        let files = self.files()?;
        for stale in FILES.into_iter().filter(|name| files.iter().all(|(own, _)| own != name)) {
            let at = at.join(stale);
            match std::fs::remove_file(&at) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", at.display()));
                }
                _ => {}
            }
        }
        for (name, text) in files {
            let at = at.join(name);
            file_tree::replace(&at, text.as_bytes(), 0o600, None)
                .with_context(|| format!("writing {}", at.display()))?;
        }
        Ok(())
    }

    fn write_iso(&self, out: &Path) -> Result<()> {
        command::require(&["xorriso"])?;
        self.staged(out, |content, made| {
            let mut xorriso = command("xorriso");
            xorriso.args(["-as", "mkisofs", "-quiet", "-V", "CIDATA", "-J", "-r", "-o"]);
            run(xorriso.arg(made).arg(content)).map(drop)
        })
    }

    fn write_vfat(&self, out: &Path) -> Result<()> {
        command::require(&["mkfs.vfat", "mcopy"])?;
        self.staged(out, |content, made| {
            std::fs::File::create_new(made)?.set_len(VFAT_BYTES)?;
            run(command("mkfs.vfat").args(["-n", "CIDATA"]).arg(made))?;
            for (name, _) in self.files()? {
                run(command("mcopy").arg("-i").arg(made).arg(content.join(name)).arg("::/"))?;
            }
            Ok(())
        })
    }

    /// For QEMU's `-smbios type=1,serial=…`: cloud-init takes metadata from there, and only that.
    pub(crate) fn smbios(&self) -> Result<String> {
        if self.network.is_some() || self.ssh_key.is_some() || !self.write_files.is_empty() {
            bail!(
                "a serial number carries names only: leave network, SSH key and bundle out, or write a disk (.iso)"
            );
        }
        Ok(format!("ds=nocloud;i={};h={};hanode_node={}", self.instance_id, self.hostname, self.node))
    }

    fn write_smbios(&self, out: &Path) -> Result<()> {
        scratch::check_output(out)?;
        let text = format!("{}\n", self.smbios()?);
        file_tree::replace(out, text.as_bytes(), 0o600, None)
    }

    /// Has `write` make a file from the seed's files, and publishes it whole.
    fn staged(&self, out: &Path, write: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<()> {
        scratch::check_output(out)?;
        let scratch = Scratch::beside(out)?;
        let (content, made) = (scratch.join("content"), scratch.join("made"));
        self.write_directory(&content)?;
        write(&content, &made)?;
        scratch::publish(&made, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::spec;

    fn seed() -> Seed {
        let spec = spec::parse(spec::STARTER).unwrap_or_else(|f| panic!("{f}"));
        Seed::for_node(&spec, "node2").unwrap()
    }

    fn with_network() -> Seed {
        let spec = spec::parse(spec::STARTER).unwrap_or_else(|f| panic!("{f}"));
        let interface = super::super::Interface::Name("host0".into());
        seed().with_network(&spec, interface, Some("192.168.18.1".parse().unwrap()), &[]).unwrap()
    }

    #[test]
    fn a_directory_holds_nothing_of_the_seed_before() {
        let dir = tempfile::tempdir().unwrap();
        with_network().write_directory(dir.path()).unwrap();
        assert!(dir.path().join("network-config").exists());
        seed().write_directory(dir.path()).unwrap();
        assert!(!dir.path().join("network-config").exists());
    }

    #[test]
    fn the_firmware_carries_names_and_nothing_else() {
        assert_eq!(seed().smbios().unwrap(), "ds=nocloud;i=hspas-node2;h=node2;hanode_node=node2");
        assert!(with_network().smbios().is_err());
    }

    #[test]
    fn an_output_of_neither_kind_is_refused() {
        let said = seed().write(Path::new("seed.qcow2")).unwrap_err().to_string();
        assert!(said.contains("seed.qcow2") && said.contains(".iso"), "{said}");
    }
}
