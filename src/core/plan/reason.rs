//! Why a service starts, waits or is refused: every reason of the plan and the gates, with its sentence.

use super::EtcdError;
use crate::restore::RestoreRequest;
use serde::{Serialize, Serializer};
use std::net::IpAddr;
use std::time::Duration;
use thiserror::Error;

const RECOVER: &str = "choose the node whose data you want to keep and run there: hanode recover --from-this-node --accept-data-loss";
const UNREGISTERED: &str = "no PostgreSQL cluster is registered in etcd";
const SWITCH_OFF: &str = "switch one of them off";
const FIX_AOF: &str = "truncates the unreadable part: Redis then starts automatically";

/// Serialized as its sentence.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Reason {
    #[error("set without observing the cluster")]
    Unobserved,
    /// `fault`: the disk, and what it does.
    #[error("{fault}")]
    StorageFault { fault: String },
    #[error("chosen by `hanode recover`: this node's data is the cluster's")]
    Recovering,
    #[error("all nodes agreed on this bootstrap, and it is in progress")]
    BootstrapInProgress,

    // etcd
    #[error("this disk has the log of this etcd member")]
    OwnLog,
    #[error("a peer is in the bootstrap that wrote the log on this disk")]
    PeerInBootstrapOfLog,
    #[error("{peer} is already in the bootstrap recorded on this disk")]
    PeerIsAhead { peer: String },
    /// `peers`: those that do not answer, and why.
    #[error("no etcd quorum answers, and {peers}")]
    PeersUnreachable { peers: String },
    #[error("etcd has a quorum, which lists this node as never started")]
    ListedAsUnstarted,
    #[error(
        "etcd has a quorum, which lists this node as member {member}; this disk lacks that member's data"
    )]
    ListedWithData { member: String },
    #[error("etcd has a quorum, which does not list this node")]
    NotListed,
    #[error("etcd has generation {in_etcd} of this node, this disk has {on_disk}: it is an older snapshot")]
    OlderSnapshot { in_etcd: u64, on_disk: u64 },
    #[error("etcd has a quorum, which no longer lists the member whose log is on this disk")]
    LogNoLongerListed,
    #[error(
        "etcd has a quorum, which lists this node as member {listed}; the log on this disk belongs to member {on_disk}"
    )]
    LogOfAnotherMember { listed: String, on_disk: String },
    #[error(
        "{peer} belongs to cluster {theirs:?}, this node to {ours:?}; boot all nodes from one cluster's image"
    )]
    OtherCluster { peer: String, theirs: String, ours: String },
    #[error(
        "{peer} has a different cluster.toml or another hanode version; boot all nodes from the same build"
    )]
    OtherSpec { peer: String },
    #[error("{peer} has bundle generation {theirs}, this node {ours}; boot all nodes from the same build")]
    OtherBundle { peer: String, theirs: u64, ours: u64 },
    #[error(
        "the metadata key hanode_restore is {} on {peer} and {} here; all machines must have the same", shown(.theirs), shown(.ours)
    )]
    OtherRestore { peer: String, theirs: Option<RestoreRequest>, ours: Option<RestoreRequest> },
    #[error(
        "the metadata key hanode_restore is {key}, but this disk has data of {}; remove the key, or boot blank machines with it",
        origin(.current)
    )]
    RestoreOnData { key: RestoreRequest, current: Option<RestoreRequest> },
    #[error(
        "the metadata key hanode_restore is {key}, but the running cluster is {}; remove the key, or boot blank machines only",
        origin(.current)
    )]
    RestoreOfRunning { key: RestoreRequest, current: Option<RestoreRequest> },
    #[error("{peer}'s disk is a copy of this node's, made after the first boot; wipe one of them")]
    CopiedDisk { peer: String },
    #[error("{logs} of {nodes} nodes still have etcd's log, {needed} are needed{}; {RECOVER}", note_replaced(.replaced))]
    QuorumLost { logs: usize, nodes: usize, needed: usize, replaced: Vec<String> },
    #[error("{node} has served clients: the cluster exists, and its etcd quorum must answer first")]
    HasServed { node: String },
    #[error(
        "{node} is in a bootstrap that only {recorded} disks have recorded, too few for a quorum; reboot {node}"
    )]
    BootstrapWithoutQuorum { node: String, recorded: usize },
    #[error("{node} is in a bootstrap that does not include this disk; its etcd quorum must answer first")]
    OtherBootstrap { node: String },
    #[error("all nodes agree; recording the bootstrap on this disk")]
    RecordingBootstrap,
    #[error("{peer} has not recorded the bootstrap on its disk yet")]
    NotRecorded { peer: String },
    #[error("all nodes are new and agree")]
    AllNodesAreNew,

    // etcd's gate
    #[error("another machine on this network has {address}, the address of {node}; {SWITCH_OFF}")]
    DuplicateAddress { address: IpAddr, node: String },
    #[error("a running Patroni keeps the key of {node} in etcd: another machine has this name; {SWITCH_OFF}")]
    DuplicateName { node: String },
    #[error("the key of the former {node} in etcd has not expired yet")]
    KeyNotExpired { node: String },
    #[error("etcd's member list is changing")]
    MembersChanging,
    #[error("etcd does not add this node yet: {error}")]
    NotAdded { error: String },

    // PostgreSQL
    #[error("no etcd quorum answers{error}, so the leader is unknown")]
    LeaderUnknown { error: EtcdError },
    #[error("this node's etcd must join its cluster first")]
    EtcdMustJoin,
    #[error("the operator chose this disk with `hanode recover`")]
    ChosenHere,
    #[error("the operator chose {node} with `hanode recover`; it must be in service first")]
    ChosenElsewhere { node: String },
    #[error(
        "the PostgreSQL data on this disk belongs to cluster {here}, but etcd has {registered}; move the data directory away, then this node clones the cluster's data"
    )]
    OtherPostgres { here: String, registered: String },
    #[error(
        "the data of the cluster's PostgreSQL, on {node}, is of version {theirs}, but this image has version {ours}; boot this node from an image with version {theirs}"
    )]
    OtherPostgresMajor { node: String, theirs: u32, ours: u32 },
    #[error("PostgreSQL's initialization was interrupted on this node; it will be repeated")]
    InitInterrupted,
    #[error("PostgreSQL's initialization is not complete on another node")]
    InitElsewhere,
    #[error("PostgreSQL's initialization was interrupted on this node and completed on another one")]
    InitElsewhereCompleted,
    #[error("this disk has data of the cluster registered in etcd")]
    RegisteredData,
    #[error("the cluster exists; Patroni clones its data from the leader")]
    CloneFromLeader,
    #[error("{UNREGISTERED}, and {unreachable} may have its data but does not answer")]
    MayHaveData { unreachable: String },
    #[error("{peer} has PostgreSQL data; it must start first")]
    PeerHasData { peer: String },
    #[error("looking in the repository for what is to be restored: {request}")]
    ChoosingRestore { request: RestoreRequest },
    #[error("{error}")]
    NotRestorable { error: String },
    #[error("PostgreSQL is restored from {part}, backup {backup}")]
    Restoring { part: String, backup: String },
    #[error("the last restore of PostgreSQL failed: {error}")]
    RestoreFailed { error: String },
    #[error("no node has PostgreSQL data: the bootstrap was interrupted before PostgreSQL's initialization")]
    NeverInitialized,
    #[error("{UNREGISTERED}, and {unreachable} may have more recent data but does not answer")]
    MayHaveNewerData { unreachable: String },
    #[error("{UNREGISTERED}, and {node} has not reported yet where its WAL ends")]
    WalEndUnknown { node: String },
    #[error(
        "{UNREGISTERED}; the data on {node} belongs to cluster {theirs}, the data on this node to {ours}; move the data directory that you do not want to keep away"
    )]
    PostgresDiffers { node: String, theirs: String, ours: String },
    #[error("{UNREGISTERED}; {node} has the most recent data and must start first")]
    MostRecentElsewhere { node: String },
    #[error("{UNREGISTERED}, and no node has more recent data than this one")]
    MostRecentHere,

    // Redis
    #[error(
        "Redis cannot read its data on this node, which the operator chose with `hanode recover`; run redis-check-aof --fix here, which {FIX_AOF}"
    )]
    UnreadableChoice,
    #[error("the operator chose {node} with `hanode recover`")]
    Chosen { node: String },
    #[error("etcd has no quorum yet")]
    NoQuorumYet,
    #[error("PostgreSQL is restored first")]
    PostgresFirst,
    #[error("{primary} loads the snapshot of Redis first")]
    SnapshotFirst { primary: String },
    #[error("{error}")]
    SnapshotNotLoaded { error: String },
    #[error("no node has Redis data: nothing was ever written, so Redis starts empty")]
    NeverWritten,
    #[error("the Sentinels name {primary} as the primary")]
    PrimaryIs { primary: IpAddr },
    #[error("the Sentinels name this node as the primary, and it has its data")]
    PrimaryHere,
    #[error("the Sentinels name this node, which {why}; they must promote another node first")]
    AnotherMustBePromoted { why: UnusableData },
    #[error("the Sentinels name this node, which {why}; {unreachable} may have a copy but does not answer")]
    CopyUnreachable { why: UnusableData, unreachable: String },
    #[error(
        "Redis cannot read its data on {nodes}, and no other node has a copy; on the node whose data you want to keep run redis-check-aof --fix, which {FIX_AOF}"
    )]
    UnreadableEverywhere { nodes: String },
    #[error(
        "{answered} of {nodes} Sentinels answer; {needed} must name the same primary before Redis starts"
    )]
    SentinelsDisagree { answered: usize, nodes: usize, needed: usize },
    #[error("{remember} of {nodes} Sentinels remember the Redis primary, {needed} must agree; {RECOVER}")]
    PrimaryForgotten { remember: usize, nodes: usize, needed: usize },

    // The gates of Redis and Sentinel
    #[error("this node's Sentinel starts first: without its state the role of this Redis is unknown")]
    SentinelFirst,
    #[error("{peer} is already primary; waiting for the Sentinels to report it")]
    AlreadyPromoted { peer: String },
    #[error("{peer} was a replica of this node until it crashed; waiting for its promotion")]
    PromotionPending { peer: String },
    #[error("waited {} s, starting Redis now: {pending}", .waited.as_secs())]
    NotPromoted { waited: Duration, pending: Box<Reason> },
    #[error("{primary} does not answer as primary yet")]
    PrimaryUnreachable { primary: IpAddr },
    #[error("this Sentinel's own file is intact")]
    IntactSentinel,
}

