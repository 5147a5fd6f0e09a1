//! HAProxy's statistics socket: commands, and the table that `show stat` prints.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const SOCKET_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn command(socket: &Path, command: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).context("connecting")?;
    stream.set_read_timeout(Some(SOCKET_TIMEOUT))?;
    stream.set_write_timeout(Some(SOCKET_TIMEOUT))?;
    writeln!(stream, "{command}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("`{command}`"))?;
    Ok(answer)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerState {
    /// It accepts connections.
    Up,
    /// Its health check fails.
    Down,
    /// In maintenance: by the configuration or by a command.
    Disabled,
}

/// One server of a backend, as `show stat` prints it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Server {
    pub(super) backend: String,
    pub(super) name: String,
    pub(super) state: ServerState,
    pub(super) sessions: bool,
    /// How long it has been in this state; `None` if unknown.
    pub(super) seconds: Option<u64>,
}

/// The servers of all backends; empty if the table has other columns than expected.
pub(super) fn servers(stat: &str) -> Vec<Server> {
    let mut lines = stat.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = lines.next().unwrap_or_default();
    let column = |name: &str| head.iter().position(|h| h.trim_start_matches("# ") == name);
    let (Some(backend), Some(name), Some(sessions), Some(status)) =
        (column("pxname"), column("svname"), column("scur"), column("status"))
    else {
        return Vec::new();
    };
    let last_change = column("lastchg");
    let server = |row: Vec<&str>| {
        let state = match *row.get(status)? {
            status if status.starts_with("UP") || status == "no check" => ServerState::Up,
            status if status.starts_with("MAINT") => ServerState::Disabled,
            status if status.starts_with("DOWN") => ServerState::Down,
            _ => return None,
        };
        let is_server = !matches!(row[name], "FRONTEND" | "BACKEND");
        is_server.then(|| Server {
            backend: row[backend].into(),
            name: row[name].into(),
            state,
            sessions: row[sessions] != "0",
            seconds: last_change.and_then(|column| row.get(column)?.parse().ok()),
        })
    };
    lines.filter_map(server).collect()
}

/// The servers of one backend, by name.
pub(super) fn server_states(stat: &str, backend: &str) -> BTreeMap<String, ServerState> {
    let of_backend = servers(stat).into_iter().filter(|server| server.backend == backend);
    of_backend.map(|server| (server.name, server.state)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_servers_are_parsed() {
        // Output of HAProxy 3.0, shortened.
        let stat = "# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,weight,\n\
            postgres_read,FRONTEND,,,0,0,100,0,OPEN,,\n\
            postgres_replicas,node1,0,0,0,0,190,0,MAINT,1,\n\
            postgres_replicas,node2,0,0,3,0,190,0,UP,1,\n\
            postgres_replicas,node3,0,0,0,0,190,0,DOWN 1/2,1,\n\
            postgres_replicas,BACKEND,0,0,0,0,190,0,UP,1,\n\
            redis_primary,node1,0,0,0,0,190,0,UP,1,\n";
        let states = server_states(stat, "postgres_replicas");
        let expected = [
            ("node1".to_string(), ServerState::Disabled),
            ("node2".to_string(), ServerState::Up),
            ("node3".to_string(), ServerState::Down),
        ];
        assert_eq!(states, BTreeMap::from(expected));
        assert_eq!(server_states("other output", "postgres_replicas"), BTreeMap::new());
    }
}
