//! `hanode lab chaos`: faults, one after the other, while clients write; the cluster must mend itself and
//! lose nothing that was promised. Nobody intervenes: a fault is taken back, and that is all.

mod budget;
mod fault;
mod report;
mod schedule;

pub use fault::Fault;
pub use report::{Report, table};
pub(crate) use schedule::{Strike, Target, schedule};

use super::Lab;
use super::diagnose;
use super::load::{Load, Service};
use super::process::wait_until;
use anyhow::{Context, Result, bail, ensure};
use hanode_admin::recovery_time;
use hanode_cluster::health::{self, Access, Status};
use hanode_util::interrupt;
use report::{Round, Struck};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub struct Options {
    pub rounds: usize,
    pub seed: u64,
    pub faults: Vec<Fault>,
    /// Multiplies every limit, for slow machines.
    pub timeout_scale: f64,
}

/// How long the cluster may take to mend itself once the fault is over.
const HEALED: Duration = Duration::from_secs(300);
/// Between two rounds, so that a gap belongs to one of them.
const QUIET: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(500);

/// Runs on a lab that is up and well; it is left running, whatever comes of it.
pub fn run(lab: &Lab, access: &Access, options: &Options) -> Result<Report> {
    let nodes = access.spec.nodes.len();
    if let Some(fault) = options.faults.iter().find(|f| lab.layout.vm && !f.on_virtual_machines()) {
        bail!("{} cannot be done to virtual machines: leave it out with --faults", fault.name());
    }
    let before = lab.in_network(|| health::collect(access))??;
    let problems = health::problems_but_skew(access, &before);
    ensure!(problems.is_empty(), "the cluster is not well to begin with: {}", problems.join("; "));
    let load = Load::start(lab, access)?;
    let limit = HEALED.mul_f64(options.timeout_scale);
    let writes = wait_until(limit, || {
        interrupt::interrupted() || Service::ALL.iter().all(|s| load.acknowledged(*s) > 0)
    });
    interrupt::check()?;
    ensure!(writes, "the load's writes are not acknowledged, though the cluster looks well");
    let mut report = Report::new(options.seed);
    let budget = recovery_time::budget(&access.spec);
    for strikes in schedule(options.seed, options.rounds, &options.faults, nodes) {
        sleep(QUIET);
        let round = Run { lab, access, load: &load, limit };
        match round.round(&strikes) {
            Ok(done) => {
                eprintln!("{}", report::line(report.rounds.len() + 1, options.rounds, &done));
                report.compared.extend(budget::compare(&budget, &done, options.timeout_scale));
                report.rounds.push(done);
            }
            Err(error) if error.is::<Unhealed>() => {
                eprintln!("{error:#}");
                report.unhealed = Some(format!("{error:#}"));
                break;
            }
            Err(error) => return Err(error),
        }
    }
    eprintln!("reading back what was acknowledged");
    let record = load.stop();
    let writes = record.verify();
    interrupt::check()?;
    report.conclude(record.lasted, writes);
    Ok(report)
}

#[derive(Debug, thiserror::Error)]
#[error("not well {} s after {}:\n{}", .seconds, .strikes, .problems.join("\n"))]
struct Unhealed {
    seconds: u64,
    strikes: String,
    problems: Vec<String>,
}

struct Run<'a> {
    lab: &'a Lab,
    access: &'a Access,
    load: &'a Load,
    limit: Duration,
}

