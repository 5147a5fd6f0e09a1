//! The start gates: whether etcd, Patroni, Redis and Sentinel may start now, and what is done before they do.
//!
//! Each gate is a pure function of the plan, the observations and what else it needs to know ("facts"). Its
//! [`Decision`] lists [`Effect`]s, which `hanode-firstboot` carries out, and the model of `tests/it` simulates.

mod etcd;
mod init;
mod patroni;
mod redis;
mod sentinel;

use crate::peer::NodeReport;
use crate::plan::{Action, Observations, Plan, Reason, Step};
use crate::restore::{RestoreChoice, RestoreRequest};
use crate::spec::{Node, Spec};
use crate::state::Component;
use std::time::Duration;

pub use etcd::{EtcdGate, JoinFacts, must_rejoin, with_members};
pub use init::{InitFacts, InitGuard, registered};
pub use patroni::PatroniGate;
pub use redis::{RedisGate, RedisPeer};
pub use sentinel::SentinelGate;

/// A service with a start gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    Etcd,
    Patroni,
    Redis,
    Sentinel,
}

impl Service {
    pub const ALL: [Service; 4] = [Service::Etcd, Service::Patroni, Service::Redis, Service::Sentinel];

    pub fn component(self) -> Component {
        match self {
            Service::Etcd => Component::Etcd,
            Service::Patroni => Component::Patroni,
            Service::Redis => Component::Redis,
            Service::Sentinel => Component::Sentinel,
        }
    }
}

/// What a gate decides about at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Round<'a> {
    pub spec: &'a Spec,
    /// This node.
    pub own: &'a Node,
    pub seen: &'a Observations,
    pub plan: &'a Plan,
    /// By a clock that never goes back.
    pub now: Duration,
}

/// Carried out in the order of the decision. One that fails ends the round, and nothing starts.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// An older snapshot of this disk was restored, since etcd has this generation: its data counts as lost.
    MarkStale(u64),
    /// Record on the disk the bootstrap on which all nodes agree.
    RecordBootstrap(String),
    /// Record on the disk the restore with which its cluster begins.
    RecordRestore(Option<RestoreRequest>),
    /// Look up in the repository what is restored, and record it in etcd; if that is impossible, the gate waits.
    ChooseRestore(RestoreRequest),
    /// After a failed attempt to restore PostgreSQL the gate waits for a while, with the error as its reason.
    PauseAfterFailedRestore,
    /// Have Patroni restore PostgreSQL's data if it initializes the cluster.
    PrepareRestore(RestoreChoice),
    /// Fetch the snapshot of Redis and record it in etcd, unless that was done before; if that is impossible, the gate waits.
    RestoreRedis,
    /// Begin the recorded bootstrap in this boot.
    MarkBootstrapping,
    /// From here on this disk may have clients' data.
    MarkServed,
    /// From here on PostgreSQL's data on this disk is made for this etcd cluster, which has not registered it yet.
    MarkInit(String),
    /// The cluster has registered PostgreSQL's data on this disk.
    UnmarkInit,
    /// Remove etcd's data, including an incomplete directory.
    ClearEtcd,
    MovePostgresAside,
    MoveRedisAside,
    /// A power cut may have truncated Sentinel's file: then remove it.
    RemoveTornSentinelFile,
    /// Remove this member from etcd.
    RemoveMember(String),
    /// Add this node to etcd's members and record its member id. If etcd refuses, the gate waits.
    AddMember,
    /// Record the id of the member that etcd already lists.
    RecordMember(String),
    /// Write the disk's generation to etcd.
    PublishGeneration,
    /// Copy the name of the cluster's archive from etcd to the disk: PostgreSQL archives from its first moment.
    ReadStanza,
    MeasureWalEnd,
    ForgetWalEnd,
    /// Stop a PostgreSQL server that outlived its Patroni during the initialization.
    StopLeftoverServer,
    /// Delete Patroni's empty `initialize` key if it still has this revision.
    DeleteInitializeKey(String),
    /// Have the Sentinels promote another Redis.
    PromoteAnother,
    /// Write the service's files that depend on the plan; after [`Effect::AddMember`], with the members that etcd
    /// lists then.
    WriteFiles(Box<Plan>),
}

impl Effect {
    /// Part of the repetition of an interrupted initialization of PostgreSQL, which another round can complete.
    pub fn repairs_init(&self) -> bool {
        matches!(self, Effect::StopLeftoverServer | Effect::DeleteInitializeKey(_))
    }
}

/// The step that is taken now, after the effects: the service starts, or the gate decides again later.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub step: Step,
    pub effects: Vec<Effect>,
}

impl Decision {
    fn new(step: &Step, effects: Vec<Effect>) -> Decision {
        Decision { step: step.clone(), effects }
    }

    fn wait(reason: Reason, effects: Vec<Effect>) -> Decision {
        Decision { step: Step::new(Action::Wait, reason), effects }
    }

    fn refuse(reason: Reason, effects: Vec<Effect>) -> Decision {
        Decision { step: Step::new(Action::Refuse, reason), effects }
    }
}

/// What is done before each plan: data of a restored snapshot counts as lost.
pub fn mark_stale(seen: &Observations) -> Option<Effect> {
    seen.newer_generation().map(Effect::MarkStale)
}

/// Whether the plan of etcd's gate is complete without any query: a bootstrap that was agreed on needs no more
/// observations, and queries of etcd without a quorum take seconds.
pub fn is_decided_locally(plan: &Plan) -> bool {
    plan.etcd.step.action == Action::Bootstrap
}

/// The plan unit: the services are started, and pass their gates, once etcd may start. `duplicate`: whether another
/// machine has this node's address, if the plan asks for it.
pub fn plan_unit(round: &Round, duplicate: bool) -> Decision {
    let effects = bootstrap(round.plan, &round.seen.own);
    match round.plan.etcd.look_for_duplicate && duplicate {
        true => Decision::refuse(duplicate_address(round.own), effects),
        false => Decision::new(&round.plan.etcd.step, effects),
    }
}

fn duplicate_address(own: &Node) -> Reason {
    Reason::DuplicateAddress { address: own.address, node: own.name.clone() }
}

/// Records an agreed bootstrap, or begins it in this boot. For the plan unit, and for etcd's gate in case the plan
/// unit saw a quorum that was lost again.
fn bootstrap(plan: &Plan, own: &NodeReport) -> Vec<Effect> {
    if let Some(bootstrap) = &plan.etcd.record {
        // A log of an earlier bootstrap that never was in service must not count as this one's.
        let restore =
            (own.restore != own.restore_key).then(|| Effect::RecordRestore(own.restore_key.clone()));
        let record = Effect::RecordBootstrap(bootstrap.clone());
        return [Effect::ClearEtcd].into_iter().chain(restore).chain([record]).collect();
    }
    if plan.etcd.step.action != Action::Bootstrap || own.bootstrapping {
        return Vec::new();
    }
    // A log stays: it belongs to this bootstrap, and other members may have counted its votes.
    let clear = (!own.data.etcd).then_some(Effect::ClearEtcd);
    let postgres = own.data.postgres.then_some(Effect::MovePostgresAside);
    let redis = own.data.redis.then_some(Effect::MoveRedisAside);
    clear.into_iter().chain(postgres).chain(redis).chain([Effect::MarkBootstrapping]).collect()
}
