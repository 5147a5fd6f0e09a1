//! `apply`: a new bundle or spec from /etc/hanode on a running node. Each service takes it up in the way that
//! disturbs it least; what would do harm is refused before anything is changed.

use super::reload;
use crate::disk;
use crate::node_config::NodeConfig;
use crate::start::apply;
use crate::start::run::facts;
use crate::units::{self, READY, Systemd, down};
use anyhow::{Context, Result, bail, ensure};
use hanode_cluster::client::etcd::{Etcd, Lock};
use hanode_cluster::health::{self, local};
use hanode_core::bundle::Bundle;
use hanode_core::pki::{self, Ca, LEAVES, coverage, read};
use hanode_core::spec::{Node, Patroni, Spec};
use hanode_core::target::OnChange;
use hanode_util::file_tree::{Kind, below};
use hanode_util::safe_path::SafeTree;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Goes on with a revocation list that was held back.
const APPLY: &str = "hanode-apply.service";
/// Says, while it is there, that the list of the bundle in use is an older one.
const HELD: &str = "/run/hanode/active/held-back";
const TIMEOUT: Duration = Duration::from_secs(3);
const WELL_PATIENCE: Duration = Duration::from_secs(180);
/// The node before this one has just been restarted: its neighbours may take a moment to find it well.
const TURN_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn update(root: &Path) -> Result<()> {
    let (old, mut new) = (NodeConfig::active(root)?, NodeConfig::pending(root)?);
    let name = disk::pin(root)?.context("this disk has no identity yet")?.node;
    let before = reload::load(root)?
        .context("this boot has not let the services start yet; it takes up by itself what lies in /etc/hanode: systemctl restart hanode-plan")?;
    sound(&old, &new)?;
    let waits_for = hold_back(root, &old, &mut new, &name)?;
    let machine = facts(root, &new, &name)?;
    let node = apply::NodeContext { root, config: &new, name: &name, machine: &machine };
    let after = reload::prints(&node)?;
    let due = reload::due(&node, &before, &after);
    let restarts = due.iter().any(|(_, how)| *how == OnChange::Restart);
    let lock = if restarts { may_restart(&old, &name)? } else { None };
    node.check()?;

    node.apply()?;
    new.activate(root)?;
    note_held(root, &waits_for)?;
    let generation = new.bundle.metadata.generation;
    tracing::info!(
        "{name}: bundle generation {generation} is in use, {} before",
        old.bundle.metadata.generation
    );
    let mut config = before;
    let systemd = Systemd::connect()?;
    for (component, how) in due {
        let unit = new.target.unit(&component)?;
        match how {
            OnChange::Restart => {
                tracing::info!("{name}: restarting {unit}");
                systemd.restart(unit)?;
            }
            _ => {
                tracing::info!("{name}: reloading {unit}");
                systemd.reload(unit)?;
            }
        }
        config.insert(component.clone(), after.get(&component).cloned().unwrap_or_default());
        reload::save(root, &config)?;
    }
    systemd.restart(READY)?;
    wait_until_well(&new, &name, &systemd)?;
    drop(lock);
    if !waits_for.is_empty() {
        tracing::warn!(
            "{name}: {} may still show what the new revocation list names: this node uses the list, by itself, once they have applied the bundle too",
            waits_for.join(", ")
        );
    }
    tracing::info!("{name}: well");
    Ok(())
}

/// Whether the new bundle and spec are whole, and such that nodes with the old and with the new ones get along.
fn sound(old: &NodeConfig, new: &NodeConfig) -> Result<()> {
    let faults = coverage::check_bundle(&new.bundle, &new.spec, pki::now()).faults;
    if let Some(first) = faults.first() {
        bail!("the new bundle is not fit for use, nothing is changed: {first}");
    }
    for ca in Ca::ALL {
        ensure!(
            old.bundle.file(ca.certificate_path()) == new.bundle.file(ca.certificate_path()),
            "the new bundle is of another {} CA: nodes of the one would not trust those of the other; use a bundle of the same cluster directory",
            ca.name()
        );
    }
    ensure!(
        old.bundle.secrets == new.bundle.secrets,
        "the new bundle has other passwords: nodes with the old ones would be locked out; issue one with the passwords in use"
    );
    let different = fixed_differences(&old.spec, &new.spec);
    ensure!(
        different.is_empty(),
        "the new cluster.toml differs in {}, which nodes cannot change one after another; make a new cluster, or take that back",
        different.join(", ")
    );
    Ok(())
}

