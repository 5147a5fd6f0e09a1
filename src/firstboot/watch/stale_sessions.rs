//! Sessions on an old primary that hangs: cut once there is a new one.
//!
//! A dead machine's sessions end by TCP's own timeouts, a deposed server ends them itself. One that is only stopped
//! does neither, and its clients would wait as long as it is. HAProxy's own means, `on-marked-down
//! shutdown-sessions`, forgets for good a client whose connection is just being made (3.0, measured): so only
//! sessions that are past that are shut down here, by the statistics socket.

use anyhow::{Context, Result};
use hanode_core::target::Target;
use hanode_util::file_tree::below;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const ROUND: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(2);
/// The backends that lead to one server only.
const BACKENDS: [&str; 2] = ["postgres_primary", "redis_primary"];
/// Longer than all attempts to connect take together.
const CONNECTED_SECONDS: u64 = 15;

/// Looks after them for good.
pub(super) fn look_after(root: &Path, target: &Target) {
    let Ok(socket) = target.path("haproxy_socket").map(|path| below(root, path)) else { return };
    loop {
        sleep(ROUND);
        // A HAProxy that is not there has no sessions either.
        if let Err(error) = cut(&socket) {
            tracing::debug!("{}: {error:#}", socket.display());
        }
    }
}

fn cut(socket: &Path) -> Result<()> {
    let left = left_behind(&ask(socket, "show stat")?);
    if left.is_empty() {
        return Ok(());
    }
    for (session, server) in of_servers(&ask(socket, "show sess")?, &left) {
        tracing::info!("{} is down and {} has another: session {session} is cut", server.1, server.0);
        ask(socket, &format!("shutdown session {session}"))?;
    }
    Ok(())
}

fn ask(socket: &Path, words: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).context("connecting")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    writeln!(stream, "{words}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("`{words}`"))?;
    Ok(answer)
}

/// Backend and server.
type Server = (String, String);

/// The servers that are down and have sessions, where another of the same backend is up.
fn left_behind(stat: &str) -> BTreeSet<Server> {
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
    let replaced = |name: &str| servers().any(|r| r[backend] == name && r[status].starts_with("UP"));
    let left =
        servers().filter(|r| r[status].starts_with("DOWN") && r[sessions] != "0" && replaced(r[backend]));
    left.map(|r| (r[backend].to_string(), r[server].to_string())).collect()
}

/// The sessions that are connected to one of them, by HAProxy's name for each.
fn of_servers(sess: &str, servers: &BTreeSet<Server>) -> Vec<(String, Server)> {
    let session = |line: &str| {
        let (name, rest) = line.split_once(": ")?;
        let field = |key: &str| rest.split_whitespace().find_map(|w| w.strip_prefix(key));
        let server = (field("be=")?.to_string(), field("srv=")?.to_string());
        let connected = seconds(field("age=")?)? >= CONNECTED_SECONDS;
        (connected && servers.contains(&server)).then(|| (name.to_string(), server))
    };
    sess.lines().filter_map(session).collect()
}

/// As HAProxy writes a length of time: `3s`, `2m5s`, `1d4h`.
fn seconds(age: &str) -> Option<u64> {
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
    /// As HAProxy 3.0 prints them.
    const SESS: &str = "0x7f1: proto=tcpv4 src=192.168.18.1:4 fe=postgres be=postgres_primary srv=node1 ts=00 epoch=0 age=1m2s calls=3 exp=29m rc=0 c_exp=\n\
        0x7f2: proto=tcpv4 src=192.168.18.1:5 fe=postgres be=postgres_primary srv=node1 ts=00 epoch=0 age=3s calls=3 exp=2s rc=0 c_exp=\n\
        0x7f3: proto=tcpv4 src=192.168.18.1:6 fe=postgres be=postgres_primary srv=node2 ts=00 epoch=0 age=2h1m calls=3 exp=2s rc=0 c_exp=\n\
        0x7f4: proto=unix_stream src=unix:1 fe=GLOBAL be=<NONE> srv=<none> ts=00 epoch=0 age=0s calls=1 exp=10s rc=0 c_exp=\n";

    #[test]
    fn only_what_is_connected_to_a_server_that_was_replaced_is_cut() {
        let left = left_behind(STAT);
        let node1 = ("postgres_primary".to_string(), "node1".to_string());
        assert_eq!(left, BTreeSet::from([node1.clone()]), "nobody has replaced Redis' primary yet");
        assert_eq!(of_servers(SESS, &left), [("0x7f1".to_string(), node1)]);
    }

    #[test]
    fn lengths_of_time() {
        assert_eq!(["0s", "14s", "2m5s", "1h2m", "1d4h"].map(seconds), [0, 14, 125, 3720, 100_800].map(Some));
        assert_eq!(seconds("soon"), None);
        assert_eq!(seconds("99999999999999999999999s"), None);
    }
}
