//! What plan unit, gates, Sentinels and the operator do; the gates as spelled out in `boot`.

use super::world::{EtcdCluster, World};
use hanode_core::plan::{Action, EtcdRecovery, JoinMethod, Observations, Plan, join_method, peer_url, plan};
use std::net::IpAddr;

impl World {
    /// One round of the plan unit, or of every gate that is not through yet.
    pub fn tick(&mut self, i: usize) {
        if !self.answers(i) {
            return;
        }
        match self.machines[i].started {
            false => self.plan_unit(i),
            true => {
                self.gate_etcd(i);
                self.gate_patroni(i);
                self.gate_sentinel(i);
                self.gate_redis(i);
            }
        }
        self.publish();
        self.ready(i);
        self.sentinels_agree();
    }

    /// A slow machine looks now and acts later.
    pub fn look_ahead(&mut self, i: usize) {
        if self.answers(i) {
            self.machines[i].seen = Some(self.look(i));
        }
    }

    fn decide(&mut self, i: usize) -> (Observations, Plan) {
        let seen = match self.machines[i].seen.take() {
            Some(earlier) => earlier,
            None => self.look(i),
        };
        let plan = plan(&self.spec, self.name(i), &seen);
        for (service, step) in
            [("etcd", &plan.etcd.step), ("postgres", &plan.postgres), ("redis", &plan.redis.step)]
        {
            let refused = &mut self.machines[i].refused;
            match step.action {
                Action::Refuse => drop(refused.insert(service, step.reason.clone())),
                _ => drop(refused.remove(service)),
            }
        }
        (seen, plan)
    }

    fn plan_unit(&mut self, i: usize) {
        self.machines[i].refused.remove("duplicate");
        if self.gives_way(i) {
            return self.refuse_twin(i);
        }
        let (_, plan) = self.decide(i);
        self.bootstrap(i, &plan);
        self.machines[i].started = plan.etcd.step.action.may_start();
        if plan.etcd.look_for_duplicate && self.answers_arp(i) {
            self.refuse_twin(i);
        }
    }

    /// As in `boot/identity/duplicate.rs`: the machine that comes later to an address that answers.
    fn gives_way(&self, i: usize) -> bool {
        let earlier = |j: &usize| self.machines[*j].since < self.machines[i].since;
        self.duplicates(i).filter(earlier).any(|j| self.hears(i, j))
    }

    fn refuse_twin(&mut self, i: usize) {
        let reason = "another machine answers; switch one of them off".to_string();
        self.machines[i].refused.insert("duplicate", reason);
    }

    /// What the plan unit and etcd's gate do towards a bootstrap.
    fn bootstrap(&mut self, i: usize, plan: &Plan) {
        let m = &mut self.machines[i];
        if let Some(bootstrap) = &plan.etcd.record {
            (m.disk.etcd, m.disk.bootstrap_id) = (None, Some(bootstrap.clone()));
        } else if plan.etcd.step.action == Action::Bootstrap && !m.bootstrapping {
            (m.bootstrapping, m.disk.postgres, m.disk.redis) = (true, None, None);
        }
    }

    fn gate_etcd(&mut self, i: usize) {
        if self.machines[i].etcd_runs {
            self.machines[i].etcd_runs = !self.outlived(i);
            return;
        }
        self.machines[i].refused.remove("duplicate");
        let (seen, plan) = self.decide(i);
        self.bootstrap(i, &plan);
        match plan.etcd.step.action {
            Action::Bootstrap if self.machines[i].disk.etcd.is_none() => self.start_new(i, &plan.etcd.token),
            Action::Bootstrap | Action::Resume => {
                // Part of a living cluster now, and asked for should that be lost.
                let m = &mut self.machines[i];
                (m.etcd_runs, m.disk.served) = (true, m.disk.served || !m.bootstrapping);
            }
            Action::Join => self.join(i, &seen),
            _ => {}
        }
    }

    /// A log that a quorum does not know any more: as `ready` sees it, and restarts etcd to pass its gate again.
    fn outlived(&mut self, i: usize) -> bool {
        if self.within_quorum(i).is_some() || self.quorum(i).is_none() {
            return false;
        }
        let seen = self.look(i);
        plan(&self.spec, self.name(i), &seen).etcd.step.action == Action::Join
    }

    fn start_new(&mut self, i: usize, token: &str) {
        let n = self.spec.nodes.len();
        let members = (0..n).map(|j| (format!("{token}/{j}"), j, false)).collect();
        let alive = self.machines.iter().any(|m| m.disk.etcd.as_ref().is_some_and(|(c, _)| c == token));
        if !alive {
            // Nobody holds a log under this token: all was cleared, and it begins from nothing.
            self.etcd.insert(token.into(), EtcdCluster { members, ..EtcdCluster::default() });
        }
        let id = format!("{token}/{}", self.machines[i].who);
        let voted = self.etcd[token].members.iter().any(|(m, _, started)| *m == id && *started);
        assert!(!voted, "a member that had started began again without its log");
        let m = &mut self.machines[i];
        (m.disk.etcd, m.etcd_runs) = (Some((token.into(), id)), true);
    }

