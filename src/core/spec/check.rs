//! The rules that hold between the values of a spec.

use super::reader::Reader;
use super::rules::*;
use super::suggest::printable;
use super::*;
use std::collections::btree_map::Entry;
use std::fmt;

pub(super) fn check(spec: &Spec, at: &Reader) {
    if spec.schema != SCHEMA {
        let what = format!("schema {} is not one this hanode knows", spec.schema);
        at.fault("schema", what, format!("it reads schema = {SCHEMA}; a newer spec needs a newer hanode"));
    }
    names(spec, at);
    addresses(spec, at);
    nodes(spec, at);
    ports(spec, at);
    timing(spec, at);
    alt_names("postgres.alt_names", &spec.postgres.alt_names, at);
    alt_names("redis.alt_names", &spec.redis.alt_names, at);
    parameters(spec, at);
    haproxy_extra(spec, at);
    pki(spec, at);
}

fn names(spec: &Spec, at: &Reader) {
    if !is_plain_name(&spec.name, "_-") {
        let what = format!("\"{}\" cannot be a cluster's name", printable(&spec.name));
        at.fault("name", what, "use up to 40 letters, digits, - and _, a letter or digit first");
    }
    if !is_plain_name(&spec.redis.master_name, "_.-") {
        let what =
            format!("\"{}\" cannot be Sentinel's name for the primary", printable(&spec.redis.master_name));
        at.fault("redis.master_name", what, "use up to 40 letters, digits, -, _ and .");
    }
    if let Some(interface) = &spec.keepalived.interface
        && !is_interface(interface)
    {
        let what = format!("\"{}\" cannot be a network interface", printable(interface));
        at.fault("keepalived.interface", what, "name it as ip link does, or leave it out to have it found");
    }
    if let Some(data) = &spec.storage.data
        && !is_volume(data)
    {
        let what = format!("\"{}\" names no volume", printable(data));
        at.fault("storage.data", what, "write LABEL=…, UUID=…, PARTLABEL=…, PARTUUID=… or a path below /dev");
    }
}

fn addresses(spec: &Spec, at: &Reader) {
    let net = &spec.network;
    if at.is_good("network.subnet") && net.subnet.prefix_len() + 2 > net.subnet.max_prefix_len() {
        at.fault(
            "network.subnet",
            format!("{} has no room for a cluster", net.subnet),
            "give the whole network",
        );
    }
    if net.vip_mode == VipMode::Vrrp {
        inside("network.vip", "vip", net.vip, net.subnet, at);
    } else {
        usable("network.vip", "vip", net.vip, at);
    }
    let mut seen = BTreeMap::new();
    for (i, node) in spec.nodes.iter().enumerate() {
        let path = format!("node.{i}.address");
        inside(&path, &node.name, node.address, net.subnet, at);
        if !at.is_good(&path) {
            continue;
        }
        if node.address == net.vip && at.is_good("network.vip") {
            let what = format!("{} is {}'s address and the vip", node.address, printable(&node.name));
            at.fault(&path, what, "the vip needs an address of its own: it moves between the nodes");
        }
        distinct(&mut seen, node.address, &path, "addresses", at);
    }
}

/// Faults when `key` was seen before; remembers it otherwise.
fn distinct<K: Ord + fmt::Display>(seen: &mut BTreeMap<K, ()>, key: K, path: &str, what: &str, at: &Reader) {
    match seen.entry(key) {
        Entry::Vacant(entry) => drop(entry.insert(())),
        Entry::Occupied(entry) => {
            let key = printable(&entry.key().to_string());
            at.fault(path, format!("{key} is given twice"), format!("the nodes' {what} must differ"));
        }
    }
}

fn usable(path: &str, who: &str, address: IpAddr, at: &Reader) {
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        let what = format!("{address} cannot be the address of {}", printable(who));
        at.fault(path, what, "give an address that other machines can reach");
    }
}

