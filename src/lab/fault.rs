//! The faults: how each is applied to a node and reverted. All act on the machine, its network or its scheduler, never
//! through the cluster's own interfaces.

use super::Lab;
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use hanode_core::spec::Spec;
use serde::Serialize;
use std::thread::sleep;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Power cut; the disk is kept
    Power,
    /// Clean shutdown and start
    Reboot,
    /// Power cut; the disk is discarded, the image boots on a new one
    Disk,
    /// Power cut, until the other nodes no longer have the WAL that its PostgreSQL needs
    Absence,
    /// Network cable unplugged
    Partition,
    /// Network to the other nodes cut; clients still reach the node
    Split,
    /// One-way partition: the node receives nothing
    Deaf,
    /// One-way partition: the node sends nothing
    Mute,
    /// All processes suspended, as during a live migration
    Freeze,
    /// HAProxy hangs
    PauseHaproxy,
    /// PostgreSQL hangs
    PausePostgres,
    /// Patroni hangs
    PausePatroni,
    /// Redis hangs
    PauseRedis,
    /// etcd hangs
    PauseEtcd,
    /// etcd hangs for three seconds, again and again
    StallEtcd,
    /// Disk with the servers' data filled to the last byte
    Full,
    /// Disk that does not complete writes
    StorageHangs,
    /// Disk that the kernel makes read-only after an error, until the node is started again
    StorageReadOnly,
    /// Disk whose reads and writes fail; it is replaced
    StorageErrors,
    /// Link of 24 Mbit/s, over which the PostgreSQL leader sends more
    SlowLink,
    /// Clock set a day ahead, then back (virtual machines only: containers share the host's clock)
    ClockJump,
    /// Power cut of all nodes at once
    All,
}

/// The container's network interface.
const INTERFACE: &str = "host0";

/// Process names, the same on every distribution.
const HAPROXY: &str = "haproxy";
const POSTGRES: &str = "postgres";
const PATRONI: &str = "patroni";
const REDIS: &str = "redis-server";
const ETCD: &str = "etcd";

/// The unit of [`STALL`].
const STALLS: &str = "chaos-stalls";
/// Longer than etcd's election timeout, and too short for systemd and the watcher to restart it.
const STALL: &str = "while :; do pkill -STOP -x $0; sleep 3; pkill -CONT -x $0; sleep 2; done";

/// Fills the file systems of all data directories to the last block, including those reserved for root. Blocks are
/// reserved, not written, so that the host's disk does not need as much space.
const FILL: &str = "for d in /var/lib/postgresql /var/lib/pgsql /var/lib/etcd /var/lib/redis; do \
    [ -d $d ] || continue; size=1073741824; n=0; \
    while [ $size -ge 4096 ]; do \
        if fallocate -l $size $d/chaos-fill-$n 2>/dev/null; then n=$((n + 1)); \
        else rm -f $d/chaos-fill-$n; size=$((size / 2)); fi; \
    done; done; \
    [ $(df --output=avail /var/lib/etcd | tail -n1) -lt 64 ]";
const REMOVE_FILL: &str = "rm -f /var/lib/*/chaos-fill-*";

/// Writes WAL on the node that is the PostgreSQL leader, until it no longer has the oldest segment of before; fails on
/// the others. Each switch ends a segment, of which little is written.
const EXPIRE_WAL: &str = "for psql in /usr/lib/postgresql/*/bin/psql /usr/pgsql-*/bin/psql; do [ -x $psql ] && break; done; \
    sql() { runuser -u postgres -- $psql -XAtq -h /run/postgresql -p $0 -U admin postgres -c \"$1\"; }; \
    [ \"$(sql 'SELECT pg_is_in_recovery()')\" = f ] || exit 3; \
    segment=$(sql 'SELECT pg_walfile_name(pg_current_wal_lsn())'); \
    n=0; while [ $n -lt 600 ]; do \
        sql \"SELECT pg_logical_emit_message(false, 'chaos', 'x')\" > /dev/null; \
        sql 'SELECT pg_switch_wal()' > /dev/null; n=$((n + 1)); \
        [ $((n % 16)) -ne 0 ] || { sql CHECKPOINT; \
            [ \"$(sql \"SELECT count(*) FROM pg_ls_waldir() WHERE name = '$segment'\")\" != 0 ] || exit 0; }; \
    done; exit 4";
