//! The roles and databases that the spec declares: created and altered on PostgreSQL's leader after bootstrap and after
//! `hanode apply`, then compared at intervals.
//!
//! A unit runs the SQL as PostgreSQL's user. The hash of the last SQL that ran is in etcd, so a failover repeats nothing,
//! and what somebody changes by hand stays and is reported, until the next `hanode apply` on the leader.

use crate::backup;
use crate::host::systemd::Systemd;
use crate::node::NodeContext;
use anyhow::{Context, Result};
use hanode_core::state::{Component, Problem, ProblemKind};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::thread::sleep;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(3);
const DRIFT_INTERVAL: Duration = Duration::from_secs(30);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const DECLARED: &str = "/etc/patroni/declared.sql";
/// The directory of the units' output, which belongs to PostgreSQL's user.
const OUTPUT: &str = "/run/hanode-sql";
const REPORT_FILE: &str = "/run/hanode/sql.json";
/// An older report is not used: the watcher does not run, or this node no longer leads.
const MAX_REPORT_AGE: i64 = 120;
/// Upper bounds on what a node reports.
const MAX_LINES: usize = 20;
const MAX_LINE: usize = 300;

#[derive(Serialize, Deserialize)]
struct Report {
    at: i64,
    drift: Vec<String>,
    #[serde(default)]
    slots: Vec<Problem>,
}

/// The differences of the last check, if this node leads.
pub(crate) fn last_drift(node: &NodeContext) -> Vec<String> {
    last_report(node).map(|report| report.drift).unwrap_or_default()
}

/// The replication slots that nothing reads, if this node leads.
pub(crate) fn last_slots(node: &NodeContext) -> Vec<Problem> {
    last_report(node).map(|report| report.slots).unwrap_or_default()
}

fn last_report(node: &NodeContext) -> Option<Report> {
    let report: Report = serde_json::from_slice(&std::fs::read(node.at(REPORT_FILE)).ok()?).ok()?;
    (backup::now() - report.at <= MAX_REPORT_AGE).then_some(report)
}

/// Runs until the process ends.
pub(super) fn watch(node: &NodeContext) {
    // A restart of the watcher, as by `hanode apply`, also undoes changes by hand.
    let mut watcher = Watcher { node, starts: true, last_check: None, last_error: String::new() };
    loop {
        if let Err(error) = watcher.round() {
            let error = format!("{error:#}");
            if error != watcher.last_error {
                tracing::info!("roles and databases cannot be checked now: {error}");
            }
            watcher.last_error = error;
        }
        sleep(INTERVAL);
    }
}

struct Watcher<'a> {
    node: &'a NodeContext,
    starts: bool,
    last_check: Option<Instant>,
    last_error: String,
}

