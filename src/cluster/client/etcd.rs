//! Client of etcd's JSON gateway, which encodes 64-bit integers as decimal strings.

use super::http::HttpClient;
use super::tls::Credentials;
use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use hanode_core::etcd::{Member, url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

pub struct EtcdClient {
    http: HttpClient,
    base: String,
}

/// A member's hash of its key space up to a revision; comparable between members with the same compact revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KvHash {
    pub(crate) hash: u64,
    pub(crate) compacted: i64,
}

/// A member's status as it reports it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemberStatus {
    pub(crate) id: String,
    pub(crate) leader: String,
    pub(crate) version: String,
    pub(crate) db_bytes: u64,
    /// Latest revision of its key space.
    pub(crate) revision: i64,
    pub(crate) errors: Vec<String>,
    /// It has no vote.
    #[serde(default)]
    pub(crate) learner: bool,
}

impl MemberStatus {
    /// How many of the errors are alarms, which etcd prints as `memberID:… alarm:NOSPACE`.
    pub(crate) fn alarms(&self) -> usize {
        self.errors.iter().filter(|error| error.contains("alarm")).count()
    }
}

impl EtcdClient {
    pub fn new(credentials: &Credentials, address: IpAddr, timeout: Duration) -> Result<Self> {
        Ok(EtcdClient {
            http: HttpClient::new(Some(credentials), timeout)?,
            base: url(address, hanode_core::spec::ETCD_CLIENT_PORT),
        })
    }

    fn call(&self, path: &str, body: Value) -> Result<Value> {
        self.http.call(&format!("{}{path}", self.base), &body)
    }

    /// The member list by a linearizable read: success proves that there is a quorum.
    pub fn members(&self) -> Result<Vec<Member>> {
        let response = self.call("/v3/cluster/member/list", json!({"linearizable": true}))?;
        members_of(&response)
    }

    /// Adds a member by its peer URL; returns its id and the new member list.
    pub fn add(&self, peer_url: &str) -> Result<(String, Vec<Member>)> {
        let response = self.call("/v3/cluster/member/add", json!({"peerURLs": [peer_url]}))?;
        let id = response["member"]["ID"].as_str().context("etcd's response has no member id")?;
        Ok((id.to_string(), members_of(&response)?))
    }

    /// Removes a member by its id; succeeds if it is already removed.
    pub fn remove(&self, id: &str) -> Result<()> {
        let url = format!("{}/v3/cluster/member/remove", self.base);
        let response = self.http.post(&url, &json!({"ID": id}))?;
        match response.status {
            200 | 404 => Ok(()),
            status => bail!("removing member {id}: status {status}: {}", response.body),
        }
    }

    pub(crate) fn status(&self) -> Result<MemberStatus> {
        let response = self.call("/v3/maintenance/status", json!({}))?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        Ok(MemberStatus {
            id: text(&response["header"]["member_id"]),
            leader: text(&response["leader"]),
            version: text(&response["version"]),
            db_bytes: number(&response["dbSize"])?,
            revision: number(&response["header"]["revision"])?,
            errors: response["errors"].as_array().map(|a| a.iter().map(text).collect()).unwrap_or_default(),
            learner: response["isLearner"] == true,
        })
    }

    /// `None` for releases before 3.5.10, whose gateway does not have this call.
    pub(crate) fn hash_kv(&self, revision: i64) -> Result<Option<KvHash>> {
        let url = format!("{}/v3/maintenance/hashkv", self.base);
        let response = self.http.post(&url, &json!({"revision": revision.to_string()}))?;
        match response.status {
            404 => Ok(None),
            200 => {
                let compacted = response.body["compact_revision"].as_str().and_then(|r| r.parse().ok());
                let hash = response.body["hash"].as_u64().context("etcd's response has no hash")?;
                Ok(Some(KvHash { hash, compacted: compacted.unwrap_or_default() }))
            }
            status => bail!("hashing up to revision {revision}: status {status}: {}", response.body),
        }
    }

