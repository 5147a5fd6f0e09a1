//! The rules for the values of a spec and between them.

use super::reader::Reader;
use super::rules::*;
use super::suggest::printable;
use super::*;
use crate::redis_parameters;
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

pub(super) fn check(spec: &Spec, reader: &Reader) {
    if spec.schema != SCHEMA {
        let what = format!("schema {} is not supported", spec.schema);
        reader.fault("schema", what, format!("write schema = {SCHEMA}, or use a newer hanode"));
    }
    names(spec, reader);
    addresses(spec, reader);
    nodes(spec, reader);
    ports(spec, reader);
    timing(spec, reader);
    alt_names("postgres.alt_names", &spec.postgres.alt_names, reader);
    alt_names("redis.alt_names", &spec.redis.alt_names, reader);
    parameters(spec, reader);
    redis_parameters(spec, reader);
    haproxy_extra(spec, reader);
    if let Some(backup) = &spec.backup {
        super::backup::check(backup, reader);
    }
    super::access::check(spec, reader);
    super::slots::check(spec, reader);
    super::redis_users::check(spec, reader);
    pki(spec, reader);
    versions(spec, reader);
}

fn names(spec: &Spec, reader: &Reader) {
    if !is_cluster_name(&spec.name) {
        let what = format!("\"{}\" is not a valid cluster name", printable(&spec.name));
        reader.fault("name", what, "use up to 40 letters, digits, - and _, starting with a letter or digit");
    }
    if !is_plain_name(&spec.redis.master_name, "_.-") {
        let what = format!("\"{}\" is not a valid Sentinel master name", printable(&spec.redis.master_name));
        reader.fault("redis.master_name", what, "use up to 40 letters, digits, -, _ and .");
    }
    if let Some(interface) = &spec.keepalived.interface
        && !is_interface(interface)
    {
        let what = format!("\"{}\" is not a valid interface name", printable(interface));
        reader.fault(
            "keepalived.interface",
            what,
            "use a name from `ip link`, or remove the key to detect the interface",
        );
    }
    if let Some(data) = &spec.storage.data
        && !is_volume(data)
    {
        let what = format!("\"{}\" is not a volume", printable(data));
        reader.fault(
            "storage.data",
            what,
            "write LABEL=…, UUID=…, PARTLABEL=…, PARTUUID=… or a path below /dev",
        );
    }
}

fn addresses(spec: &Spec, reader: &Reader) {
    let net = &spec.network;
    if reader.is_good("network.subnet") && net.subnet.prefix_len() + 2 > net.subnet.max_prefix_len() {
        reader.fault(
            "network.subnet",
            format!("{} is too small for a cluster", net.subnet),
            "use the whole network of the nodes",
        );
    }
    if net.vip_mode == VipMode::Vrrp {
        inside("network.vip", "vip", net.vip, net.subnet, reader);
    } else {
        usable("network.vip", "vip", net.vip, reader);
    }
    let mut seen = BTreeSet::new();
    for (i, node) in spec.nodes.iter().enumerate() {
        let path = format!("node.{i}.address");
        inside(&path, &node.name, node.address, net.subnet, reader);
        if !reader.is_good(&path) {
            continue;
        }
        if node.address == net.vip && reader.is_good("network.vip") {
            let what = format!("{} is the address of {} and the vip", node.address, printable(&node.name));
            reader.fault(&path, what, "use a separate address for the vip, which moves between the nodes");
        }
        let what = format!("two nodes have the address {}", node.address);
        distinct(&mut seen, node.address, &path, what, "address", reader);
    }
}

/// Records the fault `what` if `key` was seen before; `each` is what the nodes must not share.
fn distinct<K: Ord>(seen: &mut BTreeSet<K>, key: K, path: &str, what: String, each: &str, reader: &Reader) {
    if !seen.insert(key) {
        reader.fault(path, what, format!("give each node its own {each}"));
    }
}

fn usable(path: &str, who: &str, address: IpAddr, reader: &Reader) {
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        let what = format!("{address} is not a usable address for {}", printable(who));
        reader.fault(path, what, "use an address that other machines can reach");
    }
}

