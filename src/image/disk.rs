//! Writes a tree as a bootable disk: GPT with a BIOS boot partition, an EFI system partition and the root file system,
//! in one sparse file, without mounts or loop devices. The disk boots with BIOS and UEFI.

use anyhow::{Context, Result, bail};
use hanode_core::target;
use hanode_util::command::{command, in_chroot, run};
use hanode_util::file_tree;
use hanode_util::scratch::Scratch;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SECTOR: u64 = 512;
/// First sectors of the partitions, and the sectors at the end of the disk that the backup GPT needs.
const BIOS: u64 = 2048;
const ESP: u64 = 4096;
const ROOT: u64 = 36864;
const BIOS_SECTORS: u64 = ESP - BIOS;
const ESP_SECTORS: u64 = ROOT - ESP;
const BACKUP_GPT_SECTORS: u64 = 33;

/// Offset of the root file system in bytes.
pub(crate) const ROOT_OFFSET: u64 = ROOT * SECTOR;
pub(crate) const ROOT_LABEL: &str = "hanode-root";

/// The root is the third partition of the disk that the firmware loaded GRUB from. GRUB does not search for a file
/// system, so a second disk with a copy of the same image does no harm.
const GRUB_PREFIX: &str = "(,gpt3)/boot/grub";
const GRUB_MODULES: &[&str] = &[
    "part_gpt",
    "part_msdos",
    "ext2",
    "xfs",
    "normal",
    "linux",
    "configfile",
    "probe",
    "search",
    "search_fs_uuid",
    "search_label",
    "serial",
    "terminal",
    "minicmd",
    "ls",
    "cat",
    "echo",
    "test",
    "sleep",
    "halt",
    "reboot",
];

/// Writes the tree as a disk image to `out`. All UUIDs on it are derived from `id`.
pub(crate) fn write(
    root: &Path,
    layout: &target::DiskLayout,
    id: &str,
    out: &Path,
    scratch: &Scratch,
) -> Result<()> {
    let sectors = layout.size_mib * 1024 * 1024 / SECTOR;
    // Rounded down to file system blocks of 4 KiB.
    let root_sectors = sectors.saturating_sub(ROOT + BACKUP_GPT_SECTORS) / 8 * 8;
    let disk = OpenOptions::new().read(true).write(true).create_new(true).open(out)?;
    disk.set_len(sectors * SECTOR)?;
    file_system(root, layout, id, root_sectors, out).context("writing the root file system")?;
    partitions(id, root_sectors, out).context("writing the partition table")?;
    let esp = efi(root, id, scratch).context("writing the EFI system partition")?;
    copy_sparsely(&esp, &disk, ESP * SECTOR)?;
    bios(root, &disk).context("writing the BIOS boot code")?;
    disk.sync_all()?;
    Ok(())
}

/// Runs the tree's mke2fs with the tree's dynamic loader, so that the file system has only features that the image's
/// kernel and e2fsck know. The same tree gives the same bytes.
fn file_system(root: &Path, layout: &target::DiskLayout, id: &str, sectors: u64, out: &Path) -> Result<()> {
    let uuid = uuid(id, "root");
    let libraries = format!("{0}/usr/lib/x86_64-linux-gnu:{0}/usr/lib64", root.display());
    let options = format!("offset={ROOT_OFFSET},hash_seed={uuid},root_owner=0:0,lazy_itable_init=0");
    let mut mke2fs = command(&loader(root).to_string_lossy());
    mke2fs.arg("--library-path").arg(libraries).arg(root.join("usr/sbin/mke2fs"));
    mke2fs.args(["-q", "-F", "-t", "ext4", "-L", ROOT_LABEL, "-U", &uuid, "-E", &options]);
    let without: Vec<_> = layout.ext4_without.iter().map(|feature| format!("^{feature}")).collect();
    mke2fs.args(["-O", &without.join(","), "-d"]).arg(root).arg(out);
    run(mke2fs.arg(format!("{}k", sectors / 2)))?;
    Ok(())
}

/// The tree's dynamic loader. glibc 2.31 and earlier of the Debian family have an absolute link to it, which is resolved
/// inside the tree.
fn loader(root: &Path) -> PathBuf {
    let at = root.join("lib64/ld-linux-x86-64.so.2");
    match at.read_link() {
        Ok(to) if to.is_absolute() => file_tree::below(root, &to.to_string_lossy()),
        _ => at,
    }
}

