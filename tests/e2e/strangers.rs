//! What a machine in the nodes' subnet without any secret can do to the nodes. A load is made in the lab's network only,
//! and bounded in number and time.

use crate::service_users::cluster;
use crate::support::lab::{Lab, NODES};
use hanode_core::state::{Phase, ProblemKind};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const HEALTHY: Duration = Duration::from_secs(120);

/// Holds connections to a port of all nodes from many addresses, and opens each again that a node closes.
const HOLD: &str = include_str!("../validators/hold_join_ports.py");

/// Ends, and removes its addresses, when its standard input is closed.
struct Attack(Child);

impl Attack {
    fn start(lab: &Lab, addresses: u32, each: u32, record: &str) -> Attack {
        let port = lab.cluster.spec.network.join_port.to_string();
        let arguments = ["python3", "-c", HOLD, &port, &addresses.to_string(), &each.to_string(), record];
        let mut attack = lab.driver().client_command(&arguments);
        let mut attack = attack.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(attack.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "holding\n");
        Attack(attack)
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let ended = self.0.wait();
        assert!(std::thread::panicking() || ended.unwrap().success());
    }
}

/// The nodes that the admin machine, which the spec does not name, does not reach.
fn unreachable_from_outside(lab: &Lab) -> Vec<String> {
    let status = lab.health();
    let unreachable = status.nodes.iter().filter(|n| n.phase == Phase::Unreachable);
    unreachable.map(|n| format!("{}: {:?}", n.name, status.problems)).collect()
}

/// The nodes that another node does not reach.
fn unreachable_from(lab: &Lab, node: &str) -> Vec<String> {
    let status: Value =
        serde_json::from_slice(&lab.on(node, &["hanode", "status", "--json"]).stdout).unwrap();
    let nodes = status["nodes"].as_array().unwrap();
    let unreachable = nodes.iter().filter(|n| n["phase"] == "unreachable");
    unreachable.map(|n| format!("{}: {}", n["name"], n["problems"])).collect()
}

/// The CPU time that node1 and its join port have used, in seconds, and the join port's highest memory in MiB.
fn usage(lab: &Lab) -> [f64; 3] {
    const SCRIPT: &str = r#"sed -n 's/^usage_usec //p' /sys/fs/cgroup/cpu.stat
        cd /proc/$(systemctl show -P MainPID hanode-join)
        awk '{ print $14 + $15 }' stat; awk '/^VmHWM/ { print $2 }' status"#;
    let values: Vec<f64> = lab.sh("node1", SCRIPT).lines().map(|value| value.parse().unwrap()).collect();
    [values[0] / 1e6, values[1] / 100.0, values[2] / 1024.0]
}

#[test]
fn held_join_ports_keep_nobody_away() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    lab.healthy_within(HEALTHY);
    // Nothing, a TLS record that never ends, one that is larger than any may be, and the start of a handshake.
    for record in ["", "160301200001", "160301ffff01", "hello"] {
        let _attack = Attack::start(lab, 6, 20, record);
        let (start, before) = (Instant::now(), usage(lab));
        for _ in 0..3 {
            assert_eq!(unreachable_from_outside(lab), [""; 0], "{record:?}");
            assert_eq!(unreachable_from(lab, "node2"), [""; 0], "{record:?}");
        }
        let seconds = start.elapsed().as_secs_f64();
        let after = usage(lab);
        let [node, port] = [0, 1].map(|at| (after[at] - before[at]) / seconds * 100.0);
        eprintln!(
            "{record:?}: six queries in {seconds:.1} s; node1 uses {node:.0} % of a CPU, its join port {port:.1} % and {:.0} MiB",
            after[2]
        );
    }
    // Connections wait in the socket until the server runs again.
    for action in
        ["kill -s KILL hanode-join.service", "restart hanode-join.service", "restart hanode-join.socket"]
    {
        let _attack = Attack::start(lab, 6, 20, "hello");
        lab.sh("node1", &format!("systemctl {action}"));
        assert_eq!(unreachable_from(lab, "node2"), [""; 0], "{action}");
    }
    // More addresses than the join port has places for: the nodes are served, and a node boots.
    let attack = Attack::start(lab, 100, 2, "");
    eprintln!("a hundred addresses: {:?}", unreachable_from_outside(lab));
    lab.kill(&["node3"]);
    lab.hanode(&["lab", "up"], &["--node", "node3", "--timeout-scale", "2"]);
    for _ in 0..3 {
        assert_eq!(unreachable_from(lab, "node1"), [""; 0]);
    }
    drop(attack);
    lab.healthy_within(HEALTHY);
}

