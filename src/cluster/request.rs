//! Requests to a node about its PostgreSQL. Patroni accepts changes from the addresses of nodes only, so the admin machine
//! writes a request into etcd, and the watcher of the node passes it to its own Patroni.

use crate::access::Access;
use crate::client::etcd::{EtcdClient, EtcdLock};
use crate::discovery::{answer_key, request_key};
use anyhow::{Context, Result, bail, ensure};
use hanode_core::spec::Node;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A request expires if its sender ends: a node must not act hours later.
const TTL: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Restart PostgreSQL, if it awaits a restart.
    Restart,
    /// Make this standby the leader, instead of the node itself.
    SwitchOver { to: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The node has taken the request and works on it.
    Taken,
    Done,
    /// Why it was not done.
    Failed(String),
}

/// An answer with the revision in etcd of the request that it belongs to.
#[derive(Debug, Serialize, Deserialize)]
struct Answered {
    request: String,
    answer: Answer,
}

/// A request that was sent; dropping it withdraws it.
pub struct SentRequest<'a> {
    access: &'a Access,
    node: &'a Node,
    lease: EtcdLock,
    revision: String,
}

/// A client of the first etcd that answers.
pub fn etcd(access: &Access) -> Result<EtcdClient> {
    let mut last = None;
    for node in &access.spec.nodes {
        let etcd = access.etcd(node, REQUEST_TIMEOUT)?;
        match etcd.members() {
            Ok(_) => return Ok(etcd),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("the spec has no nodes")?.context("no etcd answers"))
}

/// Sends a request to a node.
pub fn send<'a>(access: &'a Access, node: &'a Node, request: &Request) -> Result<SentRequest<'a>> {
    let key = request_key(&access.spec.name, &node.name);
    let text = serde_json::to_string(request)?;
    let Ok(lease) = etcd(access)?.lock(&key, &text, TTL)? else {
        bail!("{} has another request already", node.name)
    };
    let (_, revision) = etcd(access)?.get_with_revision(&key)?.context("the request has expired")?;
    Ok(SentRequest { access, node, lease, revision })
}

impl SentRequest<'_> {
    /// The answer so far. The request lives on for some seconds.
    pub fn answer(&self) -> Result<Option<Answer>> {
        ensure!(self.lease.renew()?, "the request has expired");
        let key = answer_key(&self.access.spec.name, &self.node.name);
        Ok(answered(&etcd(self.access)?, &key, &self.revision)?.map(|found| found.answer))
    }
}

/// The answer to the request of this revision.
fn answered(etcd: &EtcdClient, key: &str, revision: &str) -> Result<Option<Answered>> {
    let Some(text) = etcd.get(key)? else { return Ok(None) };
    let answered: Option<Answered> = serde_json::from_slice(&text).ok();
    Ok(answered.filter(|found| found.request == revision))
}

/// On the node: the request that it has not answered yet, which is performed and answered.
pub fn serve(access: &Access, own: &Node, perform: impl FnOnce(&Request) -> Result<()>) -> Result<()> {
    let etcd = access.etcd(own, REQUEST_TIMEOUT)?;
    let scope = &access.spec.name;
    let Some((text, request)) = etcd.get_with_revision(&request_key(scope, &own.name))? else {
        return Ok(());
    };
    let key = answer_key(scope, &own.name);
    // `Taken` is the answer of a watcher that ended before it was done.
    if answered(&etcd, &key, &request)?.is_some_and(|found| found.answer != Answer::Taken) {
        return Ok(());
    }
    let put =
        |answer: Answer| etcd.put(&key, &serde_json::to_vec(&Answered { request: request.clone(), answer })?);
    let Ok(wanted) = serde_json::from_slice::<Request>(&text) else {
        return put(Answer::Failed("this release of hanode does not know the request".into()));
    };
    put(Answer::Taken)?;
    put(match perform(&wanted) {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Failed(format!("{error:#}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_and_answers_are_the_same_after_the_wire() {
        let switch = Request::SwitchOver { to: "node2".into() };
        for (request, text) in
            [(Request::Restart, json!("restart")), (switch, json!({"switch-over": {"to": "node2"}}))]
        {
            assert_eq!(serde_json::to_value(&request).expect("JSON"), text);
            assert_eq!(serde_json::from_value::<Request>(text).expect("a request"), request);
        }
        let answered = Answered { request: "17".into(), answer: Answer::Failed("restart failed".into()) };
        let text = serde_json::to_vec(&answered).expect("JSON");
        let read: Answered = serde_json::from_slice(&text).expect("an answer");
        assert_eq!((read.request, read.answer), (answered.request, answered.answer));
    }
}
