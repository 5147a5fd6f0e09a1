//! Which servers this node stops because of its disks, and when they start again.

use super::monitor::Monitor;
use super::outside::Outside;
use super::probe::Outcome;
use super::saved::{self, FILE, Saved, SavedDisk, with_faults};
use crate::disk::space;
use crate::host::clock::uptime_ms;
use crate::host::process;
use crate::node::NodeContext;
use hanode_core::gate::Service;
use hanode_core::peer::StorageFault;
use hanode_core::state::Component;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// After the first kill: a server that had just passed its gate starts within this time.
const KILL_TIME: Duration = Duration::from_secs(5);
/// The servers whose data is on the disks; etcd is first.
pub(super) const SERVERS: [Component; 4] =
    [Component::Etcd, Component::Patroni, Component::Redis, Component::Sentinel];

/// The result of each disk's last probe, until it is taken.
pub(super) type Ended = Arc<Mutex<Vec<Option<Outcome>>>>;

pub(super) struct Guard {
    pub(super) node: Arc<NodeContext>,
    /// By mount point.
    pub(super) disks: Vec<(String, Monitor)>,
    pub(super) ended: Ended,
    pub(super) outside: Arc<Outside>,
    /// A hang of etcd after which none of its leases can have expired.
    pub(super) tolerated: Duration,
    pub(super) servers: [Server; 4],
    /// During the current hang.
    pub(super) etcd_is_killed: bool,
    /// The fault in the log.
    pub(super) reported: Option<StorageFault>,
    pub(super) log: Sender<String>,
    pub(super) last_save: Option<Instant>,
}

/// One of [`SERVERS`].
pub(super) struct Server {
    pub(super) component: Component,
    pub(super) unit: String,
    /// Since when it must not run here.
    pub(super) stopped: Option<Instant>,
}

impl Guard {
    pub(super) fn tick(&mut self, passed: Duration) {
        let before = self.faults();
        let ended: Vec<_> = {
            let mut all = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter_mut().map(Option::take).collect()
        };
        for ((_, monitor), outcome) in self.disks.iter_mut().zip(ended) {
            monitor.tick(passed, outcome);
        }
        self.kill_hanging_etcd();
        let fault = self.disks.iter().filter_map(|(_, monitor)| monitor.fault()).max();
        match fault {
            Some(_) if self.is_needed_again() => self.restore(),
            Some(fault) => {
                self.stop_servers(fault);
                self.kill_again();
            }
            None if self.stopped().next().is_some() => self.restore(),
            None => {}
        }
        self.report(fault);
        let suspect = fault.is_some() || self.disks.iter().any(|(_, monitor)| monitor.is_suspect());
        let may_change = self.kept().next().is_some() || self.disks.iter().all(|(_, m)| m.works_now());
        self.outside.query(suspect && may_change);
        if before != self.faults() || self.last_save.is_none_or(|at| at.elapsed() >= SAVE_INTERVAL) {
            self.save();
        }
    }

    /// Whether the storage was slow and works now, and the other nodes can no longer do without this one.
    fn is_needed_again(&self) -> bool {
        let others = self.outside.others();
        self.stopped().next().is_some()
            && self.disks.iter().all(|(_, monitor)| monitor.works_now())
            && others.is_some_and(|others| !others.can_take_over(StorageFault::Slow))
    }

    fn faults(&self) -> Vec<Option<StorageFault>> {
        self.disks.iter().map(|(_, monitor)| monitor.fault()).collect()
    }

    fn stopped(&self) -> impl Iterator<Item = Component> {
        self.servers.iter().filter(|server| server.stopped.is_some()).map(|server| server.component)
    }

    fn kept(&self) -> impl Iterator<Item = Component> {
        self.servers.iter().filter(|server| server.stopped.is_none()).map(|server| server.component)
    }

    /// An etcd that led when its disk hung still counts leases down, and asks the new leader to revoke them as soon as
    /// the disk answers (etcd before 3.5.16). One of them is Patroni's lock.
    fn kill_hanging_etcd(&mut self) {
        let hangs = self.disks.iter().any(|(_, monitor)| monitor.since_probe() > self.tolerated);
        if !hangs {
            self.etcd_is_killed = false;
        } else if !self.etcd_is_killed
            && self.outside.others().is_some_and(|others| others.can_take_over(StorageFault::Hangs))
        {
            self.etcd_is_killed = process::kill_unit(&self.servers[0].unit).is_some();
            self.log(format!("{}; killed etcd, since another may lead now", self.describe()));
        }
    }