fn inside(path: &str, who: &str, address: IpAddr, subnet: IpNet, reader: &Reader) {
    usable(path, who, address, reader);
    if !reader.is_good("network.subnet") {
        return;
    }
    let who = printable(who);
    if !subnet.contains(&address) {
        reader.fault(
            path,
            format!("{who} {address} is outside the subnet {subnet}"),
            "use an address inside the subnet",
        );
    } else if address == subnet.network() || (address.is_ipv4() && address == subnet.broadcast()) {
        let what = format!("{who} {address} is the network or broadcast address of {subnet}");
        reader.fault(path, what, "use an address between the two");
    }
}

/// POSIX's limit for a host name; Linux allows one more character.
const MAX_HOST_NAME: usize = 63;

fn is_node_name(name: &str) -> bool {
    is_host_name(name)
        && !name.eq_ignore_ascii_case("localhost")
        && !is_of_redis(name)
        && name.len() <= MAX_HOST_NAME
}

/// Whether a certificate with this name passes for Redis': its subject is `redis`, and HAProxy also takes another name.
fn is_of_redis(name: &str) -> bool {
    name.eq_ignore_ascii_case("redis")
}

fn nodes(spec: &Spec, reader: &Reader) {
    let count = spec.nodes.len();
    if count < 3 || count.is_multiple_of(2) {
        let what = format!("the spec has {count} [[node]] tables");
        reader.fault(
            "node",
            what,
            "use an odd number of nodes, three or more, so that a majority is possible",
        );
    }
    let (mut names, mut priorities) = (BTreeSet::new(), BTreeSet::new());
    for (i, node) in spec.nodes.iter().enumerate() {
        let path = |key: &str| format!("node.{i}.{key}");
        for (key, name) in [("name", &node.name), ("hostname", &node.hostname)] {
            if key == "hostname" && node.hostname == node.name {
                continue;
            }
            if !is_host_name(name) || name.eq_ignore_ascii_case("localhost") {
                let what = format!("\"{}\" is not a valid node {key}", printable(name));
                reader.fault(&path(key), what, "use letters, digits and -; localhost is reserved");
            } else if is_of_redis(name) {
                let what = format!("{name} is the name in Redis' certificate");
                reader.fault(
                    &path(key),
                    what,
                    "use another name: PostgreSQL's certificate would pass for that of Redis",
                );
            } else if name.len() > MAX_HOST_NAME {
                let what = format!("\"{name}\" has more than {MAX_HOST_NAME} characters");
                reader.fault(&path(key), what, "shorten it: Linux does not accept a longer host name");
            } else if reader.is_good(&path(key)) {
                let (what, each) = match key {
                    "name" => (format!("two nodes are named {name}"), "name"),
                    _ => (format!("the host name {name} is already that of another node"), "host name"),
                };
                distinct(&mut names, name.to_ascii_lowercase(), &path(key), what, each, reader);
            }
        }
        if reader.is_good(&path("vrrp_priority")) {
            let (path, each) = (path("vrrp_priority"), "vrrp_priority");
            let what = format!("two nodes have vrrp_priority = {}", node.vrrp_priority);
            distinct(&mut priorities, node.vrrp_priority, &path, what, each, reader);
        }
    }
    let redis = &spec.redis;
    if count > 0 && spec.node(&redis.initial_primary).is_none() {
        let what = format!("initial_primary \"{}\" is not a node", printable(&redis.initial_primary));
        let valid = |name: &&str| is_node_name(name);
        let mut known: Vec<&str> = spec.nodes.iter().map(|n| n.name.as_str()).filter(valid).collect();
        known.dedup();
        let help = match known.as_slice() {
            [] => "set it to the name of a node".to_string(),
            known => format!("use one of {}", known.join(", ")),
        };
        reader.fault("redis.initial_primary", what, help);
    }
    if count > 0 && redis.min_replicas as usize >= count {
        let what =
            format!("min_replicas = {} with {count} nodes: Redis would accept no write", redis.min_replicas);
        reader.fault(
            "redis.min_replicas",
            what,
            format!("{} at most; 1 survives the loss of a node", count - 1),
        );
    }
}

