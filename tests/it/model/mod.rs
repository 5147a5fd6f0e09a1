//! A model of N nodes under crash, lost disk, snapshot rollback, partition (also one-way), pause, slowness, a duplicate,
//! and an operator that recovers nodes or deletes Patroni's keys. The decisions come from the real `plan` and the real gates;
//! their effects, the servers and the network are simulated here.
//!
//! Servers are reduced to the state that joining depends on. Invariants: at most one bootstrap ever; no PostgreSQL cluster
//! from older data than another disk has; no empty Redis primary while any disk has data; no running member removed; no
//! member without its votes; no server on stale, incomplete or unreadable data. Once all faults end, each history ends in
//! service, or in a refusal that names a remedy; after the remedy it ends in service too. [`scenarios`] has what is rare by
//! chance. `make test-model` runs very many histories.

mod acts;
mod redis;
mod rules;
mod scenarios;
mod servers;
mod world;

use hanode_core::plan::{EtcdRecovery, Remedy, recovery};
use proptest::prelude::*;
use world::{DiskState, Machine, World};

#[derive(Debug, Clone, Copy)]
enum Event {
    Tick(usize),
    ObserveAhead(usize),
    Boot(usize),
    Crash(usize),
    Wipe(usize),
    /// etcd's directory is lost while everything else keeps running.
    LoseLog(usize),
    /// The disk that was last replaced is put back.
    Return(usize),
    /// A power cut truncates Sentinel's file, and leaves etcd's directory incomplete if it had no log yet.
    Tear(usize),
    /// A full disk makes Redis' log unreadable.
    DamageLog(usize),
    /// The process of Redis ends and is started again.
    RestartRedis(usize),
    RestartPatroni(usize),
    /// The power fails after this number of further effects of the gates.
    CutPower(usize, usize),
    Snapshot(usize),
    Rollback(usize),
    Freeze(usize),
    Duplicate(usize),
    /// One way, or both.
    Cut(usize, usize, bool),
    Reconnect,
    /// Patroni's keys are deleted from etcd.
    DeletePatroniKeys,
    /// The operator applies the remedy that a refusal names, while faults last.
    FollowAdvice,
    Write,
    /// Some rounds without a new fault.
    Settle,
}

impl World {
    fn apply(&mut self, event: Event) {
        // The last machine is the duplicate, off until its own event.
        let n = self.spec.nodes.len();
        match event {
            Event::Tick(i) => self.tick(i % (n + 1)),
            Event::ObserveAhead(i) => self.observe_ahead(i % (n + 1)),
            Event::Boot(i) => self.boot(i % n),
            Event::Crash(i) => self.crash(i % n),
            // No disk is lost beside a duplicate: it could then be the node's replacement.
            Event::Wipe(_) | Event::LoseLog(_) | Event::Rollback(_) if self.machines[n].up => {}
            // If only replaced disks are left and have a quorum, they are a valid older cluster.
            Event::Wipe(i) | Event::LoseLog(i) if self.only_replaced_logs_left(i % n, None) => {}
            Event::Duplicate(_) if !self.machines[..n].iter().all(|m| m.disk.served) => {}
            Event::Wipe(i) => {
                self.crash(i % n);
                self.machines[i % n].lost = Some(self.machines[i % n].disk.clone());
                self.fresh_disk(i % n);
            }
            Event::LoseLog(i) => {
                let m = &mut self.machines[i % n];
                // Before it was in service, a node cannot know that its log is missing.
                if m.etcd_runs && m.disk.etcd_member.is_some() {
                    // A slow machine notices it too.
                    (m.etcd_runs, m.disk.etcd, m.seen) = (false, None, None);
                }
            }
            Event::Return(i) => self.put_back(i % n),
            Event::RestartRedis(i) => self.restart_redis(i % n),
            Event::RestartPatroni(i) => self.restart_patroni(i % n),
            Event::CutPower(i, effects) => self.machines[i % n].effects_left = Some(effects),
            Event::Tear(i) => {
                self.crash(i % n);
                let disk = &mut self.machines[i % n].disk;
                disk.torn_sentinel = disk.sentinel.is_some();
                disk.torn_etcd = disk.etcd.is_none();
            }
            Event::DamageLog(i) => {
                self.crash(i % n);
                self.machines[i % n].disk.unreadable = self.machines[i % n].disk.redis.is_some();
            }
            // Only of a disk in service: a snapshot from before the bootstrap is never restored.
            Event::Snapshot(i) if !self.machines[i % n].disk.served => {}
            Event::Snapshot(i) => self.machines[i % n].snapshot = Some(self.machines[i % n].disk.clone()),
            Event::Rollback(i) => {
                let old = self.machines[i % n].snapshot.clone();
                if let Some(old) = old.filter(|old| !self.only_replaced_logs_left(i % n, Some(old))) {
                    self.crash(i % n);
                    self.machines[i % n].disk = old;
                }
            }
            Event::Freeze(i) => self.machines[i % n].frozen ^= true,
            Event::Duplicate(i) => {
                self.crash(n);
                self.fresh_disk(n);
                self.machines[n].node = i % n;
                self.boot(n);
            }
            Event::Cut(a, b, both) => {
                let (a, b) = (a % (n + 1), b % (n + 1));
                self.cut.insert((a, b));
                self.cut.extend(both.then_some((b, a)));
            }
            Event::DeletePatroniKeys => self.forget_postgres(),
            Event::FollowAdvice => self.follow_advice_once(),
            Event::Reconnect => self.cut.clear(),
            Event::Write => self.write(),
            Event::Settle => self.run_on(12),
        }
    }

