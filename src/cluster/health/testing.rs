//! The status of a healthy cluster, for tests to change.

use super::*;
use hanode_core::peer::FileSystem;
use hanode_core::spec;

pub(crate) fn spec() -> Spec {
    spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"))
}

/// A quarter is used.
fn root_file_system() -> FileSystem {
    FileSystem {
        mount: "/".into(),
        size_bytes: 4 << 30,
        used_bytes: 1 << 30,
        free_bytes: 3 << 30,
        ..FileSystem::default()
    }
}

/// node1 is the PostgreSQL leader, node2 the synchronous standby and the Redis primary, node3 holds the virtual IP.
pub(crate) fn healthy(spec: &Spec) -> Status {
    let names = || spec.nodes.iter().map(|n| n.name.clone());
    let node = |n: &spec::Node| NodeStatus {
        name: n.name.clone(),
        address: n.address,
        phase: "in-service".into(),
        bundle_generation: Some(1),
        spec_hash: None,
        image: Default::default(),
        haproxy: true,
        moved_aside: vec![],
        file_systems: vec![root_file_system()],
        problems: vec![],
    };
    let etcd = |name: String| EtcdStatus {
        leader: name == "node1",
        name,
        healthy: true,
        version: String::new(),
        db_bytes: 0,
        alarms: 0,
        revision: 7,
        kv_hash: None,
        error: None,
    };
    let postgres = |name: String| {
        let (role, state) = match name.as_str() {
            "node1" => ("leader", "running"),
            "node2" => ("sync_standby", "streaming"),
            _ => ("replica", "streaming"),
        };
        PostgresStatus { name, role: role.into(), state: state.into(), timeline: None, lag: None }
    };
    let redis = |name: String| {
        let role = if name == "node2" { "master" } else { "slave" };
        RedisStatus { name, role: role.into(), link_up: true, replicas: 0, error: None }
    };
    Status {
        schema: 1,
        healthy: true,
        problems: vec![],
        nodes: spec.nodes.iter().map(node).collect(),
        etcd: names().map(etcd).collect(),
        postgres: names().map(postgres).collect(),
        redis: names().map(redis).collect(),
        sentinel: SentinelStatus {
            primary: "192.168.18.22".parse().ok(),
            agree: 3,
            faults: Default::default(),
        },
        vip: VipStatus { address: spec.network.vip, holders: vec!["node3".into()], answers: true },
        certificates: vec![CertificateStatus {
            name: "/etc/ssl/hanode/etcd.crt".into(),
            not_before: 1_700_000_000,
            not_after: 1_857_680_000,
            days_left: 1824,
        }],
    }
}