impl Watcher<'_> {
    fn round(&mut self) -> Result<()> {
        let leads = backup::watch::leader(self.node)?.is_some();
        let forced = std::mem::take(&mut self.starts);
        if !leads {
            self.last_check = None;
            return self.report(Vec::new());
        }
        let declared = self.node.tree()?.read(DECLARED).context(DECLARED)?;
        let hash = hex::encode(Sha256::digest(&declared));
        let recorded = self.recorded()?;
        let is_new = recorded.as_deref() != Some(hash.as_bytes());
        // While the nodes' specs differ, none of them is known to be the newer one.
        if (is_new || forced) && all_peers_agree(self.node) {
            if let Some(error) = self.run("declared")? {
                return self.report(vec![error]);
            }
            self.record(&hash)?;
            tracing::info!("PostgreSQL has the roles and databases of cluster.toml");
            self.last_check = None;
        } else if is_new {
            return Ok(());
        }
        if self.last_check.is_none_or(|at| at.elapsed() >= DRIFT_INTERVAL) {
            let drift = match self.run("drift")? {
                Some(error) => vec![error],
                None => self.output("drift")?,
            };
            self.last_check = Some(Instant::now());
            self.report(drift)?;
        }
        Ok(())
    }

    fn key(&self) -> String {
        format!("/hanode/{}/declared-sql", self.node.spec().name)
    }

    /// The hash of the SQL that ran last.
    fn recorded(&self) -> Result<Option<Vec<u8>>> {
        self.node.etcd(self.node.own(), REQUEST_TIMEOUT)?.get(&self.key())
    }

    fn record(&self, hash: &str) -> Result<()> {
        self.node.etcd(self.node.own(), REQUEST_TIMEOUT)?.put(&self.key(), hash.as_bytes())
    }

    /// Runs a file of SQL; returns its error.
    fn run(&self, name: &str) -> Result<Option<String>> {
        let unit = format!("hanode-sql@{name}.service");
        let Err(error) = Systemd::connect()?.run("start", &unit) else { return Ok(None) };
        let lines = self.output(name).unwrap_or_default();
        let sql = lines.into_iter().find_map(|line| first_error(&line));
        Ok(Some(sql.unwrap_or_else(|| format!("{error:#}"))))
    }

    fn output(&self, name: &str) -> Result<Vec<String>> {
        let text = self.node.tree()?.read(format!("{OUTPUT}/{name}")).context(OUTPUT)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines = text.lines().filter(|line| !line.trim().is_empty()).take(MAX_LINES);
        Ok(lines.map(|line| line.chars().filter(|c| !c.is_control()).take(MAX_LINE).collect()).collect())
    }

    /// `lines`: what the SQL prints, or its error.
    fn report(&self, lines: Vec<String>) -> Result<()> {
        let slots = lines.iter().filter_map(|line| slot_problem(line)).collect();
        let drift = lines.into_iter().filter(|line| slot_problem(line).is_none()).collect();
        let report = Report { at: backup::now(), drift, slots };
        Ok(self.node.tree()?.replace(REPORT_FILE, &serde_json::to_vec(&report)?, 0o644, None)?)
    }
}

fn all_peers_agree(node: &NodeContext) -> bool {
    let (hash, generation) = (node.spec().hash(), node.config.bundle.metadata.generation);
    node.all_peers(REQUEST_TIMEOUT, |report| {
        report.spec_hash == hash && report.bundle_generation == generation
    })
}

/// A line such as `slot audit inactive 83886080`.
fn slot_problem(line: &str) -> Option<Problem> {
    let mut words = line.strip_prefix("slot ")?.split(' ');
    let (name, state, bytes) = (words.next()?, words.next()?, words.next()?.parse::<u64>().ok()?);
    let problem = match state {
        "lost" => Problem::new(ProblemKind::SlotLost, name),
        _ => {
            let kept = bytes >> 20;
            Problem::new(
                ProblemKind::SlotInactive,
                format!("{name} has no consumer and keeps {kept} MB of WAL"),
            )
        }
    };
    Some(problem.component(Component::Postgres))
}

/// The message of psql without file and line. The lines that follow it quote the statement, which has verifiers.
fn first_error(line: &str) -> Option<String> {
    ["ERROR:", "FATAL:", "error:"].iter().find_map(|mark| {
        let at = line.find(mark)?;
        Some(line[at + mark.len()..].trim().to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_problems_of_their_own() {
        let of = |line: &str| slot_problem(line).map(|problem| problem.to_string());
        let inactive = of("slot audit inactive 83886080").unwrap();
        assert!(
            inactive.starts_with("replication slot audit has no consumer and keeps 80 MB of WAL; "),
            "{inactive}"
        );
        assert!(
            of("slot audit lost 0").unwrap().starts_with("replication slot audit is lost: WAL that it needs")
        );
        assert_eq!(of("role app does not exist"), None);
        assert_eq!(of("slot audit"), None);
    }

    #[test]
    fn an_error_of_psql_is_shown_without_its_statement() {
        let line = "psql:/etc/patroni/declared.sql:31: ERROR:  could not open extension control file \"x\"";
        assert_eq!(first_error(line).as_deref(), Some("could not open extension control file \"x\""));
        assert_eq!(first_error("LINE 1: ALTER ROLE app PASSWORD 'SCRAM-SHA-256$4096:…'"), None);
    }
}
