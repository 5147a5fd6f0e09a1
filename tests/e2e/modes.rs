//! Modes and settings that a command sets on a running server: `hanode status` names each one, and its remedy ends it.
//! Needs root.

use crate::support::lab::{ETCDCTL, HEALED, Lab, NODES, eventually, other_than};
use crate::support::workdir;
use std::time::Duration;

/// The watcher reads HAProxy's state every few seconds, Patroni its configuration once per loop.
const NOTICED: Duration = Duration::from_secs(60);

/// Clients of the node's own servers.
const CLIENTS: &str = r#"
patronictl() { command patronictl -c /etc/patroni/config.yml "$@"; }
client() { redis-cli --tls --cacert /etc/ssl/myca/root.crt -h $ADDRESS "$@"; }
redis() {
    REDISCLI_AUTH=$(sed -n 's/^user hanode on >\([^ ]*\) .*/\1/p' /etc/redis/redis.conf) client -p 6378 --user hanode "$@" | grep -x OK
}
sentinel() {
    REDISCLI_AUTH=$(sed -n 's/^requirepass "\(.*\)"/\1/p' /etc/redis/sentinel.conf) client -p 26378 SENTINEL "$@" | grep -x OK
}
haproxy() { python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect("/run/haproxy/admin.sock")
s.sendall(sys.argv[1].encode() + b"\n")
print(s.recv(4096).decode())' "$1"; }
"#;

/// What sets a mode on a node, what `status` says, and what ends the mode.
const MODES: [(&str, &str, &str); 10] = [
    ("patronictl pause", "Patroni is paused: no automatic failover", "patronictl resume"),
    (
        "patronictl edit-config --force -s synchronous_mode=false",
        "Patroni's setting synchronous_mode is false, but hanode wrote true",
        "patronictl edit-config --force -s synchronous_mode=true",
    ),
    (
        "patronictl show-config | sed -n \"s/^ *max_connections: *'*\\([0-9]*\\).*/\\1/p\" > /run/max_connections
         patronictl edit-config --force -p max_connections=123",
        "PostgreSQL awaits a restart, so that max_connections takes effect",
        "patronictl edit-config --force -p max_connections=$(cat /run/max_connections)",
    ),
    (
        "sed -i 's/nofailover: false/nofailover: true/' /etc/patroni/config.yml; systemctl reload patroni",
        "Patroni has the tag nofailover",
        "hanode apply; systemctl reload patroni",
    ),
    (
        "redis CLIENT PAUSE 600000 WRITE",
        "Redis: clients that write are paused",
        "redis CLIENT UNPAUSE",
    ),
    (
        "redis CONFIG SET replica-priority 0",
        "Redis has replica-priority 0: no Sentinel promotes it",
        "redis CONFIG SET replica-priority 100",
    ),
    (
        "sentinel SET redis-cluster quorum 3",
        "Sentinel has quorum 3 instead of 2",
        "systemctl restart redis-sentinel",
    ),
    (
        "haproxy 'set server postgres_primary/node2 state maint'",
        "HAProxy forwards nothing to postgres_primary/node2",
        "systemctl reload haproxy",
    ),
    (
        "haproxy 'disable frontend redis'",
        "HAProxy forwards nothing to redis, which was set out of service",
        "systemctl reload haproxy",
    ),
    (
        "sed -i 's|script \"/.*|script \"/bin/false\"|' /etc/keepalived/keepalived.conf; systemctl reload keepalived",
        "Keepalived is in fault state, although HAProxy answers",
        "hanode apply; systemctl reload keepalived",
    ),
];

impl Lab {
    fn with_clients(&self, node: &str, command: &str) {
        let address = self.cluster.spec.node(node).unwrap().address;
        self.output(node, &["bash", "-ec", &format!("ADDRESS={address}\n{CLIENTS}\n{command}")]);
    }

    fn names(&self, problem: &str) {
        eventually(NOTICED, || match self.problems_with(problem).is_empty() {
            true => Err(format!("no problem {problem:?}: {:?}", self.problems_with(""))),
            false => Ok(()),
        });
    }

    /// A slot for a consumer that never connects.
    fn slot_without_consumer_is_named(&self, node: &str, leader: &str) {
        self.patroni(node, &["edit-config", "--force", "-s", "slots.forgotten.type=physical"]);
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'forgotten'";
        eventually(NOTICED, || match self.admin_sql(leader, slots).as_str() {
            "1" => Ok(()),
            _ => Err("Patroni has not created the slot".into()),
        });
        for _ in 0..5 {
            self.admin_sql(leader, "SELECT pg_logical_emit_message(false, 'own', 'own'), pg_switch_wal()");
        }
        self.names("replication slot forgotten has no consumer and keeps");
        self.patroni(node, &["edit-config", "--force", "-s", "slots=null"]);
        self.healthy_within(NOTICED);
    }

    fn leader_without_etcd_is_named(&self, leader: &str) {
        for node in other_than(leader) {
            self.sh(node, "systemctl stop etcd");
        }
        self.names("Patroni is in failsafe mode: it leads without etcd");
        for node in other_than(leader) {
            self.sh(node, "systemctl start --no-block etcd");
        }
        self.healthy_within(HEALED);
        assert_eq!(self.postgres_leader().as_deref(), Some(leader), "no failover");
    }

    /// A member that was added as a learner and not promoted.
    fn learner_is_named(&self, node: &str, other: &str) {
        let address = self.cluster.spec.node(node).unwrap().address;
        let id = format!("id=$({ETCDCTL} member list | sed -n 's/^\\([0-9a-f]*\\), .*, {node}, .*/\\1/p')");
        let add = format!("{ETCDCTL} member add {node} --learner --peer-urls=https://{address}:2380");
        self.sh(other, &format!("{id}; {ETCDCTL} member remove $id; {add}"));
        self.names("etcd is a learner: it has no vote");
        self.sh(other, &format!("{id}; {ETCDCTL} member promote $id"));
        self.healthy_within(HEALED);
    }

    fn problems_with(&self, text: &str) -> Vec<String> {
        let problems = self.health().problems.into_iter().map(|problem| problem.to_string());
        problems.filter(|problem| problem.contains(text)).collect()
    }
}

#[test]
fn status_names_each_mode_and_the_remedy_ends_it() {
    let lab = Lab::up_on_debian(workdir(), &[]);
    // A replica of both: Patroni's tag changes nothing there, and Redis has a priority as a replica only.
    let (leader, primary) = (lab.postgres_leader().unwrap(), lab.redis_primary().unwrap());
    let node = NODES.into_iter().find(|node| *node != leader && *node != primary).unwrap();
    for (set, says, end) in MODES {
        lab.with_clients(node, set);
        lab.names(says);
        lab.with_clients(node, end);
        lab.healthy_within(NOTICED);
    }
    lab.slot_without_consumer_is_named(node, &leader);
    lab.leader_without_etcd_is_named(&leader);
    lab.learner_is_named(node, &leader);
}