/// What differs of that on which all nodes must agree at every moment.
fn fixed_differences(old: &Spec, new: &Spec) -> Vec<String> {
    let mut like_old = new.clone();
    like_old.network.clients = old.network.clients.clone();
    like_old.network.operators = old.network.operators.clone();
    like_old.postgres.synchronous = old.postgres.synchronous;
    like_old.postgres.parameters = old.postgres.parameters.clone();
    like_old.postgres.alt_names = old.postgres.alt_names.clone();
    like_old.redis.alt_names = old.redis.alt_names.clone();
    like_old.redis.min_replicas = old.redis.min_replicas;
    like_old.haproxy.extra = old.haproxy.extra.clone();
    like_old.pki = old.pki.clone();
    let restapi_port = new.patroni.restapi_port;
    like_old.patroni = Patroni { restapi_port, ..old.patroni.clone() };
    let value = |spec: &Spec| serde_json::to_value(spec).unwrap_or_default();
    let mut found = Vec::new();
    differences(&value(old), &value(&like_old), "", &mut found);
    found
}

fn differences(a: &Value, b: &Value, at: &str, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for key in x.keys().chain(y.keys().filter(|k| !x.contains_key(*k))) {
                let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                differences(&a[key], &b[key], &path, found);
            }
        }
        _ if a != b => found.push(at.into()),
        _ => {}
    }
}

/// A revocation list that names what some node may still show would part the cluster: the old list stays until they
/// all carry the bundle that replaces it. Returns the nodes that do not.
fn hold_back(root: &Path, old: &NodeConfig, new: &mut NodeConfig, name: &str) -> Result<Vec<String>> {
    let (mut newer, mut needed) = (Vec::new(), old.bundle.metadata.generation);
    for ca in Ca::ALL {
        let (before, list) = (entries(&old.bundle, ca)?, entries(&new.bundle, ca)?);
        if list.is_subset(&before) {
            continue;
        }
        newer.push(ca);
        // What this node itself showed until now, only the new generation replaces.
        if !shown(&old.bundle, ca)?.is_disjoint(&list) || below(root, HELD).exists() {
            needed = new.bundle.metadata.generation;
        }
    }
    if newer.is_empty() {
        return Ok(Vec::new());
    }
    let waits_for = short_of(new, name, needed)?;
    if !waits_for.is_empty() {
        for ca in newer {
            let list =
                old.bundle.file(ca.crl_path()).context("the bundle in use has no revocation list")?.to_vec();
            let entry = new.bundle.entries.iter_mut().find(|e| e.path == ca.crl_path());
            entry.context("the new bundle has no revocation list")?.kind = Kind::File(list);
        }
    }
    Ok(waits_for)
}

/// The serials on a CA's revocation list.
fn entries(bundle: &Bundle, ca: Ca) -> Result<BTreeSet<String>> {
    Ok(read::crl(bundle.file(ca.crl_path()).context("a bundle has no revocation list")?)?.entries)
}

/// The serials of the certificates of this CA that a node with this bundle shows.
fn shown(bundle: &Bundle, ca: Ca) -> Result<BTreeSet<String>> {
    let paths = LEAVES.iter().filter(|leaf| leaf.ca == ca).filter_map(|leaf| leaf.paths);
    let pems = paths.filter_map(|(path, _)| bundle.file(path));
    pems.map(|pem| Ok(read::certificate(pem)?.serial)).collect()
}

/// The peers that do not say that they carry this generation or a later one.
fn short_of(config: &NodeConfig, name: &str, generation: u64) -> Result<Vec<String>> {
    let (credentials, port) = (config.credentials()?, config.spec.network.join_port);
    let carries = |peer: &&Node| {
        let answer = hanode_cluster::peer::fetch_report(&credentials, peer.address, port, TIMEOUT);
        answer.is_ok_and(|answer| answer.bundle_generation >= generation)
    };
    Ok(config.spec.peers(name).filter(|peer| !carries(peer)).map(|peer| peer.name.clone()).collect())
}

