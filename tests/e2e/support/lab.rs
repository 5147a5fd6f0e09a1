//! A cluster in a lab, operated with `hanode` as an operator would, and clients on its network.

use super::ImageSetup;
use super::leftovers::Leftovers;
use super::workdir::Workdir;
use crate::common::programs::{HANODE, hanode};
use hanode_admin::cluster_dir::ClusterDir;
use hanode_cluster::health::{self, Access, NodeStatus, Status};
use hanode_core::state::{Problem, Role};
use hanode_lab::chaos::Fault;
use hanode_lab::drill::{Drill, Recovery};
use hanode_lab::load::{Load, Service};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A commit in PostgreSQL waits for a dead synchronous standby until Patroni removes it from the list; HAProxy closes a
/// Redis client's connection sooner.
const LONGEST_CALL: Duration = Duration::from_secs(40);
/// Until an idle cluster is healthy, on a busy machine.
const REUSED: Duration = Duration::from_secs(120);
/// Until the cluster has repaired itself.
pub const HEALED: Duration = Duration::from_secs(180);
/// Until clients have written after their start.
const FIRST_WRITES: Duration = Duration::from_secs(30);
pub const NODES: [&str; 3] = ["node1", "node2", "node3"];
pub const ETCDCTL: &str = "etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/ssl/hanode/ca.crt \
    --cert=/etc/ssl/hanode/etcd.crt --key=/etc/ssl/hanode/etcd.key";

/// A drop takes it down, and asserts that nothing is left on this machine.
pub struct Lab {
    pub cluster: ClusterDir,
    pub image: PathBuf,
    before: Leftovers,
    _reaper: Reaper,
    _workdir: Workdir,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_journals();
            self.hanode(&["lab", "down"], &[]);
            return;
        }
        output("lab down", self.hanode(&["lab", "down"], &[]));
        assert_eq!(Leftovers::now(&self.cluster.dir), self.before);
    }
}

impl Lab {
    /// A cluster directory of the starter spec with these edits, and its image. Nothing runs yet.
    pub fn new(workdir: Workdir, setup: &ImageSetup, edits: &[(&str, &str)]) -> Lab {
        let (cluster, image) = setup.cluster(workdir.path(), "node.tar", edits);
        Lab::of(workdir, cluster, image)
    }

    /// A Debian cluster in service.
    pub fn up_on_debian(workdir: Workdir, edits: &[(&str, &str)]) -> Lab {
        let lab = Lab::new(workdir, &ImageSetup::debian(), edits);
        lab.up(&[]);
        lab
    }

    pub fn of(workdir: Workdir, cluster: ClusterDir, image: PathBuf) -> Lab {
        let before = Leftovers::now(&cluster.dir);
        let reaper = Reaper::start(&workdir, &cluster);
        Lab { cluster, image, before, _reaper: reaper, _workdir: workdir }
    }

    /// The lab for the next test, with the cluster directory read again.
    pub fn reused(mut self) -> Lab {
        self.cluster = ClusterDir::load(&self.cluster.dir).unwrap();
        self.healthy_within(REUSED);
        self
    }

    fn print_journals(&self) {
        let last = ["journalctl", "-b", "-n", "60", "--no-pager", "-o", "short-precise"];
        for node in NODES {
            let journal = self.on(node, &last);
            eprintln!("--- {node}\n{}", String::from_utf8_lossy(&journal.stdout));
        }
        eprintln!("{}", String::from_utf8_lossy(&self.hanode(&["lab", "status"], &[]).stdout));
    }

    pub fn hanode(&self, verb: &[&str], arguments: &[&str]) -> Output {
        hanode().args(verb).arg(&self.cluster.dir).args(arguments).output().unwrap()
    }

    /// Starts the nodes that do not run, and waits until the cluster is healthy.
    pub fn up(&self, arguments: &[&str]) {
        let mut all = vec!["--image", self.image.to_str().unwrap()];
        if !arguments.contains(&"--timeout-scale") {
            all.extend(["--timeout-scale", "2"]);
        }
        all.extend(arguments);
        let result = self.hanode(&["lab", "up"], &all);
        eprintln!("{}", String::from_utf8_lossy(&result.stderr));
        assert!(result.status.success(), "lab up {arguments:?}");
    }

