//! HAProxy's workers from before a reload. They keep their sessions, but check no server and do not answer on the statistics
//! socket, so nothing shuts down their sessions to a server that lost its role and hangs. They end some time after a change
//! of role; a server that was demoted has closed its sessions by then.

use super::haproxy_socket::{self, Server, ServerState};
use super::stale_sessions::BACKENDS;
use crate::host::process::{processes, signal};
use crate::host::systemd::main_process;
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// For the old server to close its sessions itself.
const CLOSING_TIME: Duration = Duration::from_secs(15);

pub(super) struct OldWorkers {
    unit: String,
    /// Backend to the server that is up in it.
    primaries: BTreeMap<String, String>,
    /// The last change of role, until no worker from before it is left.
    changed: Option<Instant>,
    /// Those of the last check: a worker that starts now is not the current one yet.
    seen: BTreeSet<i32>,
}

impl OldWorkers {
    pub(super) fn new(unit: &str) -> OldWorkers {
        OldWorkers { unit: unit.into(), primaries: BTreeMap::new(), changed: None, seen: BTreeSet::new() }
    }

    pub(super) fn check(&mut self, socket: &Path, servers: &[Server]) -> Result<()> {
        if self.role_changed(servers) {
            self.changed = Some(Instant::now());
        }
        if self.changed.is_none_or(|at| at.elapsed() < CLOSING_TIME) {
            return Ok(());
        }
        let info = haproxy_socket::command(socket, "show info")?;
        let current = info.lines().find_map(|line| line.strip_prefix("Pid: ")?.trim().parse::<i32>().ok());
        let current = current.context("HAProxy's `show info` has no Pid")?;
        let mut old = processes(&self.unit);
        old.retain(|pid| *pid != current);
        old.remove(&main_process(&self.unit)?);
        for pid in old.intersection(&self.seen) {
            tracing::info!("a server has lost its role: ending HAProxy's process {pid} from before a reload");
            signal(Pid::from_raw(*pid), Signal::SIGTERM);
        }
        if old.is_empty() {
            self.changed = None;
        }
        self.seen = old;
        Ok(())
    }

    /// Whether another server than before is the only one that is up in its backend.
    fn role_changed(&mut self, servers: &[Server]) -> bool {
        let mut changed = false;
        for backend in BACKENDS {
            let mut up = servers.iter().filter(|s| s.backend == backend && s.state == ServerState::Up);
            let (Some(primary), None) = (up.next(), up.next()) else { continue };
            let before = self.primaries.insert(backend.into(), primary.name.clone());
            changed |= before.is_some_and(|before| before != primary.name);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_changes_when_another_server_alone_is_up() {
        let mut workers = OldWorkers::new("haproxy.service");
        let mut changed = |rows: &str| {
            let head = "# pxname,svname,scur,status,\n";
            workers.role_changed(&haproxy_socket::servers(&format!("{head}{rows}")))
        };
        assert!(!changed("postgres_primary,node1,0,UP,\n"), "the first look");
        assert!(!changed("postgres_primary,node1,0,DOWN,\n"));
        assert!(!changed("postgres_primary,node1,0,UP,\npostgres_primary,node2,0,UP,\n"));
        assert!(!changed("postgres_primary,node1,0,UP,\n"));
        assert!(changed("postgres_primary,node1,0,DOWN,\npostgres_primary,node2,0,UP,\n"));
        assert!(!changed("postgres_primary,node2,0,UP,\npostgres_replicas,node3,0,UP,\n"));
    }
}
