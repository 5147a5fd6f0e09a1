//! Starts the nodes of a lab that do not run, and waits until the cluster is healthy.

use super::container::Container;
use super::diagnose::{self, BootState};
use super::layout::{self, Image, Layout};
use super::machine::Machine;
use super::vm::VirtualMachine;
use super::{Lab, down, image, lab_dir, process};
use anyhow::{Context, Result, bail};
use hanode_cluster::health::{self, Access};
use hanode_core::restore::RestoreRequest;
use hanode_core::spec::Spec;
use hanode_util::command;
use hanode_util::interrupt::Interrupted;
use hanode_util::terminal;
use hanode_util::user_error::UserError;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub struct UpOptions {
    pub dir: PathBuf,
    pub image: PathBuf,
    pub vm: bool,
    /// Multiplies all time limits, for slow machines.
    pub timeout_scale: f64,
    /// The nodes to start; all if empty.
    pub nodes: Vec<String>,
    /// Print all problems at each change, not only the state.
    pub verbose: bool,
    /// What the metadata of the nodes' machines request; they must be new.
    pub restore: Option<RestoreRequest>,
    /// The program with the verb `lab-node`; by default this one.
    pub program: Option<PathBuf>,
}

/// The state of the cluster at one moment, seen from outside the nodes.
pub struct Probe {
    pub healthy: bool,
    /// The state in one short line.
    pub progress: String,
    pub problems: Vec<String>,
}

impl Probe {
    /// Asks the cluster. Nodes of another build stay as they are, so they are healthy.
    pub fn of(access: &Access) -> Probe {
        match health::collect(access) {
            Ok(status) => {
                let problems = health::lab_problems(&status);
                Probe { healthy: problems.is_empty(), progress: health::progress(&status), problems }
            }
            Err(error) => {
                let error = terminal::line(&format!("{error:#}"));
                Probe { healthy: false, progress: health::shortened(&error), problems: vec![error] }
            }
        }
    }
}

/// Duration of each step in seconds. Those from the boot of the nodes on count from the start of the first node.
#[derive(Debug, Serialize)]
pub struct UpReport {
    pub(crate) schema: u32,
    pub(crate) steps: Vec<(String, f64)>,
}

const BOOT_LIMIT: Duration = Duration::from_secs(120);
const HEALTHY_LIMIT: Duration = Duration::from_secs(300);
/// A refusal that lasts this long is final: the reason of a shorter one may go away.
const REFUSAL_LIMIT: Duration = Duration::from_secs(20);
/// Starts the nodes that do not run, on their existing disks. Waits until `probe` finds the cluster healthy, or, if
/// only some nodes are named, until these have booted. After a failure to become healthy the lab keeps running for
/// examination; any earlier failure, or `stop`, undoes this call.
pub fn up(
    options: &UpOptions,
    spec: &Spec,
    probe: &(dyn Fn() -> Probe + Sync),
    stop: &AtomicBool,
) -> Result<UpReport> {
    process::require_root()?;
    require_tools(&options.image, options.vm)?;
    let dir =
        options.dir.canonicalize().with_context(|| format!("no directory {}", options.dir.display()))?;
    let new = !lab_dir(&dir).exists();
    let mut run = UpRunner { stop, report: UpReport { schema: 1, steps: Vec::new() }, started: Vec::new() };
    let done = run.run(&dir, options, spec, probe);
    if let Err(error) = &done
        && !error.is::<Unhealthy>()
    {
        run.undo(&dir, new).context("undoing an incomplete start")?;
    }
    done.map(|()| run.report)
}

const KEPT_RUNNING: &str =
    "the lab keeps running; examine it with `hanode lab exec`, remove it with `hanode lab down`";

/// The nodes run, but the cluster is unhealthy.
#[derive(Debug, thiserror::Error)]
#[error("{what}\n{}\n{KEPT_RUNNING}", .problems.join("\n"))]
pub(crate) struct Unhealthy {
    what: String,
    problems: Vec<String>,
}

struct UpRunner<'a> {
    stop: &'a AtomicBool,
    report: UpReport,
    started: Vec<String>,
}

