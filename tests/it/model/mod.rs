//! A model of N nodes under crash, wipe, snapshot rollback, partition (also one-way), pause, slowness, a duplicate, and an
//! operator who recovers or deletes Patroni's keys, with the real plan deciding.
//!
//! Servers are reduced to what joining depends on. What is asserted: at most one bootstrap ever, no PostgreSQL cluster
//! that begins from less than another disk has, no empty Redis primary while any disk has data, no living member
//! evicted, no member that forgot its votes, and every healed history ends in service, or in a refusal that names what
//! the operator may do; that done, it ends in service too. `make test-model` runs very many histories.

mod acts;
mod world;

use hanode_core::plan::{EtcdRecovery, recovery};
use proptest::prelude::*;
use world::{DiskState, World};

#[derive(Debug, Clone, Copy)]
enum Event {
    Tick(usize),
    Look(usize),
    Boot(usize),
    Crash(usize),
    Wipe(usize),
    /// etcd's directory is gone while everything else runs on.
    LoseLog(usize),
    /// The disk that was last wiped was only taken out, and comes back.
    Return(usize),
    /// A power cut tears Sentinel's file.
    Tear(usize),
    /// A full disk leaves Redis' log unreadable.
    Spoil(usize),
    Snapshot(usize),
    Rollback(usize),
    Freeze(usize),
    Twin(usize),
    /// One way, or both.
    Cut(usize, usize, bool),
    Mend,
    /// Patroni's keys are deleted from etcd.
    Forget,
    /// The operator does what a refusal names, in the midst of it.
    Obey,
    Write,
    /// Some time without a further fault.
    Settle,
}

impl World {
    fn apply(&mut self, event: Event) {
        // The last machine is the duplicate, and off but for its own event.
        let n = self.spec.nodes.len();
        match event {
            Event::Tick(i) => self.tick(i % (n + 1)),
            Event::Look(i) => self.look_ahead(i % (n + 1)),
            Event::Boot(i) => self.boot(i % n),
            Event::Crash(i) => self.crash(i % n),
            // A duplicate comes alone: with disks lost beside it, it could be the node's replacement just as well.
            Event::Wipe(_) | Event::LoseLog(_) | Event::Rollback(_) if self.machines[n].up => {}
            // Discarded disks that are a quorum among themselves, with no other left, are the cluster of that day again.
            Event::Wipe(i) | Event::LoseLog(i) if self.past(i % n, None) => {}
            Event::Twin(_) if !self.machines[..n].iter().all(|m| m.disk.served) => {}
            Event::Wipe(i) => {
                self.crash(i % n);
                self.machines[i % n].lost = Some(self.machines[i % n].disk.clone());
                self.fresh_disk(i % n);
            }
            Event::LoseLog(i) => {
                let m = &mut self.machines[i % n];
                // Before it was in service a node cannot know that there was one.
                if m.etcd_runs && m.disk.etcd_member.is_some() {
                    (m.etcd_runs, m.disk.etcd) = (false, None);
                }
            }
            Event::Return(i) => self.put_back(i % n),
            Event::Tear(i) => {
                self.crash(i % n);
                self.machines[i % n].disk.sentinel = None;
            }
            Event::Spoil(i) => {
                self.crash(i % n);
                self.machines[i % n].disk.spoilt = self.machines[i % n].disk.redis.is_some();
            }
            // Of a disk that serves: nobody restores a machine to before the cluster was.
            Event::Snapshot(i) if !self.machines[i % n].disk.served => {}
            Event::Snapshot(i) => self.machines[i % n].snapshot = Some(self.machines[i % n].disk.clone()),
            Event::Rollback(i) => {
                let old = self.machines[i % n].snapshot.clone();
                if let Some(old) = old.filter(|old| !self.past(i % n, Some(old))) {
                    self.crash(i % n);
                    self.machines[i % n].disk = old;
                }
            }
            Event::Freeze(i) => self.machines[i % n].frozen ^= true,
            Event::Twin(i) => {
                self.crash(n);
                self.fresh_disk(n);
                self.machines[n].who = i % n;
                self.boot(n);
            }
            Event::Cut(a, b, both) => {
                let (a, b) = (a % (n + 1), b % (n + 1));
                self.cut.insert((a, b));
                self.cut.extend(both.then_some((b, a)));
            }
            Event::Forget => self.forget_postgres(),
            Event::Obey => self.obey_once(),
            Event::Mend => self.cut.clear(),
            Event::Write => self.write(),
            Event::Settle => self.run_on(12),
        }
    }

