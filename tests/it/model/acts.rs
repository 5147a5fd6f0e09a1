//! Ticks of the machines: the plan unit, the gates and the watcher decide, and their effects change the world.

use super::world::{DiskState, InitKey, Machine, World};
use hanode_core::gate::{
    self, Decision, Effect, EtcdGate, InitFacts, InitGuard, JoinFacts, RedisGate, Round, SentinelGate,
};
use hanode_core::peer::DiskData;
use hanode_core::plan::{Action, EtcdRecovery, Observations, Plan, Reason, plan};
use hanode_core::restore::{PostgresRestored, RedisRestored, RestoreChoice, RestoreRecord, RestoreRequest};

impl World {
    /// One round of the plan unit, or of every gate that is still closed, and of the watcher.
    pub fn tick(&mut self, i: usize) {
        self.pass_time();
        if !self.answers(i) {
            return;
        }
        self.machines[i].disk.unsynced = 0;
        self.advance_postgres(i);
        match self.machines[i].started {
            false => self.plan_unit(i),
            true => {
                for gate in [World::gate_etcd, World::gate_patroni, World::gate_sentinel, World::gate_redis] {
                    // The power may fail between the effects of a gate.
                    if self.machines[i].up {
                        gate(self, i);
                    }
                }
            }
        }
        self.publish();
        if self.machines[i].up {
            self.watch(i);
        }
        self.sentinels_agree();
    }

    /// A slow machine observes now and acts later.
    pub fn observe_ahead(&mut self, i: usize) {
        if self.answers(i) {
            self.machines[i].seen = Some(self.observe_and_mark_stale(i));
        }
    }

    fn observe_and_mark_stale(&mut self, i: usize) -> Observations {
        let mut seen = self.observe(i);
        if let Some(effect) = gate::mark_stale(&seen) {
            self.perform(i, &effect);
            seen.own = self.report(i);
        }
        seen
    }

    pub(super) fn plan(&self, i: usize, seen: &Observations) -> Plan {
        plan(&self.spec, self.own(i), seen)
    }

    /// The current observations, or the earlier ones of a slow machine.
    fn take_seen(&mut self, i: usize) -> Observations {
        self.machines[i].seen.take().unwrap_or_else(|| self.observe_and_mark_stale(i))
    }

    fn decide(
        &mut self,
        i: usize,
        gate_name: &'static str,
        seen: &Observations,
        gate: impl FnOnce(&mut World, &Round) -> Decision,
    ) -> Decision {
        let plan = self.plan(i, seen);
        let (spec, own, now) = (self.spec.clone(), self.own(i).clone(), self.now);
        let decision = gate(self, &Round { spec: &spec, own: &own, seen, plan: &plan, now });
        let steps = [("etcd", &plan.etcd.step), ("postgres", &plan.postgres), ("redis", &plan.redis.step)];
        for (service, step) in steps.into_iter().chain([(gate_name, &decision.step)]) {
            let refused = &mut self.machines[i].refused;
            match step.action {
                Action::Refuse => drop(refused.insert(service, step.reason.clone())),
                _ => drop(refused.remove(service)),
            }
        }
        decision
    }

    fn plan_unit(&mut self, i: usize) {
        self.machines[i].refused.remove("duplicate");
        if self.yields_address(i) {
            return self.refuse_duplicate(i);
        }
        let duplicate = self.answers_arp(i);
        let seen = self.take_seen(i);
        let decision = self.decide(i, "plan unit", &seen, |_, round| gate::plan_unit(round, duplicate));
        let done = self.perform_all(i, &decision);
        self.machines[i].started = done && decision.step.action.may_start();
    }

    /// As `start::duplicate_address`: the later of two machines with one address yields it.
    fn yields_address(&self, i: usize) -> bool {
        let earlier = |j: &usize| self.machines[*j].since < self.machines[i].since;
        self.duplicates(i).filter(earlier).any(|j| self.reaches(i, j))
    }

    fn refuse_duplicate(&mut self, i: usize) {
        let reason = Reason::DuplicateAddress { address: self.own(i).address, node: self.name(i).into() };
        self.machines[i].refused.insert("duplicate", reason);
    }

    fn answers_arp(&self, i: usize) -> bool {
        self.duplicates(i).any(|j| self.reaches(i, j))
    }

    fn duplicates(&self, i: usize) -> impl Iterator<Item = usize> {
        (0..self.machines.len()).filter(move |j| *j != i && self.machines[*j].node == self.machines[i].node)
    }

