//! The machines of the model, their disks, and what they can see of each other.

use hanode_core::etcd::Member;
use hanode_core::peer::{DiskData, DiskStage, EtcdLogIds, NodeReport, PostgresData};
use hanode_core::plan::{Observations, Peer, Sentinel, peer_url};
use hanode_core::spec::{self, Spec};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default)]
pub struct DiskState {
    pub install_id: String,
    pub bootstrap_id: Option<String>,
    pub served: bool,
    pub generation: u64,
    pub recovery_source: bool,
    pub etcd_member: Option<String>,
    /// Cluster (its token) and member id that the log belongs to.
    pub etcd: Option<(String, String)>,
    /// The cluster for which this disk took clients' data last.
    pub of: Option<String>,
    /// How many commits this copy holds.
    pub postgres: Option<u64>,
    /// How many acknowledged writes this copy holds.
    pub redis: Option<u64>,
    /// Redis cannot read that copy.
    pub spoilt: bool,
    /// Primary's identity and epoch, as this Sentinel remembers.
    pub sentinel: Option<(usize, u64)>,
}

#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Which node of the spec it is; a duplicate is what another machine is already.
    pub who: usize,
    pub up: bool,
    /// When it was booted: of two with one address the network knows the earlier.
    pub since: u64,
    /// Paused: it neither acts nor answers, and goes on later as if nothing had been.
    pub frozen: bool,
    pub bootstrapping: bool,
    /// The plan unit has let the services go.
    pub started: bool,
    pub etcd_runs: bool,
    pub patroni_runs: bool,
    pub redis_runs: bool,
    pub redis_primary: bool,
    pub sentinel_runs: bool,
    /// For how many looks its Sentinel has missed the primary.
    pub missed: u32,
    /// What plan unit or gates refuse, and why.
    pub refused: BTreeMap<&'static str, String>,
    pub disk: DiskState,
    pub snapshot: Option<DiskState>,
    pub lost: Option<DiskState>,
    /// What a slow machine saw before it comes to act on it.
    pub seen: Option<Observations>,
}

#[derive(Debug, Clone, Default)]
pub struct EtcdCluster {
    /// Member id, identity, whether it ever started.
    pub members: Vec<(String, usize, bool)>,
    pub initialize: bool,
    pub generation: BTreeMap<usize, u64>,
}

pub struct World {
    pub spec: Spec,
    /// One for each node of the spec, and the duplicate.
    pub machines: Vec<Machine>,
    /// Who cannot connect to whom: one way, or both.
    pub cut: BTreeSet<(usize, usize)>,
    pub etcd: BTreeMap<String, EtcdCluster>,
    /// How many looks of anybody a primary may be missing before Sentinels replace it.
    pub patience: u32,
    /// What any node says on a new disk, made once.
    blank: NodeReport,
    counter: u64,
}

impl World {
    pub fn new(n: usize, patience: u32) -> World {
        let mut spec = spec::parse(spec::STARTER).unwrap_or_else(|f| panic!("{f}"));
        let template = spec.nodes[0].clone();
        spec.nodes = (0..n)
            .map(|i| spec::Node {
                name: format!("node{}", i + 1),
                address: format!("192.168.18.{}", 21 + i).parse().expect("address"),
                ..template.clone()
            })
            .collect();
        let machines = (0..=n).map(|i| Machine { who: i % n, ..Machine::default() }).collect();
        let blank = NodeReport::blank(&spec, "", 1, "");
        let (cut, etcd) = (BTreeSet::new(), BTreeMap::new());
        let mut world = World { spec, machines, cut, etcd, patience, blank, counter: 0 };
        (0..=n).for_each(|i| world.fresh_disk(i));
        world
    }

    pub fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub fn fresh_disk(&mut self, i: usize) {
        let id = format!("disk{}", self.next());
        self.machines[i].disk = DiskState { install_id: id, ..DiskState::default() };
    }

    pub fn name(&self, i: usize) -> &str {
        &self.spec.nodes[self.machines[i].who].name
    }

    pub fn answers(&self, i: usize) -> bool {
        self.machines[i].up && !self.machines[i].frozen
    }

    /// Whether machine `a` can ask machine `b`.
    pub fn hears(&self, a: usize, b: usize) -> bool {
        a == b || self.answers(a) && self.answers(b) && !self.cut.contains(&(a, b))
    }

    /// The machine behind a node's address, as `from` finds it.
    pub fn at(&self, from: usize, who: usize) -> Option<usize> {
        if self.machines[from].who == who {
            return Some(from);
        }
        let there = |j: &usize| self.machines[*j].who == who && self.hears(from, *j);
        (0..self.machines.len()).filter(there).min_by_key(|j| self.machines[*j].since)
    }

    pub fn all_at(&self, from: usize) -> impl Iterator<Item = usize> {
        (0..self.spec.nodes.len()).filter_map(move |who| self.at(from, who))
    }

    /// Members of a cluster that run and that `from` exchanges messages with.
    fn runners(&self, cluster: &str, from: usize) -> usize {
        let has = |j: &usize| {
            let m = &self.machines[*j];
            let log = m.disk.etcd.as_ref().filter(|(c, _)| m.etcd_runs && c == cluster);
            let listed = |id: &str| self.etcd[cluster].members.iter().any(|(member, _, _)| member == id);
            log.is_some_and(|(_, id)| listed(id))
        };
        self.all_at(from).filter(|j| self.hears(*j, from)).filter(has).count()
    }

