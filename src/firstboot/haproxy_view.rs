//! Which servers this node's HAProxy holds down or has out of service, for this node's report. The report reads a file in memory, so that a
//! HAProxy that hangs does not delay it.

use crate::host::clock::{recent_age_ms, uptime_ms};
use crate::node::NodeContext;
use anyhow::{Context, Result, ensure};
use hanode_core::peer::DownServer;
use serde::{Deserialize, Serialize};

const FILE: &str = "/run/hanode/haproxy.json";
/// Older values are not reported: HAProxy or the watcher does not run.
const MAX_FILE_AGE_MS: u64 = 20_000;
const READ_BACKEND: &str = "postgres_replicas";
const BACKENDS: [&str; 4] = ["postgres_primary", READ_BACKEND, "redis_primary", "redis_primary_alone"];

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// By the clock that counts since boot.
    saved_ms: u64,
    #[serde(flatten)]
    view: View,
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct View {
    pub(crate) down: Vec<DownServer>,
    /// Frontends, and servers as `BACKEND/NODE`, that a command set out of service.
    pub(crate) maintenance: Vec<String>,
}

/// Saves the view in HAProxy's answer to `show stat`.
pub(crate) fn save(node: &NodeContext, stat: &str) -> Result<()> {
    let saved = Saved { saved_ms: uptime_ms(), view: View::of(stat)? };
    Ok(node.tree()?.replace(FILE, &serde_json::to_vec(&saved)?, 0o644, None)?)
}

/// For this node's report.
pub(crate) fn last_view(node: &NodeContext) -> Option<View> {
    recent(&std::fs::read(node.at(FILE)).ok()?, uptime_ms())
}

fn recent(saved: &[u8], now_ms: u64) -> Option<View> {
    let saved: Saved = serde_json::from_slice(saved).ok()?;
    recent_age_ms(saved.saved_ms, now_ms, MAX_FILE_AGE_MS).ok()?;
    Some(saved.view)
}

/// A frontend or a server in HAProxy's answer.
struct Row<'a> {
    /// The frontend or backend.
    proxy: &'a str,
    /// The server, or `FRONTEND`.
    name: &'a str,
    status: &'a str,
    changed: &'a str,
    check: &'a str,
}

impl View {
    fn of(stat: &str) -> Result<View> {
        let mut view = View::default();
        for row in rows(stat)? {
            match row.name {
                "BACKEND" => {}
                "FRONTEND" => view.maintenance.extend(row.stopped_frontend()),
                _ if BACKENDS.contains(&row.proxy) => {
                    view.down.extend(row.down());
                    view.maintenance.extend(row.disabled_server());
                }
                _ => {}
            }
        }
        Ok(view)
    }
}

impl Row<'_> {
    fn down(&self) -> Option<DownServer> {
        self.status.starts_with("DOWN").then(|| DownServer {
            backend: self.proxy.into(),
            node: self.name.into(),
            seconds: self.changed.parse().unwrap_or(0),
            check: self.check.trim_start_matches("* ").into(),
        })
    }

    /// hanode itself disables servers of the read port.
    fn disabled_server(&self) -> Option<String> {
        let disabled = self.status.starts_with("MAINT") || self.status.starts_with("DRAIN");
        (disabled && self.proxy != READ_BACKEND).then(|| format!("{}/{}", self.proxy, self.name))
    }

    /// `STOP` or `PAUSED`, by version, after `disable frontend`.
    fn stopped_frontend(&self) -> Option<String> {
        let serves = matches!(self.status, "OPEN" | "FULL");
        (!serves).then(|| self.proxy.to_string())
    }
}

fn rows(stat: &str) -> Result<Vec<Row<'_>>> {
    let mut lines = stat.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = lines.next().unwrap_or_default();
    let column = |name: &str| {
        let found = head.iter().position(|h| h.trim_start_matches("# ") == name);
        found.with_context(|| format!("HAProxy's statistics have no {name}"))
    };
    let (proxy, name) = (column("pxname")?, column("svname")?);
    let (status, changed, check) = (column("status")?, column("lastchg")?, column("check_status")?);
    let last = [proxy, name, status, changed, check].into_iter().max().unwrap_or(0);
    lines
        .filter(|fields| fields.len() > 1)
        .map(|fields| {
            ensure!(fields.len() > last, "HAProxy's statistics are truncated");
            Ok(Row {
                proxy: fields[proxy],
                name: fields[name],
                status: fields[status],
                changed: fields[changed],
                check: fields[check],
            })
        })
        .collect()
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
    const OUT_OF_SERVICE: &str = "# pxname,svname,status,lastchg,check_status,\n\
        redis,FRONTEND,STOP,,,\n\
        postgres_primary,node2,MAINT,7,,\n\
        postgres_replicas,node2,MAINT,7,,\n\
        redis_primary,node1,DRAIN (agent),7,L7OK,\n";

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
        assert_eq!(View::of(STAT).expect("statistics").down, expected);
        assert!(View::of("Unknown command\n").is_err());
        assert!(View::of(&STAT[..STAT.len() - 20]).is_err(), "truncated");
    }

    #[test]
    fn what_a_command_set_out_of_service_is_listed() {
        let view = View::of(OUT_OF_SERVICE).expect("statistics");
        assert_eq!(view.maintenance, ["redis", "postgres_primary/node2", "redis_primary/node1"]);
        assert_eq!(View::of(STAT).expect("statistics").maintenance, Vec::<String>::new());
    }

    #[test]
    fn a_view_is_reported_only_while_it_is_recent() {
        let saved = Saved { saved_ms: 1000, view: View::of(STAT).expect("statistics") };
        let text = serde_json::to_vec(&saved).expect("JSON");
        assert_eq!(recent(&text, 1000 + MAX_FILE_AGE_MS).map(|view| view.down.len()), Some(2));
        assert_eq!(recent(&text, 1001 + MAX_FILE_AGE_MS), None);
        assert_eq!(recent(&text, 999), None, "from another boot");
    }
}
