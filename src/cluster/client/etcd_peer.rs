//! etcd's peer port. It responds before there is a quorum; the client port of a restarted member does not.

use super::http::HttpClient;
use super::tls::Credentials;
use anyhow::{Context, Result, bail};
use hanode_core::etcd::url;
use hanode_core::peer::EtcdLogIds;
use hanode_core::spec::ETCD_PEER_PORT;
use serde_json::Value;
use std::net::IpAddr;
use std::time::Duration;

pub(crate) struct EtcdPeerClient {
    http: HttpClient,
    base: String,
}

impl EtcdPeerClient {
    pub(crate) fn new(credentials: &Credentials, address: IpAddr, timeout: Duration) -> Result<Self> {
        Ok(EtcdPeerClient {
            http: HttpClient::new(Some(credentials), timeout)?,
            base: url(address, ETCD_PEER_PORT),
        })
    }

    /// The logs of members that this etcd knows as removed. A member missing from its list may also be newer than the
    /// list, so this requests a raft stream in that member's name: etcd rejects removed members with status 410.
    pub(crate) fn removed<'a>(&self, logs: &'a [EtcdLogIds]) -> Result<Vec<&'a EtcdLogIds>> {
        let listed = self.member_ids()?;
        let unlisted = logs.iter().filter(|log| !listed.contains(&log.member));
        let checked = unlisted.map(|log| Ok((log, self.rejects(log)?))).collect::<Result<Vec<_>>>()?;
        Ok(checked.into_iter().filter(|(_, rejected)| *rejected).map(|(log, _)| log).collect())
    }

    /// Ids of the members that this one lists, in decimal.
    fn member_ids(&self) -> Result<Vec<String>> {
        let response = self.http.get(&format!("{}/members", self.base))?;
        let Value::Array(members) = response.body else {
            bail!("status {}, no member list", response.status)
        };
        let id = |m: &Value| m["id"].as_u64().map(|id| id.to_string()).context("a member without an id");
        members.iter().map(id).collect()
    }

    /// Whether etcd rejects the member of this log as removed. The request has no `X-Raft-To` header, so etcd opens no
    /// stream for it.
    fn rejects(&self, log: &EtcdLogIds) -> Result<bool> {
        let hex = |id: &str| Ok::<_, anyhow::Error>(format!("{:x}", id.parse::<u64>()?));
        let (member, cluster) = (hex(&log.member)?, hex(&log.cluster)?);
        let headers = [
            ("X-Server-From", member.as_str()),
            ("X-Etcd-Cluster-ID", &cluster),
            // Compatible with every etcd 3.
            ("X-Server-Version", "3.0.0"),
            ("X-Min-Cluster-Version", "3.0.0"),
        ];
        let url = format!("{}/raft/stream/message/{member}", self.base);
        Ok(self.http.get_with(&url, &headers)?.status == 410)
    }
}