    /// Where its cluster is still on other disks: else this would be another cluster's disk.
    fn put_back(&mut self, i: usize) {
        let Some(disk) = self.machines[i].lost.clone() else { return };
        let others = || self.machines.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, m)| &m.disk);
        let past = self.past(i, Some(&disk));
        if !past && disk.of.is_some() && others().any(|other| other.of == disk.of) {
            self.crash(i);
            self.machines[i].disk = self.machines[i].lost.take().expect("a disk");
        }
    }

    /// Whether with this disk in the machine, or a blank one, nothing but replaced members' logs would be left, and
    /// of those a majority.
    fn past(&self, i: usize, disk: Option<&DiskState>) -> bool {
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

    /// All faults end; everything gets time.
    fn heal(&mut self) {
        self.cut.clear();
        self.machines.iter_mut().for_each(|m| m.frozen = false);
        (0..self.spec.nodes.len()).for_each(|i| self.boot(i));
        self.run_on(40);
    }

    fn told(&self, word: &str) -> bool {
        self.machines.iter().flat_map(|m| m.refused.values()).any(|reason| reason.contains(word))
    }

    /// Does what the refusals name, as an operator would.
    fn obey(&mut self) {
        for _ in 0..3 {
            if self.healthy() {
                return;
            }
            self.obey_once();
            self.run_on(60);
        }
    }

    fn obey_once(&mut self) {
        if self.told("switch one of them off") {
            self.switch_one_off();
        } else if self.told("reboot") {
            self.reboot_who_began();
        } else if self.told("redis-check-aof") {
            self.mend_what_is_spoilt();
        } else if self.told("recover") {
            self.recover_the_best();
        }
    }

    /// The one that serves stays, whichever that is.
    fn switch_one_off(&mut self) {
        let duplicate = self.spec.nodes.len();
        let who = self.machines[duplicate].who;
        self.crash(if self.machines[duplicate].patroni_runs { who } else { duplicate });
    }

    fn reboot_who_began(&mut self) {
        for i in 0..self.machines.len() {
            if self.machines[i].bootstrapping {
                self.crash(i);
                self.boot(i);
            }
        }
    }

    /// What can still be read is all there is: of the chosen node, or of the one that holds most.
    fn mend_what_is_spoilt(&mut self) {
        let spoilt = self.machines.iter_mut().filter(|m| m.disk.spoilt);
        let kept = spoilt.max_by_key(|m| (m.disk.recovery_source, m.disk.redis));
        kept.into_iter().for_each(|m| m.disk.spoilt = false);
    }

    /// Of those where the verb may run, with all that answer at hand: the one with the newest data.
    fn recover_the_best(&mut self) {
        let n = self.spec.nodes.len();
        let may = |world: &mut World, i: usize| {
            let seen = world.answers(i).then(|| world.look(i))?;
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
        2 => node().prop_map(Event::Look),
        6 => node().prop_map(Event::Boot),
        3 => node().prop_map(Event::Crash),
        2 => node().prop_map(Event::Freeze),
        2 => (node(), node(), any::<bool>()).prop_map(|(a, b, both)| Event::Cut(a, b, both)),
        2 => Just(Event::Mend),
        4 => Just(Event::Write),
    ];
    let losses = prop_oneof![
        2 => node().prop_map(Event::Wipe),
        1 => node().prop_map(Event::LoseLog),
        1 => node().prop_map(Event::Return),
        1 => node().prop_map(Event::Tear),
        1 => node().prop_map(Event::Spoil),
        2 => node().prop_map(Event::Snapshot),
        1 => node().prop_map(Event::Rollback),
        1 => node().prop_map(Event::Twin),
        1 => Just(Event::Obey),
        1 => Just(Event::Forget),
        3 => Just(Event::Settle),
    ];
    if lossy { prop_oneof![8 => faults, 1 => losses].boxed() } else { faults.boxed() }
}

/// Nodes, the Sentinels' patience, events.
type History = (usize, u32, Vec<Event>);

fn histories(lossy: bool) -> impl Strategy<Value = History> {
    let nodes = prop_oneof![Just(3usize), Just(5)];
    (nodes, prop_oneof![Just(4u32), Just(40)], prop::collection::vec(event(lossy), 0..160))
}

fn run((n, patience, events): History) -> World {
    let mut world = World::new(n, patience);
    events.iter().for_each(|e| world.apply(*e));
    world.heal();
    world
}

/// `PROPTEST_CASES` asks for more.
fn cases() -> ProptestConfig {
    let cases =
        if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 1000 };
    ProptestConfig { cases, max_shrink_time: 60_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_history_keeps_the_promises(history in histories(true)) {
        let mut world = run(history);
        world.obey();
        prop_assert!(world.healthy(), "healed, neither in service nor refused with a way out: {:#?}", world.machines);
    }

    #[test]
    fn without_lost_disks_every_history_ends_in_service(history in histories(false)) {
        let world = run(history);
        prop_assert!(world.healthy(), "{:#?}", world.machines);
    }
}

/// Rare by chance: all serve, the last node's disk is replaced and comes back, and another's is lost just then.
#[test]
fn a_discarded_disk_in_place_of_a_lost_one_leaves_the_choice_to_the_operator() {
    for n in [3, 5] {
        let majority = n / 2 + 1;
        let everybody = |event: fn(usize) -> Event| (0..n).map(event);
        let mut history: Vec<Event> = everybody(Event::Boot).collect();
        (0..20).for_each(|_| history.extend(everybody(Event::Tick)));
        // All but as many as make a majority with the discarded one: replaced, joined, lost again.
        history.extend([Event::Wipe(n - 1), Event::Boot(n - 1)]);
        (0..20).for_each(|_| history.extend(everybody(Event::Tick)));
        history.extend((majority - 1..n - 1).map(Event::Wipe));
        history.push(Event::Return(n - 1));
        let mut world = run((n, 40, history));
        assert!(world.told("recover"), "{:#?}", world.machines);
        assert!(world.told("disk that was replaced"), "{:#?}", world.machines);
        world.obey();
        assert!(world.healthy(), "{:#?}", world.machines);
    }
}
