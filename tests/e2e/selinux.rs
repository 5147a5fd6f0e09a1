//! SELinux modules, ports and labels of centos-8, in a policy store, checked with SELinux' tools. The policy is Debian's
//! under the name of CentOS' policy, with a few added types. Needs root.

use crate::support;
use hanode_core::spec;
use hanode_core::target::Selinux;
use hanode_image::selinux::{contexts, install_policy, label, set_ports};
use hanode_util::file_tree::{self, Entry};
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

/// An access: the type of the process, of the object (or `self`), the class and the permission.
type Access = [&'static str; 4];

/// Which of these accesses the policy allows. Reads the policy once, unlike `sesearch`.
fn allowed(root: &Path, accesses: &[[&str; 4]]) -> Vec<bool> {
    const SEARCH: &str = r"
import glob, setools, sys
policy = setools.SELinuxPolicy(glob.glob('/etc/selinux/targeted/policy/policy.*')[0])
for access in sys.argv[1:]:
    source, target, tclass, permission = access.split()
    query = setools.TERuleQuery(policy, ruletype=['allow'], source=source, tclass=[tclass], perms=[permission],
                                target=source if target == 'self' else target)
    # A rule under a boolean counts only if the boolean is on.
    def active(rule):
        try:
            return rule.enabled(**{str(b): b.state for b in rule.conditional.booleans})
        except setools.exception.RuleNotConditional:
            return True
    print(any(active(rule) for rule in query.results()))
";
    let words: Vec<String> = accesses.iter().map(|access| access.join(" ")).collect();
    let arguments: Vec<&str> =
        ["python3", "-c", SEARCH].into_iter().chain(words.iter().map(String::as_str)).collect();
    let answers: Vec<bool> = inside(root, &arguments).lines().map(|line| line == "True").collect();
    assert_eq!(answers.len(), accesses.len());
    answers
}

/// What the servers need of hanode's rules, apart from hanode's own domain.
const OF_SERVERS: &[Access] = &[
    // rsyslog's socket in HAProxy's chroot
    ["syslogd_t", "haproxy_var_lib_t", "sock_file", "create"],
    ["redis_t", "cert_t", "file", "map"],
    // the source address of Keepalived's advertisements
    ["keepalived_t", "node_t", "rawip_socket", "node_bind"],
    // the socket of hanode-metrics.socket
    ["init_t", "haproxy_var_lib_t", "sock_file", "create"],
    ["init_t", "haproxy_var_lib_t", "dir", "add_name"],
];

/// What hanode's units need, by what the program and its children do.
const OF_HANODE: &[Access] = &[
    // systemd starts it, also from units with NoNewPrivileges=, and with file systems mounted for the sandbox
    ["init_t", "hanode_t", "process", "transition"],
    ["init_t", "hanode_t", "process2", "nnp_transition"],
    ["init_t", "hanode_t", "process2", "nosuid_transition"],
    ["hanode_t", "hanode_exec_t", "file", "entrypoint"],
    // Patroni's wrapper
    ["unconfined_service_t", "hanode_script_exec_t", "file", "entrypoint"],
    ["init_t", "hanode_var_run_t", "dir", "create"],
    // the join port and the metrics socket
    ["hanode_t", "hanode_port_t", "tcp_socket", "name_bind"],
    ["init_t", "hanode_t", "tcp_socket", "listen"],
    ["hanode_t", "self", "tcp_socket", "accept"],
    ["init_t", "hanode_t", "unix_stream_socket", "listen"],
    ["haproxy_t", "hanode_t", "unix_stream_socket", "connectto"],
    // its state, the files of the node and their labels
    ["hanode_t", "hanode_var_lib_t", "file", "rename"],
    ["hanode_t", "hanode_var_run_t", "file", "create"],
    ["hanode_t", "hanode_lib_t", "file", "read"],
    ["hanode_t", "hanode_etc_t", "file", "read"],
    ["hanode_t", "etc_t", "file", "create"],
    ["hanode_t", "cert_t", "file", "relabelto"],
    ["hanode_t", "net_conf_t", "file", "relabelto"],
    ["hanode_t", "redis_var_lib_t", "file", "relabelto"],
    ["hanode_t", "postgresql_db_t", "dir", "rename"],
    ["hanode_t", "hanode_script_exec_t", "file", "relabelto"],
    ["hanode_t", "setfiles_exec_t", "file", "execute_no_trans"],
    // systemd, the journal, peers and servers
    ["hanode_t", "system_dbusd_t", "unix_stream_socket", "connectto"],
    ["hanode_t", "init_t", "dbus", "send_msg"],
    ["init_t", "hanode_t", "dbus", "send_msg"],
    ["hanode_t", "systemd_unit_file_t", "service", "start"],
    ["hanode_t", "syslogd_t", "unix_dgram_socket", "sendto"],
    ["hanode_t", "hanode_port_t", "tcp_socket", "name_connect"],
    ["hanode_t", "redis_port_t", "tcp_socket", "name_connect"],
    ["hanode_t", "haproxy_t", "unix_stream_socket", "connectto"],
    ["hanode_t", "unconfined_service_t", "process", "sigkill"],
    // programs in domains of their own
    ["hanode_t", "mount_t", "process", "transition"],
    ["hanode_t", "fsadm_t", "process2", "nnp_transition"],
    ["hanode_t", "ifconfig_t", "process2", "nnp_transition"],
    ["hanode_t", "netutils_t", "process2", "nnp_transition"],
    ["hanode_t", "haproxy_t", "process2", "nnp_transition"],
    ["haproxy_t", "hanode_var_run_t", "file", "read"],
    ["hanode_t", "keepalived_t", "process2", "nnp_transition"],
    ["keepalived_t", "hanode_var_run_t", "file", "read"],
    // Keepalived's probe
    ["keepalived_t", "hanode_exec_t", "file", "execute_no_trans"],
];

/// What hanode's domain, and servers that were taken over, must not do.
const FORBIDDEN: &[Access] = &[
    ["hanode_t", "shadow_t", "file", "read"],
    ["hanode_t", "bin_t", "file", "write"],
    ["hanode_t", "usr_t", "file", "write"],
    ["hanode_t", "hanode_exec_t", "file", "write"],
    ["hanode_t", "security_t", "security", "load_policy"],
    ["hanode_t", "security_t", "security", "setenforce"],
    ["hanode_t", "selinux_config_t", "file", "write"],
    ["hanode_t", "fixed_disk_device_t", "blk_file", "read"],
    ["hanode_t", "self", "capability", "sys_module"],
    ["hanode_t", "self", "capability", "sys_ptrace"],
    ["hanode_t", "self", "process", "execmem"],
    ["hanode_t", "self", "process", "ptrace"],
    ["hanode_t", "sshd_t", "process", "sigkill"],
    ["redis_t", "hanode_lib_t", "file", "read"],
    ["redis_t", "hanode_var_lib_t", "file", "read"],
    ["haproxy_t", "hanode_lib_t", "file", "read"],
    ["haproxy_t", "hanode_var_run_t", "file", "write"],
    ["keepalived_t", "hanode_exec_t", "file", "write"],
];

/// Asserts that the policy allows all of these, or none.
#[track_caller]
fn assert_allowed(root: &Path, accesses: &[Access], wanted: bool) {
    let answers = allowed(root, accesses);
    let wrong: Vec<_> = accesses.iter().zip(answers).filter(|(_, answer)| *answer != wanted).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn context(root: &Path, path: &str) -> String {
    let mut read = Command::new("python3");
    read.args([
        "-c",
        "import os, sys; print(os.getxattr(sys.argv[1], 'security.selinux', follow_symlinks=False).decode().strip(chr(0)))",
    ]);
    let output = read.arg(file_tree::below(root, path)).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

#[test]
fn the_policy_is_set_up_and_every_file_labelled_without_a_boot() {
    let dir = support::workdir();
    let root = dir.path().join("root");
    assert!(Command::new("cp").arg("-a").arg(tree()).arg(&root).status().unwrap().success());
    std::fs::write(root.join("names.cil"), include_str!("../selinux/names.cil")).unwrap();
    // Without Debian's module `unconfined`, systemd is confined as by the policy of CentOS.
    inside(&root, &["semodule", "-n", "-s", "targeted", "-i", "/names.cil", "-d", "unconfined"]);
    let mut policy = policy();
    assert_allowed(&root, OF_SERVERS, false);
    assert!(own_ports(&root, "redis_port_t").is_empty());

    install_policy(&policy, &root).unwrap();
    assert_eq!(own_ports(&root, "redis_port_t"), ["6378,26378"]);
    assert_eq!(own_ports(&root, "hanode_port_t"), ["7081"]);
    assert_eq!(own_ports(&root, "postgresql_port_t"), ["5433"]);
    let settings = inside(&root, &["semanage", "export", "-S", "targeted"]);
    for on in ["haproxy_connect_any", "keepalived_connect_any"] {
        assert!(settings.contains(&format!("boolean -m -1 {on}")), "{settings}");
    }
    assert_allowed(&root, OF_SERVERS, true);
    assert_allowed(&root, OF_HANODE, true);
    assert_allowed(&root, FORBIDDEN, false);
    let transition =
        inside(&root, &["sesearch", "-T", "-s", "init_t", "-t", "hanode_exec_t", "-c", "process"]);
    assert!(transition.contains("process hanode_t;"), "{transition}");

    // Again, as in a second bake, and with a port from the spec.
    let mut spec = spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
    spec.redis.port = 16378;
    install_policy(&policy, &root).unwrap();
    set_ports(&mut policy, &spec).unwrap();
    install_policy(&policy, &root).unwrap();
    assert!(own_ports(&root, "redis_port_t").concat().contains("16378"));

    let files = [
        ("/usr/lib/hanode/hanode-firstboot", "hanode_exec_t"),
        ("/usr/lib/hanode/patroni", "hanode_script_exec_t"),
        ("/usr/lib/hanode/pg_rewind", "hanode_script_exec_t"),
        ("/usr/lib/hanode/target.toml", "hanode_lib_t"),
        ("/etc/ssl/redis/server.key", "cert_t"),
        ("/etc/ssl/hanode/node.crt", "cert_t"),
        ("/etc/hosts", "net_conf_t"),
        ("/etc/firewalld/policies/hanode.xml", "firewalld_etc_rw_t"),
        ("/var/lib/redis/hanode/redis.conf", "redis_var_lib_t"),
    ];
    // The mount point, as the image has it.
    let part = Path::new(env!("CARGO_MANIFEST_DIR")).join("image/parts/haproxy-log");
    assert!(Command::new("cp").arg("-r").arg(part.join("var")).arg(&root).status().unwrap().success());
    for (path, _) in files {
        let at = file_tree::below(&root, path);
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
    systemd_may_mount_haproxys_log_socket(&root);
    the_policy_reports_the_labels_that_setfiles_writes(&policy, &root);
}

/// The mount point has a type on which systemd may mount, unlike HAProxy's other files.
fn systemd_may_mount_haproxys_log_socket(root: &Path) {
    let may = |domain: &str, kind: &str, class: &str, permission: &str| {
        allowed(root, &[[domain, kind, class, permission]])[0]
    };
    assert!(!may("init_t", "haproxy_var_lib_t", "file", "mounton"));
    let socket = log_socket();
    let kind = |path: &str| context(root, path).split(':').nth(2).unwrap().to_string();
    assert!(may("init_t", &kind(&socket), "file", "mounton"), "{socket} is {}", kind(&socket));
    let dir = Path::new(&socket).parent().unwrap().to_str().unwrap();
    for domain in ["init_t", "haproxy_t"] {
        assert!(may(domain, &kind(dir), "dir", "search"), "{domain}: {dir}");
    }
}

/// The path of HAProxy's log socket, from the drop-in of its unit.
fn log_socket() -> String {
    let text = include_str!("../../image/parts/haproxy-log/etc/systemd/system/haproxy.service.d/40-log.conf");
    let bind = text.lines().find_map(|line| line.strip_prefix("BindPaths=")).unwrap();
    bind.split_once(':').unwrap().1.to_string()
}

fn the_policy_reports_the_labels_that_setfiles_writes(policy: &Selinux, root: &Path) {
    let entries = [
        Entry::file("/etc/udev/rules.d/60-hanode.rules", 0o644, ""),
        Entry::dir("/etc/systemd/system/haproxy.service.d", 0o755),
        Entry::file("/etc/systemd/system/haproxy.service.d/50-hanode.conf", 0o644, ""),
        Entry::link("/usr/bin/hanode", "../lib/hanode/hanode-firstboot"),
        Entry::file("/usr/lib/hanode/hanode-firstboot", 0o755, ""),
        Entry::file("/etc/ssl/hanode/ca.crt", 0o644, ""),
        // The policy has no label for it.
        Entry::file("/proc/none", 0o644, ""),
    ];
    let reported = contexts(policy, root, &entries).unwrap();
    assert_eq!(reported.get("/proc/none"), None);
    let ids = file_tree::Ids::read(root).unwrap();
    let (_, written) = entries.split_last().unwrap();
    file_tree::write(root, written, Some(&ids)).unwrap();
    label(policy, root, &written.iter().map(|entry| entry.path.clone()).collect::<Vec<_>>()).unwrap();
    for entry in written {
        assert_eq!(reported[&entry.path], context(root, &entry.path), "{}", entry.path);
    }
}
