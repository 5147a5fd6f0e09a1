//! New certificates, a revocation and an edit of the spec on a running cluster, node after node, while clients hold
//! connections and make new ones. Everything is real, in the lab. Needs root.
#![allow(clippy::unwrap_used)]

mod common;

use hanode::client::redis::Redis;
use hanode::client::tls::Credentials;
use hanode::cluster::Cluster;
use hanode::lab::{self, Lab};
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

const HANODE: &str = env!("CARGO_BIN_EXE_hanode");
const NODES: [&str; 3] = ["node1", "node2", "node3"];
/// Connections of each kind that are held throughout.
const HELD: usize = 20;

struct Running {
    cluster: Cluster,
    lab: Lab,
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in NODES {
                let journal = self.on(node, &["journalctl", "-b", "-p", "notice", "-n", "60", "--no-pager"]);
                eprintln!("--- {node}\n{}", String::from_utf8_lossy(&journal.stdout));
            }
        }
        let _ = lab::down(&self.cluster.dir);
    }
}

impl Running {
    fn on(&self, node: &str, command: &[&str]) -> Output {
        self.lab.exec_output(node, command).unwrap()
    }

    fn said(&self, node: &str, command: &[&str]) -> String {
        let output = self.on(node, command);
        assert!(output.status.success(), "{node}: {command:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn outside(&self, command: &[&str]) -> Result<String, String> {
        let output = self.lab.run_outside(&[&["timeout", "20"], command].concat());
        let output = output.map_err(|error| format!("{error:#}"))?;
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn hanode(&self, words: &[&str]) -> String {
        let output = Command::new(HANODE).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn dir(&self) -> &str {
        self.cluster.dir.to_str().unwrap()
    }

    /// A file of the desk, whole at its place on a node.
    fn copy(&self, file: &Path, node: &str, to: &str) {
        let mut cat = self.lab.inside(node, &["sh", "-c", &format!("umask 077; cat > {to}")]).unwrap();
        let mut cat = cat.stdin(Stdio::piped()).spawn().unwrap();
        cat.stdin.take().unwrap().write_all(&std::fs::read(file).unwrap()).unwrap();
        assert!(cat.wait().unwrap().success());
    }

    /// What the README says, in its words: on one node after the other, as the user that may log in.
    fn apply_everywhere(&self) {
        let readme = include_str!("../README.md");
        let words =
            readme.lines().find_map(|line| line.trim().strip_prefix("ssh debian@$n '")?.split('\'').next());
        let words = words.expect("README's command");
        for node in NODES {
            let begun = Instant::now();
            let mut tar = Command::new("tar");
            tar.args(["-C", self.dir(), "-c", "bundle.tar.gz", "cluster.toml"]).stdout(Stdio::piped());
            let mut tar = tar.spawn().unwrap();
            let mut ssh =
                self.lab.inside(node, &["runuser", "-u", "debian", "--", "sh", "-c", words]).unwrap();
            let output = ssh.stdin(tar.stdout.take().unwrap()).output().unwrap();
            eprintln!("{}\n{node}: {:.1} s", text(&output.stderr), begun.elapsed().as_secs_f64());
            assert!(output.status.success() && tar.wait().unwrap().success(), "apply on {node}");
        }
    }

    /// The serial of the certificate that a server on a node shows.
    fn shown(&self, node: &str, port: u16, more: &[&str]) -> String {
        let address = self.cluster.spec.node(node).unwrap().address;
        let more = more.join(" ");
        let script = format!(
            "openssl s_client -connect {address}:{port} {more} </dev/null 2>/dev/null | openssl x509 -noout -serial"
        );
        self.outside(&["sh", "-c", &script]).unwrap().trim_start_matches("serial=").to_string()
    }

    /// The same for a port that is the nodes' own.
    fn shown_inside(&self, node: &str, port: u16, more: &str) -> String {
        let address = self.cluster.spec.node(node).unwrap().address;
        let script = format!(
            "openssl s_client -connect {address}:{port} {more} </dev/null 2>/dev/null | openssl x509 -noout -serial"
        );
        self.said(node, &["sh", "-c", &script]).trim().trim_start_matches("serial=").to_string()
    }

    /// By name of the leaf: what every server of a node shows.
    fn shown_by_all(&self, node: &str) -> Vec<(&'static str, String)> {
        let key = format!("{}/pki/cluster/operator.key", self.dir());
        let crt = format!("{}/pki/cluster/operator.crt", self.dir());
        let operator = ["-cert", crt.as_str(), "-key", key.as_str()];
        vec![
            ("pgsql", self.shown_inside(node, 5433, "-starttls postgres")),
            ("redis", self.shown(node, 6378, &[])),
            ("redis", self.shown(node, 26378, &[])),
            ("haproxy", self.shown(node, 6379, &[])),
            ("etcd", self.shown(node, 2379, &operator)),
            ("patroni", self.shown(node, 8008, &[])),
            ("node", self.shown(node, 7081, &operator)),
        ]
    }

    fn serial(&self, leaf: &str) -> String {
        let shown: Value =
            serde_json::from_str(&self.hanode(&["certs", "show", self.dir(), "--json"])).unwrap();
        let certificates = shown["certificates"].as_array().unwrap();
        let found = certificates.iter().find(|c| c["name"] == leaf).unwrap();
        found["serial"].as_str().unwrap().replace(':', "").to_uppercase()
    }

    fn all_show_the_present_certificates(&self) {
        for node in NODES {
            for (leaf, serial) in self.shown_by_all(node) {
                assert_eq!(serial, self.serial(leaf), "{node}: {leaf}");
            }
        }
    }

    fn status(&self) -> Value {
        let access = hanode::cli::access(&self.cluster.dir).unwrap();
        let status = self.lab.in_network(|| hanode::health::collect(&access)).unwrap().unwrap();
        serde_json::to_value(&status).unwrap()
    }

    fn eventually(&self, what: &str, limit: u64, mut look: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !look() {
            assert!(
                begun.elapsed().as_secs() < limit,
                "{what}: not within {limit} s; {:#}",
                self.status()["problems"]
            );
            sleep(Duration::from_millis(500));
        }
    }

    fn healthy(&self) {
        self.eventually("healthy", 120, || self.status()["healthy"] == true);
    }

    fn psql(&self) -> String {
        let ca = self.cluster.dir.join("pki/service/ca.crt");
        format!(
            "host=192.168.18.20 port=5432 user=dbadmin password={} dbname=postgres sslmode=verify-full connect_timeout=5 sslrootcert={}",
            self.cluster.secrets.postgres_dbadmin,
            ca.display()
        )
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_string()
}

/// Clients that hold a connection and use it, and others that connect anew each time.
struct Clients {
    stop: Arc<AtomicBool>,
    sessions: Vec<Child>,
    threads: Vec<JoinHandle<()>>,
    dropped_redis: Arc<AtomicUsize>,
    connected: Arc<[AtomicUsize; 2]>,
    refused: Arc<[AtomicUsize; 2]>,
}

#[derive(Debug)]
#[allow(dead_code)]
struct Count {
    held: usize,
    dropped_postgres: usize,
    dropped_redis: usize,
    new_postgres: usize,
    refused_postgres: usize,
    new_redis: usize,
    refused_redis: usize,
}

impl Clients {
    fn start(running: &Running) -> Clients {
        let mut clients = Clients {
            stop: Arc::default(),
            sessions: Vec::new(),
            threads: Vec::new(),
            dropped_redis: Arc::default(),
            connected: Arc::default(),
            refused: Arc::default(),
        };
        for _ in 0..HELD {
            let mut psql = running.lab.outside(&["psql", "-XAtq", &running.psql()]);
            psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut psql = psql.spawn().unwrap();
            // For ever, and not beyond an error.
            psql.stdin.take().unwrap().write_all(b"\\set ON_ERROR_STOP 1\nSELECT 1\n\\watch 0.5\n").unwrap();
            clients.sessions.push(psql);
        }
        let access = hanode::cli::access(&running.cluster.dir).unwrap();
        for held in (0..HELD).map(|_| true).chain([false]) {
            let (lab, credentials) = (Lab::open(&running.cluster.dir).unwrap(), access.redis.clone());
            let password = running.cluster.secrets.redis.clone();
            let (stop, dropped) = (clients.stop.clone(), clients.dropped_redis.clone());
            let (connected, refused) = (clients.connected.clone(), clients.refused.clone());
            let work = move || {
                while !stop.load(Ordering::SeqCst) {
                    match redis(credentials.as_ref(), &password) {
                        Ok(mut redis) if held => {
                            while !stop.load(Ordering::SeqCst) && redis.ask(&["PING"]).is_ok() {
                                sleep(Duration::from_millis(500));
                            }
                            if !stop.load(Ordering::SeqCst) {
                                dropped.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                        Ok(_) => drop(connected[1].fetch_add(1, Ordering::SeqCst)),
                        Err(_) => drop(refused[1].fetch_add(1, Ordering::SeqCst)),
                    }
                    sleep(Duration::from_millis(100));
                }
            };
            clients.threads.push(std::thread::spawn(move || lab.in_network(work).unwrap()));
        }
        let (lab, target) = (Lab::open(&running.cluster.dir).unwrap(), running.psql());
        let (stop, connected, refused) =
            (clients.stop.clone(), clients.connected.clone(), clients.refused.clone());
        let work = move || {
            while !stop.load(Ordering::SeqCst) {
                let output = Command::new("psql").args(["-XAtqc", "SELECT 1", &target]).output().unwrap();
                let count = if output.status.success() { &connected } else { &refused };
                count[0].fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(100));
            }
        };
        clients.threads.push(std::thread::spawn(move || lab.in_network(work).unwrap()));
        sleep(Duration::from_secs(3));
        clients
    }

    fn end(mut self) -> Count {
        let ended = |psql: &mut Child| psql.try_wait().unwrap().is_some();
        let dropped_postgres = self.sessions.iter_mut().filter_map(|psql| ended(psql).then_some(())).count();
        self.halt();
        let number = |n: &AtomicUsize| n.load(Ordering::SeqCst);
        Count {
            held: HELD,
            dropped_postgres,
            dropped_redis: number(&self.dropped_redis),
            new_postgres: number(&self.connected[0]),
            refused_postgres: number(&self.refused[0]),
            new_redis: number(&self.connected[1]),
            refused_redis: number(&self.refused[1]),
        }
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for psql in &mut self.sessions {
            let _ = psql.kill();
            let _ = psql.wait();
        }
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.halt();
    }
}

fn redis(credentials: Option<&Credentials>, password: &str) -> anyhow::Result<Redis> {
    Redis::connect(credentials, "192.168.18.20".parse()?, 6379, password, Duration::from_secs(5))
}

#[test]
fn a_running_cluster_takes_up_what_is_new() {
    let dir = common::place();
    // One network more than the starter has, which an edit takes away again.
    let more = [("clients = [\"192.168.18.0/24\"]", "clients = [\"192.168.18.0/24\", \"10.1.0.0/16\"]")];
    let (cluster, image) = common::edited_cluster_with_image(dir.path(), "node.tar", &more);
    let up = ["--image", image.to_str().unwrap(), "--timeout-scale", "3"];
    let output = Command::new(HANODE).args(["lab", "up"]).arg(&cluster.dir).args(up).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lab = Lab::open(&cluster.dir).unwrap().run_by(HANODE);
    let running = Running { cluster, lab };
    running.all_show_the_present_certificates();
    nothing_is_changed_by_what_is_unfit(&running);
    renewed(&running);
    revoked(&running);
    edited(&running);
    logs_are_bounded(&running);
    etcds_alarm_is_seen(&running);
}

/// A bundle cut short, another cluster's, another virtual IP: refused, and the node goes on with what it had.
fn nothing_is_changed_by_what_is_unfit(running: &Running) {
    let before = running.said("node1", &["sh", "-c", "find /etc -newer /run/hanode/taken-up.json -type f"]);
    let refused = |words: &str| {
        let output = running.on("node1", &["hanode", "apply"]);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{words:?}: {said}");
        // What is laid there does not reach a service that starts meanwhile.
        assert_eq!(running.status()["healthy"], true);
        running.said("node1", &["sh", "-c", "rm /etc/hanode/*"]);
    };
    let scratch = tempfile::tempdir().unwrap();
    let bundle = std::fs::read(running.cluster.dir.join("bundle.tar.gz")).unwrap();
    let cut = scratch.path().join("cut");
    std::fs::write(&cut, &bundle[..bundle.len() / 2]).unwrap();
    running.copy(&cut, "node1", "/etc/hanode/bundle.tar.gz");
    running.said("node1", &["systemctl", "restart", "redis-sentinel"]);
    running.eventually("Sentinel is back", 30, || running.status()["healthy"] == true);
    refused("truncated");

    let other = Cluster::init(&scratch.path().join("other"), hanode::spec::STARTER).unwrap();
    running.copy(&other.dir.join("bundle.tar.gz"), "node1", "/etc/hanode/bundle.tar.gz");
    refused("another service CA");

    let spec = running.cluster.spec_text.replace("router_id = 51", "router_id = 52");
    assert_ne!(spec, running.cluster.spec_text);
    std::fs::write(scratch.path().join("spec"), spec).unwrap();
    running.copy(&scratch.path().join("spec"), "node1", "/etc/hanode/cluster.toml");
    refused("keepalived.router_id");
    let after = running.said("node1", &["sh", "-c", "find /etc -newer /run/hanode/taken-up.json -type f"]);
    assert_eq!(before, after);
}

fn renewed(running: &Running) {
    let clients = Clients::start(running);
    running.hanode(&["certs", "renew", running.dir()]);
    running.apply_everywhere();
    running.healthy();
    let count = clients.end();
    eprintln!("renewal: {count:?}");
    assert_eq!((count.dropped_postgres, count.dropped_redis), (0, 0), "{count:?}");
    assert!(count.new_postgres > 20 && count.new_redis > 20, "{count:?}");
    assert_eq!((count.refused_postgres, count.refused_redis), (0, 0), "{count:?}");
    running.all_show_the_present_certificates();
}

/// Every file that a server writes to is rotated under it, and the journal has its bound.
fn logs_are_bounded(running: &Running) {
    let node = "node2";
    let written = "for f in /var/log/redis/redis.log /var/log/redis/sentinel.log /var/log/patroni/patroni.log; do test -s $f || echo $f; done; \
        ls /var/log/postgresql/postgresql-*.log > /dev/null";
    assert_eq!(running.said(node, &["sh", "-c", written]), "");
    for unit in ["etcd", "haproxy", "keepalived", "hanode-plan", "hanode-ready"] {
        let lines = running.said(node, &["sh", "-c", &format!("journalctl -b -u {unit} -o cat | wc -l")]);
        assert_ne!(lines, "0", "{unit} says nothing in the journal");
    }
    assert_eq!(running.said(node, &["systemctl", "is-enabled", "logrotate.timer"]), "enabled");
    let old = "f=/var/log/postgresql/postgresql-2020-01-01_000000.log; echo old > $f; chown postgres: $f; touch -d 2020-01-01 $f; \
        logrotate --force /etc/logrotate.conf && ! test -e $f && test -s /var/log/redis/redis.log.1";
    running.said(node, &["sh", "-c", old]);
    // Redis goes on in a file of the old name.
    running.said(node, &["systemctl", "reload", "redis-server"]);
    running.said(node, &["systemctl", "restart", "redis-sentinel"]);
    running.said(node, &["sh", "-c", "sleep 1; test -s /var/log/redis/sentinel.log"]);
    let journald = running.said(node, &["systemd-analyze", "cat-config", "systemd/journald.conf"]);
    assert!(journald.lines().any(|l| l == "SystemMaxUse=256M"), "{journald}");
    running.healthy();
}

/// What a full etcd says reaches the operator, and goes with the remedy of the README.
fn etcds_alarm_is_seen(running: &Running) {
    let member: Value = {
        let status = running.status();
        assert_eq!(status["healthy"], true);
        status["etcd"][0].clone()
    };
    let access = hanode::cli::access(&running.cluster.dir).unwrap();
    let alarm = |action: &str| {
        let http = || hanode::client::http::Http::new(Some(&access.cluster), Duration::from_secs(5));
        let body = serde_json::json!({"action": action, "alarm": "NOSPACE"});
        running
            .lab
            .in_network(|| http()?.call("https://192.168.18.21:2379/v3/maintenance/alarm", &body))
            .unwrap()
            .unwrap()
    };
    alarm("ACTIVATE");
    running.eventually(&format!("an alarm is seen, after {member}"), 20, || {
        running.status()["problems"].to_string().contains("NOSPACE")
    });
    let etcdctl = "etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/ssl/hanode/ca.crt --cert=/etc/ssl/hanode/etcd.crt --key=/etc/ssl/hanode/etcd.key";
    running.said("node1", &["sh", "-c", &format!("{etcdctl} defrag --cluster && {etcdctl} alarm disarm")]);
    running.healthy();
}

/// Certificates in use are revoked: the list comes into use once no node shows them any more, and their bearers
/// are refused from then on.
fn revoked(running: &Running) {
    let leaves = running.cluster.dir.join("pki");
    let old = tempfile::tempdir().unwrap();
    let keep = |ca: &str, leaf: &str| {
        for ending in ["crt", "key"] {
            let from = leaves.join(format!("{ca}/leaves/{leaf}.{ending}"));
            let to = old.path().join(format!("{leaf}.{ending}"));
            std::fs::copy(from, &to).unwrap();
        }
        old.path().join(leaf).to_str().unwrap().to_string()
    };
    let (pgsql, etcd) = (keep("service", "pgsql"), keep("cluster", "etcd"));
    let ca = running.cluster.dir.join("pki/cluster/ca.crt");
    let (ca, service) = (ca.to_str().unwrap(), running.cluster.dir.join("pki/service/ca.crt"));
    let asks_etcd = |node: &str| {
        let address = running.cluster.spec.node(node).unwrap().address;
        let (url, crt, key) =
            (format!("https://{address}:2379/version"), format!("{etcd}.crt"), format!("{etcd}.key"));
        running.outside(&["curl", "-sSf", "--cacert", ca, "--cert", &crt, "--key", &key, &url])
    };
    let asks_postgres = || {
        let target = format!("{} sslcert={pgsql}.crt sslkey={pgsql}.key", running.psql());
        running.outside(&["psql", "-XAtqc", "SELECT 1", &target])
    };
    let asks_haproxy = || {
        let (crt, key) = (format!("{pgsql}.crt"), format!("{pgsql}.key"));
        let password = format!("REDISCLI_AUTH={}", running.cluster.secrets.redis);
        let tls =
            ["redis-cli", "--tls", "--cacert", service.to_str().unwrap(), "--cert", &crt, "--key", &key];
        let said = running.outside(
            &[&["env", &password][..], &tls, &["-h", "192.168.18.20", "-p", "6379", "PING"]].concat(),
        );
        said.and_then(|said| if said == "PONG" { Ok(said) } else { Err(said) })
    };
    for node in NODES {
        asks_etcd(node).unwrap();
    }
    asks_postgres().unwrap();
    asks_haproxy().unwrap();

    running.hanode(&["certs", "revoke", running.dir(), "pgsql"]);
    running.hanode(&["certs", "revoke", running.dir(), "etcd"]);
    running.apply_everywhere();
    running.eventually("the lists come into use", 60, || {
        NODES.iter().all(|node| asks_etcd(node).is_err())
            && asks_postgres().is_err()
            && asks_haproxy().is_err()
    });
    running.healthy();
    running.all_show_the_present_certificates();
    running.outside(&["psql", "-XAtqc", "SELECT 1", &running.psql()]).unwrap();
    for node in NODES {
        running.said(node, &["sh", "-c", "! test -e /run/hanode/in-use/held-back"]);
    }
}

/// Edits of cluster.toml reach what runs: by reload, by restart, and in etcd where Patroni keeps it.
fn edited(running: &Running) {
    let spec = &running.cluster.spec_text;
    let edits = [
        ("ttl = 20", "ttl = 25"),
        ("# min_replicas = 1", "min_replicas = 2"),
        ("clients = [\"192.168.18.0/24\", \"10.1.0.0/16\"]", "clients = [\"192.168.18.0/24\"]"),
    ];
    running.outside(&["ip", "address", "add", "10.1.0.9/32", "dev", "br0"]).unwrap();
    let from_elsewhere = |address: &str| {
        let url = format!("http://{address}:7080/server.crl");
        running.outside(&["curl", "-sS", "-o", "/dev/null", "--interface", "10.1.0.9", &url])
    };
    for node in &running.cluster.spec.nodes {
        from_elsewhere(&node.address.to_string()).unwrap();
    }
    let mut new = edits.iter().fold(spec.clone(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    });
    new = new.replace(
        "[postgres.parameters]",
        "[postgres.parameters]\nwork_mem = \"7MB\"\nmax_connections = \"150\"\n",
    );
    std::fs::write(running.cluster.dir.join("cluster.toml"), new).unwrap();
    running.apply_everywhere();
    for node in &running.cluster.spec.nodes {
        let refused = from_elsewhere(&node.address.to_string()).unwrap_err();
        // No connection came to be: HAProxy itself would have sent the list.
        assert!(refused.contains("curl: (7)"), "{}: {refused}", node.name);
    }
    let leader = || {
        let status = running.status();
        let rows = status["postgres"].as_array().unwrap().clone();
        rows.iter().find(|r| r["role"] == "leader").map(|r| r["name"].as_str().unwrap().to_string())
    };
    let show = |what: &str| running.outside(&["psql", "-XAtqc", &format!("SHOW {what}"), &running.psql()]);
    running.eventually("work_mem", 30, || show("work_mem").as_deref() == Ok("7MB"));
    let config = || running.said("node1", &["patronictl", "-c", "/etc/patroni/config.yml", "show-config"]);
    running.eventually("etcd", 60, || {
        config().contains("ttl: 25") && config().contains("max_connections: '150'")
    });
    running.eventually("PostgreSQL has a leader", 30, || leader().is_some());
    let redis = running.said("node2", &["grep", "min-replicas-to-write", "/var/lib/redis/hanode/redis.conf"]);
    assert_eq!(redis, "min-replicas-to-write 2");
}
