//! A problem of the cluster or of one node. Decisions compare its kind; the sentence for people is derived here only.

use super::Component;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// What is wrong. The comments quote the sentences with `DETAIL`; the node, if any, comes before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// unreachable: DETAIL
    Unreachable,
    /// The detail is the phase of the node and why it is in that phase.
    NotInService,
    /// Why the agent of the node cannot continue.
    Stopped,
    /// The detail is the file and why it cannot be read; the agent continues without it.
    FileDamaged,
    /// A node, or a server, that the node waits for.
    WaitingFor,
    /// The detail is the unit and its state.
    UnitDown,
    /// COMPONENT: DETAIL; a check of a server failed.
    CheckFailed,
    /// HAProxy does not answer its health probe
    ProbeUnanswered,
    /// HAProxy takes no clients: its health probe returns status DETAIL
    ProbeRefused,
    /// COMPONENT still serves its old certificate
    OldCertificate,
    /// The detail is the file system, its fault and what to do.
    StorageFault,
    /// The detail is the file system and its age.
    StorageHangs,
    /// The detail is the file system and its space.
    SpaceLow,
    /// The detail is the file system and its inodes.
    InodesLow,
    /// No measured file systems: the detail is the possible cause.
    SpaceUnknown,
    /// The detail is the denial and how often it happened.
    SelinuxDenial,
    /// The detail is both generations.
    OtherBundle,
    /// has a different cluster.toml or another hanode version
    OtherSpec,
    /// etcd has no leader
    NoEtcdLeader,
    /// etcd: its data differs from the other members
    DataDiffers,
    /// etcd is a learner: it has no vote
    EtcdLearner,
    /// PostgreSQL has DETAIL leaders
    PostgresLeaders,
    /// PostgreSQL is DETAIL
    PostgresDown,
    /// PostgreSQL: replica is not streaming yet
    NotStreaming,
    /// PostgreSQL has no synchronous standby
    NoSyncStandby,
    /// Patroni is paused: no automatic failover
    PatroniPaused,
    /// Patroni is in failsafe mode: it leads without etcd
    PatroniFailsafe,
    /// The detail is the setting in etcd and what hanode wrote there.
    PatroniSetting,
    /// Patroni has the tag DETAIL
    PatroniTag,
    /// Redis has no link to its primary
    RedisLinkDown,
    /// Sentinels monitor A as the Redis primary, but it is B; the detail is from A on.
    OtherRedisPrimary,
    /// no majority of Sentinels agrees on a Redis primary
    NoRedisPrimary,
    /// Redis has DETAIL: 2 primaries: node1, node2
    RedisPrimaries,
    /// Redis has DETAIL replicas: 1 of 2
    RedisReplicas,
    /// Redis: clients that write are paused
    RedisPaused,
    /// Redis has replica-priority 0: no Sentinel promotes it
    RedisNeverPromoted,
    /// Sentinel has DETAIL: quorum 3 instead of 2
    SentinelSetting,
    /// COMPONENT is running, but HAProxy's check of it fails on every node (DETAIL)
    DownInHaproxy,
    /// HAProxy forwards nothing to DETAIL, which was set out of service
    HaproxyMaintenance,
    /// HAProxy has DETAIL in use: 171 of 190 connections to PostgreSQL on node1
    ConnectionsUsed,
    /// PostgreSQL has no active watchdog: DETAIL; a risk.
    NoWatchdog,
    /// Redis runs with a setting that its file does not have; the detail is name, both values.
    RedisSetting,
    /// A user differs from those of `cluster.toml`.
    RedisUser,
    /// no node holds the virtual IP DETAIL
    VipUnheld,
    /// Keepalived is in fault state, although HAProxy answers: it does not take the virtual IP
    KeepalivedFault,
    /// The detail is by how much the node's clock differs.
    ClockDiffers,
    /// replication slot DETAIL: its name and how much WAL it keeps without a consumer.
    SlotInactive,
    /// replication slot DETAIL is lost: WAL that it needs was removed
    SlotLost,
    /// node1 and node2 hold the virtual IP; the detail is the whole sentence.
    VipHeldTwice,
    /// HAProxy does not answer on DETAIL
    VipUnanswered,
    /// The detail is the file and when it expired.
    CertificateExpired,
    /// The detail is the file and when it expires.
    CertificateExpires,
    /// COMPONENT: the backup failed: DETAIL
    BackupFailed,
    /// COMPONENT: two backups of the schedule in a row were not made; DETAIL
    BackupOverdue,
    /// The detail is how much WAL waits, and why.
    WalNotArchived,
    /// The detail is the moment beyond which no restore goes.
    ArchiveGap,
    /// PostgreSQL differs from cluster.toml: DETAIL
    SqlDrift,
    /// PostgreSQL awaits a restart; WAL may not be archived until then
    ArchiveAwaitsRestart,
    /// PostgreSQL awaits a restart, so that DETAIL takes effect; the detail is one parameter or several.
    AwaitsRestart,
    /// DETAIL more problems, which the node's report omits
    Omitted,
    /// A kind of another version of hanode; the detail is the sentence.
    #[serde(other)]
    Other,
}

