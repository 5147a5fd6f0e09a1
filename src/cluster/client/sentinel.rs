//! Client of a Sentinel. Its words for servers (master, slave) end here.

use super::redis::{RedisClient, Value};
use anyhow::{Context, Result, bail};
use hanode_core::sentinel::Settings;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

pub struct SentinelClient {
    redis: RedisClient,
    /// The name under which it monitors the primary.
    name: String,
}

/// The primary that a Sentinel monitors, as it reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct MonitoredPrimary {
    pub address: IpAddr,
    /// The configuration epoch.
    pub epoch: u64,
    /// How long this Sentinel has regarded it as down; `None` if it does not.
    pub down: Option<Duration>,
    /// How it monitors; `None` if it does not report all of it.
    pub settings: Option<Settings>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MonitoredReplica {
    /// Whether this Sentinel regards it as down.
    pub down: bool,
    /// The age of the replication offset that this Sentinel knows.
    pub offset_age: Option<Duration>,
}

/// A failover that a Sentinel leads, and whose candidate is not a primary yet.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingPromotion {
    pub primary: IpAddr,
    /// Whether this Sentinel regards the primary as down; it does not in a failover that an operator started.
    pub primary_is_down: bool,
    pub candidate: IpAddr,
    /// The other replicas that it regards as down.
    pub down: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum FailoverStart {
    Started,
    /// Another failover is in progress.
    InProgress,
    /// With Sentinel's reason.
    Refused(String),
}

/// What a Sentinel publishes about a failover.
#[derive(Debug, Clone, PartialEq)]
pub enum FailoverEvent {
    Starts {
        primary: IpAddr,
    },
    Aborted {
        primary: IpAddr,
    },
    Selected {
        candidate: IpAddr,
        primary: IpAddr,
    },
    Promoted {
        new: IpAddr,
        old: IpAddr,
    },
    /// The Sentinels agree on the new primary.
    Switched {
        new: IpAddr,
        old: IpAddr,
    },
}

const CHANNELS: [&str; 7] = [
    "+try-failover",
    "+selected-slave",
    "+promoted-slave",
    "+switch-master",
    "-failover-abort-not-elected",
    "-failover-abort-no-good-slave",
    "-failover-abort-slave-timeout",
];

impl SentinelClient {
    pub(crate) fn new(redis: RedisClient, name: &str) -> SentinelClient {
        SentinelClient { redis, name: name.into() }
    }

    pub fn primary(&mut self) -> Result<MonitoredPrimary> {
        primary_of(&fields(&self.redis.query(&["SENTINEL", "MASTER", &self.name])?)?)
    }

    /// The address that it gives to clients: during a failover, that of the promoted replica.
    pub fn primary_for_clients(&mut self) -> Result<IpAddr> {
        match self.redis.query(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.name])? {
            Value::List(items) => match items.first() {
                Some(Value::Text(address)) => address.parse().context("Sentinel's address"),
                _ => bail!("Sentinel's reply has no address"),
            },
            _ => bail!("Sentinel does not know {}", self.name),
        }
    }

    pub fn replicas(&mut self) -> Result<Vec<MonitoredReplica>> {
        Ok(self.replica_fields()?.iter().map(replica_of).collect())
    }

    fn replica_fields(&mut self) -> Result<Vec<Fields>> {
        let Value::List(replicas) = self.redis.query(&["SENTINEL", "REPLICAS", &self.name])? else {
            bail!("SENTINEL REPLICAS {}: the reply is not a list", self.name);
        };
        replicas.iter().map(fields).collect()
    }

    /// The failover that it leads and in which it waits for the promotion of its candidate. A Sentinel in TILT mode, after
    /// a jump of its clock, takes notice of nothing, and so of no promotion.
    pub fn pending_promotion(&mut self) -> Result<Option<PendingPromotion>> {
        if self.redis.info("sentinel")?.get("sentinel_tilt").is_some_and(|tilt| tilt != "0") {
            return Ok(None);
        }
        let primary = fields(&self.redis.query(&["SENTINEL", "MASTER", &self.name])?)?;
        if !waits_for_promotion(&primary) {
            return Ok(None);
        }
        pending_promotion(&primary, &self.replica_fields()?)
    }

    /// Why it sees no usable quorum for a failover; `None` if it sees one.
    pub(crate) fn quorum_error(&mut self) -> Result<Option<String>> {
        Ok(match self.redis.command(&["SENTINEL", "CKQUORUM", &self.name])? {
            Value::Error(message) => Some(message),
            _ => None,
        })
    }

    pub fn start_failover(&mut self) -> Result<FailoverStart> {
        Ok(match self.redis.command(&["SENTINEL", "FAILOVER", &self.name])? {
            Value::Error(why) if why.starts_with("INPROG") => FailoverStart::InProgress,
            Value::Error(why) => FailoverStart::Refused(why),
            _ => FailoverStart::Started,
        })
    }

    /// After this, the connection only receives events.
    pub fn subscribe(&mut self) -> Result<()> {
        self.redis.subscribe(&CHANNELS)
    }

    /// The next event with Sentinel's own text; `None` for others. Fails if the Sentinel does not answer any more.
    pub fn next_event(&mut self) -> Result<Option<(FailoverEvent, String)>> {
        let Some((channel, text)) = self.redis.next_message()? else { return Ok(None) };
        let event = parse_event(&self.name, &channel, &text);
        Ok(event.map(|event| (event, format!("{channel} {text}"))))
    }
}