fn inside(path: &str, who: &str, address: IpAddr, subnet: IpNet, at: &Reader) {
    usable(path, who, address, at);
    if !at.is_good("network.subnet") {
        return;
    }
    let who = printable(who);
    if !subnet.contains(&address) {
        at.fault(
            path,
            format!("{who} {address} is outside the subnet {subnet}"),
            "give an address inside it",
        );
    } else if address == subnet.network() || (address.is_ipv4() && address == subnet.broadcast()) {
        let what = format!("{who} {address} is the network or broadcast address of {subnet}");
        at.fault(path, what, "give an address between the two");
    }
}

/// A host name's limit in POSIX; Linux itself has room for one more.
const LONGEST_NAME: usize = 63;

fn nodes(spec: &Spec, at: &Reader) {
    let count = spec.nodes.len();
    if count < 3 || count.is_multiple_of(2) {
        let what = format!("{count} [[node]] tables");
        at.fault(
            "node",
            what,
            "a cluster has three nodes or more, an odd number: a majority must be possible",
        );
    }
    let (mut names, mut priorities) = (BTreeMap::new(), BTreeMap::new());
    for (i, node) in spec.nodes.iter().enumerate() {
        let path = |key: &str| format!("node.{i}.{key}");
        for (key, name) in [("name", &node.name), ("hostname", &node.hostname)] {
            if key == "hostname" && node.hostname == node.name {
                continue;
            }
            if !is_host_name(name) || name.eq_ignore_ascii_case("localhost") {
                let what = format!("\"{}\" cannot be a node's {key}", printable(name));
                at.fault(&path(key), what, "use letters, digits and -, as for a host name");
            } else if name.len() > LONGEST_NAME {
                let what = format!("\"{name}\" has more than {LONGEST_NAME} characters");
                at.fault(&path(key), what, "shorten it: Linux takes no longer name for a machine");
            } else if at.is_good(&path(key)) {
                distinct(&mut names, name.to_ascii_lowercase(), &path(key), "names and host names", at);
            }
        }
        if at.is_good(&path("vrrp_priority")) {
            distinct(&mut priorities, node.vrrp_priority, &path("vrrp_priority"), "VRRP priorities", at);
        }
    }
    let redis = &spec.redis;
    if count > 0 && spec.node(&redis.initial_primary).is_none() {
        let what = format!("initial_primary \"{}\" is no node", printable(&redis.initial_primary));
        let known: Vec<String> = spec.nodes.iter().map(|n| printable(&n.name)).collect();
        at.fault("redis.initial_primary", what, format!("name one of {}", known.join(", ")));
    }
    if count > 0 && redis.min_replicas as usize >= count {
        let what = format!(
            "min_replicas = {} with {count} nodes: no write would ever be accepted",
            redis.min_replicas
        );
        at.fault("redis.min_replicas", what, format!("{} at most; 1 survives the loss of a node", count - 1));
    }
}

fn ports(spec: &Spec, at: &Reader) {
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
    let fixed = [("SSH", 22), ("etcd's clients", ETCD_CLIENT_PORT), ("etcd's peers", ETCD_PEER_PORT)];
    let mut taken: BTreeMap<u16, &str> = fixed.iter().map(|(who, port)| (*port, *who)).collect();
    for (path, port) in ours.into_iter().filter(|(path, _)| at.is_good(path)) {
        match taken.entry(port) {
            Entry::Vacant(entry) => drop(entry.insert(path)),
            Entry::Occupied(entry) => {
                let what = format!("{path} = {port} is taken by {}", entry.get());
                at.fault(path, what, "every node listens on all of these ports: they must differ");
            }
        }
    }
}

fn timing(spec: &Spec, at: &Reader) {
    let Patroni { ttl, loop_wait, retry_timeout, .. } = spec.patroni;
    let paths = ["patroni.ttl", "patroni.loop_wait", "patroni.retry_timeout"];
    if paths.iter().all(|path| at.is_good(path)) && loop_wait + 2 * retry_timeout > ttl {
        let sum = loop_wait + 2 * retry_timeout;
        let what = format!("ttl = {ttl} is less than loop_wait + 2 * retry_timeout = {sum}");
        at.fault(
            "patroni.ttl",
            what,
            "raise ttl or lower the others: a leader would lose its lock while it is well",
        );
    }
}

