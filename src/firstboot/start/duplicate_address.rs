//! A duplicate address: another machine answers for this node's address. Two such machines break each other's
//! connections, so the later one yields: it removes the address from its interface, and restores it once the
//! address is free.

use crate::host::network::{self, AddressProbe};
use crate::node::NodeContext;
use crate::state::NodeState;
use anyhow::{Context, Result, anyhow};
use hanode_core::state::Phase;
use hanode_util::file_tree::below;
use hanode_util::safe_path::SafeTree;
use hanode_util::user_error::UserError;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
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
    let (root, interface, address) =
        (node.root().to_path_buf(), node.machine()?.interface.clone(), node.own().address);
    Ok(DuplicateProbe(spawn(move || match AddressProbe::start(&interface, address)?.finish()? {
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
    let (interface, address) = (&node.machine()?.interface, node.own().address);
    let result = probe.0.join().unwrap_or_else(|_| Err(anyhow!("the probe panicked")));
    let removed = match result {
        Ok(None) => return Ok(()),
        Ok(Some(removed)) => removed,
        // The probe is repeated before etcd's membership changes, where a duplicate does the most harm.
        Err(error) => {
            tracing::warn!("cannot tell whether another machine has {address}: {error:#}");
            return Ok(());
        }
    };
    let what = format!("another machine on this network has {address}, the address of {}", node.name());
    state.error = Some(UserError {
        what: what.clone(),
        place: format!("{interface}, from which this machine has removed the address"),
        help: "switch one of the two off; this one continues automatically once the address is free".into(),
    });
    state.enter(Phase::Refused, &what)?;
    while AddressProbe::start(interface, address)?.finish()? {
        sleep(PROBE_INTERVAL);
    }
    removed.restore()?;
    state.error = None;
    Ok(())
}

/// Probes in the foreground: before etcd's membership changes, or while a cluster that should answer is
/// unreachable.
pub(super) fn is_duplicate(node: &NodeContext) -> Result<bool> {
    AddressProbe::start(&node.machine()?.interface, node.own().address)?.finish()
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
        let tree = SafeTree::open(root)?;
        let saved = |path: &str| tree.create(path).with_context(|| format!("creating {path}"));
        network::save_address(interface, address, saved(ADDRESS_FILE)?, saved(ROUTES_FILE)?)?;
        network::remove_address(interface, address)?;
        Ok(RemovedAddress { root: root.into() })
    }

    fn restore(self) -> Result<()> {
        for (what, at) in [("address", ADDRESS_FILE), ("route", ROUTES_FILE)] {
            let saved = File::open(below(&self.root, at)).with_context(|| format!("opening {at}"))?;
            network::restore(what, saved)?;
        }
        let tree = SafeTree::open(&self.root)?;
        let mut files = [ADDRESS_FILE, ROUTES_FILE].iter();
        files.try_for_each(|path| tree.remove_file(path)).context("deleting the saved address")
    }
}
