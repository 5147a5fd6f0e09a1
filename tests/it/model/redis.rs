//! Redis and Sentinel: their starts, replication and failover.

use super::world::World;
use hanode_core::gate::{Decision, Effect, RedisPeer};
use hanode_core::plan::{Reason, RedisStep};
use hanode_core::spec::Node;
use std::net::IpAddr;

impl World {
    pub(super) fn start_sentinel(&mut self, i: usize, decision: &Decision) {
        let primary = self.node_at(files(decision).primary.expect("a primary"));
        let m = &mut self.machines[i];
        assert!(!m.disk.torn_sentinel, "a Sentinel starts with a truncated file");
        if m.disk.sentinel.is_none() {
            m.disk.sentinel = Some((primary, 0));
            self.serve(i);
        }
        self.machines[i].sentinel_runs = true;
    }

    /// `fresh`: it decided by what it observes now.
    pub(super) fn start_redis(&mut self, i: usize, decision: &Decision, fresh: bool) {
        let primary = files(decision).primary.expect("a primary");
        let m = &self.machines[i];
        let is_primary = self.own(i).address == primary;
        assert!(m.disk.sentinel.is_some() && !m.disk.torn_sentinel, "Redis starts before its Sentinel");
        assert!(!(m.disk.unreadable && m.disk.redis.is_some()), "Redis starts with an unreadable log");
        assert!(!m.disk.stale.redis, "Redis starts with data of an older snapshot");
        let gave_up = matches!(decision.step.reason, Reason::NotPromoted { .. });
        let recovering = self.machines.iter().any(|m| m.disk.recovery_source);
        let peers: Vec<usize> = self.all_at(i).filter(|j| *j != i).collect();
        let runs_as_primary = |j: &&usize| self.machines[**j].redis_runs && self.machines[**j].redis_primary;
        assert!(
            !is_primary || gave_up || recovering || !peers.iter().any(|j| runs_as_primary(&j)),
            "a primary starts beside another one"
        );
        assert!(
            !is_primary || !fresh || recovering || !self.majority_names_another(i),
            "a primary starts although a majority names another"
        );
        if is_primary && m.disk.redis.is_none() && !m.disk.recovery_source && !self.majority_names_another(i)
        {
            let has =
                |j: usize| self.machines[j].disk.redis.is_some_and(|writes| writes > 0) && !self.replaced(j);
            let found = (0..self.machines.len()).any(has);
            assert!(!found, "an empty primary starts while a disk has data");
        }
        self.serve(i);
        let m = &mut self.machines[i];
        (m.redis_runs, m.redis_has_run, m.redis_primary) = (true, true, is_primary);
        m.disk.redis = m.disk.redis.or(Some(0));
        self.replicate();
    }

    /// The Redis of those peers that answer.
    pub(super) fn redis_peers(&self, i: usize, peers: &[&Node]) -> Vec<RedisPeer> {
        let query = |peer: &&Node| {
            let j = self.at(i, self.node_at(peer.address)).filter(|j| self.machines[*j].redis_runs)?;
            let m = &self.machines[j];
            let linked_to =
                m.linked_to.filter(|_| !m.redis_primary).map(|node| self.spec.nodes[node].address);
            Some(RedisPeer {
                node: peer.name.clone(),
                address: peer.address,
                is_primary: m.redis_primary,
                was_linked_here: linked_to == Some(self.own(i).address),
            })
        };
        peers.iter().filter_map(query).collect()
    }

    fn node_at(&self, address: IpAddr) -> usize {
        self.spec.nodes.iter().position(|n| n.address == address).expect("a node")
    }

    /// A slow machine may start as the former primary: Sentinels that name another reconfigure it at once.
    fn majority_names_another(&self, i: usize) -> bool {
        let node = self.machines[i].node;
        let others = self.machines.iter().filter(|m| m.sentinel_runs);
        others.filter(|m| m.disk.sentinel.is_some_and(|(named, _)| named != node)).count()
            >= self.spec.majority()
    }

    /// Replicas copy the data of their primary, if they reach it.
    pub(super) fn replicate(&mut self) {
        for p in 0..self.machines.len() {
            let m = &self.machines[p];
            if !(self.answers(p) && m.redis_runs && m.redis_primary) {
                continue;
            }
            let (data, node) = (m.disk.redis, m.node);
            for j in self.all_at(p).filter(|j| *j != p && self.reaches(*j, p)).collect::<Vec<_>>() {
                let m = &mut self.machines[j];
                let follows = m.disk.sentinel.is_some_and(|(named, _)| named == node);
                if m.redis_runs && !m.redis_primary && follows {
                    m.disk.unsynced += data.unwrap_or(0).saturating_sub(m.disk.redis.unwrap_or(0));
                    m.disk.unsynced = m.disk.unsynced.min(data.unwrap_or(0));
                    (m.disk.redis, m.linked_to) = (data, Some(node));
                }
            }
        }
    }

    /// The machines whose Sentinels this one reaches, including itself.
    pub(super) fn group(&self, i: usize) -> Vec<usize> {
        self.all_at(i).filter(|j| self.machines[*j].sentinel_runs).collect()
    }

    pub(super) fn failover(&mut self, observer: usize) {
        let group = self.group(observer);
        if group.len() < self.spec.majority() || self.no_promotion {
            return;
        }
        let replica = |j: &usize| self.machines[*j].redis_runs && !self.machines[*j].redis_primary;
        let Some(best) = group.iter().copied().filter(replica).max_by_key(|j| self.machines[*j].disk.redis)
        else {
            return;
        };
        let epoch =
            group.iter().filter_map(|j| self.machines[*j].disk.sentinel).map(|s| s.1).max().unwrap_or(0) + 1;
        let node = self.machines[best].node;
        for j in group {
            self.machines[j].disk.sentinel = Some((node, epoch));
            self.machines[j].redis_primary = j == best;
        }
        self.replicate();
    }

    /// Newer epochs spread. A primary that a majority does not reach is replaced after `down_after` rounds; its machine may
    /// be back by then.
    pub(super) fn sentinels_agree(&mut self) {
        for i in 0..self.machines.len() {
            if !self.answers(i) || !self.machines[i].sentinel_runs {
                continue;
            }
            let beliefs = self.group(i).into_iter().filter_map(|j| self.machines[j].disk.sentinel);
            let Some((primary, epoch)) = beliefs.max_by_key(|s| s.1) else { continue };
            let m = &mut self.machines[i];
            m.disk.sentinel = Some((primary, epoch));
            m.redis_primary = m.redis_runs && primary == m.node;
            let alive = self.at(i, primary).is_some_and(|j| self.machines[j].redis_runs);
            let m = &mut self.machines[i];
            m.missed = if alive { 0 } else { m.missed + 1 };
            if m.missed > self.down_after {
                self.failover(i);
            }
        }
        self.replicate();
    }
}

fn files(decision: &Decision) -> RedisStep {
    let files = decision.effects.iter().find_map(|effect| match effect {
        Effect::WriteFiles(plan) => Some(plan.redis.clone()),
        _ => None,
    });
    files.expect("a service starts without its files")
}
