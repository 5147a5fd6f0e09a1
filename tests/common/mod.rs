//! What several tests need: a spec, and an eye for what a lab might leave behind.
#![allow(dead_code, clippy::unwrap_used)]

use hanode::spec::Spec;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The starter spec, as a value.
pub fn spec() -> Spec {
    let node = |n: u8| {
        serde_json::json!({
            "name": format!("node{n}"),
            "hostname": format!("node{n}"),
            "address": format!("192.168.18.2{n}"),
            "vrrp_priority": 98 + n,
        })
    };
    let spec = serde_json::json!({
        "schema": 1,
        "name": "hspas",
        "network": { "subnet": "192.168.18.0/24", "clients": ["0.0.0.0/0"], "vip": "192.168.18.20",
            "vip_mode": "vrrp", "join_port": 7081 },
        "nodes": [node(1), node(2), node(3)],
        "postgres": { "tls": true, "alt_names": ["pgsql.demo.lab"], "synchronous": true, "port": 5433,
            "vip_port": 5432, "vip_read_port": 5434, "parameters": {} },
        "patroni": { "ttl": 20, "loop_wait": 10, "retry_timeout": 5, "restapi_port": 8008 },
        "redis": { "tls": true, "alt_names": ["redis.demo.lab"], "initial_primary": "node2",
            "master_name": "redis-cluster", "min_replicas": 1, "port": 6378, "vip_port": 6379,
            "sentinel_port": 26378 },
        "haproxy": { "stats_port": 7000, "crl_port": 7080, "extra": {} },
        "keepalived": { "router_id": 51, "interface": null },
        "pki": { "ca_name": "Self-Signed CA", "crl_url": "http://192.168.18.20:7080/server.crl",
            "ca_days": 3650, "leaf_days": 1825, "crl_days": 3650 },
        "storage": { "data": null },
    });
    serde_json::from_value(spec).unwrap()
}

/// An image that the environment names; a test that needs one fails without it.
pub fn image(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) => path.into(),
        None => panic!("{variable} must name an image file"),
    }
}

/// Everything on this machine that a lab makes and `down` must take away.
#[derive(Debug, PartialEq)]
pub struct Traces {
    networks: BTreeSet<String>,
    mounts: BTreeSet<String>,
    loops: BTreeSet<String>,
    groups: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl Traces {
    /// `dir`: the cluster directory, by which the lab's processes are known.
    pub fn now(dir: &Path) -> Traces {
        let names = |at: &str| -> Vec<PathBuf> {
            std::fs::read_dir(at).into_iter().flatten().flatten().map(|e| e.path()).collect()
        };
        let text = |p: PathBuf| std::fs::read_to_string(p).unwrap_or_default();
        let shown = |p: &PathBuf| p.display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let below = dir.to_str().unwrap().replace(' ', "\\040");
        let ours = ["/run/netns/hanode-", "/run/systemd/nspawn", below.as_str()];
        let mounts = mounts.lines().filter(|l| ours.iter().any(|our| l.contains(our)));
        let groups = walkdir::WalkDir::new("/sys/fs/cgroup").into_iter().flatten();
        let groups = groups.filter(|e| e.file_name().to_string_lossy().starts_with("hanode-"));
        let dir = dir.to_str().unwrap();
        let own = std::process::id().to_string();
        let processes = names("/proc").into_iter().filter(|p| {
            let line = std::fs::read(p.join("cmdline")).unwrap_or_default();
            !p.ends_with(&own) && String::from_utf8_lossy(&line).contains(dir)
        });
        Traces {
            networks: names("/run/netns").iter().map(shown).collect(),
            mounts: mounts.map(str::to_string).collect(),
            loops: names("/sys/block").into_iter().map(|b| text(b.join("loop/backing_file"))).collect(),
            groups: groups.map(|e| e.path().display().to_string()).collect(),
            processes: processes.map(|p| shown(&p)).collect(),
        }
    }
}
