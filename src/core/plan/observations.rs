//! What a node can know before it decides: its own disk, and what others say.

use crate::etcd::Member;
use crate::peer::NodeReport;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observations {
    pub schema: u32,
    /// What this node itself tells on the join port.
    pub own: NodeReport,
    /// Every other node of the spec, in its order.
    pub peers: Vec<Peer>,
    /// etcd's member list, if a quorum answered.
    pub etcd: Option<Vec<Member>>,
    /// Members that were replaced, by the word of an etcd which knows of it, with a quorum or without.
    #[serde(default)]
    pub removed: Vec<String>,
    /// This node's age as etcd has it: higher than the disk's own means an older disk.
    pub generation_in_etcd: Option<u64>,
    /// Whether Patroni's `initialize` key exists; `None` while etcd does not answer.
    pub initialize: Option<bool>,
    /// Whether it is empty: some Patroni has begun PostgreSQL's first start and is not done, or will never be.
    #[serde(default)]
    pub initializing: bool,
    /// The identifier of the PostgreSQL cluster that this key holds, once it came to be.
    #[serde(default)]
    pub system: Option<String>,
    /// What the Sentinels that answered say, this node's own included.
    pub sentinels: Vec<Sentinel>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    /// Its answer, or why there is none.
    pub answer: Result<NodeReport, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sentinel {
    pub node: String,
    /// Whom it holds for the primary.
    pub primary: IpAddr,
    /// The configuration epoch of that belief.
    pub epoch: u64,
}

impl Observations {
    /// What is known where neither etcd nor Sentinels were asked, or none answered.
    pub fn of_peers(own: NodeReport, peers: Vec<Peer>) -> Self {
        Observations {
            schema: 1,
            own,
            peers,
            etcd: None,
            removed: Vec::new(),
            generation_in_etcd: None,
            initialize: None,
            initializing: false,
            system: None,
            sentinels: Vec::new(),
        }
    }

    /// Every peer's answer, if every peer answered.
    pub fn all_peers(&self) -> Option<Vec<&NodeReport>> {
        self.peers.iter().map(|p| p.answer.as_ref().ok()).collect()
    }

    /// The peers that did not answer, for a sentence.
    pub fn unreachable(&self) -> Vec<&str> {
        self.peers.iter().filter(|p| p.answer.is_err()).map(|p| p.name.as_str()).collect()
    }

    /// Who did not answer, and why each did not.
    pub(crate) fn unreachable_reasons(&self) -> String {
        let why = self.peers.iter().filter_map(|p| Some(format!("{}: {}", p.name, p.answer.as_ref().err()?)));
        format!("{} not heard of yet ({})", self.unreachable().join(", "), why.collect::<Vec<_>>().join("; "))
    }

    /// Whether etcd's log on this disk can still be part of a quorum: not if its member was replaced since.
    pub(crate) fn has_log(&self, disk: &NodeReport) -> bool {
        disk.data.etcd && !disk.member_of_log().is_some_and(|member| self.removed.contains(member))
    }

    /// The node that the operator chose to lead, this one excepted.
    pub(crate) fn chosen(&self) -> Option<&NodeReport> {
        self.answers().find(|peer| peer.recovery_source)
    }

    pub(crate) fn answers(&self) -> impl Iterator<Item = &NodeReport> {
        self.peers.iter().filter_map(|p| p.answer.as_ref().ok())
    }
}
