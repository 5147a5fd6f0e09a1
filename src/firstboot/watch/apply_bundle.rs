//! `hanode apply`: activates a new bundle or spec from /etc/hanode on a running node. Each service is
//! reloaded if it can be, otherwise restarted; a change that would do harm is refused before anything is
//! changed.

use crate::host::systemd::Systemd;
use crate::node::NodeContext;
use crate::node_config::NodeConfig;
use crate::start::reload::{self, Fingerprints};
use crate::units::{self, WATCH_UNIT, down};
use anyhow::{Context, Result, bail, ensure};
use hanode_cluster::client::etcd::EtcdLock;
use hanode_cluster::discovery::restart_lock_key;
use hanode_cluster::health::{self, local};
use hanode_core::bundle::Bundle;
use hanode_core::pki::{self, Ca, LEAVES, coverage, read};
use hanode_core::spec::{Node, Patroni, Spec};
use hanode_core::state::{Component, Problem, ProblemKind};
use hanode_core::target::OnChange;
use hanode_util::file_tree::EntryKind;
use hanode_util::user_error::UserError;
use serde_json::Value;
use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Activates a revocation list that was held back.
const APPLY: &str = "hanode-apply.service";
/// Exists while the active bundle has an older revocation list than the one the operator applied.
const HELD_BACK: &str = "/run/hanode/active/held-back";
const PEER_TIMEOUT: Duration = Duration::from_secs(3);
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(180);
/// For a reload to take effect.
const RELOAD_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// For the node whose services were restarted before this one's to become healthy.
const TURN_TIMEOUT: Duration = Duration::from_secs(60);

/// For a PostgreSQL that was down before the change to run with it; then the other nodes need the change too.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(20);

/// Activates the new bundle or spec, and returns when the node is healthy with it. A PostgreSQL that was down before may
/// still be down: it starts once every node has the corrected settings.
pub(crate) fn apply(old: &NodeContext) -> Result<()> {
    let (name, mut new) = (old.name(), old.with_pending_config()?);
    let before = reload::load(old)?.ok_or_else(|| {
        UserError::with_help(
            "the services have not been started in this boot yet",
            "run `systemctl restart hanode-plan`, which uses the files in /etc/hanode",
        )
    })?;
    check_compatible(&old.config, &new.config)?;
    let waiting_for = hold_back_crls(old, &mut new)?;
    let after = reload::fingerprints(&new)?;
    let changed = reload::changed_components(&new, &before, &after);
    let restarts = changed.iter().any(|(_, how)| *how == OnChange::Restart);
    let problems = local::problems(old.access(), old.own());
    let postgres_was_up = !problems.iter().any(|problem| problem.concerns(Component::Postgres));
    let lock = if restarts { wait_for_turn(old)? } else { None };
    new.check()?;

    new.apply()?;
    new.config.activate(new.root())?;
    mark_held_back(&new, &waiting_for)?;
    let (from, to) = (old.config.bundle.metadata.generation, new.config.bundle.metadata.generation);
    tracing::info!("{name}: activated bundle generation {to} (was {from})");
    let systemd = Systemd::connect()?;
    reload_changed(&new, &systemd, changed, before, &after)?;
    systemd.restart(WATCH_UNIT)?;
    let unhealthy = wait_until_healthy(&new, &systemd, postgres_was_up)?;
    drop(lock);
    if !waiting_for.is_empty() {
        tracing::warn!(
            "{name}: {} may still serve certificates that the new revocation list revokes; this node activates the list automatically once they have applied the bundle too",
            waiting_for.join(", ")
        );
    }
    match unhealthy.as_slice() {
        [] => tracing::info!("{name}: healthy"),
        problems => tracing::warn!(
            "{name}: applied, with PostgreSQL down as before ({}); apply the change on the other nodes too",
            Problem::list(problems)
        ),
    }
    Ok(())
}

