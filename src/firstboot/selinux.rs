//! SELinux labels of what was just written, where the kernel enforces a policy.

use anyhow::{Result, ensure};
use hanode_core::spec::Spec;
use hanode_core::target::Selinux;
use hanode_util::command::run_to_end;
use hanode_util::file_tree::below;
use std::path::Path;
use std::process::Command;

/// Ports are in the image's policy. A spec that was laid over its own may name others, which Redis may not use then.
/// `baked`: the target's policy, where it has one.
pub(crate) fn ports(root: &Path, baked: Option<&Selinux>, spec: &Spec) -> Result<()> {
    if baked.is_none() || !enforced(root) {
        return Ok(());
    }
    let settings = std::fs::read_to_string(below(root, Selinux::SETTINGS)).unwrap_or_default();
    for port in [spec.redis.port, spec.redis.sentinel_port] {
        let labelled = format!("port -a -t redis_port_t -p tcp {port}");
        ensure!(
            settings.lines().any(|line| line == labelled),
            "this image's SELinux policy has no label for port {port}: build an image with this cluster.toml, \
             or run `semanage {labelled} && echo '{labelled}' >> {}`",
            Selinux::SETTINGS
        );
    }
    Ok(())
}

fn enforced(root: &Path) -> bool {
    below(root, "/sys/fs/selinux/enforce").exists()
}

/// The policy in the image knows every path that is rendered, so its own tool decides.
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
    fn a_port_that_the_policy_does_not_know_is_told_before_redis_fails() {
        let (dir, baked) = (tempfile::tempdir().unwrap(), Selinux::default());
        let mut spec = spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(ports(dir.path(), Some(&baked), &spec).is_ok(), "no SELinux, no complaint");
        let lay = |path: &str, text: &str| {
            let at = below(dir.path(), path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            replace(&at, text.as_bytes(), 0o644, None).unwrap();
        };
        lay("/sys/fs/selinux/enforce", "1");
        let settings = "port -a -t redis_port_t -p tcp 6378\nport -a -t redis_port_t -p tcp 26378\n";
        lay(Selinux::SETTINGS, settings);
        assert!(ports(dir.path(), Some(&baked), &spec).is_ok());
        spec.redis.port = 637;
        assert!(ports(dir.path(), None, &spec).is_ok(), "another policy than hanode's");
        let told = ports(dir.path(), Some(&baked), &spec).unwrap_err().to_string();
        assert!(told.contains("no label for port 637:"), "{told}");
    }
}