/// Eight times as slow as what a full queue makes etcd wait for: its own messages pass.
const LINK_RATE: [&str; 6] = ["rate", "24mbit", "burst", "64kb", "latency", "400ms"];
/// Writes 24 MB of WAL in one transaction, on the PostgreSQL leader: with two standbys it fills the link for 16 s.
const WRITE_BULK: &str = "for psql in /usr/lib/postgresql/*/bin/psql /usr/pgsql-*/bin/psql; do [ -x $psql ] && break; done; \
    runuser -u postgres -- $psql -XAtq -h /run/postgresql -p $0 -U admin postgres -c \"SET synchronous_commit = local\" -c \"\
        SELECT count(pg_logical_emit_message(true, 'chaos', repeat(md5(n::text), 32768))) FROM generate_series(1, 24) n\"";
/// For a failover, if the node was the leader.
const LEADER_TIMEOUT: Duration = Duration::from_secs(90);

impl Fault {
    pub fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default()
    }

    /// Whether the fault can be applied to a node of the lab. A container has the clock of this host: a time namespace
    /// has clocks of its own since boot, but not the time of day.
    pub fn is_supported(self, lab: &Lab) -> bool {
        if lab.layout.vm { self.supported_on_vm() } else { self != Fault::ClockJump }
    }

    /// Whether the fault can be applied to a virtual machine. Some are reverted from inside the node, which is reached
    /// through the network that they interrupt; those of the storage need the disk to be mounted on this host.
    fn supported_on_vm(self) -> bool {
        !matches!(
            self,
            Fault::Mute
                | Fault::Freeze
                | Fault::StorageHangs
                | Fault::StorageReadOnly
                | Fault::StorageErrors
                | Fault::SlowLink
        )
    }

    pub fn apply(self, lab: &Lab, spec: &Spec, node: &str) -> Result<()> {
        match self {
            Fault::Power | Fault::All => lab.power_off(node),
            Fault::Reboot => lab.shutdown(node),
            Fault::Absence => lab.power_off(node).and_then(|()| expire_wal(lab, spec, node)),
            Fault::Disk => lab.power_off(node).and_then(|()| lab.discard_disk(node)),
            Fault::Partition => lab.link(node, false),
            Fault::Split => blackhole_peers(lab, spec, node, "add"),
            Fault::Deaf => lab.drop_incoming(node, true),
            // A queue of one byte drops every packet.
            Fault::Mute => {
                let qdisc = ["tc", "qdisc", "replace", "dev", INTERFACE, "root", "bfifo", "limit", "1"];
                run_in_node(lab, node, &qdisc)
            }
            Fault::Freeze => run_in_node(lab, node, &["sh", "-c", "kill -STOP -1"]),
            Fault::PauseHaproxy => pause(lab, node, HAPROXY),
            Fault::PausePostgres => pause(lab, node, POSTGRES),
            Fault::PausePatroni => pause(lab, node, PATRONI),
            Fault::PauseRedis => pause(lab, node, REDIS),
            Fault::PauseEtcd => pause(lab, node, ETCD),
            Fault::StallEtcd => {
                let stalls =
                    ["systemd-run", "--quiet", "--collect", "--unit", STALLS, "sh", "-c", STALL, ETCD];
                run_in_node(lab, node, &stalls)
            }
            Fault::Full => run_in_node(lab, node, &["sh", "-c", FILL]),
            Fault::StorageHangs => lab.freeze_disk(node, true),
            Fault::StorageReadOnly => lab.make_disk_read_only(node),
            Fault::StorageErrors => lab.fail_disk(node),
            Fault::SlowLink => slow_link(lab, spec, node),
            Fault::ClockJump => run_in_node(lab, node, &["date", "-s", "+1 day"]),
        }
    }

    pub fn revert(self, lab: &Lab, spec: &Spec, node: &str) -> Result<()> {
        match self {
            Fault::Power | Fault::All | Fault::Reboot | Fault::Disk | Fault::Absence => lab.start(node),
            Fault::Partition => lab.link(node, true),
            Fault::Split => blackhole_peers(lab, spec, node, "delete"),
            Fault::Deaf => lab.drop_incoming(node, false),
            Fault::Mute => run_in_node(lab, node, &["tc", "qdisc", "delete", "dev", INTERFACE, "root"]),
            Fault::Freeze => run_in_node(lab, node, &["sh", "-c", "kill -CONT -1"]),
            Fault::PauseHaproxy => resume(lab, node, HAPROXY),
            Fault::PausePostgres => resume(lab, node, POSTGRES),
            Fault::PausePatroni => resume(lab, node, PATRONI),
            Fault::PauseRedis => resume(lab, node, REDIS),
            Fault::PauseEtcd => resume(lab, node, ETCD),
            Fault::StallEtcd => {
                // Not there if systemd was restarted meanwhile.
                lab.exec_output(node, &["systemctl", "stop", STALLS])?;
                resume(lab, node, ETCD)
            }
            Fault::Full => run_in_node(lab, node, &["sh", "-c", REMOVE_FILL]),
            Fault::StorageHangs => lab.freeze_disk(node, false),
            Fault::StorageReadOnly => lab.power_off(node).and_then(|()| lab.start(node)),
            Fault::StorageErrors => {
                lab.power_off(node)?;
                lab.discard_disk(node)?;
                lab.start(node)
            }
            Fault::SlowLink => run_in_node(lab, node, &["tc", "qdisc", "delete", "dev", INTERFACE, "root"]),
            Fault::ClockJump => run_in_node(lab, node, &["date", "-s", "-1 day"]),
        }
    }
}

