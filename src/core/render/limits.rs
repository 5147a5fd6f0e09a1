//! How many connections HAProxy takes: in all, at each frontend, and from one address.

use crate::spec::{Spec, VipMode};
use serde::Serialize;

/// What one server of Redis takes, as the template says.
const REDIS: u32 = 4096;
/// What HAProxy takes in all, unless PostgreSQL alone takes more.
const LEAST: u32 = 8192;
/// Free of any frontend.
const RESERVE: u32 = 256;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Limits {
    /// More than the frontends' sum: no frontend can fill HAProxy.
    pub all: u32,
    pub postgres: Limit,
    pub postgres_read: Limit,
    pub redis: Limit,
    pub health: Limit,
    pub crl: Limit,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Limit {
    /// Of the frontend, or of its port that is not local only.
    pub all: u32,
    /// From one address, where that is limited.
    pub source: u32,
    pub limited: bool,
    /// To a port on the loopback address.
    pub local: u32,
}

/// `connections`: how many one PostgreSQL server takes from HAProxy.
pub(super) fn limits(spec: &Spec, connections: u32) -> Limits {
    // A load balancer may pass all connections on from one address of its own.
    let one_address = spec.network.vip_mode == VipMode::External;
    // A quarter is left for the others.
    let share = |served: u32| if one_address { 0 } else { (served - served / 4).max(1) };
    let replicas = u32::try_from(spec.nodes.len()).unwrap_or(u32::MAX).saturating_sub(1).max(1);
    let reads = connections.saturating_mul(replicas);
    let limit = |all: u32, source: u32| Limit { all, source, limited: source > 0, local: 0 };
    let own = spec.postgres.connections_per_source;
    // Far more than the servers take: the rest waits in HAProxy's queue, where an address with few comes first.
    let waiting = |served: u32| served.saturating_mul(4).max(1024);
    let postgres = limit(waiting(connections), own.unwrap_or(share(connections)));
    let postgres_read = limit(waiting(reads), own.unwrap_or(share(reads)));
    let redis = limit(REDIS, spec.redis.connections_per_source.unwrap_or(share(REDIS)));
    let health = Limit { local: 64, ..limit(448, 64) };
    let crl = limit(256, if one_address { 0 } else { 32 });
    let each = [&postgres, &postgres_read, &redis, &health, &crl];
    let sum = each.iter().fold(RESERVE, |sum, l| sum.saturating_add(l.all).saturating_add(l.local));
    Limits { all: sum.max(LEAST), postgres, postgres_read, redis, health, crl }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn starter() -> Spec {
        spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"))
    }

    #[test]
    fn no_frontend_can_fill_haproxy_and_no_address_a_frontend() {
        for connections in [1, 190, 5000, 262_133] {
            let l = limits(&starter(), connections);
            let each = [&l.postgres, &l.postgres_read, &l.redis, &l.health, &l.crl];
            assert!(each.iter().map(|e| e.all + e.local).sum::<u32>() < l.all, "{l:?}");
            assert!(each.iter().all(|e| 0 < e.source && e.source < e.all), "{l:?}");
            assert!(connections == 1 || l.postgres.source < connections, "one address takes no server whole");
        }
        assert_eq!(limits(&starter(), 190).all, 8192);
    }

    #[test]
    fn a_load_balancers_one_address_has_no_limit_but_the_operators() {
        let mut spec = starter();
        spec.network.vip_mode = VipMode::External;
        assert_eq!(limits(&spec, 190).postgres.source, 0);
        spec.postgres.connections_per_source = Some(50);
        let l = limits(&spec, 190);
        assert_eq!((l.postgres.source, l.postgres_read.source, l.redis.source), (50, 50, 0));
    }
}
