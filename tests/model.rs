//! A model of N nodes under crash, wipe, snapshot rollback and partition, with the real plan deciding.
//!
//! Servers are reduced to what joining depends on; the acts of the gates are spelled out as in `boot`.
//! What is asserted: no second genesis beside living data, no empty Redis primary while any disk has data, no
//! member evicted whose log lives, and every healed history ends in service or in a named choice.

use hanode::client::etcd::Member;
use hanode::join::{Answer, Data, Disk};
use hanode::plan::{Action, Joining, Observations, Peer, Sentinel, joining, peer_url, plan};
use hanode::spec::{self, Spec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default)]
struct DiskState {
    install_id: String,
    genesis: Option<String>,
    served: bool,
    boots: u64,
    etcd_member: Option<String>,
    /// Cluster (its token and incarnation) and member id that the log belongs to.
    etcd: Option<(String, String)>,
    postgres: bool,
    /// How many acknowledged writes this copy holds.
    redis: Option<u64>,
    /// Primary's index and epoch, as this Sentinel remembers.
    sentinel: Option<(usize, u64)>,
}

#[derive(Debug, Clone, Default)]
struct Machine {
    up: bool,
    began: bool,
    /// The plan unit has let the services go.
    started: bool,
    etcd_runs: bool,
    patroni_runs: bool,
    redis_runs: bool,
    redis_primary: bool,
    sentinel_runs: bool,
    refused: Option<String>,
    disk: DiskState,
    snapshot: Option<DiskState>,
}

#[derive(Debug, Clone, Default)]
struct EtcdCluster {
    /// Member id, node, whether it ever started.
    members: Vec<(String, usize, bool)>,
    initialize: bool,
    boots: BTreeMap<usize, u64>,
}

struct World {
    spec: Spec,
    nodes: Vec<Machine>,
    cut: BTreeSet<(usize, usize)>,
    etcd: BTreeMap<String, EtcdCluster>,
    counter: u64,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Tick(usize),
    Boot(usize),
    Crash(usize),
    Wipe(usize),
    Snapshot(usize),
    Rollback(usize),
    Cut(usize, usize),
    Mend,
    Write,
}

