//! SELinux on this node: labels of written files, ports, mode and policy.

use crate::selinux_denials;
use anyhow::{Result, ensure};
use hanode_core::selinux::{SelinuxMode, SelinuxState};
use hanode_core::spec::Spec;
use hanode_core::target::Selinux;
use hanode_util::command::capture;
use hanode_util::file_tree::below;
use hanode_util::user_error::UserError;
use std::path::Path;
use std::process::Command;

const ENFORCE: &str = "/sys/fs/selinux/enforce";

/// Checks that the image's policy allows Redis and the join port to use the ports of the spec: a spec in
/// /etc/hanode may name others than the one in the image. `policy`: the target's, if it has one.
pub(crate) fn check_ports(root: &Path, policy: Option<&Selinux>, spec: &Spec) -> Result<()> {
    if policy.is_none() || !is_active(root) {
        return Ok(());
    }
    let settings = std::fs::read_to_string(below(root, Selinux::SETTINGS)).unwrap_or_default();
    let redis = [spec.redis.port, spec.redis.sentinel_port].map(|port| ("redis_port_t", port));
    for (kind, port) in redis.into_iter().chain([("hanode_port_t", spec.network.join_port)]) {
        let labelled = format!("port -a -t {kind} -p tcp {port}");
        ensure!(
            settings.lines().any(|line| line == labelled),
            UserError::with_help(
                format!("this image's SELinux policy has no label for port {port}"),
                format!(
                    "build an image with this cluster.toml, or run `semanage {labelled} && echo '{labelled}' >> {}`",
                    Selinux::SETTINGS
                ),
            )
        );
    }
    Ok(())
}

/// Whether the kernel has a policy; it may be permissive.
pub(crate) fn is_active(root: &Path) -> bool {
    below(root, ENFORCE).exists()
}

/// Mode, policy and denials, for this node's report; `None` if neither kernel nor image has SELinux.
pub(crate) fn state(root: &Path) -> Option<SelinuxState> {
    let config = std::fs::read_to_string(below(root, "/etc/selinux/config"));
    let mode = match std::fs::read_to_string(below(root, ENFORCE)) {
        Ok(text) if text.trim() == "1" => SelinuxMode::Enforcing,
        Ok(_) => SelinuxMode::Permissive,
        // An image without a policy has no mode; containers share the kernel of a host that may have no SELinux.
        Err(_) if config.is_err() || below(root, "/run/systemd/container").exists() => return None,
        Err(_) => SelinuxMode::Disabled,
    };
    let configured = SelinuxState::configured(&config.unwrap_or_default());
    Some(SelinuxState { mode, denials: selinux_denials::last_read(root), ..configured })
}

/// Restores the labels from the image's policy, which has every rendered path.
pub(crate) fn restore(root: &Path, paths: &[String]) -> Result<()> {
    if paths.is_empty() || !is_active(root) {
        return Ok(());
    }
    let restored = capture(Command::new("restorecon").arg("-F").args(paths))?;
    ensure!(restored.status.success(), "restorecon: {}", restored.stderr.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::spec;
    use hanode_util::file_tree::replace;

    #[test]
    fn the_report_has_mode_and_policy() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let at = below(dir.path(), path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            replace(&at, text.as_bytes(), 0o644, None).unwrap();
        };
        let shown = || state(dir.path()).map(|state| state.to_string());
        assert_eq!(shown(), None);
        write("/etc/selinux/config", "# SELINUXTYPE=mls\nSELINUX=enforcing\nSELINUXTYPE=targeted \n");
        assert_eq!(shown().as_deref(), Some("disabled, policy targeted"));
        write(ENFORCE, "1");
        assert_eq!(shown().as_deref(), Some("enforcing, policy targeted"));
        write(ENFORCE, "0\n");
        assert_eq!(shown().as_deref(), Some("permissive, policy targeted"));
        std::fs::remove_file(below(dir.path(), ENFORCE)).unwrap();
        write("/run/systemd/container", "nspawn");
        assert_eq!(shown(), None, "a container");
    }

    #[test]
    fn a_port_without_a_label_is_an_error() {
        let (dir, policy) = (tempfile::tempdir().unwrap(), Selinux::default());
        let mut spec = spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(check_ports(dir.path(), Some(&policy), &spec).is_ok(), "no SELinux");
        let write = |path: &str, text: &str| {
            let at = below(dir.path(), path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            replace(&at, text.as_bytes(), 0o644, None).unwrap();
        };
        write("/sys/fs/selinux/enforce", "1");
        let settings = "port -a -t redis_port_t -p tcp 6378\nport -a -t redis_port_t -p tcp 26378\n\
            port -a -t hanode_port_t -p tcp 7081\n";
        write(Selinux::SETTINGS, settings);
        assert!(check_ports(dir.path(), Some(&policy), &spec).is_ok());
        spec.redis.port = 637;
        assert!(check_ports(dir.path(), None, &spec).is_ok(), "not hanode's policy");
        let error = check_ports(dir.path(), Some(&policy), &spec).unwrap_err().to_string();
        assert!(error.ends_with("no label for port 637"), "{error}");
    }
}