    pub(super) fn gate_etcd(&mut self, i: usize) {
        if self.machines[i].etcd_runs {
            return;
        }
        let local = self.observe_locally(i);
        let decided = self.plan(i, &local);
        let seen = match gate::is_decided_locally(&decided) {
            true => local,
            false => {
                self.queries_at_etcds_gate += 1;
                self.take_seen(i)
            }
        };
        let plan = self.plan(i, &seen);
        let own = self.own(i).clone();
        let round = Round { spec: &self.spec, own: &own, seen: &seen, plan: &plan, now: self.now };
        // Without a quorum the gate fails and is started again.
        let Some(facts) = self.join_facts(i, EtcdGate::changes_members(&round)) else { return };
        let decision = self.decide(i, "etcd's gate", &seen, |world, round| {
            world.machines[i].etcd_gate.decide(round, &facts)
        });
        if !self.perform_all(i, &decision) {
            return;
        }
        self.machines[i].passed = Some(decision.step.action);
        if decision.step.action.may_start() {
            self.machines[i].etcd_gate = EtcdGate::default();
            self.start_etcd(i, &decision);
        }
    }

    /// `None` without a quorum.
    fn join_facts(&self, i: usize, wanted: bool) -> Option<JoinFacts> {
        if !wanted {
            return Some(JoinFacts::default());
        }
        let cluster = self.quorum(i)?;
        let key = self.etcd[&cluster].patroni_keys.get(&self.machines[i].node);
        Some(JoinFacts {
            duplicate_address: self.answers_arp(i),
            patroni_key: key.is_some_and(|(expires, _)| *expires > self.now),
            own_patroni_runs: self.machines[i].patroni_runs,
            members: self.members(&cluster),
        })
    }

    pub(super) fn gate_patroni(&mut self, i: usize) {
        if self.machines[i].patroni_runs {
            return;
        }
        let seen = self.take_seen(i);
        let decision = self.decide(i, "Patroni's gate", &seen, |world, round| {
            let (stale, facts) = (world.machines[i].disk.stale, world.init_facts(i));
            world.machines[i].patroni_gate.decide(round, stale, &facts)
        });
        // Without a quorum its generation cannot be published.
        if decision.effects.contains(&Effect::PublishGeneration) && self.quorum(i).is_none() {
            return;
        }
        if self.perform_all(i, &decision) && decision.step.action.may_start() {
            self.start_patroni(i);
        }
    }

    fn init_facts(&self, i: usize) -> InitFacts {
        let Some(cluster) = self.quorum(i).map(|cluster| &self.etcd[&cluster]) else {
            return InitFacts::default();
        };
        let InitKey::InProgress(_, revision) = cluster.initialize else { return InitFacts::default() };
        let live = cluster.patroni_keys.iter().filter(|(_, (expires, works))| *expires > self.now && *works);
        let works: Vec<usize> = live.map(|(node, _)| *node).collect();
        InitFacts {
            revision: Some(revision.to_string()),
            any_works: !works.is_empty(),
            another_works: works.iter().any(|node| *node != self.machines[i].node),
        }
    }

    pub(super) fn gate_sentinel(&mut self, i: usize) {
        let m = &self.machines[i];
        if m.sentinel_runs {
            return;
        }
        let intact = m.disk.sentinel.filter(|_| !m.disk.torn_sentinel);
        let decision = match intact {
            Some((primary, _)) => SentinelGate::resume(&self.spec, self.spec.nodes[primary].address),
            None => {
                let seen = self.take_seen(i);
                self.decide(i, "Sentinel's gate", &seen, |_, round| SentinelGate::decide(round))
            }
        };
        if self.perform_all(i, &decision) && decision.step.action.may_start() {
            self.start_sentinel(i, &decision);
        }
    }

    pub(super) fn gate_redis(&mut self, i: usize) {
        if self.machines[i].redis_runs {
            return;
        }
        let has_run = self.machines[i].redis_has_run;
        let mut redis = self.machines[i].redis_gate.take().unwrap_or(RedisGate::new(has_run));
        let fresh = self.machines[i].seen.is_none();
        let seen = self.take_seen(i);
        let decision = self.decide(i, "Redis' gate", &seen, |world, round| {
            let peers = world.redis_peers(i, &RedisGate::queries(round));
            redis.decide(round, world.machines[i].disk.stale, &peers)
        });
        if !self.perform_all(i, &decision) {
            return;
        }
        if decision.step.action.may_start() {
            self.start_redis(i, &decision, fresh);
        } else {
            self.machines[i].redis_gate = Some(redis);
        }
    }