impl World {
    fn new(n: usize) -> World {
        let mut spec = spec::parse(spec::STARTER).unwrap_or_else(|f| panic!("{f}"));
        let template = spec.nodes[0].clone();
        spec.nodes = (0..n)
            .map(|i| spec::Node {
                name: format!("node{}", i + 1),
                address: format!("192.168.18.{}", 21 + i).parse().expect("address"),
                ..template.clone()
            })
            .collect();
        let mut world = World {
            spec,
            nodes: vec![Machine::default(); n],
            cut: BTreeSet::new(),
            etcd: BTreeMap::new(),
            counter: 0,
        };
        (0..n).for_each(|i| world.fresh_disk(i));
        world
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn fresh_disk(&mut self, i: usize) {
        let id = format!("disk{}", self.next());
        self.nodes[i].disk = DiskState { install_id: id, ..DiskState::default() };
    }

    fn reach(&self, a: usize, b: usize) -> bool {
        a == b || !self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// Members of a cluster that run and that `from` reaches.
    fn runners(&self, cluster: &str, from: usize) -> usize {
        let runs = |(id, node, _): &&(String, usize, bool)| {
            let m = &self.nodes[*node];
            m.up && m.etcd_runs && m.disk.etcd == Some((cluster.into(), id.clone())) && self.reach(from, *node)
        };
        self.etcd[cluster].members.iter().filter(runs).count()
    }

    /// The cluster whose quorum answers `asker` through some relay.
    fn quorum(&self, asker: usize) -> Option<String> {
        (0..self.nodes.len()).find_map(|relay| {
            let m = &self.nodes[relay];
            let (cluster, _) = m.disk.etcd.as_ref().filter(|_| m.up && m.etcd_runs && self.reach(asker, relay))?;
            let size = self.etcd[cluster].members.len();
            (self.runners(cluster, relay) > size / 2).then(|| cluster.clone())
        })
    }

    fn answer(&self, i: usize) -> Answer {
        let m = &self.nodes[i];
        let d = &m.disk;
        let data = Data {
            etcd: d.etcd.is_some(),
            postgres: d.postgres,
            redis: d.redis.is_some(),
            sentinel: d.sentinel.is_some(),
        };
        let disk = match (d.served, data.etcd || data.postgres || data.redis) {
            (true, _) => Disk::Served,
            (false, true) => Disk::Data,
            _ => Disk::Blank,
        };
        Answer {
            schema: 1,
            cluster: self.spec.name.clone(),
            node: self.spec.nodes[i].name.clone(),
            generation: 1,
            spec_hash: "h".into(),
            install_id: d.install_id.clone(),
            disk,
            data,
            genesis: d.genesis.clone(),
            began: m.began,
            etcd_member: d.etcd_member.clone(),
            boots: d.boots,
            phase: String::new(),
            holds_vip: false,
            image: BTreeMap::new(),
            problems: vec![],
        }
    }

    fn observe(&self, i: usize) -> Observations {
        let peer = |j: usize| {
            let heard = self.nodes[j].up && self.reach(i, j);
            let answer = heard.then(|| self.answer(j)).ok_or_else(|| "silent".to_string());
            Peer { name: self.spec.nodes[j].name.clone(), answer }
        };
        let quorum = self.quorum(i);
        let cluster = quorum.as_ref().map(|c| &self.etcd[c]);
        let member = |(id, node, started): &(String, usize, bool)| Member {
            id: id.clone(),
            name: self.spec.nodes[*node].name.clone(),
            peer_urls: vec![peer_url(&self.spec.nodes[*node])],
            client_urls: if *started { vec!["url".into()] } else { vec![] },
        };
        let n = self.nodes.len();
        let sentinels = (0..n).filter(|j| self.nodes[*j].up && self.nodes[*j].sentinel_runs && self.reach(i, *j));
        Observations {
            schema: 1,
            own: self.answer(i),
            peers: (0..n).filter(|j| *j != i).map(peer).collect(),
            etcd: cluster.map(|c| c.members.iter().map(member).collect()),
            boots_in_etcd: cluster.and_then(|c| c.boots.get(&i).copied()),
            initialize: cluster.map(|c| c.initialize),
            sentinels: sentinels
                .filter_map(|j| {
                    let (primary, epoch) = self.nodes[j].disk.sentinel?;
                    let name = self.spec.nodes[j].name.clone();
                    Some(Sentinel { node: name, primary: self.spec.nodes[primary].address, epoch })
                })
                .collect(),
        }
    }

    /// One round of the plan unit, or of every gate that is not through yet.
    fn tick(&mut self, i: usize) {
        if !self.nodes[i].up {
            return;
        }
        if !self.nodes[i].started {
            self.plan_unit(i);
            return;
        }
        self.gate_etcd(i);
        self.gate_patroni(i);
        self.gate_sentinel(i);
        self.gate_redis(i);
        self.publish();
        self.sentinels_agree();
    }

    fn plan_unit(&mut self, i: usize) {
        let plan = plan(&self.spec, &self.spec.nodes[i].name, &self.observe(i));
        let m = &mut self.nodes[i];
        m.refused = (plan.etcd.step.action == Action::Refuse).then(|| plan.etcd.step.reason.clone());
        if let Some(genesis) = plan.etcd.record {
            m.disk.genesis = Some(genesis);
        } else if plan.etcd.step.action.opens() {
            m.started = true;
            if plan.etcd.step.action == Action::Begin && !m.began {
                m.began = true;
                (m.disk.etcd, m.disk.postgres, m.disk.redis) = (None, false, None);
            }
        }
    }

    fn gate_etcd(&mut self, i: usize) {
        if self.nodes[i].etcd_runs {
            return;
        }
        let seen = self.observe(i);
        let step = plan(&self.spec, &self.spec.nodes[i].name, &seen).etcd;
        match step.step.action {
            Action::Begin => self.start_new(i, &step.token),
            Action::Resume => self.nodes[i].etcd_runs = true,
            Action::Join => self.join(i, &seen),
            _ => {}
        }
    }

    fn start_new(&mut self, i: usize, token: &str) {
        let n = self.nodes.len();
        let members = (0..n).map(|j| (format!("{token}/{j}"), j, false)).collect();
        let alive = self.nodes.iter().any(|m| m.disk.etcd.as_ref().is_some_and(|(c, _)| c == token));
        if !alive {
            // Nobody holds a log under this token: all was cleared, and it begins from nothing.
            self.etcd.insert(token.into(), EtcdCluster { members, ..EtcdCluster::default() });
        }
        let id = format!("{token}/{i}");
        let voted = self.etcd[token].members.iter().any(|(m, _, started)| *m == id && *started);
        assert!(!voted, "a member that had started began again without its log");
        let m = &mut self.nodes[i];
        (m.disk.etcd, m.disk.etcd_member, m.etcd_runs) = (Some((token.into(), id.clone())), Some(id), true);
    }

    fn join(&mut self, i: usize, seen: &Observations) {
        let Some(cluster) = self.quorum(i) else { return };
        let members = seen.etcd.clone().unwrap_or_default();
        let url = peer_url(&self.spec.nodes[i]);
        let how = joining(&members, &url);
        if let Joining::Replace(id) = &how {
            let living = self.nodes.iter().any(|m| {
                m.up && m.etcd_runs && m.disk.etcd.as_ref().is_some_and(|(_, member)| member == id)
            });
            assert!(!living, "evicted a living member");
            self.etcd.get_mut(&cluster).expect("cluster").members.retain(|(m, _, _)| m != id);
        }
        let id = match how {
            Joining::Take => members.iter().find(|m| m.peer_urls.contains(&url)).expect("listed").id.clone(),
            _ => {
                let id = format!("m{}", self.next());
                self.etcd.get_mut(&cluster).expect("cluster").members.push((id.clone(), i, false));
                id
            }
        };
        let m = &mut self.nodes[i];
        (m.disk.etcd, m.disk.etcd_member, m.etcd_runs) = (Some((cluster, id.clone())), Some(id), true);
    }

    /// A member that runs within a quorum makes its client URLs known.
    fn publish(&mut self) {
        let known: Vec<(usize, String, String)> = (0..self.nodes.len())
            .filter_map(|i| {
                let m = &self.nodes[i];
                let (cluster, id) = m.disk.etcd.clone().filter(|_| m.up && m.etcd_runs)?;
                (self.quorum(i).as_ref() == Some(&cluster)).then_some((i, cluster, id))
            })
            .collect();
        for (_, cluster, id) in known {
            let members = &mut self.etcd.get_mut(&cluster).expect("cluster").members;
            members.iter_mut().filter(|(m, _, _)| *m == id).for_each(|m| m.2 = true);
        }
    }

    fn gate_patroni(&mut self, i: usize) {
        if self.nodes[i].patroni_runs {
            return;
        }
        let step = plan(&self.spec, &self.spec.nodes[i].name, &self.observe(i)).postgres;
        if !step.action.opens() {
            return;
        }
        let Some(cluster) = self.quorum(i) else { return };
        let cluster = self.etcd.get_mut(&cluster).expect("cluster");
        cluster.boots.insert(i, self.nodes[i].disk.boots);
        if !cluster.initialize {
            assert_eq!(step.action, Action::Begin);
            cluster.initialize = true;
            let data = self.nodes.iter().filter(|m| m.disk.postgres).count();
            assert_eq!(data, 0, "a second cluster comes to be beside living data");
        }
        let m = &mut self.nodes[i];
        (m.disk.served, m.disk.postgres, m.patroni_runs) = (true, true, true);
    }

    fn gate_sentinel(&mut self, i: usize) {
        if self.nodes[i].sentinel_runs {
            return;
        }
        if self.nodes[i].disk.sentinel.is_some() {
            self.nodes[i].sentinel_runs = true;
            return;
        }
        let step = plan(&self.spec, &self.spec.nodes[i].name, &self.observe(i)).redis;
        if let (true, Some(primary)) = (step.step.action.opens(), step.primary) {
            let primary = self.spec.nodes.iter().position(|n| n.address == primary).expect("a node");
            let m = &mut self.nodes[i];
            (m.disk.served, m.disk.sentinel, m.sentinel_runs) = (true, Some((primary, 0)), true);
        }
    }

    fn gate_redis(&mut self, i: usize) {
        if self.nodes[i].redis_runs {
            return;
        }
        let step = plan(&self.spec, &self.spec.nodes[i].name, &self.observe(i)).redis;
        if step.promote_another {
            self.failover(i);
        }
        let (true, Some(primary)) = (step.step.action.opens(), step.primary) else { return };
        let primary = self.spec.nodes.iter().position(|n| n.address == primary).expect("a node");
        if primary == i && self.nodes[i].disk.redis.is_none() {
            let has = (0..self.nodes.len()).find(|j| self.nodes[*j].disk.redis.is_some_and(|writes| writes > 0));
            assert_eq!(has, None, "an empty primary starts while a disk has data");
        }
        let m = &mut self.nodes[i];
        (m.disk.served, m.redis_runs, m.redis_primary) = (true, true, primary == i);
        m.disk.redis = m.disk.redis.or(Some(0));
        self.replicate();
    }

    /// Replicas take over what their reachable primary holds.
    fn replicate(&mut self) {
        for p in 0..self.nodes.len() {
            let primary = &self.nodes[p];
            if !(primary.up && primary.redis_runs && primary.redis_primary) {
                continue;
            }
            let data = primary.disk.redis;
            for j in 0..self.nodes.len() {
                let follows = self.nodes[j].disk.sentinel.is_some_and(|(named, _)| named == p);
                if j != p && self.reach(p, j) && self.nodes[j].up && self.nodes[j].redis_runs && follows && !self.nodes[j].redis_primary {
                    self.nodes[j].disk.redis = data;
                }
            }
        }
    }

    /// The Sentinels that a Sentinel reaches, itself included.
    fn group(&self, i: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|j| self.nodes[*j].up && self.nodes[*j].sentinel_runs && self.reach(i, *j)).collect()
    }

    fn failover(&mut self, asker: usize) {
        let group = self.group(asker);
        if group.len() < self.spec.majority() {
            return;
        }
        let best = group.iter().copied().filter(|j| self.nodes[*j].redis_runs && !self.nodes[*j].redis_primary);
        let Some(best) = best.max_by_key(|j| self.nodes[*j].disk.redis) else { return };
        let epoch = group.iter().filter_map(|j| self.nodes[*j].disk.sentinel).map(|s| s.1).max().unwrap_or(0) + 1;
        for j in group {
            self.nodes[j].disk.sentinel = Some((best, epoch));
            self.nodes[j].redis_primary = j == best;
        }
        self.replicate();
    }

    /// Newer epochs spread; a primary that a majority cannot reach is replaced.
    fn sentinels_agree(&mut self) {
        for i in 0..self.nodes.len() {
            let group = self.group(i);
            if !group.contains(&i) {
                continue;
            }
            let newest = group.iter().filter_map(|j| self.nodes[*j].disk.sentinel).max_by_key(|s| s.1);
            let Some((primary, epoch)) = newest else { continue };
            self.nodes[i].disk.sentinel = Some((primary, epoch));
            if self.nodes[i].redis_runs {
                self.nodes[i].redis_primary = primary == i;
            }
            let alive = self.nodes[primary].up && self.nodes[primary].redis_runs && self.reach(i, primary);
            if !alive {
                self.failover(i);
            }
        }
        self.replicate();
    }

    fn crash(&mut self, i: usize) {
        let (disk, snapshot) = (self.nodes[i].disk.clone(), self.nodes[i].snapshot.clone());
        self.nodes[i] = Machine { disk, snapshot, ..Machine::default() };
    }

    fn boot(&mut self, i: usize) {
        if !self.nodes[i].up {
            self.nodes[i].up = true;
            self.nodes[i].disk.boots += 1;
        }
    }

    /// A write counts only where a replica has it too, as `WAIT 1` says.
    fn write(&mut self) {
        for p in 0..self.nodes.len() {
            let m = &self.nodes[p];
            let serves = m.up && m.redis_runs && m.redis_primary && self.group(p).len() >= self.spec.majority();
            if serves {
                let value = m.disk.redis.unwrap_or(0) + 1;
                self.nodes[p].disk.redis = Some(value);
                self.replicate();
                return;
            }
        }
    }

    fn apply(&mut self, event: Event) {
        let n = self.nodes.len();
        match event {
            Event::Tick(i) => self.tick(i % n),
            Event::Boot(i) => self.boot(i % n),
            Event::Crash(i) => self.crash(i % n),
            Event::Wipe(i) => {
                self.crash(i % n);
                self.fresh_disk(i % n);
            }
            // Of a disk that serves: nobody restores a machine to before the cluster was.
            Event::Snapshot(i) if !self.nodes[i % n].disk.served => {}
            Event::Snapshot(i) => self.nodes[i % n].snapshot = Some(self.nodes[i % n].disk.clone()),
            Event::Rollback(i) => {
                if let Some(old) = self.nodes[i % n].snapshot.clone() {
                    self.crash(i % n);
                    self.nodes[i % n].disk = old;
                }
            }
            Event::Cut(a, b) if a % n != b % n => {
                self.cut.insert(((a % n).min(b % n), (a % n).max(b % n)));
            }
            Event::Cut(..) => {}
            Event::Mend => self.cut.clear(),
            Event::Write => self.write(),
        }
    }

    /// All faults end; everything gets time.
    fn heal(&mut self) {
        self.cut.clear();
        for _ in 0..40 {
            for i in 0..self.nodes.len() {
                self.boot(i);
                self.apply(Event::Tick(i));
            }
        }
    }

    fn in_service(&self, i: usize) -> bool {
        let m = &self.nodes[i];
        m.up && m.etcd_runs && m.patroni_runs && m.redis_runs && m.sentinel_runs
    }

    fn verdict(&self) -> Result<(), String> {
        let n = self.nodes.len();
        if (0..n).all(|i| self.in_service(i)) {
            return Ok(());
        }
        let named = self.nodes.iter().filter_map(|m| m.refused.as_ref()).any(|r| r.contains("recover"));
        let logs = self.nodes.iter().filter(|m| m.disk.etcd.is_some()).count();
        let redis = self.nodes.iter().filter(|m| m.disk.sentinel.is_some()).count();
        // Fewer logs or Sentinels' files than a majority: no program may decide what they said.
        if named || logs < self.spec.majority() || redis < self.spec.majority() {
            return Ok(());
        }
        Err(format!("healed, and neither in service nor refused: {:?}", self.nodes))
    }
}

fn event(wipes: bool) -> impl Strategy<Value = Event> {
    let node = 0..5usize;
    let loss = if wipes { 2 } else { 0 };
    prop_oneof![
        24 => node.clone().prop_map(Event::Tick),
        6 => node.clone().prop_map(Event::Boot),
        3 => node.clone().prop_map(Event::Crash),
        loss => node.clone().prop_map(Event::Wipe),
        2 => node.clone().prop_map(Event::Snapshot),
        loss / 2 => node.clone().prop_map(Event::Rollback),
        2 => (node.clone(), node).prop_map(|(a, b)| Event::Cut(a, b)),
        2 => Just(Event::Mend),
        4 => Just(Event::Write),
    ]
}

fn run(n: usize, events: &[Event]) -> World {
    let mut world = World::new(n);
    events.iter().for_each(|e| world.apply(*e));
    world.heal();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_promises(n in prop_oneof![Just(3usize), Just(5)], events in prop::collection::vec(event(true), 0..160)) {
        let world = run(n, &events);
        prop_assert!(world.verdict().is_ok(), "{}", world.verdict().unwrap_err());
    }

    #[test]
    fn without_lost_disks_every_history_ends_in_service(n in prop_oneof![Just(3usize), Just(5)], events in prop::collection::vec(event(false), 0..160)) {
        let world = run(n, &events);
        prop_assert!((0..n).all(|i| world.in_service(i)), "{:?}", world.nodes);
    }
}
