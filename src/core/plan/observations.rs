//! What a node observes before it plans: its own disk, its peers, etcd and the Sentinels.

use crate::etcd::Member;
use crate::peer::NodeReport;
use crate::restore::{RestoreRecord, RestoreRequest};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

/// The error in place of the report of a peer whose certificate is not from this cluster's CA.
pub const FOREIGN_CERTIFICATE: &str = "answers with a certificate of another cluster";

/// The input of the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observations {
    pub schema: u32,
    /// This node's report.
    pub own: NodeReport,
    /// Every other node of the spec, in the spec's order.
    pub peers: Vec<Peer>,
    /// What etcd reported, or why no quorum answered.
    pub etcd: Result<EtcdView, EtcdError>,
    /// Members that some etcd, with or without a quorum, has seen removed.
    #[serde(default)]
    pub removed: Vec<String>,
    /// The Sentinels that answered, this node's own included.
    pub sentinels: Vec<Sentinel>,
}

/// What etcd holds, read through a quorum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EtcdView {
    pub members: Vec<Member>,
    pub initialize: Initialize,
    /// The generation of this node's disk; if it is higher than the disk's, the disk is an older snapshot.
    pub generation: Option<u64>,
    /// The restore with which this cluster began, once it is known what is restored.
    #[serde(default)]
    pub restore: Option<RestoreRecord>,
}

/// Patroni's `initialize` key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initialize {
    /// No PostgreSQL cluster is registered.
    Absent,
    /// Some Patroni started to initialize PostgreSQL and has not finished, or failed.
    InProgress,
    /// The system identifier of the PostgreSQL cluster.
    Done(String),
}

/// Why no quorum of etcd answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EtcdError {
    /// The decision does not depend on etcd.
    NotQueried,
    /// Each server that was queried, and its error.
    NoQuorum(Vec<(String, String)>),
}

/// In the middle of a sentence: ` (node1: connection refused)`.
impl Display for EtcdError {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            EtcdError::NotQueried => Ok(()),
            EtcdError::NoQuorum(errors) => {
                let errors: Vec<_> = errors.iter().map(|(node, error)| format!("{node}: {error}")).collect();
                write!(f, " ({})", errors.join("; "))
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    /// Its report, or why there is none.
    pub report: Result<NodeReport, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sentinel {
    pub node: String,
    /// The primary that it monitors.
    pub primary: IpAddr,
    /// The configuration epoch of that primary.
    pub epoch: u64,
}

impl Observations {
    /// Observations without etcd and Sentinels.
    pub fn of_peers(own: NodeReport, peers: Vec<Peer>) -> Self {
        Observations {
            schema: 1,
            own,
            peers,
            etcd: Err(EtcdError::NotQueried),
            removed: Vec::new(),
            sentinels: Vec::new(),
        }
    }

    pub fn has_quorum(&self) -> bool {
        self.etcd.is_ok()
    }

    /// The generation in etcd, if it is higher than the disk's: the disk is an older snapshot.
    pub fn newer_generation(&self) -> Option<u64> {
        self.etcd.as_ref().ok()?.generation.filter(|generation| *generation > self.own.generation)
    }

    /// Every peer's report, or `None` if a peer did not answer.
    pub fn all_peers(&self) -> Option<Vec<&NodeReport>> {
        self.peers.iter().map(|p| p.report.as_ref().ok()).collect()
    }

    /// The names of the peers that did not answer.
    pub fn unreachable(&self) -> Vec<&str> {
        self.peers.iter().filter(|p| p.report.is_err()).map(|p| p.name.as_str()).collect()
    }

    /// The peers that did not answer and why, as `no answer from node2 (connection refused)`.
    pub(crate) fn unreachable_reasons(&self) -> String {
        let errors = self.peers.iter().filter_map(|p| Some((p.name.as_str(), p.report.as_ref().err()?)));
        let (foreign, failed): (Vec<_>, Vec<_>) =
            errors.partition(|(_, error)| *error == FOREIGN_CERTIFICATE);
        let mut reasons: Vec<String> =
            foreign.iter().map(|(name, error)| format!("{name} {error}")).collect();
        if !failed.is_empty() || foreign.is_empty() {
            let failed: Vec<_> = failed.iter().map(|(name, error)| format!("{name} ({error})")).collect();
            reasons.push(format!("no answer from {}", failed.join(", ")));
        }
        reasons.join(", ")
    }

    /// Whether a disk's etcd log can be part of a quorum: not if its member was removed since.
    pub(crate) fn has_log(&self, disk: &NodeReport) -> bool {
        disk.data.etcd && !disk.etcd_log_member().is_some_and(|member| self.removed.contains(member))
    }

    /// The restore with which this node's cluster began.
    pub fn restore(&self) -> Option<&RestoreRequest> {
        let in_etcd = self.etcd.as_ref().ok().and_then(|etcd| Some(&etcd.restore.as_ref()?.choice.request));
        let of_peer = || self.reports().find_map(|peer| peer.restore.as_ref());
        self.own.restore.as_ref().or(in_etcd).or_else(of_peer)
    }

    /// Whether a disk has PostgreSQL data that counts.
    pub(crate) fn has_postgres(&self, disk: &NodeReport) -> bool {
        disk.data.postgres && !self.has_failed_init(disk)
    }

    /// Whether a disk's PostgreSQL data is of an initialization that was interrupted, and that others gave up: etcd's
    /// cluster, for which the data was made, has registered other data or none. Such data never served.
    pub(crate) fn has_failed_init(&self, disk: &NodeReport) -> bool {
        let cluster = self.own.etcd_log.as_ref().map(|log| &log.cluster);
        let made_for_it = disk.postgres_init.is_some() && disk.postgres_init.as_ref() == cluster;
        disk.data.postgres
            && made_for_it
            && self.etcd.as_ref().is_ok_and(|etcd| match &etcd.initialize {
                Initialize::Absent => true,
                Initialize::InProgress => false,
                Initialize::Done(system) => !has_system(disk, system),
            })
    }

    /// Whether etcd's cluster has registered the PostgreSQL data on this disk.
    pub(crate) fn is_registered(&self) -> bool {
        let etcd = self.etcd.as_ref();
        etcd.is_ok_and(
            |etcd| matches!(&etcd.initialize, Initialize::Done(system) if has_system(&self.own, system)),
        )
    }

    /// The peer that the operator chose with `hanode recover`.
    pub(crate) fn recovery_source(&self) -> Option<&NodeReport> {
        self.reports().find(|peer| peer.recovery_source)
    }

    /// The reports of the peers that answered.
    pub(crate) fn reports(&self) -> impl Iterator<Item = &NodeReport> {
        self.peers.iter().filter_map(|p| p.report.as_ref().ok())
    }
}

fn has_system(disk: &NodeReport, system: &str) -> bool {
    disk.postgres.as_ref().is_some_and(|postgres| postgres.system == system)
}