/// `None` for an event of another primary or in another format.
fn parse_event(name: &str, channel: &str, text: &str) -> Option<FailoverEvent> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = |place: usize| words.get(place)?.parse::<IpAddr>().ok();
    match (channel, words.as_slice()) {
        ("+try-failover", ["master", n, ..]) if *n == name => Some(FailoverEvent::Starts { primary: at(2)? }),
        (c, ["master", n, ..]) if c.starts_with("-failover-abort") && *n == name => {
            Some(FailoverEvent::Aborted { primary: at(2)? })
        }
        ("+selected-slave", ["slave", _, _, _, "@", n, ..]) if *n == name => {
            Some(FailoverEvent::Selected { candidate: at(2)?, primary: at(6)? })
        }
        ("+promoted-slave", ["slave", _, _, _, "@", n, ..]) if *n == name => {
            Some(FailoverEvent::Promoted { new: at(2)?, old: at(6)? })
        }
        ("+switch-master", [n, ..]) if *n == name => {
            Some(FailoverEvent::Switched { old: at(1)?, new: at(3)? })
        }
        _ => None,
    }
}

type Fields = BTreeMap<String, String>;

fn fields(reply: &Value) -> Result<Fields> {
    let Value::List(items) = reply else { bail!("Sentinel's reply is not a list") };
    let text = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        _ => String::new(),
    };
    Ok(items.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect())
}

fn number(fields: &Fields, key: &str) -> Option<u64> {
    fields.get(key)?.parse().ok()
}

fn has_flag(fields: &Fields, flag: &str) -> bool {
    fields.get("flags").is_some_and(|flags| flags.split(',').any(|f| f == flag))
}

fn is_down(fields: &Fields) -> bool {
    has_flag(fields, "s_down")
}

fn address(fields: &Fields) -> Result<IpAddr> {
    fields.get("ip").context("Sentinel's reply has no address")?.parse().context("Sentinel's address")
}

fn waits_for_promotion(primary: &Fields) -> bool {
    let state = primary.get("failover-state").map(String::as_str);
    matches!(state, Some("send_slaveof_noone" | "wait_promotion"))
}

fn pending_promotion(primary: &Fields, replicas: &[Fields]) -> Result<Option<PendingPromotion>> {
    // Between two replies the failover may have ended.
    let Some(candidate) = replicas.iter().find(|replica| has_flag(replica, "promoted")) else {
        return Ok(None);
    };
    let down = replicas.iter().filter(|replica| is_down(replica) && !has_flag(replica, "promoted"));
    Ok(Some(PendingPromotion {
        primary: address(primary)?,
        primary_is_down: is_down(primary),
        candidate: address(candidate)?,
        down: down.map(address).collect::<Result<_>>()?,
    }))
}

fn primary_of(fields: &Fields) -> Result<MonitoredPrimary> {
    let down = number(fields, "s-down-time").filter(|_| is_down(fields));
    Ok(MonitoredPrimary {
        address: address(fields)?,
        epoch: number(fields, "config-epoch").unwrap_or_default(),
        down: down.map(Duration::from_millis),
        settings: settings_of(fields),
    })
}

