//! Removes the machine-specific files of a tree before it is copied: identity, keys, access, logs, and the state of
//! cloud-init. Both a machine that has run and a newly installed base have such files.

use anyhow::{Context, Result};
use hanode_util::command::{in_chroot, run};
use hanode_util::file_tree;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files to remove and directories to empty. A path component may have one `*`. The sudo rules that cloud-init wrote
/// stay: they do not allow a login, and Packer needs them to shut the machine down.
const MACHINE_SPECIFIC: &[&str] = &[
    "etc/hostname",
    "etc/ssh/ssh_host_*",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "etc/.pwd.lock",
    "etc/ssl/private/ssl-cert-snakeoil.key",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "root/.ssh",
    "root/.bash_history",
    "root/.cache",
    "home/*/.ssh",
    "home/*/.bash_history",
    "home/*/.cache",
    // The network configuration that cloud-init wrote, for all its renderers.
    "etc/netplan/50-cloud-init.yaml",
    "etc/systemd/network/10-cloud-init-*",
    "etc/network/interfaces.d/50-cloud-init*",
    "etc/NetworkManager/system-connections/cloud-init-*",
    "etc/sysconfig/network-scripts/ifcfg-e*",
    "etc/udev/rules.d/70-persistent-net.rules",
    "etc/ssh/sshd_config.d/50-cloud-init.conf",
    "etc/systemd/system/cloud-init*.service.d/50-hanode.conf",
    // A bundle or spec here would replace the baked one.
    "etc/hanode",
    "var/lib/cloud",
    "var/lib/hanode",
    "var/lib/dhcp",
    "var/lib/NetworkManager",
    "var/lib/chrony",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/systemd/timers",
    "var/lib/systemd/timesync",
    "var/cache/apt",
    "var/cache/dnf",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists",
    "var/lib/dpkg/status-old",
];

/// Programs that a package lets any user send forged packets with, by a file capability. hanode runs them as root.
const WITHOUT_CAPABILITIES: &[&str] = &["usr/bin/arping", "usr/sbin/arping"];

/// Removes the machine-specific files and locks the passwords. Log directories stay, because their servers need them.
pub(crate) fn generalize(root: &Path) -> Result<()> {
    for pattern in MACHINE_SPECIFIC {
        for path in matching(root, pattern) {
            remove(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    remove_dangling_links(&root.join("etc/ssl/certs"))?;
    lock_passwords(&root.join("etc/shadow")).context("locking the passwords in etc/shadow")?;
    for program in WITHOUT_CAPABILITIES {
        remove_capabilities(root, program)
            .with_context(|| format!("removing the capabilities of {program}"))?;
    }
    // One directory for each machine-id.
    for journal in children(&root.join("var/log/journal")) {
        fs::remove_dir_all(&journal).with_context(|| format!("removing {}", journal.display()))?;
    }
    for log in walkdir::WalkDir::new(root.join("var/log")) {
        let log = log?;
        if log.file_type().is_file() {
            fs::remove_file(log.path()).with_context(|| format!("removing {}", log.path().display()))?;
        }
    }
    // Empty, not missing: then the first boot creates an id without applying the presets again.
    file_tree::replace(&root.join("etc/machine-id"), b"", 0o444, None)
}

fn remove_capabilities(root: &Path, program: &str) -> Result<()> {
    let path = format!("/{program}");
    if !root.join(program).is_file() || root.join(program).is_symlink() {
        return Ok(());
    }
    if !run(in_chroot(root, "getcap").arg(&path))?.text()?.is_empty() {
        run(in_chroot(root, "setcap").args(["-r", &path]))?;
    }
    Ok(())
}

/// Removes the content of a directory.
pub(crate) fn empty_dir(dir: &Path) -> Result<()> {
    for path in children(dir) {
        let removed = if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

fn remove(at: &Path) -> Result<()> {
    if at.is_dir() && !at.is_symlink() {
        empty_dir(at)?;
    } else if at.is_symlink() || at.exists() {
        fs::remove_file(at)?;
    }
    Ok(())
}

fn children(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn matching(root: &Path, pattern: &str) -> Vec<PathBuf> {
    pattern.split('/').fold(vec![root.to_path_buf()], |found, part| match part.split_once('*') {
        None => found.iter().map(|at| at.join(part)).collect(),
        Some((prefix, suffix)) => {
            let matches = |path: &PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.strip_prefix(prefix).is_some_and(|rest| rest.ends_with(suffix))
            };
            found.iter().flat_map(|at| children(at)).filter(matches).collect()
        }
    })
}

/// The certificate directory has links by hash to removed certificates.
fn remove_dangling_links(dir: &Path) -> Result<()> {
    for path in children(dir) {
        if path.is_symlink() && !path.exists() && path.read_link()?.is_relative() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Locks all passwords. Those that are locked already keep the spelling of the distribution: `*`, `!`, `!!`.
fn lock_passwords(shadow: &Path) -> Result<()> {
    if !shadow.exists() {
        return Ok(());
    }
    let text = fs::read_to_string(shadow)?;
    let locked = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        match fields.get_mut(1) {
            Some(password) if password.is_empty() || !password.chars().all(|c| "*!".contains(c)) => {
                *password = "!"
            }
            _ => {}
        }
        fields.join(":") + "\n"
    };
    let new: String = text.lines().map(locked).collect();
    if new != text {
        let metadata = shadow.metadata()?;
        file_tree::replace(
            shadow,
            new.as_bytes(),
            metadata.mode() & 0o7777,
            Some((metadata.uid(), metadata.gid())),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_specific_files_are_removed_and_others_kept() {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let at = root.path().join(name);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, "x").unwrap();
        };
        let removed = [
            "etc/ssh/ssh_host_ed25519_key",
            "root/.ssh/authorized_keys",
            "home/admin/.ssh/authorized_keys",
            "home/admin/.bash_history",
            "etc/ssl/private/ssl-cert-snakeoil.key",
            "var/cache/debconf/config.dat-old",
            "var/lib/cloud/instances/i-1/user-data.txt",
            "var/lib/hanode/install-id",
            "var/log/journal/0123/system.journal",
            "var/log/postgresql/old.log",
            "etc/systemd/network/10-cloud-init-eth0.network",
        ];
        let kept = [
            "etc/ssh/sshd_config",
            "home/admin/.profile",
            "etc/systemd/network/20-mine.network",
            "var/cache/debconf/config.dat",
        ];
        removed.iter().chain(&kept).for_each(|name| put(name));
        generalize(root.path()).unwrap();
        for name in removed {
            assert!(!root.path().join(name).exists(), "{name}");
        }
        for name in kept {
            assert!(root.path().join(name).exists(), "{name}");
        }
        assert!(root.path().join("var/log/postgresql").is_dir());
        assert_eq!(fs::read(root.path().join("etc/machine-id")).unwrap(), b"");
        generalize(root.path()).unwrap();
    }

    #[test]
    fn all_passwords_are_locked() {
        let root = tempfile::tempdir().unwrap();
        let shadow = root.path().join("shadow");
        fs::write(
            &shadow,
            "root:$6$x$y:1:0:99:7:::\nbin:*:1::::::\nnone::1::::::\nnever:!!:1::::::\nold:!$6$x:1::::::\n",
        )
        .unwrap();
        lock_passwords(&shadow).unwrap();
        let locked = "root:!:1:0:99:7:::\nbin:*:1::::::\nnone:!:1::::::\nnever:!!:1::::::\nold:!:1::::::\n";
        assert_eq!(fs::read_to_string(&shadow).unwrap(), locked);
        lock_passwords(&root.path().join("none")).unwrap();
    }
}
