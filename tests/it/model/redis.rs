//! Redis and Sentinel: their gates, replication and failover.

use super::world::World;
use hanode_core::plan::Action;
use std::net::IpAddr;

impl World {
    pub(super) fn gate_sentinel(&mut self, i: usize) {
        if self.machines[i].sentinel_runs {
            return;
        }
        if self.machines[i].disk.sentinel.is_some() {
            self.machines[i].sentinel_runs = true;
            return;
        }
        let (_, plan) = self.decide(i);
        if let (true, Some(primary)) = (plan.redis.step.action.may_start(), plan.redis.primary) {
            let primary = self.spec.nodes.iter().position(|n| n.address == primary).expect("a node");
            self.serve(i);
            let m = &mut self.machines[i];
            (m.disk.served, m.disk.sentinel, m.sentinel_runs) = (true, Some((primary, 0)), true);
        }
    }

    pub(super) fn gate_redis(&mut self, i: usize) {
        if self.machines[i].redis_runs {
            return;
        }
        let fresh = self.machines[i].seen.is_none();
        let (_, plan) = self.decide(i);
        if plan.redis.promote_another {
            self.failover(i);
        }
        let (true, Some(primary)) = (plan.redis.step.action.may_start(), plan.redis.primary) else { return };
        let m = &self.machines[i];
        if m.disk.sentinel.is_none() {
            return;
        }
        let is_primary = self.spec.nodes[m.node].address == primary;
        // As `start::gate`: the primary to copy from must be reachable.
        let lacks = m.disk.unreadable || plan.redis.step.action == Action::Join;
        if lacks && !is_primary {
            if !self.is_redis_primary(i, primary) {
                return;
            }
            let disk = &mut self.machines[i].disk;
            (disk.redis, disk.unreadable) = (disk.redis.filter(|_| !disk.unreadable), false);
        }
        let m = &mut self.machines[i];
        m.disk.unreadable &= m.disk.redis.is_some();
        assert!(!m.disk.unreadable, "Redis starts with an unreadable log");
        let m = &self.machines[i];
        let recovering = self.machines.iter().any(|m| m.disk.recovery_source);
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
        (m.disk.served, m.redis_runs, m.redis_primary) = (true, true, is_primary);
        m.disk.redis = m.disk.redis.or(Some(0));
        self.replicate();
    }

    fn is_redis_primary(&self, from: usize, primary: IpAddr) -> bool {
        let node = self.spec.nodes.iter().position(|n| n.address == primary).expect("a node");
        self.at(from, node).is_some_and(|j| self.machines[j].redis_runs && self.machines[j].redis_primary)
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
                    m.disk.redis = data;
                }
            }
        }
    }

    /// The machines whose Sentinels this one reaches, including itself.
    pub(super) fn group(&self, i: usize) -> Vec<usize> {
        self.all_at(i).filter(|j| self.machines[*j].sentinel_runs).collect()
    }

    fn failover(&mut self, observer: usize) {
        let group = self.group(observer);
        if group.len() < self.spec.majority() {
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
