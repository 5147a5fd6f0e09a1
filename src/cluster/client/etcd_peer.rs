//! etcd's port for its own members. It answers before there is a quorum; the one for clients does not, after a start.

use super::http::Http;
use super::tls::Credentials;
use anyhow::{Context, Result, bail};
use hanode_core::etcd::url;
use hanode_core::peer::EtcdLogIds;
use hanode_core::spec::ETCD_PEER_PORT;
use serde_json::Value;
use std::net::IpAddr;
use std::time::Duration;

pub(crate) struct EtcdPeer {
    http: Http,
    base: String,
}

impl EtcdPeer {
    pub(crate) fn new(credentials: &Credentials, address: IpAddr, timeout: Duration) -> Result<Self> {
        Ok(EtcdPeer { http: Http::new(Some(credentials), timeout)?, base: url(address, ETCD_PEER_PORT) })
    }

    /// Which of these logs are of members that this etcd saw removed. One that it merely does not list may be newer
    /// than what it knows, so it is asked as that member would ask it: a removed one is sent away for good.
    pub(crate) fn removed<'a>(&self, logs: &'a [EtcdLogIds]) -> Result<Vec<&'a EtcdLogIds>> {
        let listed = self.listed()?;
        let unknown = logs.iter().filter(|log| !listed.contains(&log.member));
        let asked = unknown.map(|log| Ok((log, self.sends_away(log)?))).collect::<Result<Vec<_>>>()?;
        Ok(asked.into_iter().filter(|(_, gone)| *gone).map(|(log, _)| log).collect())
    }

    /// The members as this one knows them, in decimal.
    fn listed(&self) -> Result<Vec<String>> {
        let answer = self.http.get(&format!("{}/members", self.base))?;
        let Value::Array(members) = answer.body else { bail!("status {}, no member list", answer.status) };
        let id = |m: &Value| m["id"].as_u64().map(|id| id.to_string()).context("a member without an id");
        members.iter().map(id).collect()
    }

    /// Without saying whom it wants to reach, no such question is ever granted a stream.
    fn sends_away(&self, log: &EtcdLogIds) -> Result<bool> {
        let hex = |id: &str| Ok::<_, anyhow::Error>(format!("{:x}", id.parse::<u64>()?));
        let (member, cluster) = (hex(&log.member)?, hex(&log.cluster)?);
        let headers = [
            ("X-Server-From", member.as_str()),
            ("X-Etcd-Cluster-ID", &cluster),
            // What every etcd 3 gets on with.
            ("X-Server-Version", "3.0.0"),
            ("X-Min-Cluster-Version", "3.0.0"),
        ];
        let url = format!("{}/raft/stream/message/{member}", self.base);
        Ok(self.http.get_with(&url, &headers)?.status == 410)
    }
}
