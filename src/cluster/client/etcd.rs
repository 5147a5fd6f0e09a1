//! etcd over its JSON gateway. 64-bit numbers come as decimal strings there and stay strings here.

use super::http::Http;
use super::tls::Credentials;
use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use hanode_core::etcd::{Member, url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

pub struct Etcd {
    http: Http,
    base: String,
}

/// A hash over all that one member holds up to a revision. Members that compacted up to the same one hold the same or
/// have different hashes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KvHash {
    pub(crate) hash: u64,
    pub(crate) compacted: i64,
}

/// What one member says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemberStatus {
    pub(crate) member: String,
    pub(crate) leader: String,
    pub(crate) version: String,
    pub(crate) db_bytes: u64,
    /// How far its data goes.
    pub(crate) revision: i64,
    pub(crate) errors: Vec<String>,
}

impl Etcd {
    pub fn new(credentials: &Credentials, address: IpAddr, timeout: Duration) -> Result<Self> {
        Ok(Etcd {
            http: Http::new(Some(credentials), timeout)?,
            base: url(address, hanode_core::spec::ETCD_CLIENT_PORT),
        })
    }

    fn call(&self, path: &str, body: Value) -> Result<Value> {
        self.http.call(&format!("{}{path}", self.base), &body)
    }

    /// The members as a quorum knows them: an answer proves that there is a quorum.
    pub fn members(&self) -> Result<Vec<Member>> {
        let answer = self.call("/v3/cluster/member/list", json!({"linearizable": true}))?;
        members_of(&answer)
    }

    /// Adds a member by its peer URL; returns its id and the list that now holds.
    pub fn add(&self, peer_url: &str) -> Result<(String, Vec<Member>)> {
        let answer = self.call("/v3/cluster/member/add", json!({"peerURLs": [peer_url]}))?;
        let id = answer["member"]["ID"].as_str().context("etcd's answer names no member id")?;
        Ok((id.to_string(), members_of(&answer)?))
    }

    /// Removes exactly this member; one that is already gone is no error.
    pub fn remove(&self, id: &str) -> Result<()> {
        let url = format!("{}/v3/cluster/member/remove", self.base);
        let answer = self.http.post(&url, &json!({"ID": id}))?;
        match answer.status {
            200 | 404 => Ok(()),
            status => bail!("removing member {id}: status {status}: {}", answer.body),
        }
    }

    pub(crate) fn status(&self) -> Result<MemberStatus> {
        let answer = self.call("/v3/maintenance/status", json!({}))?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        Ok(MemberStatus {
            member: text(&answer["header"]["member_id"]),
            leader: text(&answer["leader"]),
            version: text(&answer["version"]),
            db_bytes: text(&answer["dbSize"]).parse().unwrap_or_default(),
            revision: text(&answer["header"]["revision"]).parse().unwrap_or_default(),
            errors: answer["errors"].as_array().map(|a| a.iter().map(text).collect()).unwrap_or_default(),
        })
    }

    /// `None` of a release whose gateway does not offer it (before 3.5.10).
    pub(crate) fn hash_kv(&self, revision: i64) -> Result<Option<KvHash>> {
        let url = format!("{}/v3/maintenance/hashkv", self.base);
        let answer = self.http.post(&url, &json!({"revision": revision.to_string()}))?;
        match answer.status {
            404 => Ok(None),
            200 => {
                let compacted = answer.body["compact_revision"].as_str().and_then(|r| r.parse().ok());
                let hash = answer.body["hash"].as_u64().context("etcd's answer holds no hash")?;
                Ok(Some(KvHash { hash, compacted: compacted.unwrap_or_default() }))
            }
            status => bail!("hashing up to revision {revision}: status {status}: {}", answer.body),
        }
    }