    /// Returns whether the power lasted.
    fn perform_all(&mut self, i: usize, decision: &Decision) -> bool {
        for effect in &decision.effects {
            self.perform(i, effect);
            match &mut self.machines[i].effects_left {
                Some(0) => {
                    self.crash(i);
                    return false;
                }
                Some(left) => *left -= 1,
                None => {}
            }
        }
        true
    }

    fn perform(&mut self, i: usize, effect: &Effect) {
        let disk = &mut self.machines[i].disk;
        match effect {
            Effect::MarkStale(generation) => {
                (disk.generation, disk.etcd_member) = (*generation, None);
                disk.stale = DiskData {
                    etcd: disk.etcd.is_some(),
                    postgres: disk.postgres.is_some() || disk.incomplete_postgres,
                    redis: disk.redis.is_some(),
                    sentinel: false,
                };
            }
            Effect::RecordBootstrap(id) => disk.bootstrap_id = Some(id.clone()),
            Effect::MarkBootstrapping => self.machines[i].bootstrapping = true,
            Effect::MarkServed => disk.served = true,
            Effect::MarkInit(cluster) => disk.postgres_init = Some(cluster.clone()),
            Effect::UnmarkInit => disk.postgres_init = None,
            Effect::ClearEtcd => (disk.etcd, disk.torn_etcd, disk.stale.etcd) = (None, false, false),
            Effect::MovePostgresAside => self.move_postgres_aside(i),
            Effect::MoveRedisAside => {
                let counts = disk.redis.is_some() && disk.served && !disk.stale.redis && !disk.unreadable;
                assert!(!counts, "readable data is moved aside");
                (disk.redis, disk.unreadable, disk.stale.redis) = (None, false, false);
            }
            Effect::RemoveTornSentinelFile if disk.torn_sentinel => {
                (disk.sentinel, disk.torn_sentinel) = (None, false)
            }
            Effect::RemoveTornSentinelFile | Effect::WriteFiles(_) => {}
            Effect::StopLeftoverServer => self.machines[i].leftover_server = false,
            Effect::RemoveMember(id) => self.remove_member(i, id),
            Effect::AddMember => self.add_member(i),
            Effect::RecordMember(id) => disk.etcd_member = Some(id.clone()),
            Effect::PublishGeneration => self.publish_generation(i),
            Effect::PauseAfterFailedRestore => {}
            Effect::RecordRestore(request) => {
                (disk.restore, disk.restore_prepared) = (request.clone(), false)
            }
            Effect::ChooseRestore(request) => self.choose_restore(i, request),
            Effect::PrepareRestore(_) => disk.restore_prepared = true,
            Effect::RestoreRedis => self.restore_redis(i),
            Effect::ReadStanza => self.machines[i].knows_archive = true,
            Effect::MeasureWalEnd => {
                assert!(
                    disk.postgres.is_some() || disk.incomplete_postgres,
                    "a log without data is measured"
                );
                self.machines[i].wal_end = self.machines[i].disk.postgres.or(Some(0));
            }
            Effect::ForgetWalEnd => self.machines[i].wal_end = None,
            Effect::DeleteInitializeKey(revision) => self.delete_initialize_key(i, revision),
            Effect::PromoteAnother => self.failover(i),
        }
    }

    /// The first choice counts.
    fn choose_restore(&mut self, i: usize, request: &RestoreRequest) {
        let Some(cluster) = self.quorum(i) else { return };
        let choice = RestoreChoice {
            request: request.clone(),
            part: "part".into(),
            backup: "backup".into(),
            backup_finished: 0,
            timeline: 1,
            last_wal: String::new(),
        };
        let record = RestoreRecord { choice, postgres: None, redis: None, redis_replicated: false };
        self.etcd.get_mut(&cluster).expect("cluster").restore.get_or_insert(record);
    }

    /// The snapshot has no keys: the model counts the writes since. It may be loaded again, but never over them.
    fn restore_redis(&mut self, i: usize) {
        let written = self.machines.iter().any(|m| m.disk.redis.is_some_and(|writes| writes > 0));
        let Some(cluster) = self.quorum(i) else { return };
        let record = self.etcd.get_mut(&cluster).expect("cluster").restore.as_mut().expect("a record");
        assert!(record.postgres.is_some(), "Redis is restored before PostgreSQL");
        assert!(!written, "a snapshot replaces data that Redis has accepted");
        record.redis = Some(RedisRestored { snapshot: None });
    }

