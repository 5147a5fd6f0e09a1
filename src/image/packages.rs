//! A target's packages in a tree that somebody else made: the distribution's own cloud image, in a machine.

use anyhow::{Context, Result, bail};
use hanode_admin::embedded;
use hanode_core::target::Target;
use hanode_util::command::{in_chroot, run};
use hanode_util::file_tree::{self, Entry, Ids};
use std::path::Path;

/// Debian's word for it: no service starts while packages are configured.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing of the target's packages; nothing if all are there.
pub(crate) fn ensure(root: &Path, target: &Target) -> Result<()> {
    // Of other families the survey names what is missing.
    if target.family != "debian" {
        return Ok(());
    }
    // What a base has that comes in no package.
    let parts: Vec<Entry> =
        target.base.parts.iter().flat_map(|part| embedded::entries(&format!("parts/{part}"), "")).collect();
    let ids = Ids::read(root)?;
    file_tree::write(root, &parts, Some(&ids))?;
    let said =
        run(in_chroot(root, "dpkg-query").args(["-W", "-f", "${db:Status-Abbrev}${Package}=${Version}\n"]))?;
    let installed: Vec<_> = said.text()?.lines().filter_map(|line| line.strip_prefix("ii ")).collect();
    let wanted: Vec<_> = target.base.packages.iter().map(|p| target.versioned(p)).collect();
    let missing: Vec<_> = wanted
        .iter()
        .map(String::as_str)
        .filter(|wanted| !installed.iter().any(|has| is_wanted(has, wanted)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut before = embedded::entries("etc/systemd/system-preset", "/etc/systemd/system-preset");
    before.extend(target.base.before.iter().map(|(path, text)| Entry::file(path, 0o644, text.as_bytes())));
    before.push(Entry::file(POLICY, 0o755, "#!/bin/sh\nexit 101\n"));
    if file_tree::below(root, POLICY).exists() {
        bail!("{POLICY} exists: packages are being installed, or were when the machine went down; remove it");
    }
    file_tree::write(root, &before, Some(&ids))?;
    let done = install(root, &missing);
    let removed =
        std::fs::remove_file(file_tree::below(root, POLICY)).with_context(|| format!("removing {POLICY}"));
    done.with_context(|| format!("installing {}", missing.join(" "))).and(removed)
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

/// `has`: `name=version`. `wanted`: a name, or `name=version`, which may end in `*`.
fn is_wanted(has: &str, wanted: &str) -> bool {
    match (wanted.contains('='), wanted.strip_suffix('*')) {
        (false, _) => has.split_once('=').is_some_and(|(name, _)| name == wanted),
        (true, Some(begin)) => has.starts_with(begin),
        (true, None) => has == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::is_wanted;

    #[test]
    fn another_version_than_the_one_asked_for_is_missing() {
        let has = "postgresql-12=12.22-1.pgdg20.04+1";
        for wanted in ["postgresql-12", "postgresql-12=12.22-*", "postgresql-12=12.22-1.pgdg20.04+1"] {
            assert!(is_wanted(has, wanted), "{wanted}");
        }
        for wanted in ["postgresql", "postgresql-12=12.7-*", "postgresql-12=12.2"] {
            assert!(!is_wanted(has, wanted), "{wanted}");
        }
    }
}