impl ProblemKind {
    /// What to do, if the sentence does not say it already.
    pub fn remedy(self) -> Option<&'static str> {
        Some(match self {
            ProblemKind::StorageHangs => "check its storage",
            ProblemKind::SpaceLow => "delete what is not needed or enlarge the disk",
            ProblemKind::InodesLow => "delete files",
            ProblemKind::SelinuxDenial => {
                "see `journalctl _AUDIT_TYPE=1400 _AUDIT_TYPE=1107` there: `restorecon -R` corrects a wrong label, \
                 `audit2allow -M NAME` makes a rule for a change of yours"
            }
            ProblemKind::CertificateExpires => "run `hanode certs renew`",
            ProblemKind::PatroniPaused => "`patronictl resume` on a node ends it",
            ProblemKind::PatroniFailsafe => {
                "repair etcd: nothing is written once another node does not answer either"
            }
            ProblemKind::PatroniSetting => "`patronictl edit-config` on a node changes it",
            ProblemKind::PatroniTag => "`hanode apply`, then `systemctl reload patroni` there removes it",
            ProblemKind::AwaitsRestart | ProblemKind::ArchiveAwaitsRestart => {
                "run `hanode restart postgres DIR` on the admin machine"
            }
            ProblemKind::EtcdLearner => "`etcdctl member promote ID` on a node",
            ProblemKind::KeepalivedFault => "see `journalctl -u keepalived` there",
            ProblemKind::ClockDiffers => "see `chronyc sources` there",
            ProblemKind::SlotInactive => {
                "start what reads it, or drop it: remove its [[slot]], or run `SELECT pg_drop_replication_slot('NAME')`"
            }
            ProblemKind::SlotLost => "drop it, and copy its consumer's data anew",
            ProblemKind::RedisPaused => "a failover does so for seconds, otherwise `CLIENT UNPAUSE` ends it",
            ProblemKind::RedisNeverPromoted => "`CONFIG SET replica-priority 100` there",
            ProblemKind::SentinelSetting => "`systemctl restart` its unit there",
            ProblemKind::HaproxyMaintenance => "`systemctl reload haproxy` there",
            ProblemKind::RedisUser => {
                "its next start undoes that: declare it as [[redis_user]], or run `hanode reload-redis` there"
            }
            ProblemKind::RedisSetting => {
                "its next start undoes that: set it in [redis.parameters], or run `hanode reload-redis` there"
            }
            _ => return None,
        })
    }

    /// Whether the node has a bundle or spec that differs from the cluster directory's, as during a rolling update.
    pub fn is_config_drift(self) -> bool {
        matches!(self, ProblemKind::OtherBundle | ProblemKind::OtherSpec)
    }

    /// Whether the cluster is healthy with it, and it is only a warning.
    pub fn is_risk(self) -> bool {
        self == ProblemKind::NoWatchdog
    }

    /// Whether PostgreSQL must not be restarted with it, node after node: a node or a server might not do without the one
    /// that restarts.
    pub fn blocks_restart(self) -> bool {
        !matches!(
            self,
            ProblemKind::ArchiveAwaitsRestart
                | ProblemKind::ArchiveGap
                | ProblemKind::AwaitsRestart
                | ProblemKind::BackupFailed
                | ProblemKind::BackupOverdue
                | ProblemKind::CertificateExpires
                | ProblemKind::ConnectionsUsed
                | ProblemKind::PatroniSetting
                | ProblemKind::SlotInactive
                | ProblemKind::SlotLost
                | ProblemKind::SqlDrift
                | ProblemKind::WalNotArchived
        )
    }

    /// Whether it is about the space on a node's file systems.
    pub fn is_disk_space(self) -> bool {
        matches!(self, ProblemKind::StorageHangs | ProblemKind::SpaceLow | ProblemKind::InodesLow)
    }
}

