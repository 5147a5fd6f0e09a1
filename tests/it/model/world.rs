//! The machines of the model, their disks, and which of them reach each other.

use hanode_core::etcd::Member;
use hanode_core::gate::{EtcdGate, InitGuard, PatroniGate, RedisGate};
use hanode_core::peer::{DiskData, DiskStage, EtcdLogIds, NodeReport, PostgresData};
use hanode_core::plan::{
    Action, EtcdError, EtcdView, Initialize, Observations, Peer, Reason, Sentinel, peer_url,
};
use hanode_core::restore::{RestoreRecord, RestoreRequest};
use hanode_core::spec::{self, Spec};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Time that passes with each tick of a machine.
const TICK: Duration = Duration::from_millis(1500);
/// The system identifier of the PostgreSQL cluster, and that of an interrupted initialization.
const SYSTEM: &str = "77";
const INCOMPLETE_SYSTEM: &str = "78";

#[derive(Debug, Clone, Default)]
pub struct DiskState {
    pub install_id: String,
    pub bootstrap_id: Option<String>,
    pub served: bool,
    pub generation: u64,
    pub recovery_source: bool,
    pub restore: Option<RestoreRequest>,
    /// Patroni restores PostgreSQL if it initializes the cluster.
    pub restore_prepared: bool,
    pub etcd_member: Option<String>,
    /// Cluster (its token) and member id that the log belongs to.
    pub etcd: Option<(String, String)>,
    /// etcd's directory is incomplete: etcd cannot start with it.
    pub torn_etcd: bool,
    /// Data of a restored snapshot, which does not count.
    pub stale: DiskData,
    /// The last cluster for which this disk received clients' data.
    pub of: Option<String>,
    /// Number of commits in this copy.
    pub postgres: Option<u64>,
    /// An initialization of PostgreSQL was interrupted.
    pub incomplete_postgres: bool,
    /// A recovery on another node gave up that initialization: nothing shows any more that this data is incomplete.
    pub init_abandoned: bool,
    /// The etcd cluster for which PostgreSQL's data is made.
    pub postgres_init: Option<String>,
    /// Number of acknowledged writes in this copy.
    pub redis: Option<u64>,
    /// How many of them are in memory only: a crash loses them.
    pub unsynced: u64,
    /// Whether Redis cannot read its copy.
    pub unreadable: bool,
    /// The primary's node and the epoch in this Sentinel's file.
    pub sentinel: Option<(usize, u64)>,
    /// Sentinel's file is truncated.
    pub torn_sentinel: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Index of its node in the spec; a duplicate has the node of another machine.
    pub node: usize,
    pub up: bool,
    /// When it was booted: of two machines with one address, the network reaches the earlier.
    pub since: u64,
    /// Suspended: it neither acts nor answers, and resumes later.
    pub frozen: bool,
    pub bootstrapping: bool,
    /// The plan unit has finished: the services pass their gates.
    pub started: bool,
    pub etcd_runs: bool,
    /// The last decision of etcd's gate, also to wait.
    pub passed: Option<Action>,
    pub etcd_gate: EtcdGate,
    /// How often the watcher has restarted etcd.
    pub etcd_restarts: u32,
    pub patroni_runs: bool,
    pub patroni_gate: PatroniGate,
    /// A PostgreSQL that initializes outlived its Patroni.
    pub leftover_server: bool,
    /// The name of the cluster's archive is on the disk for this start of Patroni.
    pub knows_archive: bool,
    /// Of the watcher.
    pub init_guard: InitGuard,
    /// The end of PostgreSQL's log, once it was measured.
    pub wal_end: Option<u64>,
    pub redis_runs: bool,
    /// Redis has run since this machine started.
    pub redis_has_run: bool,
    pub redis_gate: Option<RedisGate>,
    /// The node of the primary to which this replica was linked since it started.
    pub linked_to: Option<usize>,
    pub redis_primary: bool,
    pub sentinel_runs: bool,
    /// Number of rounds in which its Sentinel has not reached the primary.
    pub missed: u32,
    /// Refusals of the plan unit and the gates, with their reasons.
    pub refused: BTreeMap<&'static str, Reason>,
    pub disk: DiskState,
    pub snapshot: Option<DiskState>,
    pub lost: Option<DiskState>,
    /// Observations of a slow machine, on which it acts later.
    pub seen: Option<Observations>,
    /// The power fails after so many more effects.
    pub effects_left: Option<usize>,
}

