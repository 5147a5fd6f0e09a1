//! Which servers this node's HAProxy holds down, for this node's report. The report reads a file in memory, so that a
//! HAProxy that hangs does not delay it.

use crate::host::clock::{recent_age_ms, uptime_ms};
use crate::node::NodeContext;
use anyhow::{Context, Result, ensure};
use hanode_core::peer::DownServer;
use serde::{Deserialize, Serialize};

const FILE: &str = "/run/hanode/haproxy.json";
/// Older values are not reported: HAProxy or the watcher does not run.
const MAX_FILE_AGE_MS: u64 = 20_000;
const BACKENDS: [&str; 4] = ["postgres_primary", "postgres_replicas", "redis_primary", "redis_primary_alone"];

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// By the clock that counts since boot.
    saved_ms: u64,
    down: Vec<DownServer>,
}

/// Saves the view in HAProxy's answer to `show stat`.
pub(crate) fn save(node: &NodeContext, stat: &str) -> Result<()> {
    let saved = Saved { saved_ms: uptime_ms(), down: down_servers(stat)? };
    Ok(node.tree()?.replace(FILE, &serde_json::to_vec(&saved)?, 0o644, None)?)
}

/// For this node's report.
pub(crate) fn last_view(node: &NodeContext) -> Option<Vec<DownServer>> {
    recent(&std::fs::read(node.at(FILE)).ok()?, uptime_ms())
}

fn recent(saved: &[u8], now_ms: u64) -> Option<Vec<DownServer>> {
    let saved: Saved = serde_json::from_slice(saved).ok()?;
    recent_age_ms(saved.saved_ms, now_ms, MAX_FILE_AGE_MS).ok()?;
    Some(saved.down)
}

fn down_servers(stat: &str) -> Result<Vec<DownServer>> {
    let mut lines = stat.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = lines.next().unwrap_or_default();
    let column = |name: &str| {
        let found = head.iter().position(|h| h.trim_start_matches("# ") == name);
        found.with_context(|| format!("HAProxy's statistics have no {name}"))
    };
    let (backend, server) = (column("pxname")?, column("svname")?);
    let (status, changed, check) = (column("status")?, column("lastchg")?, column("check_status")?);
    let last = [backend, server, status, changed, check].into_iter().max().unwrap_or(0);
    let mut down = Vec::new();
    for row in lines.filter(|row| row.len() > 1) {
        ensure!(row.len() > last, "HAProxy's statistics are truncated");
        let is_server = BACKENDS.contains(&row[backend]) && row[server] != "BACKEND";
        if is_server && row[status].starts_with("DOWN") {
            down.push(DownServer {
                backend: row[backend].into(),
                node: row[server].into(),
                seconds: row[changed].parse().unwrap_or(0),
                check: row[check].trim_start_matches("* ").into(),
            });
        }
    }
    Ok(down)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns as in the output of HAProxy 3.0; some are left out.
    const STAT: &str = "# pxname,svname,scur,status,weight,lastchg,check_status,\n\
        postgres,FRONTEND,2,OPEN,,,,\n\
        postgres_primary,node1,2,UP,1,40,L7OK,\n\
        postgres_primary,node3,0,DOWN,1,41,* L6RSP,\n\
        postgres_primary,BACKEND,2,UP,1,40,,\n\
        redis_primary,node1,0,DOWN 1/2,1,7,L7TOUT,\n\
        peers_that_write,node2,0,DOWN,1,5,L4CON,\n\n";

    #[test]
    fn servers_that_are_down_are_listed_with_their_check() {
        let down = |backend: &str, node: &str, seconds, check: &str| DownServer {
            backend: backend.into(),
            node: node.into(),
            seconds,
            check: check.into(),
        };
        let expected =
            [down("postgres_primary", "node3", 41, "L6RSP"), down("redis_primary", "node1", 7, "L7TOUT")];
        assert_eq!(down_servers(STAT).expect("statistics"), expected);
        assert!(down_servers("Unknown command\n").is_err());
        assert!(down_servers(&STAT[..STAT.len() - 20]).is_err(), "truncated");
    }

    #[test]
    fn a_view_is_reported_only_while_it_is_recent() {
        let saved = Saved { saved_ms: 1000, down: down_servers(STAT).expect("statistics") };
        let text = serde_json::to_vec(&saved).expect("JSON");
        assert_eq!(recent(&text, 1000 + MAX_FILE_AGE_MS).map(|down| down.len()), Some(2));
        assert_eq!(recent(&text, 1001 + MAX_FILE_AGE_MS), None);
        assert_eq!(recent(&text, 999), None, "from another boot");
    }
}
