//! What a machine that ran has of its own, and no copy of it may have: identity, keys, ways in, logs, and
//! what cloud-init did for it.

use crate::tree;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Files that go, and directories whose content goes. The last component may end in `*`.
const OWN: &[&str] = &[
    "etc/hostname",
    "etc/ssh/ssh_host_*",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "etc/.pwd.lock",
    "root/.ssh",
    "root/.bash_history",
    "root/.cache",
    // The network as cloud-init wrote it for this machine, for whichever renderer.
    "etc/netplan/50-cloud-init.yaml",
    "etc/systemd/network/10-cloud-init-*",
    "etc/network/interfaces.d/50-cloud-init*",
    "etc/NetworkManager/system-connections/cloud-init-*",
    "etc/sysconfig/network-scripts/ifcfg-e*",
    "etc/udev/rules.d/70-persistent-net.rules",
    "etc/ssh/sshd_config.d/50-cloud-init.conf",
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
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists",
    "var/lib/dpkg/status-old",
];

/// Removes it. Directories of logs stay, as their servers want them.
pub fn forget(root: &Path) -> Result<()> {
    for pattern in OWN {
        for path in matching(root, pattern) {
            remove(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    for home in children(&root.join("home")) {
        remove(&home.join(".ssh")).with_context(|| format!("removing the keys in {}", home.display()))?;
    }
    // The journal has a directory for each machine-id.
    for journal in children(&root.join("var/log/journal")) {
        fs::remove_dir_all(&journal).with_context(|| format!("removing {}", journal.display()))?;
    }
    for log in walkdir::WalkDir::new(root.join("var/log")) {
        let log = log?;
        if log.file_type().is_file() {
            fs::remove_file(log.path()).with_context(|| format!("removing {}", log.path().display()))?;
        }
    }
    // Empty, not missing: the first boot gives the machine an id and does not apply presets afresh.
    tree::replace(&root.join("etc/machine-id"), b"", 0o444, None)
}

fn children(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn matching(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let path = root.join(pattern);
    let Some((dir, prefix)) = pattern.strip_suffix('*').and_then(|p| p.rsplit_once('/')) else {
        return vec![path];
    };
    let begins = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix));
    children(&root.join(dir)).into_iter().filter(begins).collect()
}

/// A directory stays, without its content; everything else goes.
fn remove(at: &Path) -> Result<()> {
    if at.is_dir() && !at.is_symlink() {
        for path in children(at) {
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
    } else if at.is_symlink() || at.exists() {
        fs::remove_file(at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_machines_own_goes_and_the_rest_stays() {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let at = root.path().join(name);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, "x").unwrap();
        };
        let own = [
            "etc/ssh/ssh_host_ed25519_key",
            "root/.ssh/authorized_keys",
            "home/admin/.ssh/authorized_keys",
            "var/lib/cloud/instances/i-1/user-data.txt",
            "var/lib/hanode/install-id",
            "var/log/journal/0123/system.journal",
            "var/log/postgresql/old.log",
            "etc/systemd/network/10-cloud-init-eth0.network",
        ];
        let kept = ["etc/ssh/sshd_config", "home/admin/.profile", "etc/systemd/network/20-mine.network"];
        own.iter().chain(&kept).for_each(|name| put(name));
        forget(root.path()).unwrap();
        for name in own {
            assert!(!root.path().join(name).exists(), "{name}");
        }
        for name in kept {
            assert!(root.path().join(name).exists(), "{name}");
        }
        assert!(root.path().join("var/log/postgresql").is_dir());
        assert_eq!(fs::read(root.path().join("etc/machine-id")).unwrap(), b"");
        forget(root.path()).unwrap();
    }
}
