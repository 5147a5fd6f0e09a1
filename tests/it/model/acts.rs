//! Actions of the plan unit, the gates, Sentinel and the operator. The gates follow those in `hanode-firstboot`.

use super::world::{EtcdCluster, World};
use hanode_core::plan::{Action, EtcdRecovery, JoinMethod, Observations, Plan, join_method, peer_url, plan};

impl World {
    /// One round of the plan unit, or of every gate that is still closed.
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

    /// A slow machine observes now and acts later.
    pub fn observe_ahead(&mut self, i: usize) {
        if self.answers(i) {
            self.machines[i].seen = Some(self.observe(i));
        }
    }

    pub(super) fn decide(&mut self, i: usize) -> (Observations, Plan) {
        let seen = match self.machines[i].seen.take() {
            Some(earlier) => earlier,
            None => self.observe(i),
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
        if self.yields_address(i) {
            return self.refuse_duplicate(i);
        }
        let (_, plan) = self.decide(i);
        self.bootstrap(i, &plan);
        self.machines[i].started = plan.etcd.step.action.may_start();
        if plan.etcd.look_for_duplicate && self.answers_arp(i) {
            self.refuse_duplicate(i);
        }
    }

    /// As `start::duplicate_address`: the later of two machines with one address yields it.
    fn yields_address(&self, i: usize) -> bool {
        let earlier = |j: &usize| self.machines[*j].since < self.machines[i].since;
        self.duplicates(i).filter(earlier).any(|j| self.reaches(i, j))
    }

    fn refuse_duplicate(&mut self, i: usize) {
        let reason = "another machine has this address; switch one of them off".to_string();
        self.machines[i].refused.insert("duplicate", reason);
    }

    /// The steps of the plan unit and etcd's gate towards a bootstrap.
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
            self.machines[i].etcd_runs = !self.log_is_obsolete(i);
            return;
        }
        self.machines[i].refused.remove("duplicate");
        let (seen, plan) = self.decide(i);
        self.bootstrap(i, &plan);
        match plan.etcd.step.action {
            Action::Bootstrap if self.machines[i].disk.etcd.is_none() => self.start_new(i, &plan.etcd.token),
            Action::Bootstrap | Action::Resume => {
                // Part of a running cluster: needed again if that cluster loses its quorum.
                let m = &mut self.machines[i];
                (m.etcd_runs, m.disk.served) = (true, m.disk.served || !m.bootstrapping);
            }
            Action::Join => self.join(i, &seen),
            _ => {}
        }
    }

    /// The quorum has removed this log's member: `hanode-ready` restarts etcd, which passes its gate again.
    fn log_is_obsolete(&mut self, i: usize) -> bool {
        if self.within_quorum(i).is_some() || self.quorum(i).is_none() {
            return false;
        }
        let seen = self.observe(i);
        plan(&self.spec, self.name(i), &seen).etcd.step.action == Action::Join
    }

    fn start_new(&mut self, i: usize, token: &str) {
        let n = self.spec.nodes.len();
        let members = (0..n).map(|j| (format!("{token}/{j}"), j, false)).collect();
        let alive = self.machines.iter().any(|m| m.disk.etcd.as_ref().is_some_and(|(c, _)| c == token));
        if !alive {
            // No disk has a log under this token: the cluster starts empty.
            self.etcd.insert(token.into(), EtcdCluster { members, ..EtcdCluster::default() });
        }
        let id = format!("{token}/{}", self.machines[i].node);
        let voted = self.etcd[token].members.iter().any(|(m, _, started)| *m == id && *started);
        assert!(!voted, "a started member starts again without its log");
        let m = &mut self.machines[i];
        (m.disk.etcd, m.etcd_runs) = (Some((token.into(), id)), true);
    }

    /// As `start::rejoin`: another machine answers for the address, or Patroni's key of this node name is live.
    fn duplicate(&self, i: usize) -> bool {
        let keeps_key = |j: usize| self.machines[j].patroni_runs && self.quorum(j).is_some();
        self.answers_arp(i) || self.duplicates(i).any(keeps_key)
    }

    fn answers_arp(&self, i: usize) -> bool {
        self.duplicates(i).any(|j| self.reaches(i, j))
    }

    fn duplicates(&self, i: usize) -> impl Iterator<Item = usize> {
        (0..self.machines.len()).filter(move |j| *j != i && self.machines[*j].node == self.machines[i].node)
    }

    fn join(&mut self, i: usize, seen: &Observations) {
        let Some(cluster) = self.quorum(i) else { return };
        let url = peer_url(&self.spec.nodes[self.machines[i].node]);
        let (now, before) = (self.members(&cluster), seen.etcd.clone().unwrap_or_default());
        let how = join_method(&now, &url);
        if how != JoinMethod::TakeListed && self.duplicate(i) {
            self.refuse_duplicate(i);
            return;
        }
        if how != join_method(&before, &url) {
            return;
        }
        if let JoinMethod::Replace(id) = &how {
            let holds =
                |j: &usize| self.machines[*j].disk.etcd.as_ref().is_some_and(|(_, member)| member == id);
            let running =
                (0..self.machines.len()).filter(holds).any(|j| j != i && self.within_quorum(j).is_some());
            assert!(!running, "a running member is removed");
            self.etcd.get_mut(&cluster).expect("cluster").members.retain(|(m, _, _)| m != id);
        }
        if how == JoinMethod::TakeListed {
            let voted = now.iter().any(|m| m.peer_urls.contains(&url) && !m.client_urls.is_empty());
            assert!(!voted, "a started member starts again without its log");
        }
        let id = match how {
            JoinMethod::TakeListed => {
                now.iter().find(|m| m.peer_urls.contains(&url)).expect("listed").id.clone()
            }
            _ => {
                let (id, node) = (format!("m{}", self.next()), self.machines[i].node);
                self.etcd.get_mut(&cluster).expect("cluster").members.push((id.clone(), node, false));
                id
            }
        };
        let m = &mut self.machines[i];
        m.disk.served |= !m.bootstrapping;
        (m.disk.etcd, m.disk.etcd_member, m.etcd_runs) = (Some((cluster, id.clone())), Some(id), true);
    }

    /// A member that runs within a quorum publishes its client URLs, and Patroni its cluster, also after etcd lost them.
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

    /// Another machine was this node earlier: the operator has replaced this disk.
    pub(super) fn replaced(&self, i: usize) -> bool {
        let m = &self.machines[i];
        self.machines.iter().any(|other| other.up && other.node == m.node && (!m.up || other.since < m.since))
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
        let leading_machine = self.postgres_leader(i);
        let m = &self.machines[i];
        let entry = self.etcd.get_mut(&cluster).expect("cluster");
        entry.generation.insert(m.node, m.disk.generation);
        if !entry.initialize {
            assert!(
                m.disk.recovery_source || m.disk.postgres >= most,
                "a second cluster is bootstrapped beside existing data, or from older data: {i} {:#?}",
                self.machines
            );
            entry.initialize = true;
        }
        self.serve(i);
        let leader = leading_machine.and_then(|j| self.machines[j].disk.postgres);
        let m = &mut self.machines[i];
        // A clone or a rewind from the leader; without a leader, the data on this disk.
        (m.disk.postgres, m.patroni_runs) = (leader.or(m.disk.postgres).or(Some(0)), true);
    }

    /// The leader according to etcd: here, the first that runs within the quorum of `i`.
    fn postgres_leader(&self, i: usize) -> Option<usize> {
        let cluster = self.quorum(i)?;
        (0..self.machines.len())
            .find(|j| self.machines[*j].patroni_runs && self.within_quorum(*j).as_ref() == Some(&cluster))
    }

    /// An operator deletes Patroni's keys; running members publish theirs again.
    pub fn forget_postgres(&mut self) {
        for i in 0..self.machines.len() {
            let Some(cluster) = self.within_quorum(i) else { continue };
            let known = self.postgres_leader(i).is_some();
            self.etcd.get_mut(&cluster).expect("cluster").initialize &= known;
        }
    }

    /// This disk receives clients' data from now on. At most one bootstrap ever: a cluster is bootstrapped only if no disk
    /// is left that served another cluster.
    pub(super) fn serve(&mut self, i: usize) {
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

    /// The operator's choice of the disk ends once this node is in service with a majority.
    fn ready(&mut self, i: usize) {
        if self.in_service(i) && self.group(i).len() >= self.spec.majority() {
            self.machines[i].bootstrapping = false;
            let disk = &mut self.machines[i].disk;
            disk.recovery_source = false;
            disk.etcd_member = disk.etcd.clone().map(|(_, id)| id);
        }
    }

    pub fn crash(&mut self, i: usize) {
        let m = &mut self.machines[i];
        let (node, disk, snapshot, lost) =
            (m.node, std::mem::take(&mut m.disk), m.snapshot.take(), m.lost.take());
        *m = super::world::Machine { node, disk, snapshot, lost, ..Default::default() };
    }

    pub fn boot(&mut self, i: usize) {
        if !self.machines[i].up {
            (self.machines[i].up, self.machines[i].since) = (true, self.next());
            self.machines[i].disk.generation += 1;
        }
    }

    /// A write is acknowledged only if a replica has it too, as with `WAIT 1`.
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
        let leader = (0..self.machines.len()).find_map(|i| self.postgres_leader(i));
        if let Some(leader) = leader {
            let commits = self.machines[leader].disk.postgres.map(|commits| commits + 1);
            for j in self.all_at(leader).collect::<Vec<_>>() {
                let m = &mut self.machines[j];
                m.disk.postgres = if m.patroni_runs { commits } else { m.disk.postgres };
            }
        }
    }

    /// `hanode recover` on this machine, as `start::recover`; the others are rebooted.
    pub fn recover(&mut self, i: usize, etcd: EtcdRecovery) {
        let node = self.machines[i].node;
        if etcd != EtcdRecovery::Keep {
            let token = format!("recovered{}", self.next());
            let id = format!("{token}/me");
            let log =
                self.machines[i].disk.etcd.clone().and_then(|(cluster, _)| self.etcd.get(&cluster).cloned());
            let members = vec![(id.clone(), node, true)];
            self.etcd.insert(token.clone(), EtcdCluster { members, ..log.unwrap_or_default() });
            let disk = &mut self.machines[i].disk;
            (disk.etcd, disk.etcd_member) = (Some((token, id.clone())), Some(id));
        }
        let epoch = self.machines.iter().filter_map(|m| m.disk.sentinel).map(|s| s.1).max().unwrap_or(0) + 1;
        let disk = &mut self.machines[i].disk;
        (disk.recovery_source, disk.sentinel) = (true, Some((node, epoch)));
        (0..self.machines.len()).filter(|j| self.machines[*j].up).collect::<Vec<_>>().into_iter().for_each(
            |j| {
                self.crash(j);
                self.boot(j);
            },
        );
    }
}