    /// The watcher: what ends once this node is in service with a majority, and what it cleans up.
    pub(super) fn watch(&mut self, i: usize) {
        if self.in_service(i) && self.group(i).len() >= self.spec.majority() {
            self.machines[i].bootstrapping = false;
            let disk = &mut self.machines[i].disk;
            disk.recovery_source = false;
            disk.etcd_member = disk.etcd.clone().map(|(_, id)| id);
        }
        if self.within_quorum(i).is_none() && self.quorum(i).is_some() {
            let seen = self.observe(i);
            let plan = self.plan(i, &seen);
            if gate::must_rejoin(self.machines[i].passed, &seen, &plan) {
                self.machines[i].etcd_runs = false;
                self.machines[i].etcd_restarts += 1;
            }
        }
        if let Some(cluster) = self.within_quorum(i).filter(|_| self.machines[i].disk.postgres.is_some()) {
            let entry = self.etcd.get_mut(&cluster).expect("cluster");
            let restored = || PostgresRestored { reached: 0, lsn: String::new() };
            if let Some(record) = entry.restore.as_mut().filter(|_| entry.initialize == InitKey::Done) {
                record.postgres.get_or_insert_with(restored);
            }
        }
        let seen = self.observe(i);
        gate::registered(&seen).iter().for_each(|effect| self.perform(i, effect));
        if self.machines[i].patroni_runs && InitGuard::concerns(&seen) {
            let (plan, facts) = (self.plan(i, &seen), self.init_facts(i));
            let (own, now) = (self.own(i).clone(), self.now);
            let round = Round { spec: &self.spec.clone(), own: &own, seen: &seen, plan: &plan, now };
            let effects = self.machines[i].init_guard.abandoned(&round, &facts);
            effects.iter().for_each(|effect| self.perform(i, effect));
        }
    }

    /// Another machine was this node earlier: the operator has replaced this disk.
    pub(super) fn replaced(&self, i: usize) -> bool {
        let m = &self.machines[i];
        self.machines.iter().any(|other| other.up && other.node == m.node && (!m.up || other.since < m.since))
    }

    /// The machine loses power, and its disk the writes that were in memory.
    pub fn crash(&mut self, i: usize) {
        let m = std::mem::take(&mut self.machines[i]);
        let redis = m.disk.redis.map(|writes| writes.saturating_sub(m.disk.unsynced));
        let disk = DiskState { redis, unsynced: 0, ..m.disk };
        let (node, snapshot, lost) = (m.node, m.snapshot, m.lost);
        self.machines[i] = Machine { node, disk, snapshot, lost, ..Machine::default() };
    }

    /// Only the process of Patroni ends; a server that it initializes stays.
    pub fn restart_patroni(&mut self, i: usize) {
        let m = &mut self.machines[i];
        m.leftover_server |= m.patroni_runs && m.disk.incomplete_postgres;
        m.patroni_runs = false;
    }

    /// Only the process of Redis ends.
    pub fn restart_redis(&mut self, i: usize) {
        let m = &mut self.machines[i];
        (m.redis_runs, m.redis_primary, m.linked_to, m.redis_gate) = (false, false, None, None);
    }

    pub fn boot(&mut self, i: usize) {
        if !self.machines[i].up {
            (self.machines[i].up, self.machines[i].since) = (true, self.next());
            self.machines[i].disk.generation += 1;
        }
    }

    /// `hanode recover` on this machine, as `start::recover`; the others are rebooted.
    pub fn recover(&mut self, i: usize, etcd: EtcdRecovery) {
        if etcd != EtcdRecovery::Keep {
            self.rebuild_etcd(i);
        }
        let node = self.machines[i].node;
        let epoch = self.machines.iter().filter_map(|m| m.disk.sentinel).map(|s| s.1).max().unwrap_or(0) + 1;
        let disk = &mut self.machines[i].disk;
        (disk.recovery_source, disk.served) = (true, true);
        (disk.sentinel, disk.torn_sentinel) = (Some((node, epoch)), false);
        let up: Vec<usize> = (0..self.machines.len()).filter(|j| self.machines[*j].up).collect();
        up.into_iter().for_each(|j| {
            self.crash(j);
            self.boot(j);
        });
    }
}
