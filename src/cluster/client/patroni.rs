//! Client of Patroni's REST interface. Patroni's words for roles and states end here.

use super::http::{HttpClient, JsonResponse};
use super::tls::Credentials;
use anyhow::{Context, Result, ensure};
use hanode_core::state::{PostgresState, Role};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The user that Patroni requires for changes.
const USER: &str = "patroni";
/// In Patroni's sentence about a switchover that it no longer waits for; a failed one has the same status.
const NOT_AWAITED: &str = "status unknown";

pub struct PatroniClient {
    http: HttpClient,
    base: String,
    password: String,
}

/// What a Patroni reports about its own server.
#[derive(Debug, Clone, PartialEq)]
pub struct PatroniStatus {
    pub role: Option<Role>,
    /// `Running` too for a replica that streams, if `streams` is unknown.
    pub state: PostgresState,
    /// `None` if this release does not report it.
    pub streams: Option<bool>,
    /// The standbys that are connected to this server.
    pub standbys: Vec<Standby>,
    /// The parameters that a restart would change, where this release names them; `None` without such a change.
    pub awaits_restart: Option<Vec<String>>,
    /// It leads although etcd does not answer it, since all other members answer.
    pub failsafe: bool,
    /// Its tags with their values, except for those without effect.
    pub tags: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Standby {
    pub name: String,
    pub streams: bool,
    pub synchronous: bool,
}

/// A member as any Patroni lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub name: String,
    pub role: Option<Role>,
    pub state: PostgresState,
    pub timeline: Option<i64>,
    /// Bytes behind the leader.
    pub lag: Option<i64>,
}

impl PatroniClient {
    pub(crate) fn new(
        credentials: &Credentials,
        address: IpAddr,
        port: u16,
        password: &str,
        timeout: Duration,
    ) -> Result<PatroniClient> {
        Ok(PatroniClient {
            http: HttpClient::new(Some(credentials), timeout)?,
            base: format!("https://{}", SocketAddr::new(address, port)),
            password: password.into(),
        })
    }

    pub fn status(&self) -> Result<PatroniStatus> {
        status_of(&self.http.get(&format!("{}/patroni", self.base))?.body)
    }

    /// The position in the WAL up to which a leader has written.
    pub fn written_wal(&self) -> Result<u64> {
        let body = self.http.get(&format!("{}/patroni", self.base))?.body;
        body["xlog"]["location"].as_u64().context("Patroni reports no position")
    }

    /// All members, also those of other nodes.
    pub fn members(&self) -> Result<Vec<Member>> {
        members_of(&self.http.get(&format!("{}/cluster", self.base))?.body)
    }

    /// The dynamic configuration in etcd.
    pub fn config(&self) -> Result<Value> {
        let url = format!("{}/config", self.base);
        let response = self.http.get(&url)?;
        ensure!(response.status == 200, "GET {url}: status {}", response.status);
        Ok(response.body)
    }

    /// Merges `patch` into the dynamic configuration in etcd. Every patch also wakes Patroni's loop.
    pub fn patch_config(&self, patch: &Value) -> Result<()> {
        let url = format!("{}/config", self.base);
        let response = self.http.patch(&url, (USER, &self.password), patch)?;
        ensure!(response.status == 200, "PATCH {url}: status {}", response.status);
        Ok(())
    }

    /// Restarts PostgreSQL, if it awaits a restart; returns once it runs.
    pub fn restart_if_pending(&self) -> Result<()> {
        accepted(&self.post("restart", &json!({"restart_pending": true}))?)
    }

