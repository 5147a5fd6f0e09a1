//! SELinux modules, ports and labels of centos-8, in a policy store, checked with SELinux' tools. The policy is Debian's
//! under the name of CentOS' policy, with a few added types. Needs root.

use crate::support;
use hanode_core::spec;
use hanode_core::target::Selinux;
use hanode_image::selinux::{install_policy, label, set_ports};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tree with a policy store of the same name as on CentOS.
fn tree() -> PathBuf {
    support::tree_of("selinux", |out| {
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--mode=root", "--variant=apt"]).arg(
            "--include=selinux-policy-default,policycoreutils,policycoreutils-python-utils,semodule-utils,setools",
        );
        mmdebstrap.arg("trixie").arg(out).arg(support::mirror());
        assert!(mmdebstrap.status().unwrap().success());
        for part in ["etc/selinux", "usr/share/selinux", "var/lib/selinux"] {
            std::fs::rename(out.join(part).join("default"), out.join(part).join("targeted")).unwrap();
        }
        std::fs::write(out.join("etc/selinux/config"), "SELINUX=enforcing\nSELINUXTYPE=targeted\n").unwrap();
    })
}

fn inside(root: &Path, words: &[&str]) -> String {
    let mut command = Command::new("chroot");
    command.arg(root).args(words).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words:?}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

fn policy() -> Selinux {
    hanode_admin::embedded::target("centos-8").unwrap().1.selinux.unwrap()
}

/// The local port numbers of a type, without those of the policy.
fn own_ports(root: &Path, kind: &str) -> Vec<String> {
    let stdout = inside(root, &["semanage", "port", "-l", "-C", "-n", "-S", "targeted"]);
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some(kind)).then(|| words.skip(1).collect::<String>())
    };
    stdout.lines().filter_map(row).collect()
}

fn allowed(root: &Path, rule: &[&str]) -> bool {
    let dir = root.join("etc/selinux/targeted/policy");
    let name = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().file_name();
    let binary = format!("/etc/selinux/targeted/policy/{}", name.to_string_lossy());
    !inside(root, &[&["sesearch", "-A"], rule, &[&binary]].concat()).trim().is_empty()
}

fn context(root: &Path, path: &str) -> String {
    let mut read = Command::new("python3");
    read.args([
        "-c",
        "import os, sys; print(os.getxattr(sys.argv[1], 'security.selinux').decode().strip(chr(0)))",
    ]);
    let output = read.arg(hanode_util::file_tree::below(root, path)).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

#[test]
fn the_policy_is_set_up_and_every_file_labelled_without_a_boot() {
    let dir = support::workdir();
    let root = dir.path().join("root");
    assert!(Command::new("cp").arg("-a").arg(tree()).arg(&root).status().unwrap().success());
    std::fs::write(root.join("names.cil"), include_str!("../selinux/names.cil")).unwrap();
    inside(&root, &["semodule", "-n", "-s", "targeted", "-i", "/names.cil"]);
    let mut policy = policy();
    let rsyslog = ["-s", "syslogd_t", "-t", "haproxy_var_lib_t", "-c", "sock_file", "-p", "create"];
    let certificate = ["-s", "redis_t", "-t", "cert_t", "-c", "file", "-p", "map"];
    assert!(
        !allowed(&root, &rsyslog) && !allowed(&root, &certificate),
        "the policy allows it without the module"
    );
    assert!(own_ports(&root, "redis_port_t").is_empty());

    install_policy(&policy, &root).unwrap();
    assert_eq!(own_ports(&root, "redis_port_t"), ["6378,26378"]);
    assert_eq!(own_ports(&root, "postgresql_port_t"), ["5433"]);
    let settings = inside(&root, &["semanage", "export", "-S", "targeted"]);
    for on in ["haproxy_connect_any", "keepalived_connect_any"] {
        assert!(settings.contains(&format!("boolean -m -1 {on}")), "{settings}");
    }
    assert!(allowed(&root, &rsyslog) && allowed(&root, &certificate));

    // Again, as in a second bake, and with a port from the spec.
    let mut spec = spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
    spec.redis.port = 16378;
    install_policy(&policy, &root).unwrap();
    set_ports(&mut policy, &spec).unwrap();
    install_policy(&policy, &root).unwrap();
    assert!(own_ports(&root, "redis_port_t").concat().contains("16378"));

    let files = [
        ("/usr/lib/hanode/hanode-firstboot", "bin_t"),
        ("/usr/lib/hanode/pg_rewind", "bin_t"),
        ("/usr/lib/hanode/target.toml", "lib_t"),
        ("/etc/ssl/redis/server.key", "cert_t"),
        ("/etc/ssl/hanode/node.crt", "cert_t"),
        ("/etc/hosts", "net_conf_t"),
        ("/etc/firewalld/policies/hanode.xml", "firewalld_etc_rw_t"),
        ("/var/lib/redis/hanode/redis.conf", "redis_var_lib_t"),
    ];
    for (path, _) in files {
        let at = hanode_util::file_tree::below(&root, path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, "").unwrap();
    }
    label(&policy, &root, &["/".into()]).unwrap();
    // The labels of the policy equal those in hanode's manifest.
    for (path, kind) in files {
        let wanted = format!("system_u:object_r:{kind}:s0");
        assert_eq!(context(&root, path), wanted, "{path}");
        assert_eq!(policy.context(path).as_deref(), Some(&*wanted), "{path}");
    }
    assert_eq!(support::unlabelled(&root), "", "files without a label");
}
