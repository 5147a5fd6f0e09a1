//! Reads `cluster.toml`. A syntax error is reported alone, all other faults together.

use super::access;
use super::reader::{Reader, Section};
use super::slots;
use super::suggest::printable;
use super::*;
use std::fmt;
use std::net::Ipv4Addr;
use toml::de::DeTable;

/// A fault in the spec, and its remedy. Line 0: the fault has no line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub line: usize,
    pub what: String,
    pub help: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        write!(f, "{}; {}", self.what, self.help)
    }
}

/// All faults of one spec, in the order of their lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

/// Upper bound on untrusted input.
const MAX_SIZE: usize = 64 * 1024;

/// Parses and validates a `cluster.toml`.
pub fn parse(text: &str) -> Result<Spec, Faults> {
    let single =
        |line, what: &str, help: &str| Faults(vec![Fault { line, what: what.into(), help: help.into() }]);
    if text.len() > MAX_SIZE {
        return Err(single(0, "the spec is larger than 64 KiB", "check that this file is a cluster.toml"));
    }
    let reader = Reader::new(text);
    let document = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(0, |span| reader.line_at(span.start));
        single(
            line,
            &format!("this is not TOML: {}", error.message()),
            "fix the syntax first; the other checks run afterwards",
        )
    })?;
    let spec = read(&reader.top(document.get_ref()), &reader);
    check::check(&spec, &reader);
    let faults = reader.into_faults();
    if faults.is_empty() { Ok(spec) } else { Err(Faults(faults)) }
}

/// The JSON schema of every known key, by path.
pub(super) fn shapes(text: &str) -> BTreeMap<String, serde_json::Value> {
    let reader = Reader::recording(text);
    if let Ok(document) = DeTable::parse(text) {
        read(&reader.top(document.get_ref()), &reader);
    }
    reader.into_shapes()
}

/// Reads the spec. A value that cannot be read gets a placeholder, and a fault in `reader`.
fn read(top: &Section, reader: &Reader) -> Spec {
    let schema = top.number("schema", i64::MIN..=i64::MAX);
    let schema = top.required("schema", schema, SCHEMA, "start the file with schema = 1");
    let name = top.text("name").unwrap_or_else(|| "hspas".into());
    let network = network(top.section("network"));
    let nodes = nodes(top, reader);
    let second = nodes.get(1).map(|node| node.name.clone());
    let confirming_replicas = nodes.len() / 2;
    let spec = Spec {
        schema,
        name,
        postgres: postgres(top.section("postgres")),
        patroni: patroni(top.section("patroni")),
        redis: redis(top.section("redis"), second.unwrap_or_default(), confirming_replicas),
        haproxy: haproxy(top.section("haproxy")),
        keepalived: keepalived(top.section("keepalived")),
        pki: Pki::placeholder(),
        storage: storage(top.section("storage")),
        backup: super::backup::read(top.section("backup")),
        roles: access::roles(top),
        databases: access::databases(top),
        hba: access::hba(top),
        slots: slots::slots(top),
        redis_users: super::redis_users::read(top),
        versions: versions(top.section("versions")),
        network,
        nodes,
    };
    let pki = pki(top.section("pki"), &spec);
    top.finish();
    Spec { pki, ..spec }
}

fn port(section: &Section, key: &'static str, default: u16) -> u16 {
    section.number(key, 1..=65535).unwrap_or(default)
}

/// The port of a server that does not run as root.
fn high_port(section: &Section, key: &'static str, default: u16) -> u16 {
    section.number(key, 1024..=65535).unwrap_or(default)
}

fn network(s: Section) -> Network {
    let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let subnet = s.required(
        "subnet",
        s.net("subnet"),
        unspecified.into(),
        "set it to the nodes' network, e.g. \"192.168.18.0/24\"",
    );
    let vip =
        s.required("vip", s.address("vip"), unspecified, "set it to an unused address of the nodes' network");
    let network = Network {
        subnet,
        clients: s.nets("clients").unwrap_or_else(|| vec![subnet]),
        operators: s.nets("operators"),
        vip,
        vip_mode: s
            .choice("vip_mode", &[("vrrp", VipMode::Vrrp), ("external", VipMode::External)])
            .unwrap_or(VipMode::Vrrp),
        join_port: port(&s, "join_port", 7081),
    };
    s.finish();
    network
}

/// Keepalived's default priorities ascend in the order of the nodes: the last node holds the virtual IP.
const FIRST_PRIORITY: usize = 99;

fn nodes(top: &Section, reader: &Reader) -> Vec<Node> {
    let read = |(index, s): (usize, Section)| {
        let name = s.required("name", s.text("name"), format!("node{}", index + 1), "give this node a name");
        let address = s.address("address");
        let address =
            s.required("address", address, Ipv4Addr::UNSPECIFIED.into(), "give this node an address");
        let priority = s.number("vrrp_priority", 1..=254).unwrap_or_else(|| {
            u8::try_from(FIRST_PRIORITY + index).ok().filter(|p| *p < 255).unwrap_or_else(|| {
                let what = format!("no VRRP priority is left for {name}");
                reader.fault(&s.path("vrrp_priority"), what, "set it, or use fewer nodes");
                254
            })
        });
        let node = Node {
            hostname: s.text("hostname").unwrap_or_else(|| name.clone()),
            name,
            address,
            vrrp_priority: priority,
        };
        s.finish();
        node
    };
    top.sections("node").into_iter().enumerate().map(read).collect()
}