#[derive(Debug, Clone, Default)]
pub struct EtcdCluster {
    /// Member id, node, whether it ever started.
    pub members: Vec<(String, usize, bool)>,
    pub initialize: InitKey,
    pub generation: BTreeMap<usize, u64>,
    pub restore: Option<RestoreRecord>,
    /// For each node Patroni's key: when it expires, and whether it works on a cluster or only waits.
    pub patroni_keys: BTreeMap<usize, (Duration, bool)>,
}

/// Patroni's `initialize` key.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum InitKey {
    #[default]
    Absent,
    /// The machine that initializes PostgreSQL, and the revision of the key.
    InProgress(usize, u64),
    Done,
}

pub struct World {
    pub spec: Spec,
    /// One for each node of the spec, then the duplicate.
    pub machines: Vec<Machine>,
    /// Pairs of which the first cannot connect to the second.
    pub cut: BTreeSet<(usize, usize)>,
    pub etcd: BTreeMap<String, EtcdCluster>,
    /// Number of rounds without the primary after which Sentinel replaces it.
    pub down_after: u32,
    /// The report of a node with a new disk, made once.
    blank: NodeReport,
    counter: u64,
    pub now: Duration,
    /// How often etcd's gate has queried the peers.
    pub queries_at_etcds_gate: u32,
    /// No Sentinel can promote a replica.
    pub no_promotion: bool,
}

impl World {
    pub fn new(n: usize, down_after: u32) -> World {
        let mut spec = spec::parse(spec::STARTER).unwrap_or_else(|f| panic!("{f}"));
        let template = spec.nodes[0].clone();
        spec.nodes = (0..n)
            .map(|i| spec::Node {
                name: format!("node{}", i + 1),
                address: format!("192.168.18.{}", 21 + i).parse().expect("address"),
                ..template.clone()
            })
            .collect();
        let machines = (0..=n).map(|i| Machine { node: i % n, ..Machine::default() }).collect();
        let blank = NodeReport::blank(&spec, "", 1, "");
        let (cut, etcd) = (BTreeSet::new(), BTreeMap::new());
        let mut world = World {
            spec,
            machines,
            cut,
            etcd,
            down_after,
            blank,
            counter: 0,
            now: Duration::ZERO,
            queries_at_etcds_gate: 0,
            no_promotion: false,
        };
        (0..=n).for_each(|i| world.fresh_disk(i));
        world
    }

    /// The metadata of all machines request a restore.
    pub fn request_restore(&mut self) {
        self.blank.restore_key = Some("latest".parse().expect("a request"));
    }

    pub fn begins_with_a_restore(&self) -> bool {
        self.blank.restore_key.is_some()
    }

    pub fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub fn fresh_disk(&mut self, i: usize) {
        let id = format!("disk{}", self.next());
        self.machines[i].disk = DiskState { install_id: id, ..DiskState::default() };
    }

    pub fn pass_time(&mut self) {
        self.now += TICK;
    }

    pub fn name(&self, i: usize) -> &str {
        &self.spec.nodes[self.machines[i].node].name
    }

    /// Its entry in the spec.
    pub fn own(&self, i: usize) -> &spec::Node {
        &self.spec.nodes[self.machines[i].node]
    }

    pub fn answers(&self, i: usize) -> bool {
        self.machines[i].up && !self.machines[i].frozen
    }