/// Why a node cannot be Redis' primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnusableData {
    #[error("cannot read its Redis data")]
    Unreadable,
    #[error("has no Redis data")]
    Missing,
}

/// What an operator does about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    SwitchDuplicateOff,
    RebootBootstrapping,
    FixRedisLog,
    Recover,
    /// Move PostgreSQL's data directory away, on the node that refuses or on another one.
    MovePostgresAway,
    /// Anything about the configuration or the data of one node.
    Other,
}

impl Reason {
    /// Whether an operator has to do something about a gate that waits for this.
    pub fn needs_operator(&self) -> bool {
        use Reason::{NotRestorable, RestoreFailed, SnapshotNotLoaded};
        matches!(self, NotRestorable { .. } | RestoreFailed { .. } | SnapshotNotLoaded { .. })
    }

    pub fn remedy(&self) -> Remedy {
        match self {
            Reason::DuplicateAddress { .. } | Reason::DuplicateName { .. } => Remedy::SwitchDuplicateOff,
            Reason::BootstrapWithoutQuorum { .. } => Remedy::RebootBootstrapping,
            Reason::UnreadableChoice | Reason::UnreadableEverywhere { .. } => Remedy::FixRedisLog,
            Reason::QuorumLost { .. } | Reason::PrimaryForgotten { .. } => Remedy::Recover,
            Reason::OtherPostgres { .. } | Reason::PostgresDiffers { .. } => Remedy::MovePostgresAway,
            _ => Remedy::Other,
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn shown(request: &Option<RestoreRequest>) -> String {
    request.as_ref().map_or("not set".into(), RestoreRequest::to_string)
}

fn origin(request: &Option<RestoreRequest>) -> String {
    match request {
        None => "a cluster that was not restored".into(),
        Some(request) => format!("a cluster that was restored with {request}"),
    }
}

fn note_replaced(nodes: &[String]) -> String {
    match nodes {
        [] => String::new(),
        nodes => format!(" (the log on {} is of a replaced member)", nodes.join(", ")),
    }
}
