//! Brings a lab up, as far as there is anything left to do, and waits until it is well.

use super::diagnose::{self, Boot};
use super::layout::{self, Image, Layout};
use super::{Lab, down, image, state, vm};
use anyhow::{Context, Result, ensure};
use hanode_core::spec::Spec;
use hanode_util::command;
use hanode_util::interrupt::Interrupted;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub struct Options {
    pub dir: PathBuf,
    pub image: PathBuf,
    pub vm: bool,
    /// Multiplies every limit, for slow machines.
    pub timeout_scale: f64,
    /// The nodes to start; none named: all.
    pub nodes: Vec<String>,
    /// The program that has the verb `lab-node`; unset: this one.
    pub program: Option<PathBuf>,
}

/// What is known of the cluster at one moment, seen from outside the nodes.
pub struct Probe {
    pub healthy: bool,
    pub problems: Vec<String>,
}

/// What took how long, in seconds; the last entry counts from the first node's launch.
#[derive(Debug, Serialize)]
pub struct Report {
    pub(crate) schema: u32,
    pub(crate) took: Vec<(String, f64)>,
}

const BOOT: Duration = Duration::from_secs(120);
const HEALTHY: Duration = Duration::from_secs(300);
/// A refusal that stands for so long is what comes of it: a shorter one may be of what is just going away.
const REFUSED: Duration = Duration::from_secs(20);
/// An emulated processor is slower by about this.
const EMULATED: f64 = 5.0;

/// Starts the nodes that do not run, on the disks they have, and waits: for all nodes until `probe` finds
/// the cluster healthy, for some until those have booted. Once every node is started a failure leaves the
/// lab as it is, to be looked at; before that, and when `stop` is set, nothing of this call stays behind.
pub fn up(
    options: &Options,
    spec: &Spec,
    probe: &(dyn Fn() -> Probe + Sync),
    stop: &AtomicBool,
) -> Result<Report> {
    needs_root()?;
    needs_tools(&options.image, options.vm)?;
    let dir =
        options.dir.canonicalize().with_context(|| format!("no directory {}", options.dir.display()))?;
    let new = !state(&dir).exists();
    let mut run = Run { stop, report: Report { schema: 1, took: Vec::new() }, started: Vec::new() };
    let done = run.all(&dir, options, spec, probe);
    if let Err(error) = &done
        && !error.is::<Unwell>()
    {
        run.undo(&dir, new).context("cleaning up after an interrupted start")?;
    }
    done.map(|()| run.report)
}

/// The nodes run, but not as they should.
#[derive(Debug, thiserror::Error)]
#[error("{what}\n{}\nthe lab is left as it is: `hanode lab exec`, then `hanode lab down`", .troubles.join("\n"))]
struct Unwell {
    what: String,
    troubles: Vec<String>,
}

struct Run<'a> {
    stop: &'a AtomicBool,
    report: Report,
    started: Vec<String>,
}

impl Run<'_> {
    fn all(
        &mut self,
        dir: &Path,
        options: &Options,
        spec: &Spec,
        probe: &(dyn Fn() -> Probe + Sync),
    ) -> Result<()> {
        let lab = lab(dir, options, spec)?;
        let wanted: Vec<&str> = match options.nodes.is_empty() {
            true => lab.nodes().collect(),
            false => options.nodes.iter().map(String::as_str).collect(),
        };
        for node in &wanted {
            lab.node(node)?;
        }
        let lock = lab.lock()?;
        self.step("network", || {
            lab.net.make(&lab.layout.subnet, lab.layout.outside)?;
            layout::sources(spec, lab.layout.outside)
                .iter()
                .try_for_each(|(to, from)| lab.net.speak(to, *from))
        })?;
        self.step("image", || image::prepare(&lab.layout.image, &state(dir), options.vm))?;
        drop(lock);
        let launch = Instant::now();
        for node in wanted.iter().copied().filter(|n| !lab.running(n)) {
            self.started.push(node.to_string());
            self.step(&format!("{node} launched"), || lab.start(node))?;
        }
        let scale = options.timeout_scale * if options.vm && !vm::accelerated() { EMULATED } else { 1.0 };
        let mut refusals = Refusals::new(REFUSED.mul_f64(scale));
        self.booted(&lab, &wanted, launch, BOOT.mul_f64(scale), &mut refusals)?;
        match options.nodes.is_empty() {
            true => self.healthy(&lab, probe, launch, HEALTHY.mul_f64(scale), &mut refusals),
            false => Ok(()),
        }
    }

    fn step(&mut self, what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let begun = Instant::now();
        let done = work();
        // A child that the same Ctrl-C ended reports a failure of its own.
        self.go_on()?;
        done.with_context(|| what.to_string())?;
        self.took(what, begun);
        Ok(())
    }

    fn took(&mut self, what: &str, since: Instant) {
        let seconds = since.elapsed().as_secs_f64();
        eprintln!("{seconds:7.1} s  {what}");
        self.report.took.push((what.to_string(), seconds));
    }

    fn go_on(&self) -> Result<()> {
        match self.stop.load(Ordering::SeqCst) {
            true => Err(Interrupted.into()),
            false => Ok(()),
        }
    }

    fn pause(&self, length: Duration) -> Result<()> {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.go_on()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        self.go_on()
    }

    fn booted(
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
                match diagnose::boot(lab, node) {
                    Boot::Under => still.push(node),
                    Boot::Done => self.took(&format!("{node} booted"), launch),
                    Boot::Refused(why) if !refusals.stands(node, &why) => still.push(node),
                    Boot::Refused(_) => return unwell(format!("{node} refuses"), lab, &[node], Vec::new()),
                    Boot::Failed(_) => {
                        return unwell(format!("{node} does not boot"), lab, &[node], Vec::new());
                    }
                }
            }
            waiting = still;
            if launch.elapsed() > limit && !waiting.is_empty() {
                let what = format!("not booted after {} s: {}", limit.as_secs(), waiting.join(", "));
                return unwell(what, lab, &waiting, Vec::new());
            }
            if !waiting.is_empty() {
                self.pause(Duration::from_millis(500))?;
            }
        }
        Ok(())
    }

    fn healthy(
        &mut self,
        lab: &Lab,
        probe: &(dyn Fn() -> Probe + Sync),
        launch: Instant,
        limit: Duration,
        refusals: &mut Refusals,
    ) -> Result<()> {
        let nodes: Vec<&str> = lab.nodes().collect();
        let mut shown = String::new();
        loop {
            let found = lab.in_network(probe)?;
            if found.healthy {
                self.took("healthy, from launch", launch);
                return Ok(());
            }
            for node in &nodes {
                match diagnose::boot(lab, node) {
                    Boot::Failed(_) => {
                        return unwell(format!("{node} has failed"), lab, &[node], found.problems);
                    }
                    Boot::Refused(why) if refusals.stands(node, &why) => {
                        return unwell(format!("{node} refuses"), lab, &nodes, found.problems);
                    }
                    Boot::Refused(_) => {}
                    Boot::Under | Boot::Done => refusals.over(node),
                }
            }
            if launch.elapsed() > limit {
                let what = format!("the cluster is not healthy after {} s", limit.as_secs());
                return unwell(what, lab, &nodes, found.problems);
            }
            let first = found.problems.into_iter().next().unwrap_or_default();
            if first != shown {
                eprintln!("{:7.1} s  … {first}", launch.elapsed().as_secs_f64());
                shown = first;
            }
            self.pause(Duration::from_secs(1))?;
        }
    }

    /// Leaves nothing of this call: of a lab that was there before, only the nodes that it started go.
    fn undo(&self, dir: &Path, new: bool) -> Result<()> {
        if new {
            return down::sweep(dir);
        }
        let lab = Lab::open(dir)?;
        self.started.iter().try_for_each(|node| lab.power_off(node))
    }
}