impl Run<'_> {
    fn status(&self) -> Result<Status> {
        self.lab.in_network(|| health::collect(self.access))?
    }

    fn round(&self, strikes: &[Strike]) -> Result<Round> {
        let struck = aim(strikes, &self.status()?)?;
        let from = self.load.now();
        let begun = Instant::now();
        let broken = self.hold(&struck);
        // What was done is undone even when the rest failed or was interrupted.
        for each in &struck {
            for node in &each.nodes {
                let back = each.fault.restore_address(self.lab, &self.access.spec, node);
                if broken.is_ok() {
                    back.with_context(|| format!("taking back {} of {node}", each.fault.name()))?;
                }
            }
        }
        broken?;
        let over = Instant::now();
        self.healed(&struck, over)?;
        let gaps = Service::ALL.map(|s| (s, self.load.longest_gap(s, from)));
        Ok(Round {
            struck,
            at: from.as_secs_f64(),
            gaps: gaps.into(),
            well_after: over.elapsed().as_secs_f64(),
            lasted: begun.elapsed().as_secs_f64(),
        })
    }

    /// Breaks what is to be broken and lets it be so for its time, the longest of several.
    fn hold(&self, struck: &[Struck]) -> Result<()> {
        for each in struck {
            self.strike(each).with_context(|| each.to_string())?;
        }
        let seconds = struck.iter().map(|s| s.seconds).max().unwrap_or_default();
        wait_until(Duration::from_secs(seconds), interrupt::interrupted);
        interrupt::check()
    }

    /// All its nodes at the same moment.
    fn strike(&self, struck: &Struck) -> Result<()> {
        let apply = |node: &String| struck.fault.apply(self.lab, &self.access.spec, node);
        std::thread::scope(|scope| {
            let threads: Vec<_> = struck.nodes.iter().map(|node| scope.spawn(move || apply(node))).collect();
            let done = |t: std::thread::ScopedJoinHandle<Result<()>>| {
                t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().try_for_each(done)
        })
    }

    /// Until it looks well twice: the first look may be of before anybody noticed.
    fn healed(&self, struck: &[Struck], since: Instant) -> Result<()> {
        let mut well = 0;
        loop {
            let mut problems = health::problems_but_skew(self.access, &self.status()?);
            well = if problems.is_empty() { well + 1 } else { 0 };
            if well == 2 {
                return Ok(());
            }
            if since.elapsed() > self.limit {
                problems.extend(self.lab.nodes().flat_map(|n| diagnose::troubles(self.lab, n)));
                let strikes = struck.iter().map(Struck::to_string).collect::<Vec<_>>().join(" and ");
                bail!(Unhealed { seconds: self.limit.as_secs(), strikes, problems });
            }
            sleep(LOOK);
            interrupt::check()?;
        }
    }
}

/// Whom each strike hits, now. Two that would hit the same node hit one each.
fn aim(strikes: &[Strike], status: &Status) -> Result<Vec<Struck>> {
    let mut taken: Vec<String> = Vec::new();
    let mut struck = Vec::new();
    for strike in strikes {
        let mut nodes = candidates(strike.target, status);
        nodes.retain(|node| !taken.contains(node));
        if strike.target != Target::Everybody {
            nodes.truncate(1);
        }
        ensure!(!nodes.is_empty(), "no node to strike with {}", strike.fault.name());
        taken.extend(nodes.iter().cloned());
        let roles = nodes.iter().flat_map(|n| roles(status, n)).map(String::from).collect();
        struck.push(Struck {
            fault: strike.fault,
            target: strike.target,
            seconds: strike.seconds,
            nodes,
            roles,
        });
    }
    Ok(struck)
}

/// All nodes, the ones that fit best first.
fn candidates(target: Target, status: &Status) -> Vec<String> {
    let mut nodes: Vec<String> = status.nodes.iter().map(|n| n.name.clone()).collect();
    let has = |role: &'static str| move |node: &String| !roles(status, node).contains(&role);
    match target {
        Target::EtcdLeader => nodes.sort_by_key(has("etcd leader")),
        Target::PostgresLeader => nodes.sort_by_key(has("PostgreSQL leader")),
        Target::RedisPrimary => nodes.sort_by_key(has("Redis primary")),
        Target::VipHolder => nodes.sort_by_key(has("VIP")),
        Target::Busiest => nodes.sort_by_key(|n| std::cmp::Reverse(roles(status, n).len())),
        Target::Idlest => nodes.sort_by_key(|n| roles(status, n).len()),
        Target::Node(place) => nodes.rotate_left(place),
        Target::Everybody => {}
    }
    nodes
}

/// What this node is to the others now.
pub(crate) fn roles(status: &Status, node: &str) -> Vec<&'static str> {
    let mut roles = Vec::new();
    if status.etcd.iter().any(|m| m.name == node && m.leader) {
        roles.push("etcd leader");
    }
    if status.postgres.iter().any(|m| m.name == node && matches!(m.role.as_str(), "leader" | "master")) {
        roles.push("PostgreSQL leader");
    }
    if status.redis.iter().any(|r| r.name == node && r.role == "master") {
        roles.push("Redis primary");
    }
    if status.vip.holders.iter().any(|h| h == node) {
        roles.push("VIP");
    }
    roles
}