    /// Stops each server for which another node can take over: if all nodes have the same fault, none does.
    fn stop_servers(&mut self, fault: StorageFault) {
        let Some(others) = self.outside.others().filter(|others| others.can_take_over(fault)) else { return };
        let now = Instant::now();
        let mut new = Vec::new();
        for server in self.servers.iter_mut().filter(|server| server.stopped.is_none()) {
            if others.can_replace(server.component, fault) {
                server.stopped = Some(now);
                new.push(server.component);
            }
        }
        if new.is_empty() {
            return;
        }
        // First: a gate that is passed after this waits.
        self.save();
        let postgres_was_killed = self.kill(|server| server.stopped == Some(now));
        self.outside.release_vip();
        if postgres_was_killed {
            self.outside.release_lock();
        }
        if new.contains(&Component::Redis) {
            // Its disk may have lost writes that replicas have confirmed: as after a power cut, one of them is promoted
            // before this Redis starts.
            let _ = self.node.forget_gate_step(Service::Redis);
        }
        let kept: Vec<_> = self.kept().map(|server| server.to_string()).collect();
        let rest = match kept.as_slice() {
            [] => "they start when its storage works again".into(),
            some => format!("without {}: no other node could take over", some.join(", ")),
        };
        self.log(format!("{}; stopped the servers of this node, {rest}", self.describe()));
    }

    /// A server that had just passed its gate.
    fn kill_again(&self) {
        self.kill(|server| server.stopped.is_some_and(|since| since.elapsed() < KILL_TIME));
    }

    /// Returns whether PostgreSQL was among them, so that it ran here and cannot answer any more.
    fn kill(&self, which: impl Fn(&Server) -> bool) -> bool {
        let killed = |server: &Server| process::kill_unit(&server.unit).is_some_and(|killed| killed > 0);
        let killed: Vec<_> = self
            .servers
            .iter()
            .filter(|server| which(server))
            .map(|server| (server.component, killed(server)))
            .collect();
        killed.contains(&(Component::Patroni, true))
    }

    fn restore(&mut self) {
        self.servers.iter_mut().for_each(|server| server.stopped = None);
        self.save();
        self.outside.restore();
        self.log("the storage works again: the servers of this node start".into());
    }

    fn report(&mut self, fault: Option<StorageFault>) {
        if fault == self.reported {
            return;
        }
        self.reported = fault;
        if fault.is_some() && self.stopped().next().is_none() {
            let what = self.describe();
            self.log(format!("{what}; the servers run on until enough other nodes can take over"));
        }
    }

    /// The disks with a fault, and what they do.
    fn describe(&self) -> String {
        let each = |(mount, monitor): &(String, Monitor)| {
            let fault = monitor.fault().unwrap_or(StorageFault::Hangs);
            let affected = monitor.fault().is_some() || monitor.since_probe() > self.tolerated;
            affected.then(|| format!("{mount} {}", fault.describe()))
        };
        self.disks.iter().filter_map(each).collect::<Vec<_>>().join(", ")
    }

    fn log(&self, line: String) {
        let _ = self.log.send(line);
    }

    /// The file is in memory.
    fn save(&mut self) {
        let disks = self.disks.iter().map(|(mount, monitor)| SavedDisk {
            mount: mount.clone(),
            write_age_seconds: monitor.since_write().as_secs(),
            fault: monitor.fault(),
        });
        let saved = Saved {
            saved_ms: uptime_ms(),
            stopped: self.stopped().collect(),
            kept: self.kept().collect(),
            disks: disks.collect(),
        };
        self.last_save = Some(Instant::now());
        let has_fault = self.disks.iter().any(|(_, monitor)| monitor.fault().is_some());
        // What is on them was measured before the fault.
        self.outside.publish(has_fault.then(|| with_faults(&saved, space::last_measured(&self.node.disk))));
        if let Err(error) = saved::save(self.node.root(), &saved) {
            self.log(format!("{FILE}: {error:#}"));
        }
    }
}
