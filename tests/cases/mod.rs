//! Clusters to render: specs, plans and machines as values, shared by the golden trees and the validators.
#![allow(dead_code)]

use hanode::facts::MachineFacts;
use hanode::plan::{Action, EtcdStep, Plan, RedisStep, Step};
use hanode::render::{Crl, Input, Templates, render};
use hanode::secrets::Secrets;
use hanode::spec::{self, Spec, VipMode};
use hanode::target::Target;
use hanode::tree::Entry;
use std::net::IpAddr;

pub struct Case {
    pub spec: Spec,
    pub target: Target,
    pub machine: MachineFacts,
    pub plan: Plan,
    pub secrets: Secrets,
    /// CRLs with entries.
    pub revoked: bool,
    pub crl_der: Vec<u8>,
}

impl Case {
    /// TLS everywhere, VRRP, everything beginning.
    pub fn of(nodes: u8) -> Self {
        let spec = spec(nodes);
        let plan = plan(&spec, Action::Begin, "node2");
        Case {
            target: target("debian-13"),
            machine: MachineFacts::assumed("host0", 24),
            plan,
            secrets: secrets(),
            revoked: false,
            crl_der: b"0\x82 stands for a CRL\r\n\x00\xff".to_vec(),
            spec,
        }
    }

    pub fn render(&self, node: &str) -> Vec<Entry> {
        let templates = Templates::embedded();
        let input = Input {
            spec: &self.spec,
            target: &self.target,
            node,
            machine: &self.machine,
            plan: &self.plan,
            secrets: &self.secrets,
            templates: &templates,
            crl: Crl { service: self.revoked, cluster: self.revoked, der: Some(&self.crl_der) },
        };
        render(&input).unwrap_or_else(|error| panic!("{node}: {error:#}"))
    }

    /// The same cluster on another distribution.
    pub fn on(mut self, name: &str) -> Self {
        self.target = target(name);
        self
    }

    pub fn plain(mut self) -> Self {
        self.spec.postgres.tls = false;
        self.spec.redis.tls = false;
        self
    }

    pub fn external(mut self) -> Self {
        self.spec.network.vip_mode = VipMode::External;
        self
    }

    pub fn planned(mut self, action: Action, primary: &str) -> Self {
        self.plan = plan(&self.spec, action, primary);
        self
    }
}

fn target(name: &str) -> Target {
    hanode::image::target(name).expect("the target's file is valid").1
}

pub fn address(number: u8) -> IpAddr {
    IpAddr::from([192, 168, 18, 20 + number])
}

pub fn spec(nodes: u8) -> Spec {
    let net = |text: &str| text.parse().expect("a network");
    Spec {
        schema: spec::SCHEMA,
        name: "hspas".into(),
        network: spec::Network {
            subnet: net("192.168.18.0/24"),
            clients: vec![net("0.0.0.0/0")],
            operators: None,
            vip: address(0),
            vip_mode: VipMode::Vrrp,
            join_port: 7081,
        },
        nodes: (1..=nodes)
            .map(|n| spec::Node {
                name: format!("node{n}"),
                address: address(n),
                hostname: format!("node{n}"),
                vrrp_priority: 98 + n,
            })
            .collect(),
        postgres: spec::Postgres {
            tls: true,
            alt_names: vec!["pgsql.demo.lab".into(), "*.demo.lab".into()],
            synchronous: true,
            maximum_lag_on_failover: None,
            port: 5433,
            vip_port: 5432,
            vip_read_port: 5434,
            connections_per_source: None,
            parameters: Default::default(),
        },
        patroni: spec::Patroni { ttl: 20, loop_wait: 10, retry_timeout: 5, restapi_port: 8008 },
        redis: spec::Redis {
            tls: true,
            alt_names: vec!["redis.demo.lab".into(), "*.demo.lab".into()],
            initial_primary: "node2".into(),
            master_name: "redis-cluster".into(),
            min_replicas: 1,
            port: 6378,
            vip_port: 6379,
            connections_per_source: None,
            sentinel_port: 26378,
        },
        haproxy: spec::Haproxy { stats_port: 7000, crl_port: 7080, extra: Default::default() },
        keepalived: spec::Keepalived { router_id: 51, interface: None },
        pki: spec::Pki {
            ca_name: "Self-Signed CA".into(),
            crl_url: "http://192.168.18.20:7080/server.crl".into(),
            ca_days: 3650,
            leaf_days: 1825,
            crl_days: 3650,
        },
        storage: spec::Storage { data: None },
        versions: Default::default(),
    }
}

/// Every service takes the same action.
pub fn plan(spec: &Spec, action: Action, primary: &str) -> Plan {
    let step = || Step { action, reason: "as the test wants it".into() };
    let known = !matches!(action, Action::Wait | Action::Refuse);
    Plan {
        schema: 1,
        etcd: EtcdStep {
            step: step(),
            initial_state: if action == Action::Begin { "new" } else { "existing" }.into(),
            initial_cluster: spec
                .nodes
                .iter()
                .map(|n| format!("{}=https://{}:2380", n.name, n.address))
                .collect(),
            token: "hspas-0a1b2c3d".into(),
            record: None,
            look_for_twin: false,
        },
        postgres: step(),
        redis: RedisStep {
            step: step(),
            primary: spec.node(primary).filter(|_| known).map(|node| node.address),
            promote_another: false,
        },
    }
}

pub fn secrets() -> Secrets {
    let of = |role: &str| format!("{role}-0123456789-not-for-use");
    Secrets {
        postgres_admin: of("admin"),
        postgres_dbadmin: of("dbadmin"),
        replicator: of("replicator"),
        rewind: of("rewind"),
        redis: of("redis"),
        sentinel: of("sentinel"),
        stats: of("stats"),
        patroni_rest: of("rest"),
        vrrp: of("vrrp"),
    }
}