    /// The value of one key, read from a quorum.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let answer = self.call("/v3/kv/range", json!({"key": encode(key.as_bytes())}))?;
        match answer["kvs"][0]["value"].as_str() {
            Some(value) => Ok(Some(decode(value)?)),
            None if answer["kvs"][0].is_object() => Ok(Some(Vec::new())),
            None => Ok(None),
        }
    }

    /// A key's value, and the revision that it is of.
    pub fn get_with_revision(&self, key: &str) -> Result<Option<(Vec<u8>, String)>> {
        let answer = self.call("/v3/kv/range", json!({"key": encode(key.as_bytes())}))?;
        let Some(found) = answer["kvs"].get(0) else { return Ok(None) };
        let revision = found["mod_revision"].as_str().context("etcd's answer names no revision")?;
        Ok(Some((bytes(&found["value"])?, revision.to_string())))
    }

    /// Keys that begin like this, with their values.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        self.range(prefix)?.iter().map(pair).collect()
    }

    /// Of these, those that hang on no lease.
    pub fn list_without_lease(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let found = self.range(prefix)?;
        found.iter().filter(|kv| matches!(kv["lease"].as_str(), None | Some("0"))).map(pair).collect()
    }

    fn range(&self, prefix: &str) -> Result<Vec<Value>> {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().context("an empty prefix")? += 1;
        let answer =
            self.call("/v3/kv/range", json!({"key": encode(prefix.as_bytes()), "range_end": encode(&end)}))?;
        Ok(answer["kvs"].as_array().cloned().unwrap_or_default())
    }

    pub fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.call("/v3/kv/put", json!({"key": encode(key.as_bytes()), "value": encode(value)})).map(drop)
    }

    /// Deletes a key only while it is of this revision still.
    pub fn delete_if(&self, key: &str, revision: &str) -> Result<bool> {
        let key = encode(key.as_bytes());
        let answer = self.call(
            "/v3/kv/txn",
            json!({
                "compare": [{"key": key, "target": "MOD", "result": "EQUAL", "modRevision": revision}],
                "success": [{"requestDeleteRange": {"key": key}}],
            }),
        )?;
        Ok(answer["succeeded"].as_bool().unwrap_or(false))
    }
}

/// A key that only one holds at a time, and not for longer than its lease; let go when dropped.
pub struct Lock {
    etcd: Etcd,
    lease: String,
}

impl Etcd {
    /// `Err`: who holds it.
    pub fn lock(self, key: &str, owner: &str, at_most: Duration) -> Result<Result<Lock, String>> {
        let answer = self.call("/v3/lease/grant", json!({"TTL": at_most.as_secs().to_string()}))?;
        let lease = answer["ID"].as_str().context("etcd's answer names no lease")?.to_string();
        let lock = Lock { etcd: self, lease };
        let coded = encode(key.as_bytes());
        let put = json!({"key": coded, "value": encode(owner.as_bytes()), "lease": lock.lease});
        let answer = lock.etcd.call(
            "/v3/kv/txn",
            json!({
                "compare": [{"key": coded, "target": "CREATE", "result": "EQUAL", "createRevision": "0"}],
                "success": [{"requestPut": put}],
            }),
        )?;
        if answer["succeeded"].as_bool().unwrap_or(false) {
            return Ok(Ok(lock));
        }
        let holder = lock.etcd.get(key)?.unwrap_or_default();
        Ok(Err(String::from_utf8_lossy(&holder).into_owned()))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // It ends by itself too.
        let _ = self.etcd.call("/v3/lease/revoke", json!({"ID": self.lease}));
    }
}

fn pair(kv: &Value) -> Result<(String, Vec<u8>)> {
    Ok((String::from_utf8(bytes(&kv["key"])?)?, bytes(&kv["value"])?))
}

fn bytes(of: &Value) -> Result<Vec<u8>> {
    decode(of.as_str().unwrap_or_default())
}

fn members_of(answer: &Value) -> Result<Vec<Member>> {
    serde_json::from_value(answer["members"].clone()).context("etcd's answer holds no member list")
}

fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn decode(text: &str) -> Result<Vec<u8>> {
    STANDARD.decode(text).context("etcd's answer is not base64")
}
