//! Stale sessions on an old primary that hangs: shut down once there is a new primary.
//!
//! Sessions to a failed machine end by TCP's timeouts, and a demoted server closes its own. A server that
//! only hangs does neither, so its clients would wait for it. HAProxy's option `on-marked-down
//! shutdown-sessions` loses clients whose connection is being established (measured with 3.0), so only
//! established sessions are shut down here, over the statistics socket.

use crate::haproxy_view;
use crate::node::NodeContext;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const CHECK_INTERVAL: Duration = Duration::from_secs(2);
const SOCKET_TIMEOUT: Duration = Duration::from_secs(2);
/// The backends in which one server at a time is up.
const BACKENDS: [&str; 2] = ["postgres_primary", "redis_primary"];
/// Longer than all connection attempts of a session take together.
const MIN_SESSION_SECONDS: u64 = 15;

/// Checks until the process ends.
pub(super) fn watch(node: &NodeContext, socket: &Path) {
    loop {
        sleep(CHECK_INTERVAL);
        // Without HAProxy there are no sessions.
        if let Err(error) = check(node, socket) {
            tracing::debug!("{}: {error:#}", socket.display());
        }
    }
}

fn check(node: &NodeContext, socket: &Path) -> Result<()> {
    let stat = send_command(socket, "show stat")?;
    haproxy_view::save(node, &stat)?;
    shut_down_stale(socket, &stat)
}

fn shut_down_stale(socket: &Path, stat: &str) -> Result<()> {
    let replaced = replaced_servers(stat);
    if replaced.is_empty() {
        return Ok(());
    }
    for (session, server) in sessions_on(&send_command(socket, "show sess")?, &replaced) {
        tracing::info!(
            "{} is down and {} has another server: shutting down session {session}",
            server.1,
            server.0
        );
        send_command(socket, &format!("shutdown session {session}"))?;
    }
    Ok(())
}

fn send_command(socket: &Path, command: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).context("connecting")?;
    stream.set_read_timeout(Some(SOCKET_TIMEOUT))?;
    stream.set_write_timeout(Some(SOCKET_TIMEOUT))?;
    writeln!(stream, "{command}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("`{command}`"))?;
    Ok(answer)
}

/// Backend and server.
type BackendServer = (String, String);

/// The servers with sessions that are down while another server of their backend is up.
fn replaced_servers(stat: &str) -> BTreeSet<BackendServer> {
    let mut lines = stat.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = lines.next().unwrap_or_default();
    let column = |name: &str| head.iter().position(|h| h.trim_start_matches("# ") == name);
    let (Some(backend), Some(server), Some(sessions), Some(status)) =
        (column("pxname"), column("svname"), column("scur"), column("status"))
    else {
        return BTreeSet::new();
    };
    let rows: Vec<_> = lines.filter(|l| l.len() > status && BACKENDS.contains(&l[backend])).collect();
    let servers = || rows.iter().filter(|r| r[server] != "BACKEND");
    let has_other = |name: &str| servers().any(|r| r[backend] == name && r[status].starts_with("UP"));
    let left =
        servers().filter(|r| r[status].starts_with("DOWN") && r[sessions] != "0" && has_other(r[backend]));
    left.map(|r| (r[backend].to_string(), r[server].to_string())).collect()
}

/// The established sessions to these servers, by HAProxy's session id.
fn sessions_on(sess: &str, servers: &BTreeSet<BackendServer>) -> Vec<(String, BackendServer)> {
    let session = |line: &str| {
        let (name, rest) = line.split_once(": ")?;
        let field = |key: &str| rest.split_whitespace().find_map(|w| w.strip_prefix(key));
        let server = (field("be=")?.to_string(), field("srv=")?.to_string());
        let established = parse_seconds(field("age=")?)? >= MIN_SESSION_SECONDS;
        (established && servers.contains(&server)).then(|| (name.to_string(), server))
    };
    sess.lines().filter_map(session).collect()
}

/// A duration in HAProxy's format: `3s`, `2m5s`, `1d4h`.
fn parse_seconds(age: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut number = String::new();
    for letter in age.chars() {
        if letter.is_ascii_digit() {
            number.push(letter);
            continue;
        }
        let unit = match letter {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return None,
        };
        total = number.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(total)?;
        number.clear();
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight,\n\
        postgres_primary,node1,0,0,2,2,190,9,0,0,,0,,0,0,0,0,DOWN,1,\n\
        postgres_primary,node2,0,0,1,2,190,9,0,0,,0,,0,0,0,0,UP,1,\n\
        postgres_primary,BACKEND,0,0,3,2,190,9,0,0,,0,,0,0,0,0,UP,1,\n\
        postgres_replicas,node2,0,0,3,2,190,9,0,0,,0,,0,0,0,0,DOWN,1,\n\
        redis_primary,node1,0,0,4,4,4096,9,0,0,,0,,0,0,0,0,DOWN 1/2,1,\n\
        redis_primary,node3,0,0,0,4,4096,9,0,0,,0,,0,0,0,0,DOWN,1,\n";
    /// Output of HAProxy 3.0.
    const SESS: &str = "0x7f1: proto=tcpv4 src=192.168.18.1:4 fe=postgres be=postgres_primary srv=node1 ts=00 epoch=0 age=1m2s calls=3 exp=29m rc=0 c_exp=\n\
        0x7f2: proto=tcpv4 src=192.168.18.1:5 fe=postgres be=postgres_primary srv=node1 ts=00 epoch=0 age=3s calls=3 exp=2s rc=0 c_exp=\n\
        0x7f3: proto=tcpv4 src=192.168.18.1:6 fe=postgres be=postgres_primary srv=node2 ts=00 epoch=0 age=2h1m calls=3 exp=2s rc=0 c_exp=\n\
        0x7f4: proto=unix_stream src=unix:1 fe=GLOBAL be=<NONE> srv=<none> ts=00 epoch=0 age=0s calls=1 exp=10s rc=0 c_exp=\n";

    #[test]
    fn only_established_sessions_to_replaced_servers_are_shut_down() {
        let left = replaced_servers(STAT);
        let node1 = ("postgres_primary".to_string(), "node1".to_string());
        assert_eq!(left, BTreeSet::from([node1.clone()]), "no other primary of Redis is up");
        assert_eq!(sessions_on(SESS, &left), [("0x7f1".to_string(), node1)]);
    }

    #[test]
    fn durations_are_parsed() {
        assert_eq!(
            ["0s", "14s", "2m5s", "1h2m", "1d4h"].map(parse_seconds),
            [0, 14, 125, 3720, 100_800].map(Some)
        );
        assert_eq!(parse_seconds("soon"), None);
        assert_eq!(parse_seconds("99999999999999999999999s"), None);
    }
}
