//! Clusters to render: specs, plans and machines as values, shared by the golden trees and the validators.
#![allow(dead_code)]

use hanode_core::machine::MachineFacts;
use hanode_core::plan::{Action, EtcdStep, Plan, Reason, RedisStep, Step};
use hanode_core::render::{CrlInput, Renderer};
use hanode_core::secrets::Secrets;
use hanode_core::spec::{self, Spec, VipMode};
use hanode_core::state::Component;
use hanode_core::target::{FileRule, Target};
use hanode_util::file_tree::Entry;
use std::net::IpAddr;

/// The declarations of [`Case::with_applications`].
pub const APPLICATIONS: &str = r#"
[[role]]
name = "reports"
memberships = ["pg_monitor", "readers"]
connection_limit = 5
settings = { statement_timeout = "5min", search_path = "reports, public" }
[[role]]
name = "readers"
login = false
[[role]]
name = "bot"
certificate = true
replication = true
[[database]]
name = "reports"
owner = "reports"
extensions = ["plpgsql"]
locale = "C"
[[hba]]
database = "reports"
role = "app"
method = "reject"
[[slot]]
name = "archive"
type = "physical"
[[slot]]
name = "audit"
type = "logical"
database = "reports"
[[redis_user]]
name = "reports"
access = "read"
keys = ["report:*"]
[[redis_user]]
name = "shop"
keys = ["shop:*", "cart:*"]
"#;

pub struct Case {
    pub spec: Spec,
    pub target: Target,
    pub machine: MachineFacts,
    pub plan: Plan,
    pub secrets: Secrets,
    /// Whether the CRLs have entries.
    pub revoked: bool,
    pub crl_der: Vec<u8>,
}

impl Case {
    /// TLS for all services, VRRP, a cluster to bootstrap.
    pub fn of(nodes: u8) -> Self {
        let spec = spec(nodes);
        let plan = plan(&spec, Action::Bootstrap, "node2");
        Case {
            target: target("debian-13"),
            machine: MachineFacts::example("host0", 24),
            plan,
            secrets: secrets(),
            revoked: false,
            crl_der: b"0\x82 stands for a CRL\r\n\x00\xff".to_vec(),
            spec,
        }
    }

    pub fn render(&self, node: &str) -> Vec<Entry> {
        self.rendered(node, |_| true)
    }

    /// The files of one component.
    pub fn render_component(&self, node: &str, component: Component) -> Vec<Entry> {
        self.rendered(node, |rule| rule.component == Some(component))
    }

    fn rendered(&self, node: &str, wanted: impl Fn(&FileRule) -> bool) -> Vec<Entry> {
        let crl = CrlInput { service: self.revoked, cluster: self.revoked, der: Some(self.crl_der.clone()) };
        let templates = hanode_admin::embedded::templates();
        let rendered = Renderer::new(&self.spec, &self.target, &templates, &self.secrets, crl)
            .and_then(|renderer| renderer.render(node, &self.machine, &self.plan))
            .unwrap_or_else(|error| panic!("{node}: {error:#}"));
        rendered.into_iter().filter(|r| wanted(r.rule)).map(|r| r.entry).collect()
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

    /// With roles, databases, login rules and slots of applications.
    pub fn with_applications(mut self) -> Self {
        let starter = spec::STARTER.replace("# wal_level = \"replica\"", "wal_level = \"logical\"");
        let text = format!("{starter}{APPLICATIONS}");
        let parsed = spec::parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
        (self.spec.roles, self.spec.databases, self.spec.hba) = (parsed.roles, parsed.databases, parsed.hba);
        (self.spec.slots, self.spec.postgres.wal_level) = (parsed.slots, parsed.postgres.wal_level);
        self.spec.redis_users = parsed.redis_users;
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
    hanode_admin::embedded::target(name).expect("the target's file is valid").1
}

pub fn address(number: u8) -> IpAddr {
    IpAddr::from([192, 168, 18, 20 + number])
}

/// The spec that `hanode init` writes, with this many nodes.
pub fn spec(nodes: u8) -> Spec {
    let mut spec = spec::parse(spec::STARTER).expect("the starter is valid");
    let node = |number| spec::Node {
        name: format!("node{number}"),
        address: address(number),
        hostname: format!("node{number}"),
        vrrp_priority: 98 + number,
    };
    spec.nodes = (1..=nodes).map(node).collect();
    spec
}

/// Every service takes the same action.
pub fn plan(spec: &Spec, action: Action, primary: &str) -> Plan {
    let step = || Step { action, reason: Reason::Unobserved };
    let known = !matches!(action, Action::Wait | Action::Refuse);
    Plan {
        schema: 1,
        etcd: EtcdStep {
            step: step(),
            initial_state: if action == Action::Bootstrap { "new" } else { "existing" }.into(),
            initial_cluster: spec
                .nodes
                .iter()
                .map(|n| format!("{}=https://{}:2380", n.name, n.address))
                .collect(),
            token: "hspas-0a1b2c3d".into(),
            record: None,
            look_for_duplicate: false,
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
        postgres_app: Some(of("app")),
        replicator: of("replicator"),
        rewind: of("rewind"),
        redis: of("redis"),
        redis_admin: Some(of("redis-admin")),
        redis_replica: Some(of("redis-replica")),
        redis_sentinel: Some(of("redis-sentinel")),
        sentinel: of("sentinel"),
        stats: of("stats"),
        patroni_rest: of("rest"),
        vrrp: of("vrrp"),
        backup_key: Some(of("backup")),
        s3_key: Some("KEY".into()),
        s3_secret: Some(of("s3")),
        roles: [("reports".to_string(), of("reports"))].into(),
        redis_users: ["reports", "shop"].map(|name| (name.to_string(), of(name))).into(),
    }
}