/// In JSON it also has its sentence, as `message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `None` if it is the cluster's, or if the node itself reports it.
    pub node: Option<String>,
    pub component: Option<Component>,
    pub kind: ProblemKind,
    pub detail: String,
}

impl Problem {
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Problem {
        Problem { node: None, component: None, kind, detail: detail.into() }
    }

    /// A check of this component that failed with `detail`.
    pub fn check_failed(component: Component, detail: impl Into<String>) -> Problem {
        Problem::new(ProblemKind::CheckFailed, detail).component(component)
    }

    pub fn node(self, node: &str) -> Problem {
        Problem { node: Some(node.into()), ..self }
    }

    pub fn component(self, component: Component) -> Problem {
        Problem { component: Some(component), ..self }
    }

    pub fn concerns(&self, component: Component) -> bool {
        self.component == Some(component)
    }

    /// The sentence without the node.
    pub fn text(&self) -> String {
        let sentence = self.sentence();
        match self.kind.remedy() {
            Some(remedy) => format!("{sentence}; {remedy}"),
            None => sentence,
        }
    }

    fn sentence(&self) -> String {
        use ProblemKind::*;
        let Problem { kind, detail, .. } = self;
        let component = self.component.map_or(String::new(), |c| c.to_string());
        match kind {
            NotInService | Stopped | FileDamaged | WaitingFor | UnitDown | StorageFault | StorageHangs
            | SpaceLow | InodesLow | SelinuxDenial | OtherBundle | VipHeldTwice | CertificateExpired
            | CertificateExpires | WalNotArchived | ArchiveGap | PatroniSetting | Other => detail.clone(),
            BackupFailed => format!("{component}: the backup failed: {detail}"),
            BackupOverdue => {
                format!("{component}: two backups of the schedule in a row were not made; {detail}")
            }
            ArchiveAwaitsRestart => "PostgreSQL awaits a restart; WAL may not be archived until then".into(),
            AwaitsRestart if detail.is_empty() => "PostgreSQL awaits a restart for changed parameters".into(),
            AwaitsRestart => {
                let verb = if detail.contains(", ") { "take" } else { "takes" };
                format!("PostgreSQL awaits a restart, so that {detail} {verb} effect")
            }
            PatroniPaused => "Patroni is paused: no automatic failover".into(),
            PatroniFailsafe => "Patroni is in failsafe mode: it leads without etcd".into(),
            PatroniTag => format!("Patroni has the tag {detail}"),
            EtcdLearner => "etcd is a learner: it has no vote".into(),
            RedisPaused => "Redis: clients that write are paused".into(),
            RedisNeverPromoted => "Redis has replica-priority 0: no Sentinel promotes it".into(),
            SentinelSetting => format!("Sentinel has {detail}"),
            HaproxyMaintenance => {
                format!("HAProxy forwards nothing to {detail}, which was set out of service")
            }
            SqlDrift => format!("PostgreSQL differs from cluster.toml: {detail}"),
            Unreachable => format!("unreachable: {detail}"),
            CheckFailed if component.is_empty() => detail.clone(),
            CheckFailed => format!("{component}: {detail}"),
            ProbeUnanswered => "HAProxy does not answer its health probe".into(),
            Omitted => format!("{detail} more problems, which the node's report omits"),
            ProbeRefused => format!("HAProxy takes no clients: its health probe returns status {detail}"),
            OldCertificate => format!("{component} still serves its old certificate"),
            SpaceUnknown => format!("unknown: {detail}"),
            OtherSpec => "has a different cluster.toml or another hanode version".into(),
            NoEtcdLeader => "etcd has no leader".into(),
            DataDiffers => "etcd: its data differs from the other members".into(),
            PostgresLeaders => format!("PostgreSQL has {detail} leaders"),
            PostgresDown => format!("PostgreSQL is {detail}"),
            NotStreaming => "PostgreSQL: replica is not streaming yet".into(),
            NoSyncStandby => "PostgreSQL has no synchronous standby".into(),
            RedisLinkDown => "Redis has no link to its primary".into(),
            OtherRedisPrimary => format!("Sentinels monitor {detail}"),
            NoRedisPrimary => "no majority of Sentinels agrees on a Redis primary".into(),
            RedisPrimaries => format!("Redis has {detail}"),
            RedisReplicas => format!("Redis has {detail} replicas"),
            DownInHaproxy => {
                format!("{component} is running, but HAProxy's check of it fails on every node ({detail})")
            }
            ConnectionsUsed => format!("HAProxy has {detail} in use"),
            NoWatchdog => format!("PostgreSQL has no active watchdog: {detail}"),
            RedisSetting => format!("Redis runs with {detail}"),
            RedisUser => format!("Redis: {detail}"),
            KeepalivedFault => {
                "Keepalived is in fault state, although HAProxy answers: it does not take the virtual IP"
                    .into()
            }
            ClockDiffers => format!("its clock differs by {detail} from those of other nodes"),
            SlotInactive => format!("replication slot {detail}"),
            SlotLost => format!("replication slot {detail} is lost: WAL that it needs was removed"),
            VipUnheld => format!("no node holds the virtual IP {detail}"),
            VipUnanswered => format!("HAProxy does not answer on {detail}"),
        }
    }

