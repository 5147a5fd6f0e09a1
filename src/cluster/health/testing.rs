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
    let node = |n: &spec::Node| NodeStatus {
        name: n.name.clone(),
        address: n.address,
        phase: Phase::InService,
        clock: None,
        bundle_generation: Some(1),
        spec_hash: None,
        image: Default::default(),
        moved_aside: vec![],
        moved_aside_omitted: 0,
        file_systems: vec![root_file_system()],
        selinux: None,
        backup: None,
        sql_drift: Vec::new(),
        problems: vec![],
        findings: vec![],
        servers: Servers {
            etcd: EtcdStatus {
                healthy: true,
                leader: n.name == "node1",
                revision: 7,
                ..EtcdStatus::default()
            },
            postgres: postgres(&n.name),
            redis: RedisStatus {
                role: Some(if n.name == "node2" { RedisRole::Primary } else { RedisRole::Replica }),
                link_up: true,
                ..RedisStatus::default()
            },
            sentinel: SentinelStatus::default(),
            haproxy: HaproxyStatus { down: Some(vec![]), ..HaproxyStatus::default() },
        },
    };
    Status {
        schema: 1,
        healthy: true,
        problems: vec![],
        warnings: vec![],
        nodes: spec.nodes.iter().map(node).collect(),
        patroni: None,
        redis_primary: RedisPrimary { address: "192.168.18.22".parse().ok(), agree: 3 },
        vip: VipStatus {
            address: spec.network.vip,
            holders: vec!["node3".into()],
            answers: true,
            error: None,
        },
        certificates: vec![CertificateStatus {
            name: "/etc/ssl/hanode/etcd.crt".into(),
            not_before: 1_700_000_000,
            not_after: 1_857_680_000,
            days_left: 1824,
        }],
    }
}

fn postgres(node: &str) -> PostgresStatus {
    let (role, state) = match node {
        "node1" => (Role::Leader, PostgresState::Running),
        "node2" => (Role::SyncStandby, PostgresState::Streaming),
        _ => (Role::Replica, PostgresState::Streaming),
    };
    let (timeline, lag, awaits_restart, error) = (None, None, None, None);
    let (role, failsafe, tags) = (Some(role), false, vec![]);
    PostgresStatus { role, state, timeline, lag, awaits_restart, failsafe, tags, error }
}
