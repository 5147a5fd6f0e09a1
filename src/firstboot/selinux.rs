//! SELinux labels of written files, if the kernel enforces a policy.

use anyhow::{Result, ensure};
use hanode_core::spec::Spec;
use hanode_core::target::Selinux;
use hanode_util::command::run_to_end;
use hanode_util::file_tree::below;
use hanode_util::user_error::UserError;
use std::path::Path;
use std::process::Command;

/// Checks that the image's policy allows Redis to use the ports of the spec: a spec in /etc/hanode may name others than the one
/// in the image. `policy`: the target's, if it has one.
pub(crate) fn check_ports(root: &Path, policy: Option<&Selinux>, spec: &Spec) -> Result<()> {
    if policy.is_none() || !enforced(root) {
        return Ok(());
    }
    let settings = std::fs::read_to_string(below(root, Selinux::SETTINGS)).unwrap_or_default();
    for port in [spec.redis.port, spec.redis.sentinel_port] {
        let labelled = format!("port -a -t redis_port_t -p tcp {port}");
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

fn enforced(root: &Path) -> bool {
    below(root, "/sys/fs/selinux/enforce").exists()
}

/// Restores the labels from the image's policy, which has every rendered path.
pub(crate) fn restore(root: &Path, paths: &[String]) -> Result<()> {
    if paths.is_empty() || !enforced(root) {
        return Ok(());
    }
    run_to_end(Command::new("restorecon").arg("-F").args(paths)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::spec;
    use hanode_util::file_tree::replace;

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
        let settings = "port -a -t redis_port_t -p tcp 6378\nport -a -t redis_port_t -p tcp 26378\n";
        write(Selinux::SETTINGS, settings);
        assert!(check_ports(dir.path(), Some(&policy), &spec).is_ok());
        spec.redis.port = 637;
        assert!(check_ports(dir.path(), None, &spec).is_ok(), "not hanode's policy");
        let error = check_ports(dir.path(), Some(&policy), &spec).unwrap_err().to_string();
        assert!(error.ends_with("no label for port 637"), "{error}");
    }
}