    /// Replaces a node by a new machine with an empty disk.
    pub fn reprovision(&self, node: &str) {
        let result = self.hanode(&["lab", "reprovision"], &["--node", node, "--timeout-scale", "2"]);
        eprintln!("{}", String::from_utf8_lossy(&result.stderr));
        assert!(result.status.success(), "replacing {node}");
    }

    /// The lab's own interface, for actions that `hanode` has no command for.
    pub fn driver(&self) -> hanode_lab::Lab {
        hanode_lab::Lab::open(&self.cluster.dir).unwrap().run_by(HANODE)
    }

    pub fn on(&self, node: &str, command: &[&str]) -> Output {
        self.hanode(&["lab", "exec"], &[&["--node", node, "--"], command].concat())
    }

    /// Output of a command on a node, which must succeed.
    pub fn output(&self, node: &str, command: &[&str]) -> String {
        output(&format!("{node}: {command:?}"), self.on(node, command))
    }

    /// Output of a script on a node, without starting `hanode`: for loops that must be fast.
    pub fn sh(&self, node: &str, script: &str) -> String {
        output(&format!("{node}: {script}"), self.driver().exec_output(node, &["sh", "-ec", script]).unwrap())
    }

    /// A client on the lab's network, outside the nodes.
    pub fn client(&self, command: &[&str]) -> Output {
        self.hanode(&["lab", "client"], &[&["--"], command].concat())
    }

    /// A client's call, which must not hang, even during a fault.
    pub fn bounded(&self, command: &[&str]) -> Result<String, String> {
        let start = Instant::now();
        let result = self.client(&[&["timeout", "60"], command].concat());
        assert!(start.elapsed() < LONGEST_CALL, "a client hung for {:?}: {command:?}", start.elapsed());
        outcome(result)
    }

    /// Runs a call in the lab's network.
    pub fn in_network<T: Send>(&self, call: impl FnOnce() -> T + Send) -> T {
        self.driver().in_network(call).unwrap()
    }

    pub fn kill(&self, nodes: &[&str]) {
        for node in nodes {
            assert!(self.hanode(&["lab", "kill"], &["--node", node]).status.success(), "killing {node}");
        }
    }