    /// The guard of `boot/start/rejoin.rs`: another machine answers for the address, or Patroni's key of this name lives.
    fn duplicate(&self, i: usize) -> bool {
        let keeps_key = |j: usize| self.machines[j].patroni_runs && self.quorum(j).is_some();
        self.answers_arp(i) || self.duplicates(i).any(keeps_key)
    }

    fn answers_arp(&self, i: usize) -> bool {
        self.duplicates(i).any(|j| self.hears(i, j))
    }

    fn duplicates(&self, i: usize) -> impl Iterator<Item = usize> {
        (0..self.machines.len()).filter(move |j| *j != i && self.machines[*j].who == self.machines[i].who)
    }

    fn join(&mut self, i: usize, seen: &Observations) {
        let Some(cluster) = self.quorum(i) else { return };
        let url = peer_url(&self.spec.nodes[self.machines[i].who]);
        let (now, before) = (self.members(&cluster), seen.etcd.clone().unwrap_or_default());
        let how = join_method(&now, &url);
        if how != JoinMethod::TakeListed && self.duplicate(i) {
            self.refuse_twin(i);
            return;
        }
        if how != join_method(&before, &url) {
            return;
        }
        if let JoinMethod::Replace(id) = &how {
            let holds =
                |j: &usize| self.machines[*j].disk.etcd.as_ref().is_some_and(|(_, member)| member == id);
            let living =
                (0..self.machines.len()).filter(holds).any(|j| j != i && self.within_quorum(j).is_some());
            assert!(!living, "evicted a living member");
            self.etcd.get_mut(&cluster).expect("cluster").members.retain(|(m, _, _)| m != id);
        }
        if how == JoinMethod::TakeListed {
            let voted = now.iter().any(|m| m.peer_urls.contains(&url) && !m.client_urls.is_empty());
            assert!(!voted, "a member that had started began again without its log");
        }
        let id = match how {
            JoinMethod::TakeListed => {
                now.iter().find(|m| m.peer_urls.contains(&url)).expect("listed").id.clone()
            }
            _ => {
                let (id, who) = (format!("m{}", self.next()), self.machines[i].who);
                self.etcd.get_mut(&cluster).expect("cluster").members.push((id.clone(), who, false));
                id
            }
        };
        let m = &mut self.machines[i];
        m.disk.served |= !m.bootstrapping;
        (m.disk.etcd, m.disk.etcd_member, m.etcd_runs) = (Some((cluster, id.clone())), Some(id), true);
    }

    /// A member that runs within a quorum makes its client URLs known, and Patroni its cluster, should etcd have
    /// forgotten.
    fn publish(&mut self) {
        for i in 0..self.machines.len() {
            let Some(cluster) = self.within_quorum(i) else { continue };
            let id = self.machines[i].disk.etcd.clone().unwrap_or_default().1;
            let patroni = self.machines[i].patroni_runs;
            let entry = self.etcd.get_mut(&cluster).expect("cluster");
            entry.initialize |= patroni;
            let members = &mut entry.members;
            members.iter_mut().filter(|(m, _, _)| *m == id).for_each(|m| m.2 = true);
        }
    }

    /// Another machine was this node first: whoever put it there took this disk for a discarded one.
    fn replaced(&self, i: usize) -> bool {
        let m = &self.machines[i];
        self.machines.iter().any(|other| other.up && other.who == m.who && (!m.up || other.since < m.since))
    }

    fn gate_patroni(&mut self, i: usize) {
        if self.machines[i].patroni_runs {
            return;
        }
        let (_, plan) = self.decide(i);
        if !plan.postgres.action.may_start() {
            return;
        }
        let Some(cluster) = self.quorum(i) else { return };
        let others = (0..self.machines.len()).filter(|j| *j != i && !self.replaced(*j));
        let most = others.filter_map(|j| self.machines[j].disk.postgres).max();
        let leads = self.leads_postgres(i);
        let m = &self.machines[i];
        let entry = self.etcd.get_mut(&cluster).expect("cluster");
        entry.generation.insert(m.who, m.disk.generation);
        if !entry.initialize {
            assert!(
                m.disk.recovery_source || m.disk.postgres >= most,
                "a second cluster comes to be beside living data, or from less: {i} {:#?}",
                self.machines
            );
            entry.initialize = true;
        }
        self.serve(i);
        let leader = leads.and_then(|j| self.machines[j].disk.postgres);
        let m = &mut self.machines[i];
        // A clone, or as Patroni rewinds; alone, with what is here.
        (m.disk.postgres, m.patroni_runs) = (leader.or(m.disk.postgres).or(Some(0)), true);
    }