    /// The sentences in one line.
    pub fn list(problems: &[Problem]) -> String {
        problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// The sentence, after the node.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(node) = &self.node {
            write!(f, "{node}: ")?;
        }
        f.write_str(&self.text())
    }
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    node: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<Component>,
    kind: ProblemKind,
    detail: &'a str,
    message: String,
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Problem { node, component, kind, detail } = self;
        Written { node, component: *component, kind: *kind, detail, message: self.to_string() }
            .serialize(serializer)
    }
}

/// A node of another version may report kinds and components that this one does not have, or only the sentence.
#[derive(Deserialize)]
#[serde(untagged)]
enum Read {
    Sentence(String),
    Fields {
        node: Option<String>,
        component: Option<serde_json::Value>,
        kind: ProblemKind,
        #[serde(default)]
        detail: String,
        message: Option<String>,
    },
}

impl<'de> Deserialize<'de> for Problem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (node, component, kind, detail, message) = match Read::deserialize(deserializer)? {
            Read::Sentence(sentence) => return Ok(Problem::new(ProblemKind::Other, sentence)),
            Read::Fields { node, component, kind, detail, message } => {
                (node, component, kind, detail, message)
            }
        };
        let known = component.clone().and_then(|name| serde_json::from_value(name).ok());
        if kind != ProblemKind::Other && known.is_some() == component.is_some() {
            return Ok(Problem { node, component: known, kind, detail });
        }
        let prefix = node.as_ref().map(|node| format!("{node}: ")).unwrap_or_default();
        let message = message.unwrap_or(detail);
        let detail = message.strip_prefix(&prefix).unwrap_or(&message).to_string();
        Ok(Problem { node, component: known, kind: ProblemKind::Other, detail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_problem_is_the_same_after_the_wire_and_has_its_sentence_there() {
        let problem = Problem::check_failed(Component::Postgres, "starting").node("node2");
        let value = serde_json::to_value(&problem).expect("JSON");
        assert_eq!(
            value,
            json!({"node": "node2", "component": "postgres", "kind": "check-failed", "detail": "starting",
                "message": "node2: PostgreSQL: starting"})
        );
        assert_eq!(serde_json::from_value::<Problem>(value).expect("a problem"), problem);
    }

    #[test]
    fn a_remedy_follows_the_sentence() {
        let problem = Problem::new(ProblemKind::SpaceLow, "/ is 95 % full, 1 GiB free").node("node1");
        assert_eq!(
            problem.to_string(),
            "node1: / is 95 % full, 1 GiB free; delete what is not needed or enlarge the disk"
        );
    }

    #[test]
    fn a_problem_of_another_version_keeps_its_sentence() {
        let reported = json!({"node": "node1", "component": "pgbouncer", "kind": "pool-full", "detail": "9",
            "message": "node1: PgBouncer: its pool is full"});
        let problem: Problem = serde_json::from_value(reported).expect("a problem");
        assert_eq!((problem.kind, problem.component), (ProblemKind::Other, None));
        assert_eq!(problem.to_string(), "node1: PgBouncer: its pool is full");
        let other_component = json!({"component": "pgbouncer", "kind": "check-failed", "detail": "x",
            "message": "PgBouncer: x"});
        let problem: Problem = serde_json::from_value(other_component).expect("a problem");
        assert_eq!(problem.to_string(), "PgBouncer: x");
    }

    #[test]
    fn a_sentence_alone_is_a_problem_of_another_version() {
        let problem: Problem = serde_json::from_value(json!("etcd: no quorum")).expect("a problem");
        assert_eq!((problem.kind, problem.to_string()), (ProblemKind::Other, "etcd: no quorum".into()));
    }
}
