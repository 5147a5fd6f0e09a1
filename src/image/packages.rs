//! Installs the target's packages in a tree that hanode did not build: a cloud image of the distribution, in a machine.

use anyhow::{Context, Result, bail};
use hanode_admin::embedded;
use hanode_core::target::{Family, Target};
use hanode_util::command::{in_chroot, run};
use hanode_util::file_tree::{self, Entry, Ids};
use hanode_util::user_error::UserError;
use std::path::Path;

/// While this file exists and exits with 101, Debian's packages do not start services.
const POLICY_RC_D: &str = "/usr/sbin/policy-rc.d";

/// Installs those of the target's packages that are missing. Debian family only.
pub(crate) fn install_missing(root: &Path, target: &Target) -> Result<()> {
    // For other families the inventory reports a missing component.
    if target.family != Family::Debian {
        return Ok(());
    }
    let parts: Vec<Entry> =
        target.base.parts.iter().flat_map(|part| embedded::entries(&format!("parts/{part}"), "")).collect();
    let ids = Ids::read(root)?;
    file_tree::write(root, &parts, Some(&ids))?;
    let output =
        run(in_chroot(root, "dpkg-query").args(["-W", "-f", "${db:Status-Abbrev}${Package}=${Version}\n"]))?;
    let installed: Vec<_> = output.text()?.lines().filter_map(|line| line.strip_prefix("ii ")).collect();
    let wanted: Vec<_> = target.base.packages.iter().map(|p| target.versioned(p)).collect();
    let missing: Vec<_> = wanted
        .iter()
        .map(String::as_str)
        .filter(|wanted| !installed.iter().any(|package| is_wanted(package, wanted)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut early_files = embedded::entries("etc/systemd/system-preset", "/etc/systemd/system-preset");
    early_files
        .extend(target.base.before.iter().map(|(path, text)| Entry::file(path, 0o644, text.as_bytes())));
    early_files.push(Entry::file(POLICY_RC_D, 0o755, "#!/bin/sh\nexit 101\n"));
    if file_tree::below(root, POLICY_RC_D).exists() {
        bail!(UserError::with_help(
            format!("{POLICY_RC_D} exists: packages are being installed, or an installation was interrupted"),
            format!("when no installation is running, remove {POLICY_RC_D}")
        ));
    }
    file_tree::write(root, &early_files, Some(&ids))?;
    let installed_all = install(root, &missing);
    let removed = std::fs::remove_file(file_tree::below(root, POLICY_RC_D))
        .with_context(|| format!("removing {POLICY_RC_D}"));
    installed_all.with_context(|| format!("installing {}", missing.join(" "))).and(removed)
}

fn install(root: &Path, packages: &[&str]) -> Result<()> {
    let apt = || {
        let mut apt = in_chroot(root, "apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    run(apt().args(["-q", "update"]))?;
    run(apt()
        .args(["-qy", "-o", "Dpkg::Options::=--force-confold", "--no-install-recommends", "install"])
        .args(packages))?;
    Ok(())
}

/// `installed`: `name=version`. `wanted`: a name, or `name=version`, which may end in `*`.
fn is_wanted(installed: &str, wanted: &str) -> bool {
    match (wanted.contains('='), wanted.strip_suffix('*')) {
        (false, _) => installed.split_once('=').is_some_and(|(name, _)| name == wanted),
        (true, Some(prefix)) => installed.starts_with(prefix),
        (true, None) => installed == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::is_wanted;

    #[test]
    fn a_package_in_another_version_is_missing() {
        let installed = "postgresql-12=12.22-1.pgdg20.04+1";
        for wanted in ["postgresql-12", "postgresql-12=12.22-*", "postgresql-12=12.22-1.pgdg20.04+1"] {
            assert!(is_wanted(installed, wanted), "{wanted}");
        }
        for wanted in ["postgresql", "postgresql-12=12.7-*", "postgresql-12=12.2"] {
            assert!(!is_wanted(installed, wanted), "{wanted}");
        }
    }
}