    /// The value of a key by a linearizable read; `None` if the key does not exist.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let response = self.call("/v3/kv/range", json!({"key": encode(key.as_bytes())}))?;
        match response["kvs"][0]["value"].as_str() {
            Some(value) => Ok(Some(decode(value)?)),
            None if response["kvs"][0].is_object() => Ok(Some(Vec::new())),
            None => Ok(None),
        }
    }

    /// The value of a key and its modification revision.
    pub fn get_with_revision(&self, key: &str) -> Result<Option<(Vec<u8>, String)>> {
        let response = self.call("/v3/kv/range", json!({"key": encode(key.as_bytes())}))?;
        let Some(found) = response["kvs"].get(0) else { return Ok(None) };
        let revision = found["mod_revision"].as_str().context("etcd's response has no revision")?;
        Ok(Some((bytes(&found["value"])?, revision.to_string())))
    }

    /// All keys with this prefix, with their values.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        self.range(prefix)?.iter().map(key_value).collect()
    }

    /// Like `list`, but only the keys without a lease.
    pub fn list_without_lease(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let found = self.range(prefix)?;
        found.iter().filter(|kv| matches!(kv["lease"].as_str(), None | Some("0"))).map(key_value).collect()
    }

    fn range(&self, prefix: &str) -> Result<Vec<Value>> {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().context("an empty prefix")? += 1;
        let response =
            self.call("/v3/kv/range", json!({"key": encode(prefix.as_bytes()), "range_end": encode(&end)}))?;
        Ok(response["kvs"].as_array().cloned().unwrap_or_default())
    }

    pub fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.call("/v3/kv/put", json!({"key": encode(key.as_bytes()), "value": encode(value)})).map(drop)
    }

    /// Creates a key unless it exists; returns whether it did.
    pub fn create(&self, key: &str, value: &[u8]) -> Result<bool> {
        let key = encode(key.as_bytes());
        let response = self.call(
            "/v3/kv/txn",
            json!({
                "compare": [{"key": key, "target": "CREATE", "result": "EQUAL", "createRevision": "0"}],
                "success": [{"requestPut": {"key": key, "value": encode(value)}}],
            }),
        )?;
        Ok(response["succeeded"].as_bool().unwrap_or(false))
    }

    pub fn delete(&self, key: &str) -> Result<()> {
        self.call("/v3/kv/deleterange", json!({"key": encode(key.as_bytes())})).map(drop)
    }

    /// Deletes a key if its modification revision is still `revision`; returns whether it did.
    pub fn delete_if(&self, key: &str, revision: &str) -> Result<bool> {
        let key = encode(key.as_bytes());
        let response = self.call(
            "/v3/kv/txn",
            json!({
                "compare": [{"key": key, "target": "MOD", "result": "EQUAL", "modRevision": revision}],
                "success": [{"requestDeleteRange": {"key": key}}],
            }),
        )?;
        Ok(response["succeeded"].as_bool().unwrap_or(false))
    }
}

/// A key that one client holds, for at most the TTL of its lease; dropping it revokes the lease.
pub struct EtcdLock {
    etcd: EtcdClient,
    lease: String,
}

impl EtcdClient {
    /// The inner error is the name of the current holder.
    pub fn lock(self, key: &str, owner: &str, ttl: Duration) -> Result<Result<EtcdLock, String>> {
        let response = self.call("/v3/lease/grant", json!({"TTL": ttl.as_secs().to_string()}))?;
        let lease = response["ID"].as_str().context("etcd's response has no lease")?.to_string();
        let lock = EtcdLock { etcd: self, lease };
        let encoded_key = encode(key.as_bytes());
        let put = json!({"key": encoded_key, "value": encode(owner.as_bytes()), "lease": lock.lease});
        let response = lock.etcd.call(
            "/v3/kv/txn",
            json!({
                "compare": [{"key": encoded_key, "target": "CREATE", "result": "EQUAL", "createRevision": "0"}],
                "success": [{"requestPut": put}],
            }),
        )?;
        if response["succeeded"].as_bool().unwrap_or(false) {
            return Ok(Ok(lock));
        }
        let holder = lock.etcd.get(key)?.unwrap_or_default();
        Ok(Err(String::from_utf8_lossy(&holder).into_owned()))
    }
}

impl EtcdLock {
    /// Starts the TTL again; false if the lock has expired.
    pub fn renew(&self) -> Result<bool> {
        let response = self.etcd.call("/v3/lease/keepalive", json!({"ID": self.lease}))?;
        Ok(response["result"]["TTL"].as_str().is_some_and(|ttl| ttl != "0"))
    }
}

impl Drop for EtcdLock {
    fn drop(&mut self) {
        // Best effort: the lease expires anyway.
        let _ = self.etcd.call("/v3/lease/revoke", json!({"ID": self.lease}));
    }
}

/// The gateway omits a number that is zero.
fn number<T: std::str::FromStr + Default>(value: &Value) -> Result<T> {
    let Some(text) = value.as_str() else { return Ok(T::default()) };
    text.parse().ok().with_context(|| format!("etcd's response has {text:?} in place of a number"))
}

fn key_value(kv: &Value) -> Result<(String, Vec<u8>)> {
    Ok((String::from_utf8(bytes(&kv["key"])?)?, bytes(&kv["value"])?))
}

fn bytes(of: &Value) -> Result<Vec<u8>> {
    decode(of.as_str().unwrap_or_default())
}

fn members_of(response: &Value) -> Result<Vec<Member>> {
    serde_json::from_value(response["members"].clone()).context("etcd's response has no member list")
}

fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn decode(text: &str) -> Result<Vec<u8>> {
    STANDARD.decode(text).context("etcd's response is not base64")
}