    /// Makes `candidate` the leader instead of `leader`, this server; returns once it leads. After twenty seconds Patroni no
    /// longer waits for a leader that still writes its changed pages, so its role is read until `limit` has passed.
    pub fn switch_over(&self, leader: &str, candidate: &str, limit: Duration) -> Result<()> {
        let started = Instant::now();
        let response = self.post("switchover", &json!({"leader": leader, "candidate": candidate}))?;
        if !sentence(&response.body).contains(NOT_AWAITED) {
            return accepted(&response);
        }
        while self
            .members()?
            .iter()
            .all(|member| member.name != candidate || member.role != Some(Role::Leader))
        {
            ensure!(started.elapsed() < limit, "{candidate} does not lead after {} s", limit.as_secs());
            sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    fn post(&self, path: &str, body: &Value) -> Result<JsonResponse> {
        self.http.post_as(&format!("{}/{path}", self.base), (USER, &self.password), body)
    }
}

/// The error is Patroni's own sentence.
fn accepted(response: &JsonResponse) -> Result<()> {
    ensure!(response.status == 200, "Patroni: {}", sentence(&response.body));
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn sentence(body: &Value) -> String {
    body.as_str().map_or_else(|| body.to_string(), |text| text.trim().to_string())
}

fn role_of(value: &Value) -> Option<Role> {
    value["role"].as_str().and_then(Role::of_patroni)
}

fn status_of(body: &Value) -> Result<PatroniStatus> {
    let state = body["state"].as_str().context("Patroni's response has no state")?;
    let standby = |sender: &Value| Standby {
        name: text(&sender["application_name"]),
        streams: sender["state"] == "streaming",
        synchronous: matches!(sender["sync_state"].as_str(), Some("sync" | "quorum")),
    };
    Ok(PatroniStatus {
        role: role_of(body),
        state: PostgresState::from(state.to_string()),
        streams: body["replication_state"].as_str().map(|state| state == "streaming"),
        standbys: body["replication"].as_array().into_iter().flatten().map(standby).collect(),
        awaits_restart: awaits_restart(body),
        failsafe: body["failsafe_mode_is_active"] == true,
        tags: tags(&body["tags"]),
    })
}

/// Patroni before 4.0 has no reasons.
fn awaits_restart(body: &Value) -> Option<Vec<String>> {
    let reasons = body["pending_restart_reason"].as_object();
    let names = || reasons.map(|names| names.keys().cloned().collect()).unwrap_or_default();
    (body["pending_restart"] == true).then(names)
}

fn tags(body: &Value) -> Vec<String> {
    let without_effect = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
    let set = body.as_object().into_iter().flatten().filter(|(_, value)| !without_effect(value));
    set.map(|(name, value)| match value {
        Value::Bool(_) => name.clone(),
        Value::String(text) => format!("{name}: {text}"),
        value => format!("{name}: {value}"),
    })
    .collect()
}

fn members_of(body: &Value) -> Result<Vec<Member>> {
    let members = body["members"].as_array().context("Patroni's response has no members")?;
    let member = |value: &Value| Member {
        name: text(&value["name"]),
        role: role_of(value),
        state: PostgresState::from(text(&value["state"])),
        timeline: value["timeline"].as_i64(),
        lag: value["lag"].as_i64(),
    };
    Ok(members.iter().map(member).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_senders_in_state_streaming_stream() {
        let body = json!({"state": "running", "role": "master", "replication": [
            {"application_name": "node2", "state": "streaming", "sync_state": "sync"},
            {"application_name": "pg_basebackup", "state": "backup", "sync_state": "async"},
            {"application_name": "node3", "state": "catchup", "sync_state": "potential"},
        ]});
        let status = status_of(&body).expect("a status");
        let streaming = |streams| status.standbys.iter().filter(move |s| s.streams == streams);
        assert_eq!((status.role, &status.state), (Some(Role::Leader), &PostgresState::Running));
        assert_eq!(streaming(true).map(|s| s.name.as_str()).collect::<Vec<_>>(), ["node2"]);
        assert!(streaming(true).all(|s| s.synchronous) && !streaming(false).any(|s| s.synchronous));
        assert_eq!(status.streams, None);
    }

    #[test]
    fn a_replica_of_each_release_has_a_state() {
        let of = |body: Value| status_of(&body).expect("a status");
        let new = of(json!({"state": "running", "role": "replica", "replication_state": "streaming"}));
        assert_eq!((new.role, new.streams), (Some(Role::Replica), Some(true)));
        let recovering = of(json!({"state": "starting", "role": "replica"}));
        assert_eq!(recovering.state, PostgresState::Other("starting".into()));
        assert!(status_of(&Value::Null).is_err());
    }

    #[test]
    fn pending_restarts_and_tags_are_read_from_every_release() {
        let of = |body: Value| status_of(&body).expect("a status");
        let plain = of(json!({"state": "running", "role": "replica"}));
        assert_eq!((plain.awaits_restart, plain.failsafe, plain.tags), (None, false, vec![]));
        assert!(of(json!({"state": "running", "role": "primary", "failsafe_mode_is_active": true})).failsafe);
        let old = of(json!({"state": "running", "pending_restart": true, "tags": {"nofailover": true}}));
        assert_eq!((old.awaits_restart, old.tags), (Some(vec![]), vec!["nofailover".to_string()]));
        let reason = json!({"max_connections": {"old_value": "100", "new_value": "200"}});
        let new = of(json!({"state": "running", "pending_restart": true, "pending_restart_reason": reason,
            "tags": {"nosync": false, "failover_priority": 0, "replicatefrom": "node2"}}));
        assert_eq!(new.awaits_restart, Some(vec!["max_connections".to_string()]));
        assert_eq!(new.tags, ["failover_priority: 0", "replicatefrom: node2"]);
    }

    #[test]
    fn members_have_the_roles_of_every_release() {
        let members = members_of(&json!({"members": [
            {"name": "node1", "role": "leader", "state": "running", "timeline": 3},
            {"name": "node2", "role": "sync_standby", "state": "streaming", "timeline": 3, "lag": 0},
            {"name": "node3", "role": "standby_leader", "state": "creating replica", "lag": "unknown"},
        ]}))
        .expect("members");
        let roles: Vec<_> = members.iter().map(|m| m.role).collect();
        assert_eq!(roles, [Some(Role::Leader), Some(Role::SyncStandby), None]);
        assert_eq!((members[1].lag, members[2].lag, members[0].timeline), (Some(0), None, Some(3)));
        assert!(members_of(&json!({})).is_err());
    }
}
