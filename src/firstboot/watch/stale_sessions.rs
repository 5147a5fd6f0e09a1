//! Stale sessions: on an old primary that hangs, once there is a new primary, and on a standby that may not serve
//! reads any more ([`super::read_port`]).
//!
//! Sessions to a failed machine end by TCP's timeouts, and a demoted server closes its own. A server that
//! only hangs does neither, so its clients would wait for it. HAProxy's option `on-marked-down
//! shutdown-sessions` loses clients whose connection is being established (measured with 3.0), so only
//! established sessions are shut down here, over the statistics socket.

use super::haproxy_socket::{self, Server, ServerState};
use super::old_workers::OldWorkers;
use super::read_port;
use crate::haproxy_view;
use crate::node::NodeContext;
use anyhow::Result;
use std::collections::BTreeSet;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The backends in which one server at a time is up.
pub(super) const BACKENDS: [&str; 2] = [POSTGRES_PRIMARY, "redis_primary"];
const POSTGRES_PRIMARY: &str = "postgres_primary";
/// Longer than all connection attempts of a session take together.
const MIN_SESSION_SECONDS: u64 = 15;
/// A standby that reconnects to its leader serves reads again before that.
const MIN_DISABLED_SECONDS: u64 = 15;

/// Checks until the process ends.
pub(super) fn watch(node: &NodeContext, unit: &str, socket: &Path) {
    let mut old_workers = OldWorkers::new(unit);
    loop {
        sleep(CHECK_INTERVAL);
        // Without HAProxy there are no sessions.
        if let Err(error) = check(node, socket, &mut old_workers) {
            tracing::debug!("{}: {error:#}", socket.display());
        }
    }
}

fn check(node: &NodeContext, socket: &Path, old_workers: &mut OldWorkers) -> Result<()> {
    let stat = haproxy_socket::command(socket, "show stat")?;
    haproxy_view::save(node, &stat)?;
    shut_down_stale(socket, &stat)?;
    old_workers.check(socket, &haproxy_socket::servers(&stat))
}

fn shut_down_stale(socket: &Path, stat: &str) -> Result<()> {
    let replaced = replaced_servers(&haproxy_socket::servers(stat));
    if replaced.is_empty() {
        return Ok(());
    }
    for (session, server) in sessions_on(&haproxy_socket::command(socket, "show sess")?, &replaced) {
        tracing::info!(
            "{} is down and {} has another server: shutting down session {session}",
            server.1,
            server.0
        );
        haproxy_socket::command(socket, &format!("shutdown session {session}"))?;
    }
    Ok(())
}

/// Backend and server.
type BackendServer = (String, String);

/// The servers with sessions that accept no connections any more, while another server is up for their clients.
fn replaced_servers(servers: &[Server]) -> BTreeSet<BackendServer> {
    let is_up = |backend: &str, filter: &dyn Fn(&Server) -> bool| {
        servers.iter().any(|s| s.backend == backend && s.state == ServerState::Up && filter(s))
    };
    let is_replaced = |server: &&Server| {
        let backend = server.backend.as_str();
        match server.state {
            ServerState::Down => BACKENDS.contains(&backend) && is_up(backend, &|_| true),
            // A standby that was promoted has the newest data.
            ServerState::Disabled => {
                backend == read_port::BACKEND
                    && server.seconds.is_none_or(|seconds| seconds >= MIN_DISABLED_SECONDS)
                    && !is_up(POSTGRES_PRIMARY, &|primary| primary.name == server.name)
                    && (is_up(backend, &|_| true) || is_up(POSTGRES_PRIMARY, &|_| true))
            }
            ServerState::Up => false,
        }
    };
    let left = servers.iter().filter(|server| server.sessions).filter(is_replaced);
    left.map(|server| (server.backend.clone(), server.name.clone())).collect()
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
        let left = replaced_servers(&haproxy_socket::servers(STAT));
        let node1 = ("postgres_primary".to_string(), "node1".to_string());
        assert_eq!(left, BTreeSet::from([node1.clone()]), "no other primary of Redis is up");
        assert_eq!(sessions_on(SESS, &left), [("0x7f1".to_string(), node1)]);
    }

    #[test]
    fn a_standby_with_old_data_keeps_no_sessions() {
        let head = "# pxname,svname,scur,status,\n";
        let replaced = |rows: &str| replaced_servers(&haproxy_socket::servers(&format!("{head}{rows}")));
        let node2 = BTreeSet::from([("postgres_replicas".to_string(), "node2".to_string())]);
        let old = "postgres_replicas,node2,4,MAINT,\n";
        assert_eq!(replaced(&format!("{old}postgres_replicas,node3,4,UP,\n")), node2);
        assert_eq!(replaced(&format!("{old}postgres_primary,node1,4,UP,\n")), node2);
        assert_eq!(replaced(&format!("{old}postgres_primary,node2,4,UP,\n")), BTreeSet::new(), "promoted");
        assert_eq!(replaced(&format!("{old}postgres_primary,node1,4,DOWN,\n")), BTreeSet::new());
        let since = |seconds: &str| {
            let head = "# pxname,svname,scur,status,lastchg,\n";
            let rows =
                format!("postgres_replicas,node2,4,MAINT,{seconds},\npostgres_primary,node1,4,UP,90,\n");
            replaced_servers(&haproxy_socket::servers(&format!("{head}{rows}")))
        };
        assert_eq!((since("3"), since("15")), (BTreeSet::new(), node2), "it may be reconnecting");
        assert_eq!(
            replaced("postgres_replicas,node2,0,MAINT,\npostgres_primary,node1,4,UP,\n"),
            BTreeSet::new()
        );
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