fn ports(spec: &Spec, reader: &Reader) {
    let (pg, redis, haproxy) = (&spec.postgres, &spec.redis, &spec.haproxy);
    let ours = [
        ("network.join_port", spec.network.join_port),
        ("postgres.port", pg.port),
        ("postgres.vip_port", pg.vip_port),
        ("postgres.vip_read_port", pg.vip_read_port),
        ("patroni.restapi_port", spec.patroni.restapi_port),
        ("redis.port", redis.port),
        ("redis.vip_port", redis.vip_port),
        ("redis.sentinel_port", redis.sentinel_port),
        ("haproxy.stats_port", haproxy.stats_port),
        ("haproxy.crl_port", haproxy.crl_port),
    ];
    let fixed = [
        ("SSH", 22),
        ("the local resolver", 53),
        ("etcd's clients", ETCD_CLIENT_PORT),
        ("etcd's peers", ETCD_PEER_PORT),
        ("etcd's metrics", ETCD_METRICS_PORT),
        ("the resolver's LLMNR", 5355),
    ];
    let mut taken: BTreeMap<u16, &str> = fixed.iter().map(|(who, port)| (*port, *who)).collect();
    for (path, port) in ours.into_iter().filter(|(path, _)| reader.is_good(path)) {
        match taken.entry(port) {
            Entry::Vacant(entry) => drop(entry.insert(path)),
            Entry::Occupied(entry) => {
                let what = format!("{path} = {port} is already used by {}", entry.get());
                reader.fault(path, what, "use different ports: every node listens on all of them");
            }
        }
    }
}

fn timing(spec: &Spec, reader: &Reader) {
    let Patroni { ttl, loop_wait, retry_timeout, .. } = spec.patroni;
    let paths = ["patroni.ttl", "patroni.loop_wait", "patroni.retry_timeout"];
    if paths.iter().all(|path| reader.is_good(path)) && loop_wait + 2 * retry_timeout > ttl {
        let sum = loop_wait + 2 * retry_timeout;
        let what = format!("ttl = {ttl} is less than loop_wait + 2 * retry_timeout = {sum}");
        reader.fault(
            "patroni.ttl",
            what,
            "raise ttl or lower the others: otherwise a healthy leader loses its lock",
        );
    }
}

fn alt_names(path: &str, names: &[String], reader: &Reader) {
    for (i, name) in names.iter().enumerate() {
        if path == "postgres.alt_names" && is_of_redis(name) {
            let what = "PostgreSQL's certificate would pass for that of Redis".to_string();
            reader.fault(&format!("{path}.{i}"), what, "remove the name, or add it in [redis]");
        } else if !is_alt_name(name) {
            let what = format!("\"{}\" is not a valid name for a certificate", printable(name));
            reader.fault(
                &format!("{path}.{i}"),
                what,
                "use a DNS name, a wildcard such as *.demo.lab, or an address",
            );
        }
    }
}

fn parameters(spec: &Spec, reader: &Reader) {
    for name in spec.postgres.parameters.keys() {
        let path = format!("postgres.parameters.{name}");
        if !is_setting_name(name) {
            let what = format!("\"{}\" is not a valid PostgreSQL setting name", printable(name));
            reader.fault(&path, what, "write it as in PostgreSQL's manual, in lower case");
        } else if let Some(why) = reserved_by(name) {
            reader.fault(&path, format!("{name} cannot be set here"), format!("remove it: {why}"));
        }
    }
    if let Some(lag) = &spec.postgres.maximum_lag_on_failover
        && bytes(lag).is_none()
    {
        let what = format!("maximum_lag_on_failover = \"{}\" is not a size", printable(lag));
        reader.fault(
            "postgres.maximum_lag_on_failover",
            what,
            "write a whole number with kB, MB, GB or TB, such as \"16MB\"",
        );
    }
    // HAProxy's connection limit is derived from it.
    if let Some(value) = spec.postgres.parameters.get("max_connections")
        && !value.parse().is_ok_and(|n| (1..=262_143).contains(&n))
    {
        let what = format!("max_connections = {} is not a valid number", printable(value));
        reader.fault("postgres.parameters.max_connections", what, "use a whole number from 1 to 262143");
    }
}