/// Reloads or restarts each changed component, and saves its new fingerprints.
fn reload_changed(
    node: &NodeContext,
    systemd: &Systemd,
    changed: Vec<(Component, OnChange)>,
    mut fingerprints: Fingerprints,
    after: &Fingerprints,
) -> Result<()> {
    for (component, how) in changed {
        let unit = node.target().unit(component)?;
        if how == OnChange::Restart {
            tracing::info!("{}: restarting {unit}", node.name());
            systemd.restart(unit)?;
        } else {
            tracing::info!("{}: reloading {unit}", node.name());
            systemd.reload(unit)?;
        }
        let current = after.get(&component).cloned().unwrap_or_default();
        fingerprints.insert(component, current);
        reload::save(node, &fingerprints)?;
    }
    Ok(())
}

/// Checks that the new bundle and spec are complete, and that nodes with the old and with the new ones work
/// together.
fn check_compatible(old: &NodeConfig, new: &NodeConfig) -> Result<()> {
    let faults = coverage::check_bundle(&new.bundle, &new.spec, pki::now()).faults;
    if let Some(first) = faults.first() {
        let error = anyhow::Error::new(first.clone());
        return Err(error.context("rejected the new bundle (nothing was changed)"));
    }
    for ca in Ca::ALL {
        ensure!(
            old.bundle.file(ca.certificate_path()) == new.bundle.file(ca.certificate_path()),
            UserError::with_help(
                format!("the new bundle has another {} CA, which the other nodes do not trust", ca.name()),
                "use a bundle of the same cluster directory",
            )
        );
    }
    if let Some(conflict) = old.bundle.secrets.conflict(&new.bundle.secrets) {
        let help = "issue a bundle with the current secrets.toml";
        bail!(UserError::with_help(format!("the new bundle has {conflict}"), help));
    }
    let different = immutable_differences(&old.spec, &new.spec);
    ensure!(
        different.is_empty(),
        UserError::with_help(
            format!(
                "the new cluster.toml changes {}, which nodes cannot change one by one",
                different.join(", ")
            ),
            "undo that change, or create a new cluster",
        )
    );
    Ok(())
}

/// The changed keys of those on which all nodes must agree at all times.
fn immutable_differences(old: &Spec, new: &Spec) -> Vec<String> {
    let mut like_old = new.clone();
    like_old.network.clients = old.network.clients.clone();
    like_old.network.operators = old.network.operators.clone();
    like_old.postgres.synchronous = old.postgres.synchronous;
    like_old.postgres.wal_level = old.postgres.wal_level;
    like_old.postgres.read_max_lag = old.postgres.read_max_lag;
    like_old.slots = old.slots.clone();
    like_old.postgres.parameters = old.postgres.parameters.clone();
    like_old.postgres.superusers_from_clients = old.postgres.superusers_from_clients;
    (like_old.roles, like_old.databases) = (old.roles.clone(), old.databases.clone());
    like_old.hba = old.hba.clone();
    like_old.postgres.alt_names = old.postgres.alt_names.clone();
    like_old.redis.alt_names = old.redis.alt_names.clone();
    like_old.redis.min_replicas = old.redis.min_replicas;
    like_old.redis.parameters = old.redis.parameters.clone();
    like_old.redis_users = old.redis_users.clone();
    like_old.haproxy.extra = old.haproxy.extra.clone();
    like_old.haproxy.idle_timeout = old.haproxy.idle_timeout;
    like_old.pki = old.pki.clone();
    like_old.backup = old.backup.clone();
    let restapi_port = new.patroni.restapi_port;
    like_old.patroni = Patroni { restapi_port, ..old.patroni.clone() };
    let value = |spec: &Spec| serde_json::to_value(spec).unwrap_or_default();
    let mut found = Vec::new();
    collect_differences(&value(old), &value(&like_old), "", &mut found);
    found
}

fn collect_differences(a: &Value, b: &Value, at: &str, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for key in x.keys().chain(y.keys().filter(|k| !x.contains_key(*k))) {
                let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                collect_differences(&a[key], &b[key], &path, found);
            }
        }
        _ if a != b => found.push(at.into()),
        _ => {}
    }
}

