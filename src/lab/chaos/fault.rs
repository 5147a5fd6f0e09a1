//! The faults: how each is done to a node and how it is taken back. Only what a machine, its network or its
//! scheduler does; nothing that tells the cluster anything.

use crate::Lab;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use hanode_core::spec::Spec;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Power cut; the disk stays
    Power,
    /// Clean shutdown and start
    Reboot,
    /// Power cut; the disk is lost, the image is booted anew
    Disk,
    /// Network cable out
    Partition,
    /// Cut off from the other nodes, but not from clients
    Split,
    /// One-way partition: the node hears nothing
    Deaf,
    /// One-way partition: nobody hears the node
    Mute,
    /// Every process of the node stopped, as a hypervisor does that moves it
    Freeze,
    /// HAProxy hangs
    PauseHaproxy,
    /// PostgreSQL hangs
    PausePostgres,
    /// Patroni hangs
    PausePatroni,
    /// Redis hangs
    PauseRedis,
    /// Etcd hangs
    PauseEtcd,
    /// No byte left on the disk with the servers' data
    Full,
    /// Power cut of all nodes at once
    All,
}

/// The container's end of its cable.
const INSIDE: &str = "host0";

/// To the last block, those included that are kept for root; wherever the servers' data may lie. Reserved, not
/// written: the host's disk need not have as much.
const FILL: &str = "for d in /var/lib/postgresql /var/lib/pgsql /var/lib/etcd /var/lib/redis; do \
    [ -d $d ] || continue; size=1073741824; n=0; \
    while [ $size -ge 4096 ]; do \
        if fallocate -l $size $d/chaos-fill-$n 2>/dev/null; then n=$((n + 1)); \
        else rm -f $d/chaos-fill-$n; size=$((size / 2)); fi; \
    done; done; \
    [ $(df --output=avail /var/lib/etcd | tail -n1) -lt 64 ]";
const EMPTY: &str = "rm -f /var/lib/*/chaos-fill-*";

impl Fault {
    pub fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default()
    }

    /// What this fault needs that a virtual machine does not offer: a way in without its network.
    pub fn on_virtual_machines(self) -> bool {
        !matches!(self, Fault::Mute | Fault::Freeze)
    }

    pub fn apply(self, lab: &Lab, spec: &Spec, node: &str) -> Result<()> {
        match self {
            Fault::Power | Fault::All => lab.power_off(node),
            Fault::Reboot => lab.shutdown(node),
            Fault::Disk => lab.power_off(node).and_then(|()| lab.discard_disk(node)),
            Fault::Partition => lab.link(node, false),
            Fault::Split => routes(lab, spec, node, "add"),
            Fault::Deaf => lab.deafen(node, true),
            // A queue that has room for nothing.
            Fault::Mute => {
                within(lab, node, &["tc", "qdisc", "replace", "dev", INSIDE, "root", "bfifo", "limit", "1"])
            }
            Fault::Freeze => within(lab, node, &["sh", "-c", "kill -STOP -1"]),
            Fault::Full => within(lab, node, &["sh", "-c", FILL]),
            _ => within(lab, node, &["pkill", "-STOP", "-x", self.process()]),
        }
    }

    pub fn restore_address(self, lab: &Lab, spec: &Spec, node: &str) -> Result<()> {
        match self {
            Fault::Power | Fault::All | Fault::Reboot | Fault::Disk => lab.start(node),
            Fault::Partition => lab.link(node, true),
            Fault::Split => routes(lab, spec, node, "delete"),
            Fault::Deaf => lab.deafen(node, false),
            Fault::Mute => within(lab, node, &["tc", "qdisc", "delete", "dev", INSIDE, "root"]),
            Fault::Freeze => within(lab, node, &["sh", "-c", "kill -CONT -1"]),
            Fault::Full => within(lab, node, &["sh", "-c", EMPTY]),
            // Whoever found it hanging may have ended it meanwhile: then nothing bears the name.
            _ => lab.exec_output(node, &["pkill", "-CONT", "-x", self.process()]).map(drop),
        }
    }

    /// The name that the processes bear on every distribution.
    fn process(self) -> &'static str {
        match self {
            Fault::PauseHaproxy => "haproxy",
            Fault::PausePostgres => "postgres",
            Fault::PausePatroni => "patroni",
            Fault::PauseRedis => "redis-server",
            _ => "etcd",
        }
    }
}

fn within(lab: &Lab, node: &str, argv: &[&str]) -> Result<()> {
    let output = lab.exec_output(node, argv)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{node}: `{}` failed: {}", argv.join(" "), said.trim());
    Ok(())
}

/// What goes to the other nodes goes nowhere, answers included.
fn routes(lab: &Lab, spec: &Spec, node: &str, verb: &str) -> Result<()> {
    spec.peers(node).try_for_each(|peer| {
        let to = ipnet::IpNet::from(peer.address).to_string();
        within(lab, node, &["ip", "route", verb, "blackhole", &to]).context("cutting off a peer")
    })
}
