//! Storage that hangs, fails, turns read-only or is full, under write load: the node loses every role, no acknowledged
//! write is lost, the old leader accepts no write afterwards, `status` names the disk, and the node rejoins by itself.
//! Takes minutes: `make test-faults`.

use crate::support::lab::{Lab, NODES, eventually, no_acknowledged_write_is_lost, other_than, until};
use crate::support::workdir_alone;
use hanode_lab::chaos::Fault;
use hanode_lab::load::{Load, Service};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::thread::sleep;
use std::time::{Duration, Instant};

const HEALED: Duration = Duration::from_secs(180);
/// More than `hanode check --rto` states, since containers on a busy machine are slow.
const MOVED: Duration = Duration::from_secs(90);
/// More than the time until the node has no roles.
const HELD: Duration = Duration::from_secs(30);
/// Where another node records the writes that the old leader acknowledged.
const LATE: &str = "/run/late-writes";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Role {
    Postgres,
    Redis,
    Etcd,
    Vip,
}

const ROLES: [Role; 4] = [Role::Postgres, Role::Redis, Role::Etcd, Role::Vip];

impl Lab {
    fn holder(&self, role: Role) -> Option<String> {
        match role {
            Role::Postgres => self.postgres_leader(),
            Role::Redis => self.redis_primary(),
            Role::Etcd => self.health().nodes.into_iter().find(|n| n.servers.etcd.leader).map(|n| n.name),
            Role::Vip => match self.vip_holders().as_slice() {
                [holder] => Some(holder.clone()),
                _ => None,
            },
        }
    }

    /// The problems that name a disk of this node, as seen from the admin machine.
    fn storage_problems(&self, node: &str) -> Vec<String> {
        let start = format!("{node}: / (");
        let problems = self.health().problems.into_iter().map(|p| p.to_string());
        problems.filter(|p| p.starts_with(&start)).collect()
    }