/// Keeps the old revocation list while a node may still serve a certificate that the new list revokes, since
/// that would separate the nodes. Returns the nodes that do not have the required bundle generation yet.
fn hold_back_crls(old: &NodeContext, new: &mut NodeContext) -> Result<Vec<String>> {
    let (old_bundle, new_bundle) = (&old.config.bundle, &new.config.bundle);
    let (mut extended, mut required) = (Vec::new(), old_bundle.metadata.generation);
    for ca in Ca::ALL {
        let (before, list) = (revoked_serials(old_bundle, ca)?, revoked_serials(new_bundle, ca)?);
        if list.is_subset(&before) {
            continue;
        }
        extended.push(ca);
        // A certificate that this node served so far is replaced only by the new generation.
        if !served_serials(old_bundle, ca)?.is_disjoint(&list) || new.at(HELD_BACK).exists() {
            required = new_bundle.metadata.generation;
        }
    }
    if extended.is_empty() {
        return Ok(Vec::new());
    }
    let waiting_for = nodes_without_generation(new, required);
    if !waiting_for.is_empty() {
        new.change_bundle(|bundle| extended.iter().try_for_each(|ca| keep_crl(old_bundle, bundle, *ca)))?;
    }
    Ok(waiting_for)
}

fn keep_crl(old: &Bundle, new: &mut Bundle, ca: Ca) -> Result<()> {
    let list = old.file(ca.crl_path()).context("the active bundle has no revocation list")?.to_vec();
    let entry = new.entries.iter_mut().find(|e| e.path == ca.crl_path());
    entry.context("the new bundle has no revocation list")?.kind = EntryKind::File(list);
    Ok(())
}

/// The serials on a CA's revocation list.
fn revoked_serials(bundle: &Bundle, ca: Ca) -> Result<BTreeSet<String>> {
    Ok(read::crl(bundle.file(ca.crl_path()).context("a bundle has no revocation list")?)?.entries)
}

/// The serials of the certificates of this CA that a node with this bundle serves.
fn served_serials(bundle: &Bundle, ca: Ca) -> Result<BTreeSet<String>> {
    let paths = LEAVES.iter().filter(|leaf| leaf.ca == ca).filter_map(|leaf| leaf.paths);
    let pems = paths.filter_map(|(path, _)| bundle.file(path));
    pems.map(|pem| Ok(read::certificate(pem)?.serial)).collect()
}

/// The peers that do not report this bundle generation or a later one.
fn nodes_without_generation(node: &NodeContext, generation: u64) -> Vec<String> {
    let has_generation = |peer: &&Node| {
        let report = node.access().report(peer, PEER_TIMEOUT);
        report.is_ok_and(|report| report.bundle_generation >= generation)
    };
    node.peers().filter(|peer| !has_generation(peer)).map(|peer| peer.name.clone()).collect()
}

fn mark_held_back(node: &NodeContext, waiting_for: &[String]) -> Result<()> {
    let tree = node.tree()?;
    match waiting_for.is_empty() {
        false => Ok(tree.replace(HELD_BACK, b"", 0o600, None)?),
        true if tree.exists(HELD_BACK)? => tree.remove_file(HELD_BACK).context(HELD_BACK),
        true => Ok(()),
    }
}

/// Activates a revocation list that was held back once every node has its generation. The watcher calls this
/// regularly.
pub(crate) fn release_held_back(node: &NodeContext, systemd: &Systemd) -> Result<()> {
    let metadata = &node.config.bundle.metadata;
    let generation = metadata.generation;
    if !node.at(HELD_BACK).exists() || !nodes_without_generation(node, generation).is_empty() {
        return Ok(());
    }
    // Only the bundle that the operator has applied: not one that was copied to /etc/hanode since.
    if NodeConfig::pending(node.root()).is_ok_and(|pending| pending.bundle.metadata == *metadata) {
        tracing::info!(
            "every node has bundle generation {generation}: activating the revocation list that was held back"
        );
        systemd.start(APPLY)?;
    }
    Ok(())
}