    /// Whether a disk has the log of a member that was replaced since.
    pub fn removed(&self, disk: &DiskState) -> bool {
        let listed = |(cluster, id): &(String, String)| {
            self.etcd[cluster].members.iter().any(|(member, _, _)| member == id)
        };
        disk.etcd.as_ref().is_some_and(|log| !listed(log))
    }

    /// Members whose logs `asker` finds and of which it hears from an etcd that they were replaced.
    fn known_removed(&self, asker: usize) -> Vec<String> {
        let logs = || self.all_at(asker).filter_map(|j| Some((j, self.machines[j].disk.etcd.as_ref()?)));
        let tells = |cluster: &str| {
            logs().any(|(j, (of, _))| {
                let m = &self.machines[j];
                of == cluster && m.etcd_runs && !self.removed(&m.disk)
            })
        };
        let dead = logs().filter(|(j, (cluster, _))| self.removed(&self.machines[*j].disk) && tells(cluster));
        dead.map(|(_, (_, id))| id.clone()).collect()
    }

    /// Whether this machine's own etcd is part of a quorum.
    pub fn within_quorum(&self, i: usize) -> Option<String> {
        let m = &self.machines[i];
        let (cluster, id) = m.disk.etcd.as_ref().filter(|_| m.up && !m.frozen && m.etcd_runs)?;
        let members = &self.etcd[cluster].members;
        let listed = members.iter().any(|(member, _, _)| member == id);
        (listed && self.runners(cluster, i) > members.len() / 2).then(|| cluster.clone())
    }

    /// The cluster whose quorum answers `asker` through some relay.
    pub fn quorum(&self, asker: usize) -> Option<String> {
        self.all_at(asker).find_map(|relay| self.within_quorum(relay))
    }

    fn answer(&self, i: usize) -> NodeReport {
        let m = &self.machines[i];
        let d = &m.disk;
        let data = DiskData {
            etcd: d.etcd.is_some(),
            postgres: d.postgres.is_some(),
            redis: d.redis.is_some(),
            sentinel: d.sentinel.is_some(),
        };
        let disk = match (d.served, data.etcd || data.postgres || data.redis) {
            (true, _) => DiskStage::Served,
            (false, true) => DiskStage::Data,
            _ => DiskStage::Blank,
        };
        NodeReport {
            node: self.name(i).into(),
            install_id: d.install_id.clone(),
            disk,
            data,
            postgres: d.postgres.map(|commits| PostgresData { system: "77".into(), end: Some((1, commits)) }),
            redis_unreadable: d.redis.is_some() && d.spoilt,
            bootstrap_id: d.bootstrap_id.clone(),
            bootstrapping: m.bootstrapping,
            etcd_member: d.etcd_member.clone(),
            etcd_log: d.etcd.clone().map(|(cluster, member)| EtcdLogIds { member, cluster }),
            generation: d.generation,
            recovery_source: d.recovery_source,
            ..self.blank.clone()
        }
    }

    pub fn members(&self, cluster: &str) -> Vec<Member> {
        let member = |(id, who, started): &(String, usize, bool)| Member {
            id: id.clone(),
            name: self.spec.nodes[*who].name.clone(),
            peer_urls: vec![peer_url(&self.spec.nodes[*who])],
            client_urls: if *started { vec!["url".into()] } else { vec![] },
        };
        self.etcd[cluster].members.iter().map(member).collect()
    }

    /// What machine `i` sees, once it has marked an older disk's data as lost: as `boot` does in order to act.
    pub fn look(&mut self, i: usize) -> Observations {
        let quorum = self.quorum(i);
        let generation =
            quorum.as_ref().and_then(|c| self.etcd[c].generation.get(&self.machines[i].who).copied());
        let disk = &mut self.machines[i].disk;
        if let Some(generation) = generation.filter(|generation| *generation > disk.generation) {
            (disk.generation, disk.etcd_member, disk.etcd, disk.postgres, disk.redis) =
                (generation, None, None, None, None);
        }
        let peer = |who: usize| {
            let answer = self.at(i, who).map(|j| self.answer(j)).ok_or_else(|| "silent".to_string());
            Peer { name: self.spec.nodes[who].name.clone(), answer }
        };
        let belief = |j: usize| {
            let (primary, epoch) =
                self.machines[j].disk.sentinel.filter(|_| self.machines[j].sentinel_runs)?;
            Some(Sentinel { node: self.name(j).into(), primary: self.spec.nodes[primary].address, epoch })
        };
        let me = self.machines[i].who;
        Observations {
            schema: 1,
            own: self.answer(i),
            peers: (0..self.spec.nodes.len()).filter(|who| *who != me).map(peer).collect(),
            etcd: quorum.as_ref().map(|c| self.members(c)),
            removed: self.known_removed(i),
            generation_in_etcd: generation,
            initializing: false,
            initialize: quorum.as_ref().map(|c| self.etcd[c].initialize),
            system: None,
            sentinels: self.all_at(i).filter_map(belief).collect(),
        }
    }

    pub fn in_service(&self, i: usize) -> bool {
        let m = &self.machines[i];
        m.up && self.within_quorum(i).is_some() && m.patroni_runs && m.redis_runs && m.sentinel_runs
    }

    /// Every node of the spec is some machine in service, and all are of one cluster.
    pub fn healthy(&self) -> bool {
        let serves =
            |who: usize| (0..self.machines.len()).any(|i| self.machines[i].who == who && self.in_service(i));
        let clusters: BTreeSet<_> = (0..self.machines.len()).filter_map(|i| self.within_quorum(i)).collect();
        let primaries = self.machines.iter().filter(|m| m.up && m.redis_runs && m.redis_primary).count();
        (0..self.spec.nodes.len()).all(serves) && clusters.len() == 1 && primaries == 1
    }
}