    /// Output of `hanode lab status --json`.
    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.hanode(&["lab", "status"], &["--json"]).stdout).unwrap()
    }

    pub fn access(&self) -> Access {
        hanode_admin::access::access(&self.cluster.dir).unwrap()
    }

    /// The status, without starting `hanode`.
    pub fn health(&self) -> Status {
        let access = self.access();
        self.in_network(|| health::collect(&access)).unwrap()
    }

    /// Waits for two healthy results in a row: the first may be older than the fault.
    pub fn healthy_within(&self, limit: Duration) {
        let start = Instant::now();
        let mut healthy = 0;
        while healthy < 2 {
            let status = self.health();
            healthy = if status.healthy { healthy + 1 } else { 0 };
            assert!(
                start.elapsed() < limit,
                "not healthy after {limit:?}: {}",
                Problem::list(&status.problems)
            );
            sleep(Duration::from_millis(300));
        }
        eprintln!("healthy after {:.1} s", start.elapsed().as_secs_f64());
    }

    pub fn postgres_leader(&self) -> Option<String> {
        self.node_with(|node| node.servers.postgres.role == Some(Role::Leader))
    }

    pub fn sync_standby(&self) -> Option<String> {
        self.node_with(|node| node.servers.postgres.role == Some(Role::SyncStandby))
    }

    pub fn redis_primary(&self) -> Option<String> {
        self.node_with(|node| node.servers.redis.is_primary())
    }

    fn node_with(&self, is: impl Fn(&NodeStatus) -> bool) -> Option<String> {
        self.health().nodes.into_iter().find(is).map(|node| node.name)
    }

    /// The nodes with the virtual IP on an interface, as `ip` lists it on the node.
    pub fn vip_holders(&self) -> Vec<String> {
        let (vip, driver) = (format!(" {}/", self.cluster.spec.network.vip), self.driver());
        let holds = |node: &&str| {
            let output = driver.exec_output(node, &["ip", "-o", "address"]);
            output.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(&vip))
        };
        driver.nodes().filter(holds).map(String::from).collect()
    }

    /// Connection string of the applications' role for psql through the virtual IP, without a password.
    pub fn psql_target(&self, port: &str) -> String {
        let ca = self.cluster.dir.join("pki/service/ca.crt");
        format!(
            "host=192.168.18.20 port={port} user=app dbname=app sslmode=verify-full connect_timeout=5 sslrootcert={}",
            ca.display()
        )
    }

    /// As PostgreSQL's superuser in the applications' database, over the leader's local socket.
    pub fn superuser_sql(&self, sql: &str) -> String {
        const SCRIPT: &str = "for psql in /usr/lib/postgresql/*/bin/psql /usr/pgsql-*/bin/psql; do [ -x $psql ] && break; done; \
            exec runuser -u postgres -- $psql -XAtq -v ON_ERROR_STOP=1 -h /run/postgresql -p 5433 -U admin -c \"$0\" app";
        self.output(&self.postgres_leader().unwrap(), &["sh", "-c", SCRIPT, sql])
    }

    pub fn psql(&self, port: &str, sql: &str) -> Result<String, String> {
        let password = format!("PGPASSWORD={}", self.cluster.secrets.app().unwrap());
        let target = self.psql_target(port);
        let psql = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, &target];
        self.bounded(&[&["env", &password][..], &psql].concat())
    }

    pub fn redis(&self, words: &[&str]) -> Result<String, String> {
        let ca = self.cluster.dir.join("pki/service/ca.crt");
        let password = format!("REDISCLI_AUTH={}", self.cluster.secrets.redis);
        let client =
            ["redis-cli", "--tls", "--cacert", ca.to_str().unwrap(), "-h", "192.168.18.20", "-p", "6379"];
        self.bounded(&[&["env", &password][..], &client, words].concat())
    }

    /// A write to Redis that is acknowledged.
    pub fn redis_set(&self, key: &str, value: &str) -> Result<(), String> {
        let answer = self.redis(&["set", key, value])?;
        if answer == "OK" { Ok(()) } else { Err(answer) }
    }

    /// A query of a node's own PostgreSQL, as superuser.
    pub fn admin_sql(&self, node: &str, query: &str) -> String {
        let psql = format!("psql -XAtq -h /run/postgresql -p 5433 -U admin app -c \"{query}\"");
        self.sh(node, &format!("runuser -u postgres -- {psql}"))
    }

    /// One of Sentinel's own commands on a node.
    pub fn sentinel(&self, node: &str, words: &[&str]) -> String {
        let address = self.cluster.spec.node(node).unwrap().address.to_string();
        let password = format!("REDISCLI_AUTH={}", self.cluster.secrets.sentinel);
        let ca = ["--tls", "--cacert", "/etc/ssl/myca/root.crt"];
        let client = [&["env", &password, "redis-cli"], &ca[..], &["-h", &address, "-p", "26378"]].concat();
        self.output(node, &[&client[..], words].concat())
    }

    pub fn patroni(&self, node: &str, words: &[&str]) -> String {
        self.output(node, &[&["patronictl", "-c", "/etc/patroni/config.yml"], words].concat())
    }

    /// Ids of etcd's members, as a node reports them. A member that is removed and added again has a new id.
    pub fn etcd_members(&self, node: &str) -> Vec<String> {
        let plan = self.plan(node);
        let list = plan["observations"]["etcd"]["Ok"]["members"].as_array().unwrap();
        let mut ids: Vec<_> = list.iter().map(|m| m["ID"].as_str().unwrap().to_string()).collect();
        ids.sort();
        ids
    }

    /// Asserts that all etcd members have the same data, by its hash at one revision.
    pub fn etcd_agrees(&self, node: &str) {
        let script = format!(
            "rev=$({ETCDCTL} get / -w json | tr ',{{}}' '\\n' | sed -n 's/^\"revision\"://p'); \
             {ETCDCTL} endpoint hashkv --cluster --rev=$rev"
        );
        let output = self.output(node, &["sh", "-ec", &script]);
        let hashes: BTreeSet<&str> = output.lines().filter_map(|l| l.split(", ").nth(1)).collect();
        assert!(
            hashes.len() == 1 && output.lines().count() == NODES.len(),
            "etcd's members differ: {output}"
        );
    }

    /// The current plan of a node, with its observations.
    pub fn plan(&self, node: &str) -> Value {
        serde_json::from_str(&self.output(node, &[super::FIRSTBOOT, "plan", "--json"])).unwrap()
    }

    /// The state file of a node.
    pub fn state(&self, node: &str) -> Value {
        serde_json::from_str(&self.output(node, &["cat", "/run/hanode/state.json"])).unwrap()
    }

    /// Injects a fault, calls `hold`, reverts the fault and waits until the cluster is healthy.
    pub fn during(&self, load: &Load, fault: Fault, node: &str, hold: impl FnOnce()) -> Recovery {
        let (driver, access, nodes) = (self.driver(), self.access(), [node.to_string()]);
        let drill = Drill { lab: &driver, access: &access, limit: HEALED };
        let hold = || {
            hold();
            Ok(())
        };
        let faults = [(fault, nodes.as_slice())];
        drill.round(load, &format!("{} of {node}", fault.name()), &faults, hold).unwrap()
    }

    /// Clients that write through the virtual IP and record which writes are acknowledged.
    pub fn load(&self) -> Load {
        let load = Load::start(&self.driver(), &self.access()).unwrap();
        let start = Instant::now();
        // The health probe's port is not one that a load balancer forwards.
        let written = [Service::Postgres, Service::RedisWait, Service::RedisPlain];
        while written.iter().any(|service| load.acknowledged(*service) < 20) {
            assert!(start.elapsed() < FIRST_WRITES, "the load's writes are not acknowledged");
            sleep(Duration::from_millis(100));
        }
        load
    }
}