fn settings_of(fields: &Fields) -> Option<Settings> {
    Some(Settings {
        quorum: number(fields, "quorum")?,
        down_after_ms: number(fields, "down-after-milliseconds")?,
        failover_timeout_ms: number(fields, "failover-timeout")?,
        parallel_syncs: number(fields, "parallel-syncs")?,
    })
}

fn replica_of(fields: &Fields) -> MonitoredReplica {
    MonitoredReplica {
        down: is_down(fields),
        offset_age: number(fields, "info-refresh").map(Duration::from_millis),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn a_primary_is_down_only_with_its_flag() {
        let primary = |flags| {
            let fields = of(&[
                ("ip", "192.168.18.22"),
                ("config-epoch", "7"),
                ("flags", flags),
                ("s-down-time", "3000"),
            ]);
            primary_of(&fields).expect("a primary")
        };
        let down = primary("s_down,o_down,master");
        assert_eq!((down.epoch, down.down), (7, Some(Duration::from_secs(3))));
        assert_eq!(primary("master").down, None);
        assert!(primary_of(&of(&[("flags", "master")])).is_err());
    }

    #[test]
    fn a_replica_has_the_age_of_its_offset() {
        let replica = replica_of(&of(&[("flags", "s_down,slave"), ("info-refresh", "700")]));
        assert_eq!(replica, MonitoredReplica { down: true, offset_age: Some(Duration::from_millis(700)) });
        assert_eq!(replica_of(&of(&[])), MonitoredReplica { down: false, offset_age: None });
    }

    #[test]
    fn a_promotion_is_pending_from_the_choice_until_the_candidate_is_primary() {
        let primary = |state| {
            of(&[("ip", "192.168.18.22"), ("flags", "s_down,o_down,master"), ("failover-state", state)])
        };
        let states = ["wait_start", "select_slave", "send_slaveof_noone", "wait_promotion", "reconf_slaves"];
        assert_eq!(states.map(|s| waits_for_promotion(&primary(s))), [false, false, true, true, false]);
        assert!(!waits_for_promotion(&of(&[("ip", "192.168.18.22")])));

        let candidate = of(&[("ip", "192.168.18.21"), ("flags", "slave,promoted")]);
        let other = of(&[("ip", "192.168.18.23"), ("flags", "s_down,slave")]);
        let pending = |replicas: &[&Fields]| {
            let replicas: Vec<_> = replicas.iter().map(|r| (*r).clone()).collect();
            pending_promotion(&primary("wait_promotion"), &replicas).expect("a reply")
        };
        let ip = |last: u8| IpAddr::from([192, 168, 18, last]);
        let expected = PendingPromotion {
            primary: ip(22),
            primary_is_down: true,
            candidate: ip(21),
            down: vec![ip(23)],
        };
        assert_eq!(pending(&[&other, &candidate]), Some(expected));
        assert_eq!(pending(&[&other]), None);
    }

    #[test]
    fn events_are_parsed() {
        let of = |channel, text| parse_event("redis-cluster", channel, text);
        let ip = |last: u8| IpAddr::from([192, 168, 18, last]);
        let master = "master redis-cluster 192.168.18.22 6378";
        assert_eq!(of("+try-failover", master), Some(FailoverEvent::Starts { primary: ip(22) }));
        assert_eq!(
            of("-failover-abort-no-good-slave", master),
            Some(FailoverEvent::Aborted { primary: ip(22) })
        );
        let slave = "slave 192.168.18.21:6378 192.168.18.21 6378 @ redis-cluster 192.168.18.22 6378";
        assert_eq!(
            of("+selected-slave", slave),
            Some(FailoverEvent::Selected { candidate: ip(21), primary: ip(22) })
        );
        assert_eq!(of("+promoted-slave", slave), Some(FailoverEvent::Promoted { new: ip(21), old: ip(22) }));
        let switch = "redis-cluster 192.168.18.22 6378 192.168.18.21 6378";
        assert_eq!(of("+switch-master", switch), Some(FailoverEvent::Switched { new: ip(21), old: ip(22) }));
        assert_eq!(parse_event("other", "+switch-master", switch), None);
        assert_eq!(of("+selected-slave", "slave @ redis-cluster"), None);
        assert_eq!(of("+try-failover", "master redis-cluster nonsense 1"), None);
    }
}