/// Creates /vmlinuz and /initrd.img, which GRUB's configuration names, if the kernel package did not.
pub(crate) fn kernel_links(root: &Path) -> Result<()> {
    for (link, prefixes) in [("vmlinuz", &["vmlinuz-"][..]), ("initrd.img", &["initrd.img-", "initramfs-"])] {
        if root.join(link).exists() {
            continue;
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(root.join("boot"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if prefixes.iter().any(|p| name.starts_with(p)) && !name.contains("rescue") {
                names.push(name);
            }
        }
        names.sort();
        let newest =
            names.pop().with_context(|| format!("no {}* in the tree's /boot", prefixes.join("* or ")))?;
        std::os::unix::fs::symlink(format!("boot/{newest}"), root.join(link))?;
    }
    Ok(())
}

fn partitions(id: &str, root_sectors: u64, out: &Path) -> Result<()> {
    let mut sgdisk = command("sgdisk");
    sgdisk.args(["-a", "1", "-o", "-U", &uuid(id, "disk")]);
    let parts = [
        (BIOS, BIOS_SECTORS, "EF02", "bios"),
        (ESP, ESP_SECTORS, "EF00", "esp"),
        (ROOT, root_sectors, "8304", "root"),
    ];
    for (number, (start, sectors, kind, name)) in (1..).zip(parts) {
        sgdisk
            .arg("-n")
            .arg(format!("{number}:{start}:+{sectors}"))
            .arg("-t")
            .arg(format!("{number}:{kind}"));
        sgdisk.arg("-u").arg(format!("{number}:{}", uuid(id, &format!("part-{name}"))));
        sgdisk.arg("-c").arg(format!("{number}:{name}"));
    }
    run(sgdisk.arg(out))?;
    Ok(())
}

fn efi(root: &Path, id: &str, scratch: &Scratch) -> Result<File> {
    let loader = scratch.write("bootx64.efi", grub(root, "x86_64-efi", &["fat", "efi_gop", "efi_uga"])?)?;
    let esp = scratch.join("esp");
    File::create(&esp)?.set_len(ESP_SECTORS * SECTOR)?;
    let serial = &uuid(id, "esp")[..8];
    run(command("mkfs.vfat").args(["-F", "16", "-n", "EFI", "--invariant", "-i", serial]).arg(&esp))?;
    run(command("mmd").arg("-i").arg(&esp).args(["::/EFI", "::/EFI/BOOT"]))?;
    run(command("mcopy").arg("-i").arg(&esp).arg(loader).arg("::/EFI/BOOT/BOOTX64.EFI"))?;
    Ok(File::open(esp)?)
}

/// Does the work of grub-bios-setup: writes the position of GRUB's core image into the boot sector, and that of its
/// remaining sectors into the core image.
fn bios(root: &Path, disk: &File) -> Result<()> {
    let mut core = grub(root, "i386-pc", &["biosdisk"])?;
    let sectors = (core.len() as u64).div_ceil(SECTOR);
    if sectors > BIOS_SECTORS || core.len() < 512 {
        bail!("GRUB's core image of {} bytes does not fit its partition", core.len());
    }
    core[0x1f4..0x1fc].copy_from_slice(&(BIOS + 1).to_le_bytes());
    core[0x1fc..0x1fe].copy_from_slice(&((sectors - 1) as u16).to_le_bytes());
    core[0x1fe..0x200].copy_from_slice(&0x0820u16.to_le_bytes());
    let at = root.join("usr/lib/grub/i386-pc/boot.img");
    let mut boot = std::fs::read(&at).with_context(|| format!("reading {}", at.display()))?;
    if boot.len() < 440 {
        bail!("{} is too short for a boot sector", at.display());
    }
    boot[0x5c..0x64].copy_from_slice(&BIOS.to_le_bytes());
    // Two NOPs in place of the jump: use the drive number that the BIOS passes.
    boot[0x66..0x68].copy_from_slice(&[0x90, 0x90]);
    disk.write_all_at(&core, BIOS * SECTOR)?;
    disk.write_all_at(&boot[..440], 0)?;
    Ok(())
}

/// A GRUB core image with all modules, made by the tree's grub-mkimage, which cannot write to a pipe.
fn grub(root: &Path, format: &str, more: &[&str]) -> Result<Vec<u8>> {
    const OUT: &str = "/tmp/hanode-grub";
    // Enterprise Linux names it grub2-mkimage.
    let name =
        ["grub-mkimage", "grub2-mkimage"].into_iter().find(|name| root.join("usr/bin").join(name).exists());
    let mut mkimage = in_chroot(root, name.context("no grub-mkimage in the tree's /usr/bin")?);
    mkimage.args(["-O", format, "-p", GRUB_PREFIX, "-o", OUT]).args(GRUB_MODULES).args(more);
    run(&mut mkimage)?;
    let at = hanode_util::file_tree::below(root, OUT);
    let image = std::fs::read(&at)?;
    std::fs::remove_file(at)?;
    Ok(image)
}

/// Copies a file to an offset of another one; blocks of zeros stay holes.
fn copy_sparsely(from: &File, to: &File, offset: u64) -> Result<()> {
    let mut block = vec![0; 64 << 10];
    let mut at = 0;
    loop {
        let read = from.read_at(&mut block, at)?;
        if read == 0 {
            return Ok(());
        }
        if block[..read].iter().any(|b| *b != 0) {
            to.write_all_at(&block[..read], offset + at)?;
        }
        at += read as u64;
    }
}

/// A UUID derived from the id of the base and its use.
fn uuid(id: &str, usage: &str) -> String {
    let mut bytes = Sha256::digest(format!("{id} {usage}"))[..16].to_vec();
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_differ_by_base_and_use_and_repeat() {
        assert_eq!(uuid("a", "root"), uuid("a", "root"));
        assert_ne!(uuid("a", "root"), uuid("a", "disk"));
        assert_ne!(uuid("a", "root"), uuid("b", "root"));
        assert_eq!(uuid("a", "root").len(), 36);
    }
}