/// Since when which node has refused for which reason.
struct Refusals {
    patience: Duration,
    since: BTreeMap<String, (String, Instant)>,
}

impl Refusals {
    fn new(patience: Duration) -> Refusals {
        Refusals { patience, since: BTreeMap::new() }
    }

    /// Notes it; whether it has stood for long enough to be believed.
    fn stands(&mut self, node: &str, why: &str) -> bool {
        match self.since.get(node) {
            Some((reason, since)) if reason == why => since.elapsed() >= self.patience,
            _ => {
                self.since.insert(node.into(), (why.into(), Instant::now()));
                self.patience.is_zero()
            }
        }
    }

    fn over(&mut self, node: &str) {
        self.since.remove(node);
    }
}

fn unwell(what: String, lab: &Lab, nodes: &[&str], problems: Vec<String>) -> Result<()> {
    let mut troubles = problems;
    for node in nodes {
        troubles.extend(diagnose::troubles(lab, node));
    }
    Err(Unwell { what, troubles }.into())
}

/// The lab of this directory: the one that is there, when it is the same, else a new one.
fn lab(dir: &Path, options: &Options, spec: &Spec) -> Result<Lab> {
    let wanted = Layout::new(spec, Image::at(&options.image)?, options.vm)?;
    let at = state(dir).join("lab.json");
    match layout::read::<Layout>(&at)? {
        Some(found) => ensure!(
            found.without_duplicates() == wanted,
            "{0} was made from another image or spec: `hanode lab roll {1} --image FILE` replaces node by \
             node, `hanode lab down {1}` ends it",
            at.display(),
            dir.display()
        ),
        None => {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state(dir))?;
            layout::write(&at, &wanted)?;
        }
    }
    let lab = Lab::with(dir.to_path_buf(), wanted)?;
    Ok(match &options.program {
        Some(program) => lab.run_by(program),
        None => lab,
    })
}

pub(super) fn needs_root() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the lab makes mounts and network namespaces: run it as root");
    Ok(())
}

const TOOLS: [&str; 5] = ["ip", "nsenter", "setsid", "mount", "tar"];
const CONTAINER_TOOLS: [&str; 2] = ["systemd-nspawn", "mke2fs"];
const VM_TOOLS: [&str; 5] = ["qemu-system-x86_64", "qemu-img", "xorriso", "ssh", "ssh-keygen"];

fn needs_tools(image: &Path, vm: bool) -> Result<()> {
    let more = if vm { &VM_TOOLS[..] } else { &CONTAINER_TOOLS };
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
    fn only_a_refusal_that_stands_is_believed() {
        let mut refusals = Refusals::new(Duration::from_millis(40));
        assert!(!refusals.stands("node1", "a living node1"), "just now");
        std::thread::sleep(Duration::from_millis(50));
        assert!(!refusals.stands("node1", "another reason"));
        assert!(!refusals.stands("node2", "another reason"));
        std::thread::sleep(Duration::from_millis(50));
        assert!(refusals.stands("node1", "another reason"));
        refusals.over("node1");
        assert!(!refusals.stands("node1", "another reason"));
    }
}