    /// Only while other disks have its cluster: otherwise it is another cluster's disk.
    fn put_back(&mut self, i: usize) {
        let Some(disk) = self.machines[i].lost.clone() else { return };
        let others = || self.machines.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, m)| &m.disk);
        let only_replaced_logs_left = self.only_replaced_logs_left(i, Some(&disk));
        if !only_replaced_logs_left && disk.of.is_some() && others().any(|other| other.of == disk.of) {
            self.crash(i);
            self.machines[i].disk = self.machines[i].lost.take().expect("a disk");
        }
    }

    /// Whether, with this disk or a blank one in the machine, only logs of replaced members are left, and a majority of
    /// them.
    fn only_replaced_logs_left(&self, i: usize, disk: Option<&DiskState>) -> bool {
        let others = self.machines.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, m)| &m.disk);
        let logs: Vec<_> = others.chain(disk).filter(|d| d.etcd.is_some()).collect();
        logs.len() >= self.spec.majority() && logs.iter().all(|d| self.removed(d))
    }

    fn run_on(&mut self, rounds: usize) {
        for _ in 0..rounds {
            if self.healthy() {
                return;
            }
            (0..self.machines.len()).for_each(|i| self.tick(i));
        }
    }

    /// Ends all faults and runs until the cluster is healthy, for some rounds.
    fn heal(&mut self) {
        self.cut.clear();
        self.machines.iter_mut().for_each(|m| (m.frozen, m.effects_left) = (false, None));
        (0..self.spec.nodes.len()).for_each(|i| self.boot(i));
        self.run_on(40);
    }

    fn refused_with(&self, remedy: Remedy) -> bool {
        self.machines.iter().flat_map(|m| m.refused.values()).any(|reason| reason.remedy() == remedy)
    }

    /// Applies the remedies that the refusals name, as an operator would.
    fn follow_advice(&mut self) {
        for _ in 0..3 {
            if self.healthy() {
                return;
            }
            self.follow_advice_once();
            self.run_on(60);
        }
    }

    fn follow_advice_once(&mut self) {
        if self.refused_with(Remedy::SwitchDuplicateOff) {
            self.switch_one_off();
        } else if self.refused_with(Remedy::RebootBootstrapping) {
            self.reboot_bootstrapping();
        } else if self.refused_with(Remedy::FixRedisLog) {
            self.fix_unreadable_log();
        } else if self.refused_with(Remedy::MovePostgresAway) {
            self.move_incomplete_postgres_away();
        } else if self.refused_with(Remedy::Recover) {
            self.recover_the_best();
        }
    }

    /// The one in service stays.
    fn switch_one_off(&mut self) {
        let duplicate = self.spec.nodes.len();
        let node = self.machines[duplicate].node;
        self.crash(if self.machines[duplicate].patroni_runs { node } else { duplicate });
    }

    fn reboot_bootstrapping(&mut self) {
        for i in 0..self.machines.len() {
            if self.machines[i].bootstrapping {
                self.crash(i);
                self.boot(i);
            }
        }
    }

    /// A recovery has given up the initialization that was interrupted here.
    fn move_incomplete_postgres_away(&mut self) {
        let refuses = |m: &Machine| m.refused.values().any(|r| r.remedy() == Remedy::MovePostgresAway);
        for m in self.machines.iter_mut().filter(|m| refuses(m)) {
            m.disk.incomplete_postgres = false;
        }
    }

    /// On the node that the operator chose, or on the one with the most writes.
    fn fix_unreadable_log(&mut self) {
        let unreadable = self.machines.iter_mut().filter(|m| m.disk.unreadable);
        let kept = unreadable.max_by_key(|m| (m.disk.recovery_source, m.disk.redis));
        kept.into_iter().for_each(|m| m.disk.unreadable = false);
    }

    /// Of the nodes on which `hanode recover` is allowed: the one with the newest data.
    fn recover_the_best(&mut self) {
        let n = self.spec.nodes.len();
        let may = |world: &mut World, i: usize| {
            let seen = world.answers(i).then(|| world.observe(i))?;
            let allowed = seen.all_peers().is_some().then(|| recovery(&world.spec, &seen).ok()).flatten()?;
            Some((i, allowed.etcd))
        };
        let able: Vec<(usize, EtcdRecovery)> = (0..n).filter_map(|i| may(self, i)).collect();
        let best = able.into_iter().max_by_key(|(i, _)| self.machines[*i].disk.redis);
        best.into_iter().for_each(|(i, etcd)| self.recover(i, etcd));
    }
}

