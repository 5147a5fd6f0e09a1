//! A backup at once: requested in etcd as the nodes' timer does, made by the node that also makes those of the schedule.

use anyhow::{Context, Result, bail, ensure};
use hanode_cluster::access::Access;
use hanode_cluster::backup_records::Store;
use hanode_cluster::repository::no_backup;
use hanode_core::backup::{BackupReport, Completed, Records, Running, Server};
use hanode_util::user_error::UserError;
use hanode_util::{interrupt, terminal};
use serde::Serialize;
use std::thread::sleep;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(3);
const INTERVAL: Duration = Duration::from_secs(1);
/// Until a node has started what is due: it repeats a failed backup after a minute.
const START_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Serialize)]
pub struct Made {
    schema: u32,
    completed: Vec<(Server, Completed)>,
}

/// Requests a backup of both servers and waits until it is complete. If a node is making one already, waits for that.
pub fn back_up(access: &Access) -> Result<Made> {
    access.spec.backup.as_ref().with_context(no_backup)?;
    let servers = match reports(access)?.into_iter().find_map(|(node, report)| Some((node, report.running?)))
    {
        Some((node, Running { server, since })) => {
            let ago = since_then(access, since)?;
            eprintln!("{node} is already making a backup of {}, for {ago} s; waiting for it", server.name());
            vec![(server, since)]
        }
        None => {
            let due =
                due_now(&reports(access)?).context("no node reports about backups: see hanode status")?;
            store(access)?.put_due(due)?;
            eprintln!("a backup of both servers is due; waiting for it");
            Server::ALL.map(|server| (server, due)).to_vec()
        }
    };
    let completed = servers.into_iter().map(|(server, since)| Ok((server, wait(access, server, since)?)));
    Ok(Made { schema: 1, completed: completed.collect::<Result<_>>()? })
}

fn since_then(access: &Access, since: i64) -> Result<i64> {
    Ok(reports(access)?.iter().map(|(_, report)| report.at).max().unwrap_or(since) - since)
}

/// A time of the schedule that is due at once, by the clocks of the nodes: with that of this machine, which may be ahead,
/// the nodes would repeat their backups until they reach it.
fn due_now(reports: &[(String, BackupReport)]) -> Option<i64> {
    let latest = reports.iter().map(|(_, report)| report).max_by_key(|report| report.at)?;
    let last = latest.records.completed.values().map(|last| last.started + 1).max();
    Some(latest.at.max(last.unwrap_or(0)))
}

fn wait(access: &Access, server: Server, since: i64) -> Result<Completed> {
    let mut seen = Instant::now();
    loop {
        interrupt::check()?;
        match state(&store(access)?.load()?, server, since) {
            State::Complete(completed) => return Ok(completed),
            State::Failed(why) => {
                bail!(UserError::with_help(
                    format!("the backup of {} failed: {why}", server.name()),
                    "the node repeats it by itself; see hanode status, and journalctl -u hanode-backup there"
                ))
            }
            State::Awaited => {}
        }
        if reports(access)?.iter().any(|(_, report)| report.running.is_some()) {
            seen = Instant::now();
        }
        ensure!(
            seen.elapsed() < START_LIMIT,
            UserError::with_help(
                format!(
                    "no node has started a backup of {} within {} s",
                    server.name(),
                    START_LIMIT.as_secs()
                ),
                "see hanode status: PostgreSQL needs a leader, Redis a replica that follows its primary"
            )
        );
        sleep(INTERVAL);
    }
}

enum State {
    Complete(Completed),
    Failed(String),
    Awaited,
}

fn state(records: &Records, server: Server, since: i64) -> State {
    if let Some(last) = records.last(server).filter(|last| last.started >= since) {
        return State::Complete(last.clone());
    }
    let failed = records.failure(server).filter(|failed| failed.at >= since);
    failed.map_or(State::Awaited, |failed| State::Failed(format!("{}: {}", failed.node, failed.error)))
}

/// The reports of the nodes that answer and watch backups.
fn reports(access: &Access) -> Result<Vec<(String, BackupReport)>> {
    let mut errors = Vec::new();
    let mut reports = Vec::new();
    for node in &access.spec.nodes {
        match access.report(node, TIMEOUT) {
            Ok(report) => reports.extend(report.backup.map(|backup| (node.name.clone(), backup))),
            Err(error) => errors.push(format!("{}: {error:#}", node.name)),
        }
    }
    ensure!(
        errors.len() < access.spec.nodes.len(),
        "no node answers: {}",
        terminal::line(&errors.join("; "))
    );
    Ok(reports)
}

/// In the etcd of the first node whose etcd has a quorum.
fn store(access: &Access) -> Result<Store> {
    let mut errors = Vec::new();
    for node in &access.spec.nodes {
        let etcd = access.etcd(node, TIMEOUT).and_then(|etcd| etcd.members().map(|_| etcd));
        match etcd {
            Ok(etcd) => return Ok(Store::new(etcd, &access.spec.name)),
            Err(error) => errors.push(format!("{}: {error:#}", node.name)),
        }
    }
    bail!("no etcd answers: {}", errors.join("; "))
}

impl Made {
    pub fn text(&self) -> String {
        let line = |(server, made): &(Server, Completed)| {
            let (took, size) = (made.finished - made.started, hanode_util::bytes::text(made.bytes));
            format!("{}: {} by {} in {took} s, {size}", server.name(), made.label, made.node)
        };
        self.completed.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::backup::{Archive, Failed};

    fn completed(started: i64) -> Completed {
        Completed {
            stanza: "s".into(),
            label: "l".into(),
            started,
            finished: started + 9,
            bytes: 1,
            node: "node1".into(),
            timeline: 1,
            full_started: started,
        }
    }

    fn records(started: i64) -> Records {
        Records {
            archive: Some(Archive { stanza: "s".into(), repository: "r".into() }),
            completed: [(Server::Postgres, completed(started))].into(),
            ..Records::default()
        }
    }

    #[test]
    fn a_backup_is_due_by_the_clock_of_the_nodes() {
        let report = |at, started| {
            let report = BackupReport { at, records: records(started), ..BackupReport::default() };
            ("node1".to_string(), report)
        };
        assert_eq!(due_now(&[]), None);
        assert_eq!(due_now(&[report(100, 50), report(90, 50)]), Some(100));
        assert_eq!(due_now(&[report(100, 103)]), Some(104), "one was started since the report");
    }

    #[test]
    fn only_what_happened_since_the_request_counts() {
        let mut records = records(50);
        assert!(matches!(state(&records, Server::Postgres, 50), State::Complete(_)));
        assert!(matches!(state(&records, Server::Postgres, 51), State::Awaited));
        let failed = |at| Failed { at, node: "node2".into(), error: "no space".into() };
        records.failed.insert(Server::Postgres, failed(60));
        assert!(matches!(state(&records, Server::Postgres, 61), State::Awaited));
        let State::Failed(why) = state(&records, Server::Postgres, 55) else { panic!("it failed") };
        assert_eq!(why, "node2: no space");
    }
}
