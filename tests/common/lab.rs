//! A lab that a test drives as an operator would, by `hanode`; and clients on its network.

use hanode::cluster::Cluster;
use hanode::lab::load::Load;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// PostgreSQL's commit waits for a dead synchronous standby until Patroni takes it off the list; a Redis
/// client's connection is given up by HAProxy sooner.
const HANGS: Duration = Duration::from_secs(40);
pub const NODES: [&str; 3] = ["node1", "node2", "node3"];

/// A lab that goes down with the test, however that ends.
pub struct Lab {
    pub cluster: Cluster,
    pub image: PathBuf,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = ["-b", "-p", "warning", "-n", "40", "--no-pager"];
            for node in NODES {
                let journal = self.on(node, &[&["journalctl"], &last[..]].concat());
                eprintln!("--- {node}\n{}", String::from_utf8_lossy(&journal.stdout));
            }
            eprintln!("{}", String::from_utf8_lossy(&self.hanode(&["lab", "status"], &[]).stdout));
        }
        self.hanode(&["lab", "down"], &[]);
    }
}

impl Lab {
    pub fn hanode(&self, verb: &[&str], arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hanode"));
        command.args(verb).arg(&self.cluster.dir).args(arguments).output().unwrap()
    }

    pub fn up(&self, arguments: &[&str]) {
        let image = self.image.to_str().unwrap();
        let all = [&["--image", image, "--timeout-scale", "2"], arguments].concat();
        let output = self.hanode(&["lab", "up"], &all);
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "lab up {arguments:?}");
    }

    pub fn on(&self, node: &str, command: &[&str]) -> Output {
        self.hanode(&["lab", "exec"], &[&["--node", node, "--"], command].concat())
    }

    /// What a command on a node prints; it must succeed.
    pub fn said(&self, node: &str, command: &[&str]) -> String {
        said(&format!("{node}: {command:?}"), self.on(node, command))
    }

    /// A client on the lab's network, outside the nodes.
    pub fn client(&self, command: &[&str]) -> Output {
        self.hanode(&["lab", "client"], &[&["--"], command].concat())
    }

    /// A client's call; whatever happens to the cluster meanwhile, it must not hang for longer than this.
    pub fn bounded(&self, command: &[&str]) -> Result<String, String> {
        let begun = Instant::now();
        let output = self.client(&[&["timeout", "60"], command].concat());
        assert!(begun.elapsed() < HANGS, "a client hung for {:?}: {command:?}", begun.elapsed());
        outcome(output)
    }

    pub fn kill(&self, nodes: &[&str]) {
        for node in nodes {
            assert!(self.hanode(&["lab", "kill"], &["--node", node]).status.success(), "killing {node}");
        }
    }

    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.hanode(&["lab", "status"], &["--json"]).stdout).unwrap()
    }

    pub fn psql(&self, port: &str, sql: &str) -> Result<String, String> {
        let ca = self.cluster.dir.join("pki/service/ca.crt");
        let secrets = &self.cluster.secrets;
        let target = format!(
            "host=192.168.18.20 port={port} user=dbadmin dbname=postgres sslmode=verify-full connect_timeout=5 sslrootcert={}",
            ca.display()
        );
        let password = format!("PGPASSWORD={}", secrets.postgres_dbadmin);
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

    /// One of Sentinel's own commands on a node.
    pub fn sentinel(&self, node: &str, words: &[&str]) -> String {
        let address = self.cluster.spec.node(node).unwrap().address.to_string();
        let password = format!("REDISCLI_AUTH={}", self.cluster.secrets.sentinel);
        let client = [
            "env",
            &password,
            "redis-cli",
            "--tls",
            "--cacert",
            "/etc/ssl/myca/root.crt",
            "-h",
            &address,
            "-p",
            "26378",
        ];
        self.said(node, &[&client[..], words].concat())
    }

    pub fn patroni(&self, node: &str, words: &[&str]) -> String {
        self.said(node, &[&["patronictl", "-c", "/etc/patroni/config.yml"], words].concat())
    }

    /// All members of etcd hold the same: a hash over the data up to one revision is the same on each.
    pub fn etcd_agrees(&self, node: &str) {
        let etcdctl = "etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/ssl/hanode/ca.crt \
                       --cert=/etc/ssl/hanode/etcd.crt --key=/etc/ssl/hanode/etcd.key";
        let script = format!(
            "rev=$({etcdctl} get / -w json | tr ',{{}}' '\\n' | sed -n 's/^\"revision\"://p'); \
                              {etcdctl} endpoint hashkv --cluster --rev=$rev"
        );
        let said = self.said(node, &["sh", "-ec", &script]);
        let hashes: BTreeSet<&str> = said.lines().filter_map(|l| l.split(", ").nth(1)).collect();
        assert!(hashes.len() == 1 && said.lines().count() == NODES.len(), "etcd's members differ: {said}");
    }

    /// The node with a role in a part of the status.
    pub fn holder(&self, part: &str, role: &str) -> Option<String> {
        let status = self.status();
        let rows = status[part].as_array()?.iter();
        rows.filter(|r| r["role"] == role).find_map(|r| r["name"].as_str().map(String::from))
    }

    /// The lab itself, for what no verb of `hanode` does.
    pub fn inner(&self) -> hanode::lab::Lab {
        hanode::lab::Lab::open(&self.cluster.dir).unwrap().run_by(env!("CARGO_BIN_EXE_hanode"))
    }

    /// What a node writes of itself.
    pub fn state(&self, node: &str) -> Value {
        serde_json::from_str(&self.said(node, &["cat", "/run/hanode/state.json"])).unwrap()
    }

    /// Clients that write through the virtual IP and remember what was acknowledged.
    pub fn load(&self) -> Load {
        let lab = hanode::lab::Lab::open(&self.cluster.dir).unwrap();
        Load::start(&lab, &hanode::cli::access(&self.cluster.dir).unwrap()).unwrap()
    }

    pub fn healthy_within(&self, limit: Duration) {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if status["healthy"] == true {
                eprintln!("healthy after {:.1} s", begun.elapsed().as_secs_f64());
                return;
            }
            assert!(begun.elapsed() < limit, "not healthy after {limit:?}: {:#}", status["problems"]);
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

pub fn said(what: &str, output: Output) -> String {
    outcome(output).unwrap_or_else(|error| panic!("{what}: {error}"))
}

pub fn outcome(output: Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

pub fn eventually<T>(limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) if begun.elapsed() > limit => panic!("{why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(300)),
        }
    }
}