fn note_held(root: &Path, waits_for: &[String]) -> Result<()> {
    let tree = SafeTree::open(root)?;
    match waits_for.is_empty() {
        false => Ok(tree.replace(HELD, b"", 0o600, None)?),
        true if tree.exists(HELD)? => tree.remove_file(HELD).context(HELD),
        true => Ok(()),
    }
}

/// Goes on with a list that was held back once nothing hinders it; asked by the watcher now and then.
pub(crate) fn go_on(root: &Path, config: &NodeConfig, name: &str, systemd: &Systemd) -> Result<()> {
    let generation = config.bundle.metadata.generation;
    if !below(root, HELD).exists() || !short_of(config, name, generation)?.is_empty() {
        return Ok(());
    }
    // Only what the operator has applied already: not a bundle that was laid down since.
    if NodeConfig::pending(root).is_ok_and(|offered| offered.bundle.metadata == config.bundle.metadata) {
        tracing::info!("every node carries this generation: the revocation list held back is taken up");
        systemd.start(APPLY)?;
    }
    Ok(())
}

/// A restart takes a part of this node away for a moment: never while another node is missing, and never on two
/// nodes at once. Where certificates have run out there is no cluster left to disturb.
fn may_restart(old: &NodeConfig, name: &str) -> Result<Option<Lock>> {
    if read::certificate(old.node_certificate()?)?.not_after < pki::now() {
        return Ok(None);
    }
    let access = old.access()?;
    let began = Instant::now();
    loop {
        let status = health::collect(&access)?;
        let (may, words) = health::removal_report(&access.spec, &status, name, false)?;
        if may {
            break;
        }
        ensure!(
            began.elapsed() < TURN_PATIENCE,
            "services must be restarted, and now is not the time; nothing is changed: {words}"
        );
        sleep(Duration::from_secs(1));
    }
    let key = format!("/hanode/{}/applying", access.spec.name);
    let own = access.spec.node(name).context("node vanished from the spec")?;
    let etcd = Etcd::new(&access.cluster, own.address, TIMEOUT)?;
    match etcd.lock(&key, name, WELL_PATIENCE + TIMEOUT * 10)? {
        Ok(lock) => Ok(Some(lock)),
        Err(other) => {
            bail!("{other} is applying a change just now, nothing is changed; wait until it is done")
        }
    }
}

fn wait_until_well(config: &NodeConfig, name: &str, systemd: &Systemd) -> Result<()> {
    let (access, units, began) = (config.access()?, units::watched(config)?, Instant::now());
    let node = config.spec.node(name).context("node vanished from the spec")?;
    loop {
        let mut problems = down(&systemd.states(&units)?);
        problems.extend(local::problems(&access, name));
        problems.extend(health::servers_with_old_certificates(&access, &config.bundle, node));
        if problems.is_empty() {
            return Ok(());
        }
        ensure!(
            began.elapsed() < WELL_PATIENCE,
            "{name} has taken the change up and is not well: {}; look at `hanode status` before you go on with the next node",
            problems.join("; ")
        );
        sleep(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hanode_core::spec;

    #[test]
    fn what_nodes_can_change_one_after_another() {
        let old = spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let mut new = old.clone();
        new.postgres.parameters.insert("work_mem".into(), "8MB".into());
        (new.patroni.ttl, new.redis.min_replicas, new.postgres.synchronous) = (30, 0, false);
        new.haproxy.extra.insert("global".into(), vec!["nbthread 2".into()]);
        new.network.clients = vec!["10.0.0.0/8".parse().unwrap()];
        new.network.operators = Some(vec!["192.168.18.5/32".parse().unwrap()]);
        assert!(fixed_differences(&old, &new).is_empty());
        (new.network.vip, new.redis.port) = ("192.168.18.19".parse().unwrap(), 6377);
        new.patroni.restapi_port = 8010;
        new.storage.data = Some("LABEL=other".into());
        new.nodes.pop();
        let found = fixed_differences(&old, &new);
        assert_eq!(found, ["network.vip", "nodes", "patroni.restapi_port", "redis.port", "storage.data"]);
    }
}
