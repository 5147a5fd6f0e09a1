//! Serves one connection to the join port, which systemd passes on standard input.
//!
//! Any machine may connect before the handshake, so a connection costs little until its first byte. Once there are many
//! connections, only the nodes and the operators that the spec names are served: the socket unit allows more than
//! [`CROWD`], and the firewall limits how often another address can connect.

use crate::node::NodeContext;
use crate::start::self_report;
use anyhow::{Context, Result};
use hanode_core::pki::read;
use hanode_core::spec::Spec;
use std::net::{IpAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For one connection, including the handshake.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// Until the first byte: a client of TLS sends first, at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections from which on strangers are refused. `MaxConnections=` of the socket unit is higher: the rest is for the
/// nodes and the operators.
const CROWD: usize = 96;

pub(crate) fn serve(root: &Path) -> Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("standard input is not a socket")?;
    let socket = TcpStream::from(socket);
    let Ok(peer) = socket.peer_addr() else { return Ok(()) };
    if connections().is_some_and(|count| count > CROWD) {
        let node = NodeContext::open(root)?;
        if !is_expected(node.spec(), peer.ip()) {
            return Ok(());
        }
    }
    if !sends(&socket) {
        return Ok(());
    }
    let node = NodeContext::open(root)?;
    let crl = node.config.cluster_crl()?;
    let revoked = (!read::crl(crl)?.entries.is_empty()).then_some(crl);
    hanode_cluster::peer::serve(&node.access().cluster, revoked, socket, CONNECTION_TIMEOUT, || {
        self_report::own_report(&node)
    })
}

/// Whether the peer sends anything in time.
fn sends(socket: &TcpStream) -> bool {
    socket.set_read_timeout(Some(HELLO_TIMEOUT)).is_ok()
        && socket.peek(&mut [0]).is_ok_and(|received| received > 0)
}

/// A node, or an operator whose address or network the spec names.
fn is_expected(spec: &Spec, peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    spec.nodes.iter().any(|node| node.address == peer)
        || spec.network.operators.iter().flatten().any(|net| net.contains(&peer))
}

/// The number of connections to the join port, including this one: systemd makes a control group for each.
fn connections() -> Option<usize> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let entries = std::fs::read_dir(group_of_all(&groups)?).ok()?;
    let is_connection = |name: &str| name.starts_with("hanode-join@");
    Some(entries.flatten().filter(|entry| is_connection(&entry.file_name().to_string_lossy())).count())
}

/// The directory of the slice with all connections, from `/proc/self/cgroup`.
fn group_of_all(groups: &str) -> Option<PathBuf> {
    let own = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let mounted = match controllers {
            "" => "/sys/fs/cgroup",
            "name=systemd" => "/sys/fs/cgroup/systemd",
            _ => return None,
        };
        let slice = Path::new(path).parent()?.to_str()?;
        Some(PathBuf::from(format!("{mounted}{slice}")))
    };
    // With both versions of control groups, systemd's own hierarchy is the named one.
    let mut found: Vec<PathBuf> = groups.lines().filter_map(own).collect();
    found.sort_by_key(|path| !path.starts_with("/sys/fs/cgroup/systemd"));
    found.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::spec::{STARTER, parse};

    #[test]
    fn nodes_and_named_operators_are_expected() {
        let mut spec = parse(STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let expected = |spec: &Spec, peer: &str| is_expected(spec, peer.parse().unwrap());
        assert!(expected(&spec, "192.168.18.21") && expected(&spec, "::ffff:192.168.18.23"));
        assert!(!expected(&spec, "192.168.18.5"), "the subnet is the default, which names nobody");
        spec.network.operators = Some(vec!["192.168.18.5/32".parse().unwrap()]);
        assert!(expected(&spec, "192.168.18.5") && !expected(&spec, "192.168.18.6"));
    }

    #[test]
    fn all_connections_are_in_one_control_group() {
        const OWN: &str =
            "/system.slice/system-hanode\\x2djoin.slice/hanode-join@1-10.0.0.1:7081-10.0.0.2:9.service";
        let slice = "/system.slice/system-hanode\\x2djoin.slice";
        let group = |text: String| group_of_all(&text).unwrap().display().to_string();
        assert_eq!(group(format!("0::{OWN}\n")), format!("/sys/fs/cgroup{slice}"));
        let old = format!("4:memory:/\n1:name=systemd:{OWN}\n0::{OWN}\n");
        assert_eq!(group(old), format!("/sys/fs/cgroup/systemd{slice}"));
        assert_eq!(group_of_all(""), None);
    }
}