fn postgres(s: Section) -> Postgres {
    let parameters = s.section("parameters").settings();
    let postgres = Postgres {
        tls: s.flag("tls").unwrap_or(true),
        alt_names: s.texts("alt_names").unwrap_or_default(),
        synchronous: s.flag("synchronous").unwrap_or(true),
        maximum_lag_on_failover: s.text("maximum_lag_on_failover"),
        port: high_port(&s, "port", 5433),
        vip_port: port(&s, "vip_port", 5432),
        vip_read_port: port(&s, "vip_read_port", 5434),
        read_max_lag: s.number("read_max_lag", 10..=86_400),
        connections_per_source: s.number("connections_per_source", 0..=262_143),
        superusers_from_clients: s.flag("superusers_from_clients").unwrap_or(false),
        wal_level: s
            .choice("wal_level", &[("replica", WalLevel::Replica), ("logical", WalLevel::Logical)])
            .unwrap_or_default(),
        parameters,
    };
    s.finish();
    postgres
}

fn patroni(s: Section) -> Patroni {
    let patroni = Patroni {
        ttl: s.number("ttl", 20..=3600).unwrap_or(20),
        loop_wait: s.number("loop_wait", 1..=600).unwrap_or(10),
        retry_timeout: s.number("retry_timeout", 3..=600).unwrap_or(5),
        restapi_port: high_port(&s, "restapi_port", 8008),
    };
    s.finish();
    patroni
}

/// `confirming_replicas`: how many replicas are a majority of the nodes with their primary.
fn redis(s: Section, second_node: String, confirming_replicas: usize) -> Redis {
    let parameters = s.section("parameters").settings();
    let redis = Redis {
        tls: s.flag("tls").unwrap_or(true),
        alt_names: s.texts("alt_names").unwrap_or_default(),
        initial_primary: s.text("initial_primary").unwrap_or(second_node),
        master_name: s.text("master_name").unwrap_or_else(|| "redis-cluster".into()),
        min_replicas: s.number("min_replicas", 0..=254).unwrap_or(confirming_replicas.clamp(1, 254) as u32),
        port: high_port(&s, "port", 6378),
        vip_port: port(&s, "vip_port", 6379),
        connections_per_source: s.number("connections_per_source", 0..=262_143),
        sentinel_port: high_port(&s, "sentinel_port", 26378),
        parameters,
    };
    s.finish();
    redis
}

fn haproxy(s: Section) -> Haproxy {
    let e = s.section("extra");
    let sections = ["global", "defaults"];
    let extra =
        sections.into_iter().filter_map(|key| Some((key.to_string(), e.config_lines(key)?))).collect();
    e.finish();
    let haproxy = Haproxy {
        stats_port: port(&s, "stats_port", 7000),
        crl_port: port(&s, "crl_port", 7080),
        idle_timeout: s.text("idle_timeout").map_or(Haproxy::LONGEST_IDLE, |text| idle_timeout(&s, &text)),
        extra,
    };
    s.finish();
    haproxy
}

fn idle_timeout(s: &Section, text: &str) -> u32 {
    let units = [("min", 60), ("h", 3600), ("d", 86_400)];
    let parsed = units.into_iter().find_map(|(unit, factor)| {
        text.strip_suffix(unit)?.trim_end().parse::<u32>().ok()?.checked_mul(factor)
    });
    parsed.filter(|n| (60..=Haproxy::LONGEST_IDLE).contains(n)).unwrap_or_else(|| {
        let what = format!("idle_timeout = \"{}\" is not a time from 1min to 24d", printable(text));
        s.fault("idle_timeout", what, "write a whole number with min, h or d, such as \"12h\"");
        Haproxy::LONGEST_IDLE
    })
}

fn keepalived(s: Section) -> Keepalived {
    let keepalived = Keepalived {
        router_id: s.number_for("router_id", 1..=255, ", one per cluster in a network").unwrap_or(51),
        interface: s.text("interface"),
    };
    s.finish();
    keepalived
}

fn storage(s: Section) -> Storage {
    let storage = Storage { data: s.text("data") };
    s.finish();
    storage
}

fn versions(s: Section) -> BTreeMap<String, String> {
    let named = COMPONENTS.into_iter().filter_map(|key| Some((key.to_string(), s.text(key)?))).collect();
    s.finish();
    named
}

impl Pki {
    /// A placeholder until the other tables, on which the defaults depend, are read.
    fn placeholder() -> Pki {
        Pki {
            ca_name: "Self-Signed CA".into(),
            crl_url: String::new(),
            ca_days: 3650,
            leaf_days: 1825,
            crl_days: 3650,
        }
    }
}

fn pki(s: Section, spec: &Spec) -> Pki {
    let default = Pki::placeholder();
    // At most a hundred years: an X.509 date cannot exceed the year 9999.
    let days = |key| s.number(key, 1..=36500);
    let ca_days = days("ca_days").unwrap_or(default.ca_days);
    let pki = Pki {
        ca_name: s.text("ca_name").unwrap_or(default.ca_name),
        crl_url: s.text("crl_url").unwrap_or_else(|| {
            let at = std::net::SocketAddr::new(spec.network.vip, spec.haproxy.crl_port);
            format!("http://{at}/server.crl")
        }),
        ca_days,
        leaf_days: days("leaf_days").unwrap_or(default.leaf_days.min(ca_days)),
        crl_days: days("crl_days").unwrap_or(ca_days),
    };
    s.finish();
    pki
}
