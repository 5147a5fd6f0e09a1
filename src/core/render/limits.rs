//! Limits of HAProxy's connections: in total, per frontend, and per client address.

use crate::spec::{Spec, VipMode};
use serde::Serialize;

/// The connections to Redis.
const REDIS_CONNECTIONS: u32 = 4096;
/// The smallest total.
const MIN_TOTAL: u32 = 8192;
/// Connections that no frontend can take.
const RESERVE: u32 = 256;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Limits {
    /// More than the sum of the frontends: no frontend can take all connections of HAProxy.
    pub total: u32,
    pub postgres: Limit,
    pub postgres_read: Limit,
    pub redis: Limit,
    pub health: Limit,
    pub crl: Limit,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Limit {
    /// Connections to the frontend, without those to the loopback address.
    pub total: u32,
    /// Connections from one address; 0: no limit.
    pub source: u32,
    pub limited: bool,
    /// Connections to the loopback address.
    pub local: u32,
}

/// `connections`: the connections that HAProxy opens to one PostgreSQL server.
pub(super) fn limits(spec: &Spec, connections: u32) -> Limits {
    // A load balancer may forward all connections from one address.
    let one_address = spec.network.vip_mode == VipMode::External;
    // A quarter remains for other clients.
    let share = |served: u32| if one_address { 0 } else { (served - served / 4).max(1) };
    let replicas = u32::try_from(spec.nodes.len()).unwrap_or(u32::MAX).saturating_sub(1).max(1);
    let reads = connections.saturating_mul(replicas);
    let limit = |total: u32, source: u32| Limit { total, source, limited: source > 0, local: 0 };
    let own = spec.postgres.connections_per_source;
    // Far more than the servers accept: the rest waits in HAProxy's queue, where addresses with few connections come
    // first.
    let with_queue = |served: u32| served.saturating_mul(4).max(1024);
    let postgres = limit(with_queue(connections), own.unwrap_or(share(connections)));
    let postgres_read = limit(with_queue(reads), own.unwrap_or(share(reads)));
    let redis =
        limit(REDIS_CONNECTIONS, spec.redis.connections_per_source.unwrap_or(share(REDIS_CONNECTIONS)));
    let health = Limit { local: 64, ..limit(448, 64) };
    let crl = limit(256, if one_address { 0 } else { 32 });
    let each = [&postgres, &postgres_read, &redis, &health, &crl];
    let sum = each.iter().fold(RESERVE, |sum, l| sum.saturating_add(l.total).saturating_add(l.local));
    Limits { total: sum.max(MIN_TOTAL), postgres, postgres_read, redis, health, crl }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn starter() -> Spec {
        spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"))
    }

    #[test]
    fn no_frontend_can_take_all_connections_and_no_address_a_frontend() {
        for connections in [1, 190, 5000, 262_133] {
            let l = limits(&starter(), connections);
            let each = [&l.postgres, &l.postgres_read, &l.redis, &l.health, &l.crl];
            assert!(each.iter().map(|e| e.total + e.local).sum::<u32>() < l.total, "{l:?}");
            assert!(each.iter().all(|e| 0 < e.source && e.source < e.total), "{l:?}");
            assert!(
                connections == 1 || l.postgres.source < connections,
                "one address can take all connections of a server"
            );
        }
        assert_eq!(limits(&starter(), 190).total, 8192);
    }

    #[test]
    fn behind_a_load_balancer_only_a_configured_limit_applies() {
        let mut spec = starter();
        spec.network.vip_mode = VipMode::External;
        assert_eq!(limits(&spec, 190).postgres.source, 0);
        spec.postgres.connections_per_source = Some(50);
        let l = limits(&spec, 190);
        assert_eq!((l.postgres.source, l.postgres_read.source, l.redis.source), (50, 50, 0));
    }
}