impl UpRunner<'_> {
    fn run(
        &mut self,
        dir: &Path,
        options: &UpOptions,
        spec: &Spec,
        probe: &(dyn Fn() -> Probe + Sync),
    ) -> Result<()> {
        let lab = open_or_create(dir, options, spec)?;
        let wanted: Vec<&str> = match options.nodes.is_empty() {
            true => lab.nodes().collect(),
            false => options.nodes.iter().map(String::as_str).collect(),
        };
        for node in &wanted {
            lab.node(node)?;
        }
        if let Some(request) = &options.restore {
            wanted.iter().try_for_each(|node| lab.request_restore(node, request))?;
        }
        let lock = lab.lock()?;
        self.step("network", || {
            lab.net.create(&lab.layout.subnet, lab.layout.outside)?;
            layout::sources(spec, lab.layout.outside)
                .iter()
                .try_for_each(|(to, from)| lab.net.set_source(to, *from))
        })?;
        self.step("image", || image::prepare(&lab.layout.image, &lab_dir(dir), options.vm))?;
        drop(lock);
        let launch = Instant::now();
        for node in wanted.iter().copied().filter(|n| !lab.running(n)) {
            self.started.push(node.to_string());
            self.step(&format!("{node} launched"), || lab.start(node))?;
        }
        let scale = options.timeout_scale * lab.layout.machine().slowdown();
        let mut refusals = Refusals::new(REFUSAL_LIMIT.mul_f64(scale));
        self.wait_booted(&lab, &wanted, launch, BOOT_LIMIT.mul_f64(scale), &mut refusals)?;
        match options.nodes.is_empty() {
            true => {
                let mut shown = Shown::new(launch, options.verbose);
                let show = |found: &Probe| shown.show(found);
                self.wait_healthy(&lab, probe, launch, HEALTHY_LIMIT.mul_f64(scale), &mut refusals, show)
            }
            false => Ok(()),
        }
    }

    fn step(&mut self, what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let done = work();
        // The same Ctrl-C ends child processes, whose errors would hide the interrupt.
        self.check_interrupt()?;
        done.with_context(|| what.to_string())?;
        self.record(what, start);
        Ok(())
    }

    fn record(&mut self, what: &str, since: Instant) {
        let seconds = since.elapsed().as_secs_f64();
        eprintln!("{seconds:7.1} s  {what}");
        self.report.steps.push((what.to_string(), seconds));
    }

    fn check_interrupt(&self) -> Result<()> {
        match self.stop.load(Ordering::SeqCst) {
            true => Err(Interrupted.into()),
            false => Ok(()),
        }
    }

    fn pause(&self, length: Duration) -> Result<()> {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.check_interrupt()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        self.check_interrupt()
    }

    fn wait_booted(
        &mut self,
        lab: &Lab,
        wanted: &[&str],
        launch: Instant,
        limit: Duration,
        refusals: &mut Refusals,
    ) -> Result<()> {
        let mut waiting = wanted.to_vec();
        while !waiting.is_empty() {
            let mut still = Vec::new();
            for node in waiting {
                match diagnose::boot_state(lab, node) {
                    BootState::InProgress => still.push(node),
                    BootState::Done => self.record(&format!("{node} booted"), launch),
                    BootState::Refused(why) if !refusals.is_final(node, &why) => still.push(node),
                    BootState::Refused(_) => {
                        return unhealthy(format!("{node} refuses to start"), lab, &[node], Vec::new());
                    }
                    BootState::Failed(_) => {
                        return unhealthy(format!("{node} does not boot"), lab, &[node], Vec::new());
                    }
                }
            }
            waiting = still;
            if launch.elapsed() > limit && !waiting.is_empty() {
                let what = format!("not booted after {} s: {}", limit.as_secs(), waiting.join(", "));
                return unhealthy(what, lab, &waiting, Vec::new());
            }
            if !waiting.is_empty() {
                self.pause(Duration::from_millis(500))?;
            }
        }
        Ok(())
    }

    fn wait_healthy(
        &mut self,
        lab: &Lab,
        probe: &(dyn Fn() -> Probe + Sync),
        launch: Instant,
        limit: Duration,
        refusals: &mut Refusals,
        mut show: impl FnMut(&Probe),
    ) -> Result<()> {
        let nodes: Vec<&str> = lab.nodes().collect();
        loop {
            let found = lab.in_network(probe)?;
            if found.healthy {
                self.record("healthy, from launch", launch);
                return Ok(());
            }
            for node in &nodes {
                match diagnose::boot_state(lab, node) {
                    BootState::Failed(_) => {
                        return unhealthy(format!("{node} failed to start"), lab, &[node], found.problems);
                    }
                    BootState::Refused(why) if refusals.is_final(node, &why) => {
                        return unhealthy(format!("{node} refuses to start"), lab, &nodes, found.problems);
                    }
                    BootState::Refused(_) => {}
                    BootState::InProgress | BootState::Done => refusals.clear(node),
                }
            }
            if launch.elapsed() > limit {
                let what = format!("the cluster is unhealthy after {} s", limit.as_secs());
                return unhealthy(what, lab, &nodes, found.problems);
            }
            show(&found);
            self.pause(Duration::from_secs(1))?;
        }
    }

    /// Removes a new lab; in an existing one, stops only the nodes that this call started.
    fn undo(&self, dir: &Path, new: bool) -> Result<()> {
        if new {
            return down::remove(dir);
        }
        let lab = Lab::open(dir)?;
        self.started.iter().try_for_each(|node| lab.power_off(node))
    }
}