fn alt_names(path: &str, names: &[String], at: &Reader) {
    for (i, name) in names.iter().enumerate() {
        if !is_alt_name(name) {
            let what = format!("\"{}\" cannot be in a certificate", printable(name));
            at.fault(
                &format!("{path}.{i}"),
                what,
                "give a DNS name, a wildcard such as *.demo.lab, or an address",
            );
        }
    }
}

fn parameters(spec: &Spec, at: &Reader) {
    for name in spec.postgres.parameters.keys() {
        let path = format!("postgres.parameters.{name}");
        if !is_setting_name(name) {
            let what = format!("\"{}\" cannot be a PostgreSQL setting", printable(name));
            at.fault(&path, what, "write it as in PostgreSQL's manual, in small letters");
        } else if let Some(why) = governed(name) {
            at.fault(&path, format!("{name} cannot be passed through"), format!("leave it out: {why}"));
        }
    }
    if let Some(lag) = &spec.postgres.maximum_lag_on_failover
        && bytes(lag).is_none()
    {
        let what = format!("maximum_lag_on_failover = \"{}\" is not a size", printable(lag));
        at.fault(
            "postgres.maximum_lag_on_failover",
            what,
            "give a whole number with kB, MB, GB or TB, such as \"16MB\"",
        );
    }
    // HAProxy's own limit is computed with it.
    if let Some(value) = spec.postgres.parameters.get("max_connections")
        && !value.parse().is_ok_and(|n| (1..=262_143).contains(&n))
    {
        let what = format!("max_connections = {} is no number that PostgreSQL takes", printable(value));
        at.fault("postgres.parameters.max_connections", what, "give a whole number from 1 to 262143");
    }
}

fn haproxy_extra(spec: &Spec, at: &Reader) {
    for (section, lines) in &spec.haproxy.extra {
        for (i, line) in lines.iter().enumerate() {
            let word = line.split_whitespace().next().unwrap_or_default();
            if HAPROXY_SECTIONS.contains(&word) {
                let what = format!("this line would begin a new {word} section");
                let help =
                    format!("these lines continue HAProxy's {section} section; sections cannot be added");
                at.fault(&format!("haproxy.extra.{section}.{i}"), what, help);
            } else if let Some(directive) = set_by_hanode(section, line) {
                let help = match directive.as_str() {
                    "maxconn" => {
                        "leave it out: hanode computes it from max_connections in [postgres.parameters]"
                    }
                    "timeout client" | "timeout server" => {
                        "leave it out; for sessions that stay idle for long, set timeout tunnel here"
                    }
                    _ => "leave it out: HAProxy would use only one of the two",
                };
                let what = format!("hanode sets {directive} in HAProxy's {section} section");
                at.fault(&format!("haproxy.extra.{section}.{i}"), what, help);
            }
        }
    }
}

fn pki(spec: &Spec, at: &Reader) {
    let pki = &spec.pki;
    if pki.ca_name.trim().is_empty() || pki.ca_name.chars().count() > 64 {
        at.fault("pki.ca_name", "a CA's name has 1 to 64 characters", "shorten it");
    }
    if at.is_good("pki.crl_url") && !is_http_url(&pki.crl_url) {
        let what = format!("crl_url \"{}\" is no http or https address", printable(&pki.crl_url));
        at.fault(
            "pki.crl_url",
            what,
            "clients fetch the revocation list from there, e.g. http://crl.example.org/server.crl",
        );
    }
    if at.is_good("pki.leaf_days") && at.is_good("pki.ca_days") && pki.leaf_days > pki.ca_days {
        let what = format!("leaf_days = {} is more than ca_days = {}", pki.leaf_days, pki.ca_days);
        at.fault("pki.leaf_days", what, "a certificate cannot outlive the CA that signed it");
    }
}
