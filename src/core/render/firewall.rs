//! Which networks may reach which ports of a node, for the templates of all firewalls.

use crate::spec::{ETCD_CLIENT_PORT, ETCD_PEER_PORT, Spec, VipMode};
use ipnet::IpNet;
use serde::Serialize;
use std::net::IpAddr;

/// Ports that are open to the same networks only.
#[derive(Debug, PartialEq, Serialize)]
struct Guard {
    /// Also the name of its chain.
    name: &'static str,
    /// A comment for the rendered file.
    what: &'static str,
    ports: Vec<u16>,
    /// The networks that may reach them, by address family.
    v4: Vec<IpNet>,
    v6: Vec<IpNet>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Guards {
    ports: Vec<Guard>,
    /// The nodes, the only senders of VRRP.
    nodes_v4: Vec<IpNet>,
    nodes_v6: Vec<IpNet>,
    /// The ports of all guards.
    all: Vec<u16>,
    /// The join port: a process serves each connection, so the other addresses can connect to it only so often.
    join_port: u16,
    /// Without that limit: the nodes, and operators if the spec names them.
    expected_v4: Vec<IpNet>,
    expected_v6: Vec<IpNet>,
}

pub(super) fn guards(spec: &Spec) -> Guards {
    let (pg, redis, haproxy) = (&spec.postgres, &spec.redis, &spec.haproxy);
    let nodes: Vec<IpNet> = spec.nodes.iter().map(|n| n.address.into()).collect();
    let (clients, operators) = (&spec.network.clients[..], spec.network.operators());
    let everywhere: [IpNet; 2] = [IpAddr::from([0; 4]), IpAddr::from([0; 16])].map(anywhere);
    let guard = |name, what, ports: &[u16], from: &[&[IpNet]]| {
        let (v4, v6) = families([&[&nodes[..]][..], from].concat().concat());
        Guard { name, what, ports: ports.to_vec(), v4, v6 }
    };
    // An external load balancer probes from unknown addresses; HAProxy answers them on /health only.
    let watchers = match spec.network.vip_mode {
        VipMode::Vrrp => [clients, operators],
        VipMode::External => [&everywhere[..], &[]],
    };
    let ports = vec![
        guard("nodes", "etcd peers, PostgreSQL", &[ETCD_PEER_PORT, pg.port], &[]),
        guard(
            "operators",
            "also for hanode status: etcd, Patroni, Redis, Sentinel, join port",
            &[
                ETCD_CLIENT_PORT,
                spec.patroni.restapi_port,
                redis.port,
                redis.sentinel_port,
                spec.network.join_port,
            ],
            &[operators],
        ),
        guard(
            "clients",
            "PostgreSQL and Redis through HAProxy, revocation list",
            &[pg.vip_port, pg.vip_read_port, redis.vip_port, haproxy.crl_port],
            &[clients],
        ),
        guard("watchers", "HAProxy's statistics, health, metrics", &[haproxy.stats_port], &watchers),
    ];
    let all = ports.iter().flat_map(|guard| guard.ports.clone()).collect();
    let named: Vec<IpNet> = nodes.iter().chain(spec.network.operators.iter().flatten()).copied().collect();
    let (expected_v4, expected_v6) = families(named);
    let (nodes_v4, nodes_v6) = families(nodes);
    let join_port = spec.network.join_port;
    Guards { ports, nodes_v4, nodes_v6, all, join_port, expected_v4, expected_v6 }
}

fn anywhere(address: IpAddr) -> IpNet {
    IpNet::new_assert(address, 0)
}

/// Splits networks by address family, without those that another covers: some firewalls refuse overlapping networks.
fn families(nets: Vec<IpNet>) -> (Vec<IpNet>, Vec<IpNet>) {
    let mut nets: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
    nets.sort();
    nets.dedup();
    let covered = |net: &IpNet| nets.iter().any(|other| other != net && other.contains(net));
    nets.iter().filter(|net| !covered(net)).partition(|net| matches!(net, IpNet::V4(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn starter() -> Spec {
        spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"))
    }

    fn of(spec: &Spec, name: &str) -> Vec<String> {
        let all = guards(spec).ports;
        let guard = all.iter().find(|g| g.name == name).expect("a guard");
        guard.v4.iter().chain(&guard.v6).map(IpNet::to_string).collect()
    }

    #[test]
    fn only_the_networks_of_the_spec_may_connect() {
        let mut spec = starter();
        let nodes = ["192.168.18.21/32", "192.168.18.22/32", "192.168.18.23/32"];
        assert_eq!(of(&spec, "nodes"), nodes);
        assert_eq!(of(&spec, "operators"), ["192.168.18.0/24"]);
        assert_eq!(of(&spec, "clients"), ["192.168.18.0/24"]);
        spec.network.operators = Some(vec!["fd00::5/128".parse().expect("a network")]);
        spec.network.clients = ["10.1.2.3/8", "10.2.0.0/16"].map(|n| n.parse().expect("a network")).into();
        assert_eq!(of(&spec, "operators"), [&nodes[..], &["fd00::5/128"]].concat());
        assert_eq!(of(&spec, "clients"), [&["10.0.0.0/8"], &nodes[..]].concat());
        assert_eq!(of(&spec, "watchers").len(), 5);
        spec.network.vip_mode = VipMode::External;
        assert_eq!(of(&spec, "watchers"), ["0.0.0.0/0", "::/0"]);
    }

    #[test]
    fn nodes_and_named_operators_connect_to_the_join_port_without_a_limit() {
        let mut spec = starter();
        let expected = |spec: &Spec| {
            let guards = guards(spec);
            guards.expected_v4.iter().chain(&guards.expected_v6).map(IpNet::to_string).collect::<Vec<_>>()
        };
        let nodes = ["192.168.18.21/32", "192.168.18.22/32", "192.168.18.23/32"];
        assert_eq!(expected(&spec), nodes, "the subnet is the default, which names nobody");
        spec.network.operators = Some(vec!["fd00::5/128".parse().expect("a network")]);
        assert_eq!(expected(&spec), [&nodes[..], &["fd00::5/128"]].concat());
    }

    /// On a distribution without a default firewall, a port of the spec without a guard would be open to all.
    #[test]
    fn every_port_of_the_spec_is_guarded_once() {
        let spec = starter();
        let mut guarded = guards(&spec).all;
        guarded.sort_unstable();
        let mut ports = vec![ETCD_CLIENT_PORT, ETCD_PEER_PORT];
        fn collect(value: &serde_json::Value, ports: &mut Vec<u16>) {
            for (key, value) in value.as_object().into_iter().flatten() {
                let port = value.as_u64().filter(|_| key == "port" || key.ends_with("_port"));
                ports.extend(port.map(|p| p as u16));
                collect(value, ports);
            }
        }
        collect(&serde_json::to_value(&spec).expect("JSON"), &mut ports);
        ports.sort_unstable();
        assert_eq!(guarded, ports);
    }
}
