//! A valid spec as a value, for tests that are not about reading one.

use hanode::spec::*;

pub fn spec() -> Spec {
    let node = |n: u8| Node {
        name: format!("node{n}"),
        address: format!("192.168.18.2{n}").parse().unwrap(),
        hostname: format!("node{n}"),
        vrrp_priority: 98 + n,
    };
    Spec {
        schema: SCHEMA,
        name: "hspas".into(),
        network: Network {
            subnet: "192.168.18.0/24".parse().unwrap(),
            clients: vec!["0.0.0.0/0".parse().unwrap()],
            vip: "192.168.18.20".parse().unwrap(),
            vip_mode: VipMode::Vrrp,
            join_port: 7081,
        },
        nodes: (1..=3).map(node).collect(),
        postgres: Postgres {
            tls: true,
            alt_names: vec![],
            synchronous: true,
            port: 5433,
            vip_port: 5432,
            vip_read_port: 5434,
            parameters: Default::default(),
        },
        patroni: Patroni { ttl: 20, loop_wait: 10, retry_timeout: 5, restapi_port: 8008 },
        redis: Redis {
            tls: true,
            alt_names: vec![],
            initial_primary: "node2".into(),
            master_name: "redis-cluster".into(),
            min_replicas: 1,
            port: 6378,
            vip_port: 6379,
            sentinel_port: 26378,
        },
        haproxy: Haproxy { stats_port: 7000, crl_port: 7080, extra: Default::default() },
        keepalived: Keepalived { router_id: 51, interface: None },
        pki: Pki {
            ca_name: "CA".into(),
            crl_url: "http://192.168.18.20:7080/server.crl".into(),
            ca_days: 3650,
            leaf_days: 825,
            crl_days: 3650,
        },
        storage: Storage { data: None },
    }
}