fn event(lossy: bool) -> BoxedStrategy<Event> {
    let node = || 0..6usize;
    let faults = prop_oneof![
        24 => node().prop_map(Event::Tick),
        2 => node().prop_map(Event::ObserveAhead),
        6 => node().prop_map(Event::Boot),
        3 => node().prop_map(Event::Crash),
        2 => node().prop_map(Event::Freeze),
        1 => node().prop_map(Event::RestartRedis),
        1 => node().prop_map(Event::RestartPatroni),
        1 => (node(), 0..8usize).prop_map(|(i, effects)| Event::CutPower(i, effects)),
        2 => (node(), node(), any::<bool>()).prop_map(|(a, b, both)| Event::Cut(a, b, both)),
        2 => Just(Event::Reconnect),
        4 => Just(Event::Write),
    ];
    let losses = prop_oneof![
        2 => node().prop_map(Event::Wipe),
        1 => node().prop_map(Event::LoseLog),
        1 => node().prop_map(Event::Return),
        1 => node().prop_map(Event::Tear),
        1 => node().prop_map(Event::DamageLog),
        2 => node().prop_map(Event::Snapshot),
        1 => node().prop_map(Event::Rollback),
        1 => node().prop_map(Event::Duplicate),
        1 => Just(Event::FollowAdvice),
        1 => Just(Event::DeletePatroniKeys),
        3 => Just(Event::Settle),
    ];
    if lossy { prop_oneof![8 => faults, 1 => losses].boxed() } else { faults.boxed() }
}

/// Nodes, Sentinel's down-after in rounds, whether the cluster begins with a restore, events.
type History = (usize, u32, bool, Vec<Event>);

fn histories(lossy: bool) -> impl Strategy<Value = History> {
    let nodes = prop_oneof![Just(3usize), Just(5)];
    (nodes, prop_oneof![Just(4u32), Just(40)], any::<bool>(), prop::collection::vec(event(lossy), 0..160))
}

fn run((n, down_after, restores, events): History) -> World {
    let mut world = World::new(n, down_after);
    if restores {
        world.request_restore();
    }
    events.iter().for_each(|e| world.apply(*e));
    world.heal();
    world
}

/// `PROPTEST_CASES` sets another number.
fn cases() -> ProptestConfig {
    let cases =
        if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 1000 };
    ProptestConfig { cases, max_shrink_time: 60_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_history_keeps_the_invariants(history in histories(true)) {
        let mut world = run(history);
        world.follow_advice();
        prop_assert!(world.healthy(), "neither in service nor refused with a remedy: {:#?}", world.machines);
    }

    #[test]
    fn without_lost_disks_every_history_ends_in_service(history in histories(false)) {
        let world = run(history);
        prop_assert!(world.healthy(), "{:#?}", world.machines);
    }
}