    /// `hanode status` on a node.
    fn status_on(&self, node: &str) -> String {
        let output = self.on(node, &["hanode", "status"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Another node writes to the servers of this one, past HAProxy, until it is stopped.
    fn write_directly(&self, node: &str) {
        let address = self.cluster.spec.node(node).unwrap().address;
        let (app, redis) = (self.cluster.secrets.app().unwrap(), &self.cluster.secrets.redis);
        let psql = format!(
            "PGPASSWORD={app} psql -XAtq -c 'INSERT INTO late DEFAULT VALUES' \
             'host={address} port=5433 user=app dbname=app sslmode=require connect_timeout=5' \
             && echo PostgreSQL $(date +%T.%N) >> {LATE}"
        );
        let set = format!(
            "REDISCLI_AUTH={redis} redis-cli --tls --cacert /etc/ssl/myca/root.crt -h {address} -p 6378 set late 1 \
             | grep -x OK && echo Redis $(date +%T.%N) >> {LATE}"
        );
        let from = other_than(node)[0];
        self.sh(from, &format!("rm -f {LATE}; : > {LATE}"));
        for (name, command) in [("late-postgres", psql), ("late-redis", set)] {
            let each = format!("while :; do {command}; sleep 0.05; done");
            self.output(from, &["systemd-run", "-q", &format!("--unit={name}"), "sh", "-c", &each]);
        }
    }

    fn late_writes(&self, node: &str) -> String {
        let from = other_than(node)[0];
        self.sh(from, &format!("systemctl stop late-postgres late-redis; cat {LATE}"))
    }

    /// systemd and the server of the join port hang, too: the disk is named in etcd.
    fn named_without_its_answer(&self, node: &str, what: &str) {
        let init = Pid::from_raw(self.driver().init_pid(node).unwrap());
        let join_port = |signal| {
            self.sh(
                node,
                &format!(
                    "kill -{signal} $(cat /sys/fs/cgroup/system.slice/hanode-join.service/cgroup.procs)"
                ),
            )
        };
        join_port("STOP");
        kill(init, Signal::SIGSTOP).unwrap();
        let unreachable = format!("{node}: unreachable");
        eventually(MOVED, || {
            let problems: Vec<_> = self.health().problems.iter().map(|p| p.to_string()).collect();
            let named = problems.iter().any(|p| p.starts_with(&format!("{node}: / (")) && p.contains(what));
            match named && problems.iter().any(|p| p.starts_with(&unreachable)) {
                true => Ok(()),
                false => Err(format!("{problems:?}")),
            }
        });
        kill(init, Signal::SIGCONT).unwrap();
        join_port("CONT");
    }

    /// One fault of a node that has this role: all its roles move, and after the repair it rejoins. Returns the roles.
    fn roles_leave(&self, load: &Load, fault: Fault, role: Role, what: &str) -> Vec<Role> {
        let (spec, driver) = (&self.cluster.spec, self.driver());
        let node = eventually(HEALED, || self.holder(role).ok_or(format!("{role:?} has no holder")));
        let held: Vec<Role> =
            ROLES.into_iter().filter(|role| self.holder(*role).as_ref() == Some(&node)).collect();
        eprintln!("{} of {node}, which has {held:?}", fault.name());
        let from = load.now();
        let start = Instant::now();
        fault.apply(&driver, spec, &node).unwrap();
        for role in &held {
            let moved = |holder: Option<String>| holder.is_some_and(|holder| holder != node);
            until(&format!("{role:?} moves"), MOVED, || moved(self.holder(*role)));
            eprintln!("  {role:?} is on another node after {:.1} s", start.elapsed().as_secs_f64());
        }
        // Servers that wait for the disk must not acknowledge anything when it answers again.
        self.write_directly(&node);
        let problems = eventually(MOVED, || match self.storage_problems(&node) {
            none if none.is_empty() => Err("the disk is not named".into()),
            some => Ok(some),
        });
        assert!(problems[0].contains(what), "{problems:?}");
        eventually(MOVED, || match self.status_on(other_than(&node)[0]) {
            seen if seen.contains(&problems[0][..30]) => Ok(()),
            seen => Err(seen),
        });
        eventually(MOVED, || match self.status_on(&node) {
            seen if seen.contains(what) => Ok(()),
            seen => Err(seen),
        });
        eprintln!("  {}", problems[0]);
        if fault == Fault::StorageHangs && held.contains(&Role::Etcd) {
            self.named_without_its_answer(&node, what);
        }
        sleep(HELD.saturating_sub(start.elapsed()));
        fault.revert(&driver, spec, &node).unwrap();
        let reverted = Instant::now();
        self.healthy_within(HEALED);
        let gaps = [Service::Postgres, Service::RedisWait, Service::Vip].map(|service| {
            let gap = load.longest_gap(service, from).seconds;
            format!("{} {gap:.1} s", service.name())
        });
        eprintln!("  rejoined after {:.1} s; gaps: {gaps:?}", reverted.elapsed().as_secs_f64());
        assert_eq!(self.late_writes(&node), "", "{node} acknowledged writes as an old leader");
        assert_eq!(self.storage_problems(&node), Vec::<String>::new());
        held
    }
}

#[test]
#[ignore = "minutes: make test-faults"]
fn storage_that_hangs_loses_every_role() {
    let lab = Lab::up_on_debian(workdir_alone(), &[]);
    lab.psql("5432", "CREATE TABLE late (at timestamptz DEFAULT now())").unwrap();
    let load = lab.load();
    let mut left = Vec::new();
    for role in ROLES {
        if !left.contains(&role) {
            left.extend(lab.roles_leave(&load, Fault::StorageHangs, role, "does not complete writes"));
        }
    }
    no_acknowledged_write_is_lost(load);
}

#[test]
#[ignore = "minutes: make test-faults"]
fn storage_that_is_read_only_or_full_loses_every_role() {
    let lab = Lab::up_on_debian(workdir_alone(), &[]);
    lab.psql("5432", "CREATE TABLE late (at timestamptz DEFAULT now())").unwrap();
    let load = lab.load();
    lab.roles_leave(&load, Fault::StorageReadOnly, Role::Postgres, "is read-only");
    lab.roles_leave(&load, Fault::Full, Role::Redis, "is full");
    no_acknowledged_write_is_lost(load);
}

/// The standbys' PostgreSQL does not run: the leader, whose disk is full, is the only copy that can be in service.
#[test]
#[ignore = "minutes: make test-faults"]
fn storage_of_the_only_copy_stops_the_other_servers() {
    let lab = Lab::up_on_debian(workdir_alone(), &[]);
    let (spec, driver) = (&lab.cluster.spec, lab.driver());
    let leader = lab.postgres_leader().unwrap();
    for node in other_than(&leader) {
        lab.output(node, &["systemctl", "stop", "patroni"]);
    }
    eventually(MOVED, || lab.psql("5432", "CREATE TABLE IF NOT EXISTS alone (n int)"));
    let stopped = || lab.sh(&leader, "cat /run/hanode/storage.json");
    Fault::Full.apply(&driver, spec, &leader).unwrap();
    eventually(MOVED, || match lab.storage_problems(&leader) {
        problems if problems.iter().any(|p| p.contains("except PostgreSQL, which no other node")) => Ok(()),
        problems => Err(format!("{problems:?} {}", stopped())),
    });
    until("Redis moves", MOVED, || lab.redis_primary().is_some_and(|primary| primary != leader));
    sleep(HELD);
    assert!(stopped().contains("\"kept\":[\"patroni\"]"), "{}", stopped());
    Fault::Full.revert(&driver, spec, &leader).unwrap();
    for node in other_than(&leader) {
        lab.output(node, &["systemctl", "start", "--no-block", "patroni"]);
    }
    lab.healthy_within(HEALED);
    assert_eq!(lab.psql("5432", "SELECT count(*) FROM alone").unwrap(), "0");
}

/// No node can take over, so none stops its servers: they go on as soon as the storage does.
#[test]
#[ignore = "minutes: make test-faults"]
fn storage_of_all_nodes_that_hangs_stops_no_server() {
    let lab = Lab::up_on_debian(workdir_alone(), &[]);
    let (spec, driver) = (&lab.cluster.spec, lab.driver());
    let load = lab.load();
    let started = |node: &str| {
        let units = "patroni redis-server redis-sentinel";
        lab.sh(node, &format!("systemctl show -p ExecMainStartTimestampMonotonic {units}"))
    };
    let before = NODES.map(started);
    for node in NODES {
        Fault::StorageHangs.apply(&driver, spec, node).unwrap();
    }
    sleep(Duration::from_secs(20));
    for node in NODES {
        eventually(MOVED, || match lab.storage_problems(node) {
            problems if problems.iter().any(|p| p.contains("run on until enough other nodes")) => Ok(()),
            problems => Err(format!("{problems:?}")),
        });
    }
    for node in NODES {
        Fault::StorageHangs.revert(&driver, spec, node).unwrap();
    }
    lab.healthy_within(HEALED);
    assert_eq!(NODES.map(started), before, "a server was stopped");
    no_acknowledged_write_is_lost(load);
}