    /// Whoever has the lead by etcd's word: here, the first that runs within the quorum of `i`.
    fn leads_postgres(&self, i: usize) -> Option<usize> {
        let cluster = self.quorum(i)?;
        (0..self.machines.len())
            .find(|j| self.machines[*j].patroni_runs && self.within_quorum(*j).as_ref() == Some(&cluster))
    }

    /// Patroni's keys are deleted, as an operator can; those that run make themselves known again.
    pub fn forget_postgres(&mut self) {
        for i in 0..self.machines.len() {
            let Some(cluster) = self.within_quorum(i) else { continue };
            let known = self.leads_postgres(i).is_some();
            self.etcd.get_mut(&cluster).expect("cluster").initialize &= known;
        }
    }

    /// Clients' data comes to this disk from here on. At most one bootstrap ever: what a bootstrap begins, it begins
    /// where no disk is left that served another cluster.
    fn serve(&mut self, i: usize) {
        self.machines[i].disk.served = true;
        let Some(cluster) = self.quorum(i) else { return };
        if !cluster.starts_with("recovered") {
            let other = |j: &usize| {
                let m = &self.machines[*j];
                m.disk.of.as_ref().is_some_and(|of| *of != cluster) && !self.replaced(*j)
            };
            let found = (0..self.machines.len()).find(other);
            assert!(found.is_none(), "a second bootstrap_id: {cluster} on {i}, beside {:#?}", self.machines);
        }
        self.machines[i].disk.of = Some(cluster);
    }