fn redis_parameters(spec: &Spec, reader: &Reader) {
    for (name, value) in &spec.redis.parameters {
        let path = format!("redis.parameters.{name}");
        let (what, help) = if let Some(why) = redis_parameters::reserved_by(name) {
            (format!("{name} cannot be set here"), format!("remove it: {why}"))
        } else {
            match redis_parameters::parameter(name).map(|parameter| parameter.normalized(value)) {
                Some(Ok(_)) => continue,
                Some(Err(help)) => (format!("{name} = \"{}\" is not a valid value", printable(value)), help),
                None => {
                    let names = redis_parameters::names();
                    let help = match nearest(name, &names) {
                        Some(near) => format!("did you mean {near}?"),
                        None => format!("known settings: {}", names.join(", ")),
                    };
                    (format!("{} is not a setting of Redis that can be set here", printable(name)), help)
                }
            }
        };
        reader.fault(&path, what, help);
    }
}

fn haproxy_extra(spec: &Spec, reader: &Reader) {
    for (section, lines) in &spec.haproxy.extra {
        for (i, line) in lines.iter().enumerate() {
            let word = line.split_whitespace().next().unwrap_or_default();
            if HAPROXY_SECTIONS.contains(&word) {
                let what = format!("this line would start a new {word} section");
                let help = format!("use only lines of HAProxy's {section} section; sections cannot be added");
                reader.fault(&format!("haproxy.extra.{section}.{i}"), what, help);
            } else if let Some(directive) = set_by_hanode(section, line) {
                let help = match directive.as_str() {
                    "maxconn" => {
                        "remove it: hanode computes it from max_connections in [postgres.parameters]"
                    }
                    "timeout client" | "timeout server" | "timeout tunnel" => {
                        "remove it: idle_timeout in [haproxy] limits sessions that stay idle"
                    }
                    _ => "remove it: HAProxy would use only one of the two",
                };
                let what = format!("hanode sets {directive} in HAProxy's {section} section");
                reader.fault(&format!("haproxy.extra.{section}.{i}"), what, help);
            } else if let Some(word) = disguised(line) {
                let what = format!("\"{}\" is not a plain name of a directive", printable(word));
                let help = "write it without quotation marks, backslashes and variables";
                reader.fault(&format!("haproxy.extra.{section}.{i}"), what, help);
            }
        }
    }
}

fn pki(spec: &Spec, reader: &Reader) {
    let pki = &spec.pki;
    if pki.ca_name.trim().is_empty() || pki.ca_name.chars().count() > 64 {
        reader.fault(
            "pki.ca_name",
            "ca_name is empty or longer than 64 characters",
            "use 1 to 64 characters",
        );
    }
    if reader.is_good("pki.crl_url") && !is_http_url(&pki.crl_url) {
        let what = format!("crl_url \"{}\" is not an http or https URL", printable(&pki.crl_url));
        reader.fault(
            "pki.crl_url",
            what,
            "use the URL from which clients fetch the revocation list, e.g. http://crl.example.org/server.crl",
        );
    }
    if reader.is_good("pki.leaf_days") && reader.is_good("pki.ca_days") && pki.leaf_days > pki.ca_days {
        let what = format!("leaf_days = {} is more than ca_days = {}", pki.leaf_days, pki.ca_days);
        reader.fault(
            "pki.leaf_days",
            what,
            "lower leaf_days or raise ca_days: a certificate cannot outlive its CA",
        );
    }
}

/// A version is a part of package names and of URLs.
fn versions(spec: &Spec, reader: &Reader) {
    for (component, version) in &spec.versions {
        if !is_version(version) {
            let what = format!("versions.{component} = \"{}\" is not a version", printable(version));
            let help = "use letters, digits and . + - _ ~ : as in 3.5.16, starting with a digit or letter";
            reader.fault(&format!("versions.{component}"), what, help);
        }
    }
}
