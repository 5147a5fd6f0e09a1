//! HAProxy 1.8 logs to a socket in its chroot, where systemd may not create files under SELinux. The mount point in the
//! image lets its log reach the journal. Runs the unit of CentOS 8 in a container, with immutable directories in place of
//! SELinux. Needs root.

use crate::support;
use std::path::{Path, PathBuf};
use std::process::Command;

const PART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/image/parts/haproxy-log");
const UNIT: &str = include_str!("../fixture/el/files/haproxy/usr/lib/systemd/system/haproxy.service");

/// Logs as image/templates/haproxy.cfg does.
const CONFIG: &str = r"
global
    log /dev/log daemon info
    quiet
    chroot /var/lib/haproxy
    user haproxy
    group haproxy
defaults
    mode tcp
    log global
    option log-health-checks
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend postgres
    bind 127.0.0.1:5000
    option tcplog
    default_backend servers
backend servers
    default-server check inter 500ms
    server up 127.0.0.1:5001
    server gone 127.0.0.1:5002
";

/// Connects after HAProxy has checked its servers, writes the state and the journal of HAProxy to /report, and powers off.
const REPORT: &str = r"
nc -lk 127.0.0.1 5001 < /dev/null > /dev/null &
for _ in $(seq 60); do
    case $(systemctl show -p ActiveState haproxy) in *=active | *=failed) break ;; esac
    sleep 1
done
sleep 3
echo hello | nc -q1 -w2 127.0.0.1 5000
sleep 3
{ systemctl show -p ActiveState haproxy; journalctl --no-pager -o cat -u haproxy; } > /report 2>&1
systemctl poweroff
";

const REPORT_UNIT: &str = "[Service]\nExecStart=/bin/sh /report.sh\n";

/// Debian 11 with systemd and HAProxy.
fn tree() -> PathBuf {
    support::tree_of("haproxy-log", |out| {
        let script = ". tests/fixture/suite.sh; exec mmdebstrap --quiet --mode=root --variant=minbase \
            --include=systemd-sysv,dbus,haproxy,netcat-openbsd \"$SUITE\" \"$1\" \"deb [signed-by=$KEYRING] $MIRROR $SUITE main\"";
        run(Command::new("sh")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["-euc", script, "tree"])
            .arg(out));
    })
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Boots a container and returns the report.
fn report(root: &Path, with_mount_point: bool) -> String {
    run(Command::new("cp").arg("-a").arg(tree()).arg(root));
    for part in ["etc", "var"].iter().take(if with_mount_point { 2 } else { 1 }) {
        run(Command::new("cp").arg("-r").arg(Path::new(PART).join(part)).arg(root));
    }
    let units = root.join("etc/systemd/system");
    let wants = units.join("multi-user.target.wants");
    std::fs::create_dir_all(&wants).unwrap();
    let files = [
        (root.join("etc/haproxy/haproxy.cfg"), CONFIG),
        (root.join("report.sh"), REPORT),
        (root.join("etc/machine-id"), ""),
        (units.join("haproxy.service"), UNIT),
        (units.join("report.service"), REPORT_UNIT),
    ];
    for (at, text) in files {
        std::fs::write(at, text).unwrap();
    }
    for unit in ["haproxy.service", "report.service"] {
        let link = wants.join(unit);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(format!("/etc/systemd/system/{unit}"), link).unwrap();
    }
    let dirs = [root.join("var/lib/haproxy"), root.join("var/lib/haproxy/dev")];
    let dirs: Vec<_> = dirs.iter().filter(|dir| dir.is_dir()).collect();
    run(Command::new("chattr").arg("+i").args(&dirs));
    let mut nspawn = Command::new("timeout");
    nspawn.args([
        "180",
        "systemd-nspawn",
        "--quiet",
        "--boot",
        "--console=read-only",
        "--settings=no",
        "--register=no",
    ]);
    nspawn.args([
        "--keep-unit",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--private-network",
    ]);
    nspawn.arg("--directory").arg(root);
    nspawn.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1").env("SYSTEMD_NSPAWN_LOCK", "0").env("TERM", "dumb");
    let output = nspawn.output().unwrap();
    run(Command::new("chattr").arg("-i").args(&dirs));
    let report = std::fs::read_to_string(root.join("report"));
    report.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn the_mount_point_of_the_image_lets_haproxys_log_reach_the_journal() {
    let dir = support::workdir();
    let text = report(&dir.path().join("with"), true);
    assert!(text.contains("ActiveState=active"), "{text}");
    // HAProxy prints the checks to standard error, too, with a level in brackets, which its log lacks.
    let logged = |piece: &str| text.lines().any(|line| line.contains(piece) && !line.contains('['));
    assert!(logged("Health check for server servers/up succeeded"), "{text}");
    assert!(logged("Server servers/gone is DOWN"), "{text}");
    assert!(text.contains(" postgres servers/up "), "no log line of the connection: {text}");

    let text = report(&dir.path().join("without"), false);
    assert!(text.contains("ActiveState=failed") && text.contains("226/NAMESPACE"), "{text}");
}
