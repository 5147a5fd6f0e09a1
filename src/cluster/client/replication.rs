//! Replication of Redis: what a server reports of it, and the commands that change it.

use super::redis::{RedisClient, Value, info_fields};
use anyhow::{Context, Result, bail};
use hanode_core::state::RedisRole;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// `INFO replication`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replication {
    pub role: Option<RedisRole>,
    /// The primary of a replica.
    pub primary: Option<IpAddr>,
    /// Whether a replica is connected to its primary.
    pub linked: bool,
    /// How long a replica has been disconnected; `None` if it was never connected since its start.
    pub disconnected: Option<Duration>,
    /// Replicas that are connected to this server.
    pub replicas: u32,
    /// Those of them that have completed their initial transfer.
    pub online_replicas: usize,
    /// It is a replica that no Sentinel promotes.
    pub never_promoted: bool,
    /// The history of its data, which all replicas of a primary share.
    pub history: Option<String>,
    /// The bytes of that history that it has.
    pub offset: u64,
}

impl Replication {
    fn of_info(info: &BTreeMap<String, String>) -> Replication {
        let text = |key: &str| info.get(key).map(String::as_str);
        let number = |key: &str| text(key).and_then(|n| n.parse::<u64>().ok());
        // -1 if it was never connected; older servers report the seconds since 1970.
        let seconds = text("master_link_down_since_seconds").and_then(|s| s.parse::<u64>().ok());
        let is_replica = |key: &str| {
            key.strip_prefix("slave").is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
        };
        let online = |value: &str| value.split(',').any(|field| field == "state=online");
        Replication {
            role: text("role").and_then(RedisRole::of_redis),
            primary: text("master_host").and_then(|host| host.parse().ok()),
            linked: text("master_link_status") == Some("up"),
            disconnected: seconds.filter(|s| *s < 1_000_000_000).map(Duration::from_secs),
            replicas: text("connected_slaves").and_then(|n| n.parse().ok()).unwrap_or_default(),
            online_replicas: info.iter().filter(|(key, value)| is_replica(key) && online(value)).count(),
            never_promoted: text("slave_priority") == Some("0"),
            history: text("master_replid").map(String::from),
            // Only a replica reports the first.
            offset: number("slave_repl_offset").or_else(|| number("master_repl_offset")).unwrap_or_default(),
        }
    }

    pub fn is_primary(&self) -> bool {
        self.role == Some(RedisRole::Primary)
    }

    /// Whether it is a replica that has been connected to this primary since it started.
    pub fn was_linked_to(&self, primary: IpAddr) -> bool {
        let was_linked = self.linked || self.disconnected.is_some();
        self.role == Some(RedisRole::Replica) && self.primary == Some(primary) && was_linked
    }

    /// Whether it is a replica of this server.
    pub fn follows(&self, primary: IpAddr) -> bool {
        self.role == Some(RedisRole::Replica) && self.primary == Some(primary)
    }

    /// Whether it has all data of the other one. Offsets of different histories cannot be compared. Then the replica that was
    /// connected to a primary more recently has the later data, and a primary has later data than a replica.
    pub fn has_all_of(&self, other: &Replication) -> bool {
        if self.history == other.history {
            return self.offset >= other.offset;
        }
        let away = |of: &Replication| {
            if of.linked { Duration::ZERO } else { of.disconnected.unwrap_or(Duration::MAX) }
        };
        !other.is_primary() && away(self) <= away(other)
    }
}

impl RedisClient {
    pub fn replication(&mut self) -> Result<Replication> {
        Ok(Replication::of_info(&self.info("replication")?))
    }

    /// Makes the server a replica of the primary at this address.
    pub fn follow(&mut self, primary: IpAddr, port: u16) -> Result<()> {
        self.query(&["REPLICAOF", &primary.to_string(), &port.to_string()]).map(drop)
    }

    /// Makes a replica follow another primary; returns what it had at that moment. From then on it confirms no write of
    /// its old primary. Not for a primary: Redis 6.0 would write the transaction into its history, and then copy all data.
    pub fn redirect(&mut self, primary: IpAddr, port: u16) -> Result<Replication> {
        let (primary, port) = (primary.to_string(), port.to_string());
        self.query(&["MULTI"])?;
        self.query(&["INFO", "replication"])?;
        self.query(&["REPLICAOF", &primary, &port])?;
        let Value::List(replies) = self.query(&["EXEC"])? else { bail!("EXEC: the reply is not a list") };
        if let Some(Value::Error(why)) = replies.get(1) {
            bail!("REPLICAOF {primary} {port}: {why}");
        }
        Ok(Replication::of_info(&info_fields(replies.first().context("EXEC: the reply is empty")?)?))
    }

    /// Makes the server a primary.
    pub fn promote(&mut self) -> Result<()> {
        self.query(&["REPLICAOF", "NO", "ONE"]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(pairs: &[(&str, &str)]) -> Replication {
        Replication::of_info(&pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn a_replica_counts_as_linked_only_since_its_start() {
        let own: IpAddr = "192.168.18.21".parse().unwrap();
        let linked = |status, down| {
            info(&[
                ("role", "slave"),
                ("master_host", "192.168.18.21"),
                ("master_link_status", status),
                ("master_link_down_since_seconds", down),
            ])
            .was_linked_to(own)
        };
        assert!(linked("up", ""), "not noticed yet");
        assert!(linked("down", "4"));
        assert!(!linked("down", "-1"), "it has just started too: a power cut of all nodes");
        assert!(!linked("down", "1790000000"), "-1 in older servers");
        let another =
            info(&[("role", "slave"), ("master_host", "192.168.18.22"), ("master_link_status", "up")]);
        assert!(!another.was_linked_to(own));
        assert!(!info(&[("role", "master")]).was_linked_to(own));
    }

    #[test]
    fn only_replicas_that_are_online_count_as_online() {
        let primary = info(&[
            ("role", "master"),
            ("connected_slaves", "2"),
            ("slave0", "ip=192.168.18.21,port=6378,state=online,offset=7,lag=0"),
            ("slave1", "ip=192.168.18.23,port=6378,state=wait_bgsave,offset=0,lag=0"),
            ("slave_repl_offset", "state=online"),
        ]);
        assert!(primary.is_primary());
        assert_eq!((primary.replicas, primary.online_replicas), (2, 1));
    }

    #[test]
    fn only_data_of_one_history_is_compared() {
        let replica = |history, offset| {
            info(&[("master_replid", history), ("slave_repl_offset", offset), ("master_repl_offset", "3")])
        };
        assert!(!replica("a", "7").has_all_of(&replica("a", "8")));
        assert!(replica("a", "8").has_all_of(&replica("a", "8")));
        assert!(replica("a", "7").has_all_of(&replica("b", "8")));
        let linked = Replication { linked: true, ..replica("b", "1") };
        assert!(!replica("a", "7").has_all_of(&linked), "it has copied a newer primary");
        assert!(linked.has_all_of(&replica("a", "7")));
        let primary =
            |history| info(&[("role", "master"), ("master_replid", history), ("master_repl_offset", "9")]);
        assert!(!replica("a", "8").has_all_of(&primary("a")));
        assert!(replica("a", "9").has_all_of(&primary("a")));
        assert!(!replica("a", "9").has_all_of(&primary("b")));
    }
}