/// Names and error messages reach the operator's terminal; user postgres chooses these.
#[test]
fn names_of_a_node_do_not_control_the_operator_s_terminal() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    lab.healthy_within(HEALTHY);
    lab.sh(
        "node2",
        r#"cd /var/lib/postgresql/17
        runuser -u postgres -- mkdir "x.aside-$(printf '\033]0;OWNED\007\033[31mRED\nhealthy')"
        for n in $(seq 700); do
            runuser -u postgres -- mkdir "y.aside-$n-$(head -c 200 /dev/zero | tr '\0' 'a')"
        done"#,
    );
    let shown = lab.hanode(&["lab", "status"], &[]);
    let status = lab.health();
    lab.sh("node2", "rm -r /var/lib/postgresql/17/[xy].aside-*");
    let text = String::from_utf8(shown.stdout).unwrap();
    let control = |c: &char| c.is_control() && *c != '\n';
    assert_eq!(text.chars().find(control), None, "{text}");
    assert!(text.contains(r"x.aside-\u{1b}]0;OWNED\u{7}\u{1b}[31mRED\nhealthy"), "{text}");
    assert!(text.contains("moved aside  node2: 693 more"), "{text}");
    let unreachable = status.problems.iter().find(|p| p.kind == ProblemKind::Unreachable);
    assert_eq!(unreachable, None);
    assert!(status.healthy, "{:?}", status.problems);
}

/// Ports of programs that are not hanode's, from outside the node.
#[test]
fn a_node_has_no_other_service_on_the_network() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    for node in NODES {
        let list = |option: &str| lab.sh(node, &format!("ss -H -l -n {option} | awk '{{print $4}}'"));
        let outside = |address: &&str| !address.starts_with("127.") && !address.starts_with("[::1]");
        let port = |address: &str| address.rsplit(':').next().unwrap_or_default().parse::<u16>().unwrap();
        let udp = list("-u");
        // 68: the DHCP client, on an interface without an address.
        let udp: Vec<&str> = udp.lines().filter(outside).filter(|a| port(a) != 68).collect();
        assert_eq!(udp, [""; 0], "{node}");
        let tcp = list("-t");
        let ours = [22, 2379, 2380, 5432, 5433, 5434, 6378, 6379, 7000, 7080, 7081, 8008, 26378];
        let other: Vec<&str> = tcp.lines().filter(outside).filter(|a| !ours.contains(&port(a))).collect();
        assert_eq!(other, [""; 0], "{node}");
    }
}

/// An ICMP redirect of the router that the node uses, for a destination behind it.
#[test]
fn icmp_redirects_change_no_route() {
    const REDIRECT: &str = r#"
import socket, struct
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
router, node, attacker, away = (socket.inet_aton(a) for a in ("192.168.18.1", "192.168.18.21", "192.168.18.66", "10.9.9.9"))
# An echo reply: the kernel looks for no socket that it belongs to.
inner = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 1, 0, 64, 1, 0, node, away)
inner = inner[:10] + struct.pack("!H", checksum(inner)) + inner[12:] + struct.pack("!BBHHH", 0, 0, 0xffff, 0, 0)
icmp = struct.pack("!BBH4s", 5, 1, 0, attacker) + inner
icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(icmp), 1, 0, 64, 1, 0, router, node) + icmp
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for _ in range(3):
    s.sendto(packet, ("192.168.18.21", 0))
# The node's answer comes after it has handled the redirects.
socket.create_connection(("192.168.18.21", 22), 20)
"#;
    let cluster = cluster();
    let lab: &Lab = &cluster;
    lab.sh("node1", "ip route replace 10.9.9.0/24 via 192.168.18.1; ip neigh replace 192.168.18.1 lladdr 02:68:61:6e:6f:64 dev host0; ip neigh replace 192.168.18.66 lladdr 02:68:61:6e:6f:64 dev host0");
    assert!(lab.client(&["python3", "-c", REDIRECT]).status.success());
    let route = lab.sh("node1", "ip route get 10.9.9.9");
    lab.sh("node1", "ip route delete 10.9.9.0/24; ip neigh delete 192.168.18.66 dev host0; ip neigh delete 192.168.18.1 dev host0");
    assert!(route.contains("via 192.168.18.1 "), "{route}");
    for name in ["all", "default", "host0"] {
        let settings = ["accept_redirects", "secure_redirects", "send_redirects", "accept_source_route"];
        for setting in settings {
            assert_eq!(
                lab.sh("node1", &format!("cat /proc/sys/net/ipv4/conf/{name}/{setting}")),
                "0",
                "{name} {setting}"
            );
        }
        assert_eq!(lab.sh("node1", &format!("cat /proc/sys/net/ipv4/conf/{name}/rp_filter")), "1", "{name}");
        assert_eq!(
            lab.sh("node1", &format!("cat /proc/sys/net/ipv6/conf/{name}/accept_redirects")),
            "0",
            "{name}"
        );
    }
}