    /// Whether machine `a` can query machine `b`.
    pub fn reaches(&self, a: usize, b: usize) -> bool {
        a == b || self.answers(a) && self.answers(b) && !self.cut.contains(&(a, b))
    }

    /// The machine at a node's address, as `from` reaches it.
    pub fn at(&self, from: usize, node: usize) -> Option<usize> {
        if self.machines[from].node == node {
            return Some(from);
        }
        let there = |j: &usize| self.machines[*j].node == node && self.reaches(from, *j);
        (0..self.machines.len()).filter(there).min_by_key(|j| self.machines[*j].since)
    }

    pub fn all_at(&self, from: usize) -> impl Iterator<Item = usize> {
        (0..self.spec.nodes.len()).filter_map(move |node| self.at(from, node))
    }

    /// Number of running members of a cluster that exchange messages with `from`.
    fn runners(&self, cluster: &str, from: usize) -> usize {
        let has = |j: &usize| {
            let m = &self.machines[*j];
            let log = m.disk.etcd.as_ref().filter(|(c, _)| m.etcd_runs && c == cluster);
            let listed = |id: &str| self.etcd[cluster].members.iter().any(|(member, _, _)| member == id);
            log.is_some_and(|(_, id)| listed(id))
        };
        self.all_at(from).filter(|j| self.reaches(*j, from)).filter(has).count()
    }

    /// Whether a disk has the log of a member that has been replaced.
    pub fn removed(&self, disk: &DiskState) -> bool {
        let listed = |(cluster, id): &(String, String)| {
            self.etcd[cluster].members.iter().any(|(member, _, _)| member == id)
        };
        disk.etcd.as_ref().is_some_and(|log| !listed(log))
    }

    /// Members whose logs `observer` finds and that a running etcd reports as removed.
    fn known_removed(&self, observer: usize) -> Vec<String> {
        let logs = || self.all_at(observer).filter_map(|j| Some((j, self.machines[j].disk.etcd.as_ref()?)));
        let has_live_member = |cluster: &str| {
            logs().any(|(j, (of, _))| {
                let m = &self.machines[j];
                of == cluster && m.etcd_runs && !self.removed(&m.disk)
            })
        };
        let dead = logs()
            .filter(|(j, (cluster, _))| self.removed(&self.machines[*j].disk) && has_live_member(cluster));
        dead.map(|(_, (_, id))| id.clone()).collect()
    }

    /// The cluster, if this machine's etcd is part of its quorum.
    pub fn within_quorum(&self, i: usize) -> Option<String> {
        let m = &self.machines[i];
        let (cluster, id) = m.disk.etcd.as_ref().filter(|_| m.up && !m.frozen && m.etcd_runs)?;
        let members = &self.etcd[cluster].members;
        let listed = members.iter().any(|(member, _, _)| member == id);
        (listed && self.runners(cluster, i) > members.len() / 2).then(|| cluster.clone())
    }

    /// The cluster whose quorum `observer` reaches through some member.
    pub fn quorum(&self, observer: usize) -> Option<String> {
        self.all_at(observer).find_map(|relay| self.within_quorum(relay))
    }

    pub fn report(&self, i: usize) -> NodeReport {
        let m = &self.machines[i];
        let d = &m.disk;
        let data = DiskData {
            etcd: d.etcd.is_some() && !d.stale.etcd,
            postgres: (d.postgres.is_some() || d.incomplete_postgres) && !d.stale.postgres,
            redis: d.redis.is_some() && !d.stale.redis,
            sentinel: d.sentinel.is_some() && !d.torn_sentinel,
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
            postgres: data.postgres.then(|| PostgresData {
                system: if d.incomplete_postgres { INCOMPLETE_SYSTEM } else { SYSTEM }.into(),
                end: m.wal_end.map(|commits| (1, commits)),
                oldest_wal: None,
                major: None,
            }),
            redis_unreadable: data.redis && d.unreadable,
            postgres_init: d.postgres_init.clone(),
            bootstrap_id: d.bootstrap_id.clone(),
            bootstrapping: m.bootstrapping,
            etcd_member: d.etcd_member.clone(),
            etcd_log: d
                .etcd
                .clone()
                .filter(|_| data.etcd)
                .map(|(cluster, member)| EtcdLogIds { member, cluster }),
            generation: d.generation,
            recovery_source: d.recovery_source,
            restore: d.restore.clone(),
            ..self.blank.clone()
        }
    }

