//! Another machine that answers for this node's address. Two of them cut each other off, so the one that comes
//! later gives way: it takes the address off its interface, and goes on once nobody else has it.

use crate::start::apply::NodeContext;
use crate::state::{Phase, State};
use anyhow::{Context, Result, anyhow, bail};
use hanode_core::plan::{Action, Step};
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use hanode_util::user_error::UserError;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

const ROUND: Duration = Duration::from_secs(2);
/// In memory: a reboot brings the address back by itself.
const ADDRESS: &str = "/run/hanode/address.saved";
const ROUTES: &str = "/run/hanode/routes.saved";

/// A question that takes its time; meanwhile the caller does something else.
pub(crate) struct Asked(JoinHandle<Result<Option<Withdrawn>>>);

/// Asks whether another machine has this node's address. Should one answer, this one lets go of it at once: each
/// moment in which both have it, that one is cut off from somebody.
pub(crate) fn ask(node: &NodeContext) -> Result<Asked> {
    let own = node.config.spec.node(node.name).context("node vanished from the spec")?;
    let (root, interface, address) = (node.root.to_path_buf(), node.machine.interface.clone(), own.address);
    Ok(Asked(spawn(move || match answered(probe(&interface, address)?)? {
        true => Withdrawn::from(&root, &interface, address).map(Some),
        false => Ok(None),
    })))
}

impl Asked {
    /// Whether the answer is there, so that nobody would wait for it.
    pub(crate) fn is_answered(&self) -> bool {
        self.0.is_finished()
    }
}

/// Returns once this machine is the only one with its address.
pub(crate) fn yield_address(node: &NodeContext, asked: Asked, state: &mut State) -> Result<()> {
    let own = node.config.spec.node(node.name).context("node vanished from the spec")?;
    let interface = &node.machine.interface;
    let asked = asked.0.join().unwrap_or_else(|_| Err(anyhow!("asking for it failed")));
    let withdrawn = match asked {
        Ok(None) => return Ok(()),
        Ok(Some(withdrawn)) => withdrawn,
        // Where it is a matter of life, before etcd's membership changes, this is asked again.
        Err(error) => {
            tracing::warn!("not known whether another machine has {}: {error:#}", own.address);
            return Ok(());
        }
    };
    let what = living(own.address, node.name);
    state.error = Some(UserError {
        what: what.clone(),
        place: format!("{interface}, from which this machine has taken the address meanwhile"),
        help: "switch one of the two off; this one goes on by itself once the address is free".into(),
    });
    state.enter(node.root, Phase::Refused, &what)?;
    while answered(probe(interface, own.address)?)? {
        sleep(ROUND);
    }
    withdrawn.back()?;
    state.error = None;
    Ok(())
}

/// For where it is a matter of life: before etcd's membership changes, or while a cluster that should answer is silent.
pub(crate) fn refusal(node: &NodeContext) -> Result<Option<Step>> {
    let own = node.config.spec.node(node.name).context("node vanished from the spec")?;
    let answered = answered(probe(&node.machine.interface, own.address)?)?;
    let reason = || format!("{}; switch one of them off", living(own.address, &own.name));
    Ok(answered.then(|| Step::new(Action::Refuse, reason())))
}

fn living(address: IpAddr, name: &str) -> String {
    format!("another machine answers for {address} on this network: a living {name}")
}

/// Duplicate address detection by the distribution's tool; for IPv6 the kernel does it by itself. Two seconds: on
/// a busy machine it may hear the answer late.
fn probe(interface: &str, address: IpAddr) -> Result<Option<Child>> {
    if address.is_ipv6() {
        return Ok(None);
    }
    let mut arping = Command::new("arping");
    arping.args(["-D", "-q", "-c", "2", "-w", "2", "-I", interface, &address.to_string()]);
    arping.spawn().map(Some).context("running arping")
}

fn answered(probe: Option<Child>) -> Result<bool> {
    let Some(mut arping) = probe else { return Ok(false) };
    let status = arping.wait()?;
    match status.code() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => bail!("arping -D failed ({status})"),
    }
}

/// An address taken off, and with it the routes that hang on it: kept as `ip` itself saves them.
struct Withdrawn {
    root: PathBuf,
}

/// What an earlier run took off and had no time to give back. Whether it may stay is asked anew.
pub(crate) fn restore_address(root: &Path) {
    if below(root, ADDRESS).exists() && below(root, ROUTES).exists() {
        Withdrawn { root: root.into() }.back().unwrap_or_else(|error| tracing::warn!("{error:#}"));
    }
}

impl Withdrawn {
    fn from(root: &Path, interface: &str, address: IpAddr) -> Result<Withdrawn> {
        let (tree, address) = (SafeTree::open(root)?, address.to_string());
        let saved = |path: &str| tree.create(path).with_context(|| format!("creating {path}"));
        ip(Command::new("ip")
            .args(["-4", "address", "save", "dev", interface, "to", &address])
            .stdout(saved(ADDRESS)?))?;
        ip(Command::new("ip").args(["-4", "route", "save", "dev", interface]).stdout(saved(ROUTES)?))?;
        ip(Command::new("ip").args(["-4", "address", "flush", "dev", interface, "to", &address]))?;
        Ok(Withdrawn { root: root.into() })
    }

    fn back(self) -> Result<()> {
        for (what, at) in [("address", ADDRESS), ("route", ROUTES)] {
            let saved = File::open(below(&self.root, at)).with_context(|| format!("opening {at}"))?;
            ip(Command::new("ip").args([what, "restore"]).stdin(saved))?;
        }
        let tree = SafeTree::open(&self.root)?;
        [ADDRESS, ROUTES].iter().try_for_each(|path| tree.remove_file(path)).context("removing what was kept")
    }
}

fn ip(command: &mut Command) -> Result<()> {
    hanode_util::command::run_to_end(command).map(drop)
}
