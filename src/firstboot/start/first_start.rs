//! PostgreSQL's first start, where it was cut: Patroni marks it by an empty `initialize` key, and whoever put that there
//! may be gone. Every other Patroni then waits for it for good.

use super::rejoin::relay;
use crate::disk::aside::move_postgres_aside;
use crate::node_config::NodeConfig;
use anyhow::{Result, ensure};
use hanode_cluster::client::etcd::Etcd;
use hanode_cluster::discovery::{initialize_key, leader_key, member_key, members_prefix};
use hanode_core::plan::Observations;
use hanode_util::file_tree::below;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For a server that never served to end at once.
const SHORTLY: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct FirstStart {
    /// Since when nobody has been seen at it.
    abandoned: Option<Instant>,
}

impl FirstStart {
    /// Before this node's Patroni starts: a first start of its own was cut, if its data is here and the mark still is.
    pub(crate) fn before_patroni(
        &mut self,
        root: &Path,
        config: &NodeConfig,
        seen: &Observations,
    ) -> Result<()> {
        if !seen.initializing || !seen.own.data.postgres {
            return if seen.own.bootstrapping { Ok(()) } else { self.look(config, seen) };
        }
        let (etcd, scope) = (relay(config, &seen.own.node)?, &config.spec.name);
        let Some(mark) = mark(&etcd, scope)? else { return Ok(()) };
        let others = somebody_is_at_it(&etcd, scope, Some(&seen.own.node))?;
        let data = below(root, config.target.path("postgres_data")?);
        end_what_is_left(&data)?;
        move_postgres_aside(root, &config.target)?;
        if !others {
            begin_again(&etcd, scope, &mark)?;
        }
        Ok(())
    }

    /// Whoever was at it has been silent for as long as Patroni's keys live: the mark goes, and some Patroni begins.
    pub(crate) fn look(&mut self, config: &NodeConfig, seen: &Observations) -> Result<()> {
        if !seen.initializing || seen.own.data.postgres {
            self.abandoned = None;
            return Ok(());
        }
        let (etcd, scope) = (relay(config, &seen.own.node)?, &config.spec.name);
        let Some(mark) = mark(&etcd, scope)? else { return Ok(()) };
        if somebody_is_at_it(&etcd, scope, None)? {
            self.abandoned = None;
            return Ok(());
        }
        let patroni = &config.spec.patroni;
        let lives = Duration::from_secs(u64::from(patroni.ttl + patroni.loop_wait));
        match self.abandoned.get_or_insert_with(Instant::now).elapsed() < lives {
            true => Ok(()),
            false => begin_again(&etcd, scope, &mark),
        }
    }
}

/// The revision of the empty key: another start's mark looks the same.
fn mark(etcd: &Etcd, scope: &str) -> Result<Option<String>> {
    let found = etcd.get_with_revision(&initialize_key(scope))?;
    Ok(found.filter(|(value, _)| value.is_empty()).map(|(_, revision)| revision))
}

fn begin_again(etcd: &Etcd, scope: &str, mark: &str) -> Result<()> {
    tracing::warn!("PostgreSQL's first start was cut; it is begun again");
    etcd.delete_if(&initialize_key(scope), mark).map(drop)
}

/// Patronis that only wait for a leader say `stopped`. `but`: whose is known not to run, whatever its key says.
fn somebody_is_at_it(etcd: &Etcd, scope: &str, but: Option<&str>) -> Result<bool> {
    let own = but.map(|name| member_key(scope, name));
    let busy = |(key, member): &(String, Vec<u8>)| {
        let told: serde_json::Value = serde_json::from_slice(member).unwrap_or_default();
        own.as_ref() != Some(key) && told["state"] != "stopped"
    };
    Ok(etcd.get(&leader_key(scope))?.is_some() || etcd.list(&members_prefix(scope))?.iter().any(busy))
}

/// A server that outlived its Patroni, in the midst of its first start: nobody has been served by it.
fn end_what_is_left(data: &Path) -> Result<()> {
    let begun = Instant::now();
    while let Some(server) = server_on(data) {
        ensure!(begun.elapsed() < SHORTLY, "PostgreSQL (process {server}) does not end");
        let _ = kill(server, Signal::SIGQUIT);
        sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn server_on(data: &Path) -> Option<Pid> {
    let first = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: i32 = first.lines().next()?.trim().parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    name.starts_with("postgres").then(|| Pid::from_raw(pid))
}