/// Asserts that all commits that the load recorded as acknowledged exist, and all Redis writes that `WAIT` confirmed.
#[track_caller]
pub fn no_acknowledged_write_is_lost(load: Load) -> hanode_lab::load::Verification {
    let writes = load.stop().verify().unwrap();
    eprintln!("{}", serde_json::to_string(&writes).unwrap());
    assert_eq!(writes.lost(), 0, "{:?} {:?}", writes.postgres.lost, writes.redis_wait.lost);
    writes
}

pub fn other_than(node: &str) -> Vec<&'static str> {
    NODES.into_iter().filter(|other| *other != node).collect()
}

#[track_caller]
pub fn output(what: &str, output: Output) -> String {
    outcome(output).unwrap_or_else(|error| panic!("{what}: {error}"))
}

pub fn outcome(output: Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

#[track_caller]
pub fn eventually<T>(limit: Duration, mut check: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(found) => return found,
            Err(why) if start.elapsed() > limit => panic!("not within {limit:?}: {why}"),
            Err(_) => sleep(Duration::from_millis(300)),
        }
    }
}

#[track_caller]
pub fn until(what: &str, limit: Duration, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        sleep(Duration::from_millis(50));
    }
}

/// Takes the lab down if the test program ends without dropping it: by a signal, or with a shared lab in a static. A
/// separate process waits until the kernel closes the pipe to it.
struct Reaper {
    process: Child,
    _pipe: Option<ChildStdin>,
}

impl Reaper {
    // An ending process closes the pipe before it releases the lock. If the next run already has the lock, it takes the
    // lab down.
    const SCRIPT: &'static str = r#"cat; exec 9<"$WORKDIR" && flock -w 20 9 || exit 0
        "$HANODE" lab down "$CLUSTER" && rm -rf "$WORKDIR""#;

    fn start(workdir: &Workdir, cluster: &ClusterDir) -> Reaper {
        // Outside the terminal's process group, whose processes Ctrl-C ends. The cluster directory is in the environment:
        // a process with it in its arguments would count as left over.
        let mut reaper = Command::new("setsid");
        reaper.args(["sh", "-c", Self::SCRIPT]).env("HANODE", HANODE);
        reaper.env("WORKDIR", workdir.outer()).env("CLUSTER", &cluster.dir);
        let mut process =
            reaper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pipe = process.stdin.take();
        Reaper { process, _pipe: pipe }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