    pub fn members(&self, cluster: &str) -> Vec<Member> {
        let member = |(id, node, started): &(String, usize, bool)| Member {
            id: id.clone(),
            name: if *started { self.spec.nodes[*node].name.clone() } else { String::new() },
            peer_urls: vec![peer_url(&self.spec.nodes[*node])],
            client_urls: if *started { vec!["url".into()] } else { vec![] },
        };
        self.etcd[cluster].members.iter().map(member).collect()
    }

    /// The observations of machine `i`.
    pub fn observe(&self, i: usize) -> Observations {
        let peer = |node: usize| {
            let report = self.at(i, node).map(|j| self.report(j)).ok_or_else(|| "no answer".to_string());
            Peer { name: self.spec.nodes[node].name.clone(), report }
        };
        let belief = |j: usize| {
            let m = &self.machines[j];
            let (primary, epoch) = m.disk.sentinel.filter(|_| m.sentinel_runs)?;
            Some(Sentinel { node: self.name(j).into(), primary: self.spec.nodes[primary].address, epoch })
        };
        let me = self.machines[i].node;
        let no_quorum = || EtcdError::NoQuorum(vec![]);
        Observations {
            etcd: self.quorum(i).map(|cluster| self.view(&cluster, me)).ok_or_else(no_quorum),
            removed: self.known_removed(i),
            sentinels: self.all_at(i).filter_map(belief).collect(),
            ..Observations::of_peers(
                self.report(i),
                (0..self.spec.nodes.len()).filter(|node| *node != me).map(peer).collect(),
            )
        }
    }

    /// The observations without any query.
    pub fn observe_locally(&self, i: usize) -> Observations {
        let peer = |peer: &spec::Node| Peer { name: peer.name.clone(), report: Err("not queried".into()) };
        Observations::of_peers(self.report(i), self.spec.peers(self.name(i)).map(peer).collect())
    }

    fn view(&self, cluster: &str, node: usize) -> EtcdView {
        let initialize = match self.etcd[cluster].initialize {
            InitKey::Absent => Initialize::Absent,
            InitKey::InProgress(..) => Initialize::InProgress,
            InitKey::Done => Initialize::Done(SYSTEM.into()),
        };
        let generation = self.etcd[cluster].generation.get(&node).copied();
        EtcdView {
            members: self.members(cluster),
            initialize,
            generation,
            restore: self.etcd[cluster].restore.clone(),
        }
    }

    pub fn in_service(&self, i: usize) -> bool {
        let m = &self.machines[i];
        let postgres = m.patroni_runs && m.disk.postgres.is_some();
        m.up && self.within_quorum(i).is_some() && postgres && m.redis_runs && m.sentinel_runs
    }

    /// Every node of the spec is some machine in service, and all are of one cluster.
    pub fn healthy(&self) -> bool {
        let serves = |node: usize| {
            (0..self.machines.len()).any(|i| self.machines[i].node == node && self.in_service(i))
        };
        let clusters: BTreeSet<_> = (0..self.machines.len()).filter_map(|i| self.within_quorum(i)).collect();
        let primaries = self.machines.iter().filter(|m| m.up && m.redis_runs && m.redis_primary).count();
        (0..self.spec.nodes.len()).all(serves) && clusters.len() == 1 && primaries == 1
    }
}
