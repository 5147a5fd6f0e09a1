//! PostgreSQL's first start, where it was cut: Patroni marks it by an empty `initialize` key, and whoever put that there
//! may be gone. Every other Patroni then waits for it for good.

use super::apply::Node;
use super::run::set_aside;
use crate::client::etcd::Etcd;
use crate::observe::{initialize_key, leader_key, members_prefix};
use crate::plan::Observations;
use crate::tree::below;
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct FirstStart {
    /// Since when nobody has been seen at it.
    abandoned: Option<Instant>,
}

impl FirstStart {
    /// Takes the mark away once it is certain that nobody will go on: it was this node, whose disk has what came of it,
    /// or whoever it was has been silent for as long as Patroni's keys live.
    pub fn look(&mut self, node: &Node, seen: &Observations) -> Result<()> {
        if !seen.bootstrapping || seen.own.began {
            self.abandoned = None;
            return Ok(());
        }
        let spec = &node.given.spec;
        let own = spec.node(node.name).context("node vanished from the spec")?;
        let etcd = Etcd::new(&node.given.credentials()?, own.address, TIMEOUT)?;
        if !seen.own.data.postgres {
            if somebody_is_at_it(&etcd, &spec.name)? {
                self.abandoned = None;
                return Ok(());
            }
            let since = *self.abandoned.get_or_insert_with(Instant::now);
            if since.elapsed() < Duration::from_secs(u64::from(spec.patroni.ttl + spec.patroni.loop_wait)) {
                return Ok(());
            }
        }
        tracing::warn!("PostgreSQL's first start was cut; it is begun again");
        set_aside(&below(node.root, node.given.target.path("postgres_data")?))?;
        etcd.delete_if(&initialize_key(&spec.name), b"").map(drop)
    }
}

/// Patronis that only wait for a leader say `stopped`.
fn somebody_is_at_it(etcd: &Etcd, scope: &str) -> Result<bool> {
    let busy = |member: &Vec<u8>| {
        let told: serde_json::Value = serde_json::from_slice(member).unwrap_or_default();
        told["state"] != "stopped"
    };
    Ok(etcd.get(&leader_key(scope))?.is_some() || etcd.values(&members_prefix(scope))?.iter().any(busy))
}