    fn gate_sentinel(&mut self, i: usize) {
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

    fn gate_redis(&mut self, i: usize) {
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
        let leads = self.spec.nodes[m.who].address == primary;
        // As `boot/start/gate.rs` does: what is to be fetched must be there.
        let lacks = m.disk.spoilt || plan.redis.step.action == Action::Join;
        if lacks && !leads {
            if !self.leads_redis(i, primary) {
                return;
            }
            let disk = &mut self.machines[i].disk;
            (disk.redis, disk.spoilt) = (disk.redis.filter(|_| !disk.spoilt), false);
        }
        let m = &mut self.machines[i];
        m.disk.spoilt &= m.disk.redis.is_some();
        assert!(!m.disk.spoilt, "Redis starts on what it cannot read");
        let m = &self.machines[i];
        let word = self.machines.iter().any(|m| m.disk.recovery_source);
        assert!(
            !leads || !fresh || word || !self.named_by_majority_otherwise(i),
            "a primary starts beside the one that a majority names"
        );
        if leads && m.disk.redis.is_none() && !m.disk.recovery_source && !self.named_by_majority_otherwise(i)
        {
            let has =
                |j: usize| self.machines[j].disk.redis.is_some_and(|writes| writes > 0) && !self.replaced(j);
            let found = (0..self.machines.len()).any(has);
            assert!(!found, "an empty primary starts while a disk has data");
        }
        self.serve(i);
        let m = &mut self.machines[i];
        (m.disk.served, m.redis_runs, m.redis_primary) = (true, true, leads);
        m.disk.redis = m.disk.redis.or(Some(0));
        self.replicate();
    }

    fn leads_redis(&self, from: usize, primary: IpAddr) -> bool {
        let who = self.spec.nodes.iter().position(|n| n.address == primary).expect("a node");
        self.at(from, who).is_some_and(|j| self.machines[j].redis_runs && self.machines[j].redis_primary)
    }

    /// A slow machine may start as the primary it was: Sentinels that have moved on turn it at once.
    fn named_by_majority_otherwise(&self, i: usize) -> bool {
        let who = self.machines[i].who;
        let others = self.machines.iter().filter(|m| m.sentinel_runs);
        others.filter(|m| m.disk.sentinel.is_some_and(|(named, _)| named != who)).count()
            >= self.spec.majority()
    }

    /// The operator's word is spent once this node is in service with others that follow.
    fn ready(&mut self, i: usize) {
        if self.in_service(i) && self.group(i).len() >= self.spec.majority() {
            self.machines[i].bootstrapping = false;
            let disk = &mut self.machines[i].disk;
            disk.recovery_source = false;
            disk.etcd_member = disk.etcd.clone().map(|(_, id)| id);
        }
    }

    /// Replicas take over what their reachable primary holds.
    fn replicate(&mut self) {
        for p in 0..self.machines.len() {
            let m = &self.machines[p];
            if !(self.answers(p) && m.redis_runs && m.redis_primary) {
                continue;
            }
            let (data, who) = (m.disk.redis, m.who);
            for j in self.all_at(p).filter(|j| *j != p && self.hears(*j, p)).collect::<Vec<_>>() {
                let m = &mut self.machines[j];
                let follows = m.disk.sentinel.is_some_and(|(named, _)| named == who);
                if m.redis_runs && !m.redis_primary && follows {
                    m.disk.redis = data;
                }
            }
        }
    }

    /// The machines whose Sentinels this one hears, itself included.
    fn group(&self, i: usize) -> Vec<usize> {
        self.all_at(i).filter(|j| self.machines[*j].sentinel_runs).collect()
    }

    fn failover(&mut self, asker: usize) {
        let group = self.group(asker);
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
        let who = self.machines[best].who;
        for j in group {
            self.machines[j].disk.sentinel = Some((who, epoch));
            self.machines[j].redis_primary = j == best;
        }
        self.replicate();
    }

    /// Newer epochs spread; a primary that a majority cannot reach is replaced, after a while: by then its
    /// machine may be back.
    fn sentinels_agree(&mut self) {
        for i in 0..self.machines.len() {
            if !self.answers(i) || !self.machines[i].sentinel_runs {
                continue;
            }
            let beliefs = self.group(i).into_iter().filter_map(|j| self.machines[j].disk.sentinel);
            let Some((primary, epoch)) = beliefs.max_by_key(|s| s.1) else { continue };
            let m = &mut self.machines[i];
            m.disk.sentinel = Some((primary, epoch));
            m.redis_primary = m.redis_runs && primary == m.who;
            let alive = self.at(i, primary).is_some_and(|j| self.machines[j].redis_runs);
            let m = &mut self.machines[i];
            m.missed = if alive { 0 } else { m.missed + 1 };
            if m.missed > self.patience {
                self.failover(i);
            }
        }
        self.replicate();
    }

    pub fn crash(&mut self, i: usize) {
        let m = &mut self.machines[i];
        let (who, disk, snapshot, lost) =
            (m.who, std::mem::take(&mut m.disk), m.snapshot.take(), m.lost.take());
        *m = super::world::Machine { who, disk, snapshot, lost, ..Default::default() };
    }

    pub fn boot(&mut self, i: usize) {
        if !self.machines[i].up {
            (self.machines[i].up, self.machines[i].since) = (true, self.next());
            self.machines[i].disk.generation += 1;
        }
    }

    /// A write counts only where a replica has it too, as `WAIT 1` says.
    pub fn write(&mut self) {
        let serves = |p: &usize| {
            let m = &self.machines[*p];
            self.answers(*p)
                && m.redis_runs
                && m.redis_primary
                && self.group(*p).len() >= self.spec.majority()
        };
        if let Some(p) = (0..self.machines.len()).find(serves) {
            let disk = &mut self.machines[p].disk;
            disk.redis = disk.redis.map(|writes| writes + 1);
            self.replicate();
        }
        let leader = (0..self.machines.len()).find_map(|i| self.leads_postgres(i));
        if let Some(leader) = leader {
            let commits = self.machines[leader].disk.postgres.map(|commits| commits + 1);
            for j in self.all_at(leader).collect::<Vec<_>>() {
                let m = &mut self.machines[j];
                m.disk.postgres = if m.patroni_runs { commits } else { m.disk.postgres };
            }
        }
    }

    /// `hanode-firstboot recover` on this machine, as in `boot/start/recover.rs`; the others are rebooted.
    pub fn recover(&mut self, i: usize, etcd: EtcdRecovery) {
        let who = self.machines[i].who;
        if etcd != EtcdRecovery::Keep {
            let token = format!("recovered{}", self.next());
            let id = format!("{token}/me");
            let log =
                self.machines[i].disk.etcd.clone().and_then(|(cluster, _)| self.etcd.get(&cluster).cloned());
            let members = vec![(id.clone(), who, true)];
            self.etcd.insert(token.clone(), EtcdCluster { members, ..log.unwrap_or_default() });
            let disk = &mut self.machines[i].disk;
            (disk.etcd, disk.etcd_member) = (Some((token, id.clone())), Some(id));
        }
        let epoch = self.machines.iter().filter_map(|m| m.disk.sentinel).map(|s| s.1).max().unwrap_or(0) + 1;
        let disk = &mut self.machines[i].disk;
        (disk.recovery_source, disk.sentinel) = (true, Some((who, epoch)));
        (0..self.machines.len()).filter(|j| self.machines[*j].up).collect::<Vec<_>>().into_iter().for_each(
            |j| {
                self.crash(j);
                self.boot(j);
            },
        );
    }
}
