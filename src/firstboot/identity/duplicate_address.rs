//! A duplicate address: another machine answers for this node's address. Two such machines break each other's
//! connections, so the later one yields: it removes the address from its interface, and restores it once the
//! address is free.

use crate::start::apply::NodeContext;
use crate::state::{NodeState, Phase};
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

const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// In memory: a reboot configures the address again.
const ADDRESS_FILE: &str = "/run/hanode/address.saved";
const ROUTES_FILE: &str = "/run/hanode/routes.saved";

/// A probe in the background.
pub(crate) struct DuplicateProbe(JoinHandle<Result<Option<RemovedAddress>>>);

/// Probes in the background whether another machine has this node's address. If so, this machine removes the
/// address at once, because the other machine loses connections while both have it.
pub(crate) fn start_probe(node: &NodeContext) -> Result<DuplicateProbe> {
    let own = node.config.node(node.name)?;
    let (root, interface, address) = (node.root.to_path_buf(), node.machine.interface.clone(), own.address);
    Ok(DuplicateProbe(spawn(move || match is_in_use(run_arping(&interface, address)?)? {
        true => RemovedAddress::remove(&root, &interface, address).map(Some),
        false => Ok(None),
    })))
}

impl DuplicateProbe {
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// Returns once this machine is the only one with its address.
pub(crate) fn yield_address(node: &NodeContext, probe: DuplicateProbe, state: &mut NodeState) -> Result<()> {
    let own = node.config.node(node.name)?;
    let interface = &node.machine.interface;
    let result = probe.0.join().unwrap_or_else(|_| Err(anyhow!("the probe panicked")));
    let removed = match result {
        Ok(None) => return Ok(()),
        Ok(Some(removed)) => removed,
        // The probe is repeated before etcd's membership changes, where a duplicate does the most harm.
        Err(error) => {
            tracing::warn!("cannot tell whether another machine has {}: {error:#}", own.address);
            return Ok(());
        }
    };
    let what = duplicate_message(own.address, node.name);
    state.error = Some(UserError {
        what: what.clone(),
        place: format!("{interface}, from which this machine has removed the address"),
        help: "switch one of the two off; this one continues automatically once the address is free".into(),
    });
    state.enter(node.root, Phase::Refused, &what)?;
    while is_in_use(run_arping(interface, own.address)?)? {
        sleep(PROBE_INTERVAL);
    }
    removed.restore()?;
    state.error = None;
    Ok(())
}

/// Probes in the foreground: before etcd's membership changes, or while a cluster that should answer is
/// unreachable.
pub(crate) fn refusal(node: &NodeContext) -> Result<Option<Step>> {
    let own = node.config.node(node.name)?;
    let in_use = is_in_use(run_arping(&node.machine.interface, own.address)?)?;
    let reason = || format!("{}; switch one of them off", duplicate_message(own.address, &own.name));
    Ok(in_use.then(|| Step::new(Action::Refuse, reason())))
}

fn duplicate_message(address: IpAddr, name: &str) -> String {
    format!("another machine on this network has {address}, the address of {name}")
}

/// Duplicate address detection (RFC 5227) with arping; for IPv6 the kernel does it. It takes two seconds,
/// since a busy machine may receive the reply late.
fn run_arping(interface: &str, address: IpAddr) -> Result<Option<Child>> {
    if address.is_ipv6() {
        return Ok(None);
    }
    let mut arping = Command::new("arping");
    arping.args(["-D", "-q", "-c", "2", "-w", "2", "-I", interface, &address.to_string()]);
    arping.spawn().map(Some).context("running arping")
}

fn is_in_use(arping: Option<Child>) -> Result<bool> {
    let Some(mut arping) = arping else { return Ok(false) };
    let status = arping.wait()?;
    match status.code() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => bail!("arping -D failed ({status})"),
    }
}

/// A removed address and its routes, in the files below `root` that `ip address save` and `ip route save` wrote.
struct RemovedAddress {
    root: PathBuf,
}

/// Restores an address that an earlier, interrupted run removed; it is probed again afterwards.
pub(crate) fn restore_address(root: &Path) {
    if below(root, ADDRESS_FILE).exists() && below(root, ROUTES_FILE).exists() {
        RemovedAddress { root: root.into() }.restore().unwrap_or_else(|error| tracing::warn!("{error:#}"));
    }
}

impl RemovedAddress {
    fn remove(root: &Path, interface: &str, address: IpAddr) -> Result<RemovedAddress> {
        let (tree, address) = (SafeTree::open(root)?, address.to_string());
        let saved = |path: &str| tree.create(path).with_context(|| format!("creating {path}"));
        ip(Command::new("ip")
            .args(["-4", "address", "save", "dev", interface, "to", &address])
            .stdout(saved(ADDRESS_FILE)?))?;
        ip(Command::new("ip").args(["-4", "route", "save", "dev", interface]).stdout(saved(ROUTES_FILE)?))?;
        ip(Command::new("ip").args(["-4", "address", "flush", "dev", interface, "to", &address]))?;
        Ok(RemovedAddress { root: root.into() })
    }

    fn restore(self) -> Result<()> {
        for (what, at) in [("address", ADDRESS_FILE), ("route", ROUTES_FILE)] {
            let saved = File::open(below(&self.root, at)).with_context(|| format!("opening {at}"))?;
            ip(Command::new("ip").args([what, "restore"]).stdin(saved))?;
        }
        let tree = SafeTree::open(&self.root)?;
        let mut files = [ADDRESS_FILE, ROUTES_FILE].iter();
        files.try_for_each(|path| tree.remove_file(path)).context("deleting the saved address")
    }
}

fn ip(command: &mut Command) -> Result<()> {
    hanode_util::command::run_to_end(command).map(drop)
}