/// Waits until services of this node can restart without downtime: all other nodes are healthy, and none of
/// them restarts services. `None` if the certificates have expired: then the cluster is down already.
fn wait_for_turn(old: &NodeContext) -> Result<Option<EtcdLock>> {
    if read::certificate(old.config.node_certificate()?)?.not_after < pki::now() {
        return Ok(None);
    }
    let access = old.access();
    let start = Instant::now();
    loop {
        let status = health::collect(access)?;
        let blockers = health::blockers(&access.spec, &status, old.name());
        if blockers.is_empty() {
            break;
        }
        ensure!(
            start.elapsed() < TURN_TIMEOUT,
            "nothing was changed: a restart of this node's services now would cause downtime:\n  - {}",
            blockers.join("\n  - ")
        );
        sleep(Duration::from_secs(1));
    }
    let key = restart_lock_key(&access.spec.name);
    let etcd = old.etcd(old.own(), PEER_TIMEOUT)?;
    match etcd.lock(&key, old.name(), HEALTHY_TIMEOUT + PEER_TIMEOUT * 10)? {
        Ok(lock) => Ok(Some(lock)),
        Err(other) => {
            bail!(UserError::with_help(
                format!("nothing was changed: {other} restarts servers now"),
                "try again when it is done",
            ))
        }
    }
}

/// Returns the problems that the node may have: those of a PostgreSQL that was down before.
fn wait_until_healthy(node: &NodeContext, systemd: &Systemd, postgres_was_up: bool) -> Result<Vec<Problem>> {
    let (access, name, start) = (node.access(), node.name(), Instant::now());
    let units = units::watched(&node.config)?;
    let mut last_reload = Instant::now();
    loop {
        let mut problems = down(&systemd.states(&units)?);
        problems.extend(local::problems(access, node.own()));
        problems.extend(health::servers_with_old_certificates(access, &node.config.bundle, node.own()));
        let may_stay = !postgres_was_up
            && start.elapsed() > REPAIR_TIMEOUT
            && problems.iter().all(|problem| problem.concerns(Component::Postgres));
        if problems.is_empty() || may_stay {
            return Ok(problems);
        }
        ensure!(
            start.elapsed() < HEALTHY_TIMEOUT,
            UserError::with_help(
                format!("{name} has applied the change but is unhealthy: {}", Problem::list(&problems)),
                "see `hanode status` before you continue with the next node",
            )
        );
        if last_reload.elapsed() >= RELOAD_AGAIN_AFTER {
            last_reload = Instant::now();
            reload_again(node, systemd, &problems)?;
        }
        sleep(Duration::from_secs(1));
    }
}

/// Reloads servers that still serve an old certificate.
fn reload_again(node: &NodeContext, systemd: &Systemd, problems: &[Problem]) -> Result<()> {
    let old = problems.iter().filter(|problem| problem.kind == ProblemKind::OldCertificate);
    // Patroni reloads PostgreSQL.
    let unit_of = |c| if c == Component::Postgres { Component::Patroni } else { c };
    let components: BTreeSet<Component> = old.filter_map(|problem| problem.component).map(unit_of).collect();
    let reloads = node.target().reload.iter().filter(|row| row.on_change == OnChange::Reload);
    for row in reloads.filter(|row| components.contains(&row.component)) {
        let unit = node.target().unit(row.component)?;
        tracing::warn!("{unit} still serves an old certificate: reloading it again");
        systemd.reload(unit)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::spec;

    #[test]
    fn keys_that_nodes_can_change_one_by_one() {
        let old = spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let mut new = old.clone();
        new.postgres.parameters.insert("work_mem".into(), "8MB".into());
        new.redis.parameters.insert("hz".into(), "20".into());
        (new.patroni.ttl, new.redis.min_replicas, new.postgres.synchronous) = (30, 0, false);
        new.haproxy.extra.insert("global".into(), vec!["nbthread 2".into()]);
        new.haproxy.idle_timeout = 3600;
        new.network.clients = vec!["10.0.0.0/8".parse().unwrap()];
        new.network.operators = Some(vec!["192.168.18.5/32".parse().unwrap()]);
        let with_backup = format!("{}\n[backup]\nrepository = \"file:///mnt/backup\"\n", spec::STARTER);
        new.backup = spec::parse(&with_backup).unwrap().backup;
        assert!(immutable_differences(&old, &new).is_empty());
        (new.network.vip, new.redis.port) = ("192.168.18.19".parse().unwrap(), 6377);
        new.patroni.restapi_port = 8010;
        new.storage.data = Some("LABEL=other".into());
        new.nodes.pop();
        let found = immutable_differences(&old, &new);
        assert_eq!(found, ["network.vip", "nodes", "patroni.restapi_port", "redis.port", "storage.data"]);
    }
}
