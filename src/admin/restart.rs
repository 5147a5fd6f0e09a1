//! `hanode restart postgres`: restarts PostgreSQL on one node after the other where parameters await that, with a
//! switchover for the leader.

use anyhow::{Context, Result, bail, ensure};
use hanode_cluster::client::etcd::EtcdLock;
use hanode_cluster::discovery::restart_lock_key;
use hanode_cluster::health::{self, Access, RestartStep, Restarted, Status, next_restart, restart_blockers};
use hanode_cluster::request::{self, Answer, Request};
use hanode_util::interrupt;
use hanode_util::user_error::UserError;
use serde::Serialize;
use std::thread::sleep;
use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// A watcher looks for requests every two seconds.
const TAKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// A leader that stops first writes all changed pages to its disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(660);
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(300);
/// Renewed all the time, so it expires soon after this program was killed.
const LOCK_TTL: Duration = Duration::from_secs(60);
/// In a row: the first may be older than the restart.
const HEALTHY_ANSWERS: usize = 2;

#[derive(Debug, Serialize)]
pub struct CompletedStep {
    #[serde(flatten)]
    pub step: RestartStep,
    /// Until the cluster was healthy again.
    pub seconds: f64,
}

/// What was done, and why it ended early.
pub struct RestartRun {
    pub steps: Vec<CompletedStep>,
    pub result: Result<()>,
}

/// Restarts what awaits a restart; `report` gets what happens, in lines.
pub fn restart_postgres(access: &Access, report: &dyn Fn(&str)) -> RestartRun {
    let mut steps = Vec::new();
    let result = restart_all(access, report, &mut steps);
    RestartRun { steps, result }
}

fn restart_all(access: &Access, report: &dyn Fn(&str), steps: &mut Vec<CompletedStep>) -> Result<()> {
    let mut status = health::collect(access)?;
    let blockers = restart_blockers(&status);
    if !blockers.is_empty() {
        let list: String = blockers.iter().map(|blocker| format!("\n  - {blocker}")).collect();
        let what = format!("nothing was restarted: the cluster is not healthy:{list}");
        bail!(UserError::with_help(what, "correct that first; `hanode status` shows when it is done"));
    }
    let (lock, mut restarted) = (lock(access)?, Restarted::default());
    while let Some(step) = next(&status, &restarted)? {
        let (start, run) = (Instant::now(), Run { access, lock: &lock, report, step: &step });
        report(&describe(&step));
        run.perform().map_err(|error| stopped(&error, &step))?;
        status = run.wait_until_healthy().map_err(|error| stopped(&error, &step))?;
        let seconds = start.elapsed().as_secs_f64();
        report(&format!("{}: healthy after {seconds:.0} s", step.node()));
        restarted.add(&step);
        steps.push(CompletedStep { step, seconds });
    }
    Ok(())
}

/// The same lock as for restarts by `hanode apply`.
fn lock(access: &Access) -> Result<EtcdLock> {
    let key = restart_lock_key(&access.spec.name);
    request::etcd(access)?.lock(&key, "hanode restart postgres", LOCK_TTL)?.map_err(|holder| {
        let what = format!("nothing was restarted: {holder} restarts servers now");
        UserError::with_help(what, "try again when it is done").into()
    })
}

fn next(status: &Status, restarted: &Restarted) -> Result<Option<RestartStep>> {
    next_restart(status, restarted).map_err(|node| {
        let what = format!("{node}: PostgreSQL still awaits a restart after its restart");
        UserError::with_help(what, format!("see the logs of Patroni and PostgreSQL on {node}")).into()
    })
}

/// An interruption stays one.
fn stopped(error: &anyhow::Error, step: &RestartStep) -> anyhow::Error {
    if error.is::<interrupt::Interrupted>() {
        return interrupt::Interrupted.into();
    }
    let node = step.node();
    let help = format!(
        "see `hanode status` and the log of Patroni on {node}; once the cluster is healthy, the same command continues"
    );
    UserError::with_help(format!("{}: stopped: {error:#}", describe(step)), help).into()
}

fn describe(step: &RestartStep) -> String {
    match step {
        RestartStep::Restart { node } => format!("{node}: restarting PostgreSQL"),
        RestartStep::RestartLeader { node } => {
            format!(
                "{node}: restarting PostgreSQL in place: its standbys cannot have a smaller value before it"
            )
        }
        RestartStep::SwitchOver { node, to } => {
            format!("{node}: restarting PostgreSQL as a standby, {to} becomes the leader")
        }
    }
}

/// One step in progress.
struct Run<'a> {
    access: &'a Access,
    lock: &'a EtcdLock,
    report: &'a dyn Fn(&str),
    step: &'a RestartStep,
}

impl Run<'_> {
    fn perform(&self) -> Result<()> {
        let node = self.access.spec.require_node(self.step.node())?;
        let request = match self.step {
            RestartStep::SwitchOver { to, .. } => Request::SwitchOver { to: to.clone() },
            _ => Request::Restart,
        };
        let sent = request::send(self.access, node, &request)?;
        let start = Instant::now();
        loop {
            self.pause()?;
            match sent.answer()? {
                Some(Answer::Done) => return Ok(()),
                Some(Answer::Failed(why)) => bail!(why),
                Some(Answer::Taken) => {
                    ensure!(start.elapsed() < ANSWER_TIMEOUT, "not done within {ANSWER_TIMEOUT:?}")
                }
                None => ensure!(
                    start.elapsed() < TAKEN_TIMEOUT,
                    "{} does not take the request: its hanode-ready does not run, or its image is older",
                    node.name
                ),
            }
        }
    }

    fn wait_until_healthy(&self) -> Result<Status> {
        let (start, mut healthy, mut reported) = (Instant::now(), 0, String::new());
        loop {
            self.pause()?;
            let status = health::collect(self.access)?;
            let blockers = restart_blockers(&status);
            healthy = if blockers.is_empty() { healthy + 1 } else { 0 };
            if healthy == HEALTHY_ANSWERS {
                return Ok(status);
            }
            let Some(first) = blockers.first() else { continue };
            ensure!(
                start.elapsed() < HEALTHY_TIMEOUT,
                "the cluster is not healthy {HEALTHY_TIMEOUT:?} after it:\n  - {}",
                blockers.join("\n  - ")
            );
            let line = format!("waiting: {}", health::shortened(first));
            if line != reported {
                (self.report)(&line);
                reported = line;
            }
        }
    }

    fn pause(&self) -> Result<()> {
        interrupt::check()?;
        sleep(POLL_INTERVAL);
        ensure!(
            self.lock.renew().context("the lock in etcd")?,
            "the lock of this command in etcd has expired"
        );
        Ok(())
    }
}
