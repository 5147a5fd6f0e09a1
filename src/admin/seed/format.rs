//! Output formats of a seed, by the name of the output: `.iso` and `.img` (vfat) are disks labelled CIDATA, a trailing
//! slash is a directory, `.smbios` a string for the SMBIOS serial number.

use super::Seed;
use anyhow::{Context, Result, bail};
use hanode_util::command::{self, command, run};
use hanode_util::file_tree;
use hanode_util::scratch::{self, Scratch};
use hanode_util::user_error::UserError;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;

/// The files that a seed can have.
const FILES: [&str; 3] = ["meta-data", "user-data", "network-config"];

/// Large enough for the largest user-data that clouds accept.
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
            _ => bail!(UserError::new(
                "unknown format of a seed",
                out.display().to_string(),
                "name a disk (.iso, or .img for vfat), an SMBIOS string (.smbios), or a directory with a trailing slash"
            )),
        }
    }

    /// Writes the files into a directory, which is created if missing. Files of an earlier seed are removed, because
    /// cloud-init would read them too.
    pub fn write_directory(&self, at: &Path) -> Result<()> {
        std::fs::create_dir_all(at).with_context(|| format!("creating {}", at.display()))?;
        let files = self.files()?;
        for stale in FILES.into_iter().filter(|name| files.iter().all(|(written, _)| written != name)) {
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
        self.write_staged(out, |content, image| {
            let mut xorriso = command("xorriso");
            xorriso.args(["-as", "mkisofs", "-quiet", "-V", "CIDATA", "-J", "-r", "-o"]);
            run(xorriso.arg(image).arg(content)).map(drop)
        })
    }

    fn write_vfat(&self, out: &Path) -> Result<()> {
        command::require(&["mkfs.vfat", "mcopy"])?;
        self.write_staged(out, |content, image| {
            std::fs::File::create_new(image)?.set_len(VFAT_BYTES)?;
            run(command("mkfs.vfat").args(["-n", "CIDATA"]).arg(image))?;
            for (name, _) in self.files()? {
                run(command("mcopy").arg("-i").arg(image).arg(content.join(name)).arg("::/"))?;
            }
            Ok(())
        })
    }

    /// The value of QEMU's `-smbios type=1,serial=…`, from which cloud-init reads metadata only.
    pub(crate) fn smbios_serial(&self) -> Result<String> {
        if self.network.is_some() || self.ssh_key.is_some() || !self.write_files.is_empty() {
            bail!(UserError::with_help(
                "an SMBIOS serial number can hold only the node's names",
                "omit network, SSH key and bundle, or write a disk (.iso)"
            ));
        }
        let restore =
            self.restore.as_ref().map_or(String::new(), |request| format!(";hanode_restore={request}"));
        Ok(format!(
            "ds=nocloud;i={};h={};hanode_node={}{restore}",
            self.instance_id, self.hostname, self.node
        ))
    }

    fn write_smbios(&self, out: &Path) -> Result<()> {
        scratch::check_output(out)?;
        let text = format!("{}\n", self.smbios_serial()?);
        file_tree::replace(out, text.as_bytes(), 0o600, None)
    }

    /// Calls `write` with a directory of the seed's files and the path of a temporary output, then renames the output to
    /// its final name.
    fn write_staged(&self, out: &Path, write: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<()> {
        scratch::check_output(out)?;
        let scratch = Scratch::beside(out)?;
        let (content, output) = (scratch.join("content"), scratch.join("output"));
        self.write_directory(&content)?;
        write(&content, &output)?;
        scratch::publish(&output, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::spec;
    use hanode_util::user_error::report;

    fn seed() -> Seed {
        let spec = spec::parse(spec::STARTER).unwrap_or_else(|f| panic!("{f}"));
        Seed::for_node(&spec, "node2").unwrap()
    }

    fn with_network() -> Seed {
        let spec = spec::parse(spec::STARTER).unwrap_or_else(|f| panic!("{f}"));
        let interface = super::super::InterfaceMatch::Name("host0".into());
        seed().with_network(&spec, interface, Some("192.168.18.1".parse().unwrap()), &[]).unwrap()
    }

    #[test]
    fn files_of_an_earlier_seed_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        with_network().write_directory(dir.path()).unwrap();
        assert!(dir.path().join("network-config").exists());
        seed().write_directory(dir.path()).unwrap();
        assert!(!dir.path().join("network-config").exists());
    }

    #[test]
    fn an_smbios_serial_has_only_names() {
        assert_eq!(seed().smbios_serial().unwrap(), "ds=nocloud;i=hspas-node2;h=node2;hanode_node=node2");
        assert!(with_network().smbios_serial().is_err());
    }

    #[test]
    fn an_output_of_another_format_is_refused() {
        let error = report(&seed().write(Path::new("seed.qcow2")).unwrap_err());
        assert!(error.contains("seed.qcow2") && error.contains(".iso"), "{error}");
    }
}