/// What was last printed about a cluster that starts.
struct Shown {
    launch: Instant,
    verbose: bool,
    progress: String,
    problems: Vec<String>,
}

impl Shown {
    fn new(launch: Instant, verbose: bool) -> Shown {
        Shown { launch, verbose, progress: String::new(), problems: Vec::new() }
    }

    /// Prints the state if it has changed, and all problems if these have and are wanted.
    fn show(&mut self, found: &Probe) {
        let details = self.verbose && self.problems != found.problems;
        if self.progress != found.progress || details {
            eprintln!("{:7.1} s  … {}", self.launch.elapsed().as_secs_f64(), found.progress);
        }
        if details {
            found.problems.iter().for_each(|problem| eprintln!("             {problem}"));
        }
        self.progress.clone_from(&found.progress);
        self.problems.clone_from(&found.problems);
    }
}

/// The reason and the start of each node's current refusal.
struct Refusals {
    limit: Duration,
    since: BTreeMap<String, (String, Instant)>,
}

impl Refusals {
    fn new(limit: Duration) -> Refusals {
        Refusals { limit, since: BTreeMap::new() }
    }

    /// Records the refusal. True once it has lasted for the limit.
    fn is_final(&mut self, node: &str, why: &str) -> bool {
        match self.since.get(node) {
            Some((reason, since)) if reason == why => since.elapsed() >= self.limit,
            _ => {
                self.since.insert(node.into(), (why.into(), Instant::now()));
                self.limit.is_zero()
            }
        }
    }

    fn clear(&mut self, node: &str) {
        self.since.remove(node);
    }
}

fn unhealthy(what: String, lab: &Lab, nodes: &[&str], problems: Vec<String>) -> Result<()> {
    let mut problems = problems;
    for node in nodes {
        problems.extend(diagnose::problems(lab, node));
    }
    Err(Unhealthy { what, problems }.into())
}

/// Opens the existing lab of the directory if its layout is equal, or creates a new one.
fn open_or_create(dir: &Path, options: &UpOptions, spec: &Spec) -> Result<Lab> {
    let wanted = Layout::new(spec, Image::at(&options.image)?, options.vm)?;
    let at = lab_dir(dir).join("lab.json");
    match layout::read::<Layout>(&at)? {
        Some(found) if found.without_duplicates() == wanted => {}
        Some(_) => {
            let what = format!("{} was created from another image or spec", at.display());
            let dir = dir.display();
            let roll = format!("replace its nodes with `hanode lab roll {dir} --image FILE`");
            bail!(UserError::with_help(what, format!("{roll}, or remove it with `hanode lab down {dir}`")))
        }
        None => {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(lab_dir(dir))?;
            layout::write(&at, &wanted)?;
        }
    }
    let lab = Lab::with(dir.to_path_buf(), wanted)?;
    Ok(match &options.program {
        Some(program) => lab.run_by(program),
        None => lab,
    })
}

const TOOLS: [&str; 5] = ["ip", "nsenter", "setsid", "mount", "tar"];

fn require_tools(image: &Path, vm: bool) -> Result<()> {
    let more = if vm { VirtualMachine.tools() } else { Container.tools() };
    let disk: &[&str] = match image::Format::of(image)? {
        _ if vm => &[],
        image::Format::Tar => &[],
        image::Format::Raw => &["sfdisk"],
        image::Format::Qcow2 | image::Format::Vmdk => &["qemu-img", "sfdisk"],
    };
    command::require(&[&TOOLS, more, disk].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_is_final_after_the_limit() {
        let mut refusals = Refusals::new(Duration::from_millis(40));
        assert!(!refusals.is_final("node1", "waiting for node3"), "it is new");
        std::thread::sleep(Duration::from_millis(50));
        assert!(!refusals.is_final("node1", "another reason"));
        assert!(!refusals.is_final("node2", "another reason"));
        std::thread::sleep(Duration::from_millis(50));
        assert!(refusals.is_final("node1", "another reason"));
        refusals.clear("node1");
        assert!(!refusals.is_final("node1", "another reason"));
    }
}
