//! Patroni on this node and on the leader, and etcd, as far as cloning needs them.

use super::{CLONING, LOCK_TTL, REQUEST_TIMEOUT};
use anyhow::{Context, Result, bail, ensure};
use hanode_cluster::client::etcd::{EtcdClient, EtcdLock};
use hanode_cluster::client::http::HttpClient;
use hanode_cluster::discovery;
use hanode_cluster::health::Access;
use hanode_cluster::peer;
use hanode_core::peer::NodeReport;
use hanode_core::spec::Node;
use hanode_core::standby::{Leader, StalledStandby};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// The other members whose data is being cloned.
fn others_cloning<'a>(cluster: &'a Value, node: &str) -> Vec<&'a str> {
    let members = cluster["members"].as_array().into_iter().flatten();
    let cloning = members.filter(|member| member["state"] == CLONING);
    cloning.filter_map(|member| member["name"].as_str()).filter(|name| *name != node).collect()
}

/// Patroni on this node and on the leader.
pub(super) struct Servers<'a> {
    pub(super) access: &'a Access,
    pub(super) own: &'a Node,
    http: HttpClient,
}

impl<'a> Servers<'a> {
    pub(super) fn new(access: &'a Access, node: &str) -> Result<Self> {
        let own = access.spec.node(node).with_context(|| format!("the spec has no node {node}"))?;
        Ok(Servers { access, own, http: HttpClient::new(Some(&access.cluster), REQUEST_TIMEOUT)? })
    }

    fn url(&self, node: &Node, path: &str) -> String {
        format!("https://{}{path}", SocketAddr::new(node.address, self.access.spec.patroni.restapi_port))
    }

    pub(super) fn get(&self, node: &Node, path: &str) -> Result<Value> {
        Ok(self.http.get(&self.url(node, path))?.body)
    }

    /// The inner error is the name of the current holder.
    pub(super) fn lock(&self, key: &str) -> Result<Result<EtcdLock, String>> {
        self.etcd()?.lock(key, &self.own.name, LOCK_TTL)
    }

    pub(super) fn etcd(&self) -> Result<EtcdClient> {
        EtcdClient::new(&self.access.cluster, self.own.address, REQUEST_TIMEOUT)
    }

    /// Another member that is being cloned, and whose clone is not known to make no progress.
    pub(super) fn another_that_progresses(&self, cluster: &Value) -> Option<String> {
        let stalled = |name: &str| {
            let key = discovery::stalled_clone_key(&self.access.spec.name, name);
            self.etcd().and_then(|etcd| etcd.get(&key)).is_ok_and(|found| found.is_some())
        };
        let mut others = others_cloning(cluster, &self.own.name).into_iter();
        others.find(|name| !stalled(name)).map(String::from)
    }

    /// The leader in Patroni's list, which it reads from etcd.
    pub(super) fn leader(&self, cluster: &Value) -> Result<Option<&'a Node>> {
        let members = cluster["members"].as_array().context("Patroni's response has no members")?;
        let name = members.iter().find(|m| m["role"] == "leader").and_then(|m| m["name"].as_str());
        match name {
            None => Ok(None),
            Some(name) if name == self.own.name => bail!("this node is the leader"),
            Some(name) => Ok(Some(self.access.spec.require_node(name)?)),
        }
    }

    /// The leader as it reports itself, without its WAL and storage. Fails unless it holds the lock and accepts writes.
    pub(super) fn leader_view(&self, leader: &Node, own: &StalledStandby) -> Result<Leader> {
        let answer = self.http.get(&self.url(leader, "/leader"))?;
        let body = answer.body;
        let writes =
            matches!(body["role"].as_str(), Some("primary" | "master")) && body["state"] == "running";
        ensure!(answer.status == 200 && writes, "{} is not a leader that accepts writes", leader.name);
        let timeline = body["timeline"].as_u64().context("the leader reports no timeline")?.try_into()?;
        let history = match own.timeline == Some(timeline) {
            true => Vec::new(),
            false => history(&self.get(leader, "/history")?),
        };
        Ok(Leader { name: leader.name.clone(), timeline, oldest_wal: None, storage_fault: None, history })
    }

    pub(super) fn report(&self, node: &Node) -> Result<NodeReport> {
        let port = self.access.spec.network.join_port;
        let report = peer::fetch_report(&self.access.cluster, node.address, port, REQUEST_TIMEOUT)?;
        ensure!(report.node == node.name, "{} is {}", node.address, report.node);
        Ok(report)
    }

    /// Makes Patroni remove this node's data and clone the leader's. While the server recovers, Patroni waits for it, and
    /// gives that up only by `force`.
    pub(super) fn reinitialize(&self, force: bool) -> Result<()> {
        let url = self.url(self.own, "/reinitialize");
        let login = ("patroni", self.access.secrets.patroni_rest.as_str());
        let answer = self.http.post_as(&url, login, &json!({"force": force}))?;
        ensure!(answer.status == 200, "POST {url}: status {}", answer.status);
        Ok(())
    }
}

/// The earlier timelines in Patroni's `/history`, each with the position at which it ended.
fn history(answer: &Value) -> Vec<(u32, u64)> {
    let line = |line: &Value| Some((line[0].as_u64()?.try_into().ok()?, line[1].as_u64()?));
    answer.as_array().into_iter().flatten().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_has_the_ends_of_earlier_timelines() {
        let answer = json!([[1, 25623960, "no recovery target specified", "2026-01-01"], ["x"], [2, 3e9]]);
        assert_eq!(history(&answer), [(1, 25_623_960)]);
        assert_eq!(history(&Value::Null), []);
    }

    #[test]
    fn only_another_member_counts_as_cloning() {
        let cluster = json!({"members": [
            {"name": "node1", "role": "leader", "state": "running"},
            {"name": "node2", "role": "replica", "state": "creating replica"},
        ]});
        assert_eq!(others_cloning(&cluster, "node3"), ["node2"]);
        assert!(others_cloning(&cluster, "node2").is_empty());
    }
}
