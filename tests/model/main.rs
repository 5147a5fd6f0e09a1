//! A model of N nodes under crash, wipe, snapshot rollback, partition, pause, slowness and a twin, with the real
//! plan deciding.
//!
//! Servers are reduced to what joining depends on. What is asserted: no second genesis beside living data, no empty
//! Redis primary while any disk has data, no living member evicted, and every healed history ends in service, or in a
//! refusal that names what the operator may do; that done, it ends in service too.

mod acts;
mod world;

use proptest::prelude::*;
use world::World;

#[derive(Debug, Clone, Copy)]
enum Event {
    Tick(usize),
    Look(usize),
    Boot(usize),
    Crash(usize),
    Wipe(usize),
    Snapshot(usize),
    Rollback(usize),
    Freeze(usize),
    Twin(usize),
    Cut(usize, usize),
    Mend,
    Write,
}

impl World {
    fn apply(&mut self, event: Event) {
        // The last machine is the twin, and off but for its own event.
        let n = self.spec.nodes.len();
        match event {
            Event::Tick(i) => self.tick(i % (n + 1)),
            Event::Look(i) => self.look_ahead(i % (n + 1)),
            Event::Boot(i) => self.boot(i % n),
            Event::Crash(i) => self.crash(i % n),
            // A twin comes alone: with disks lost beside it, it could be the node's replacement just as well.
            Event::Wipe(_) | Event::Rollback(_) if self.machines[n].up => {}
            Event::Twin(_) if !self.machines[..n].iter().all(|m| m.disk.served) => {}
            Event::Wipe(i) => {
                self.crash(i % n);
                self.fresh_disk(i % n);
            }
            // Of a disk that serves: nobody restores a machine to before the cluster was.
            Event::Snapshot(i) if !self.machines[i % n].disk.served => {}
            Event::Snapshot(i) => self.machines[i % n].snapshot = Some(self.machines[i % n].disk.clone()),
            Event::Rollback(i) => {
                if let Some(old) = self.machines[i % n].snapshot.clone() {
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
            Event::Cut(a, b) => {
                let (a, b) = (a % (n + 1), b % (n + 1));
                self.cut.extend((a != b).then_some((a.min(b), a.max(b))));
            }
            Event::Mend => self.cut.clear(),
            Event::Write => self.write(),
        }
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
            } else if self.told("switch one of them off") {
                self.switch_one_off();
            } else if self.told("reboot") {
                self.reboot_who_began();
            } else if self.told("recover") {
                self.recover_the_best();
            }
            self.run_on(60);
        }
    }

    /// The one that serves stays, whichever that is.
    fn switch_one_off(&mut self) {
        let twin = self.spec.nodes.len();
        let who = self.machines[twin].who;
        self.crash(if self.machines[twin].patroni_runs { who } else { twin });
    }

    fn reboot_who_began(&mut self) {
        for i in 0..self.machines.len() {
            if self.machines[i].began {
                self.crash(i);
                self.boot(i);
            }
        }
    }

    fn recover_the_best(&mut self) {
        let may = |i: &usize| self.machines[*i].up && self.machines[*i].disk.postgres;
        let best = (0..self.machines.len()).filter(may).max_by_key(|i| self.machines[*i].disk.redis);
        best.into_iter().for_each(|i| self.recover(i));
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
        2 => (node(), node()).prop_map(|(a, b)| Event::Cut(a, b)),
        2 => Just(Event::Mend),
        4 => Just(Event::Write),
    ];
    let losses = prop_oneof![
        2 => node().prop_map(Event::Wipe),
        2 => node().prop_map(Event::Snapshot),
        1 => node().prop_map(Event::Rollback),
        1 => node().prop_map(Event::Twin),
    ];
    if lossy { prop_oneof![8 => faults, 1 => losses].boxed() } else { faults.boxed() }
}

fn histories(lossy: bool) -> impl Strategy<Value = (usize, Vec<Event>)> {
    (prop_oneof![Just(3usize), Just(5)], prop::collection::vec(event(lossy), 0..160))
}

fn run(n: usize, events: &[Event]) -> World {
    let mut world = World::new(n);
    events.iter().for_each(|e| world.apply(*e));
    world.heal();
    world
}

/// `PROPTEST_CASES` asks for more.
fn cases() -> ProptestConfig {
    let cases =
        if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 1000 };
    ProptestConfig { cases, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_history_keeps_the_promises((n, events) in histories(true)) {
        let mut world = run(n, &events);
        world.obey();
        prop_assert!(world.healthy(), "healed, neither in service nor refused with a way out: {:#?}", world.machines);
    }

    #[test]
    fn without_lost_disks_every_history_ends_in_service((n, events) in histories(false)) {
        let world = run(n, &events);
        prop_assert!(world.healthy(), "{:#?}", world.machines);
    }
}