fn pause(lab: &Lab, node: &str, process: &str) -> Result<()> {
    run_in_node(lab, node, &["pkill", "-STOP", "-x", process])
}

/// The process may be gone: a watchdog or systemd can have killed it while it hung.
fn resume(lab: &Lab, node: &str, process: &str) -> Result<()> {
    lab.exec_output(node, &["pkill", "-CONT", "-x", process]).map(drop)
}

fn run_in_node(lab: &Lab, node: &str, argv: &[&str]) -> Result<()> {
    let output = lab.exec_output(node, argv)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{node}: `{}` failed: {}", argv.join(" "), stderr.trim());
    Ok(())
}

/// Limits the link, and fills it if the node is the PostgreSQL leader.
fn slow_link(lab: &Lab, spec: &Spec, node: &str) -> Result<()> {
    let limit = ["tc", "qdisc", "replace", "dev", INTERFACE, "root", "tbf"];
    run_in_node(lab, node, &[&limit[..], &LINK_RATE].concat())?;
    let port = spec.postgres.port.to_string();
    // On a standby it fails at once.
    let write = ["systemd-run", "--quiet", "--collect", "sh", "-c", WRITE_BULK, &port];
    run_in_node(lab, node, &write)
}

/// Makes the leader remove the WAL that `absent` has last received.
fn expire_wal(lab: &Lab, spec: &Spec, absent: &str) -> Result<()> {
    let port = spec.postgres.port.to_string();
    let start = Instant::now();
    loop {
        for peer in spec.peers(absent) {
            let output = lab.exec_output(&peer.name, &["sh", "-c", EXPIRE_WAL, &port])?;
            match output.status.code() {
                Some(0) => return Ok(()),
                Some(4) => bail!("{} keeps all WAL: {}", peer.name, String::from_utf8_lossy(&output.stderr)),
                _ => {}
            }
        }
        ensure!(start.elapsed() < LEADER_TIMEOUT, "no node is the PostgreSQL leader");
        sleep(Duration::from_secs(1));
    }
}

/// Adds or deletes routes that drop everything to the other nodes, replies included.
fn blackhole_peers(lab: &Lab, spec: &Spec, node: &str, verb: &str) -> Result<()> {
    spec.peers(node).try_for_each(|peer| {
        let to = ipnet::IpNet::from(peer.address).to_string();
        run_in_node(lab, node, &["ip", "route", verb, "blackhole", &to])
            .context("changing routes to the peers")
    })
}
