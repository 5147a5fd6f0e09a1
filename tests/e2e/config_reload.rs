//! New certificates, a revocation and edits of the spec on a running cluster, node after node, while clients hold
//! connections and make new ones. The tests share one cluster, which each of them leaves healthy.

use crate::common::programs::hanode;
use crate::support::clients::{Clients, psql_login};
use crate::support::lab::{ETCDCTL, Lab, NODES};
use crate::support::schedule::{self, Shared};
use crate::support::{workdir_alone, workdir_without_turn};
use hanode_admin::cluster_dir::ClusterDir;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const HEALTHY: Duration = Duration::from_secs(120);

pub fn cluster() -> Shared {
    schedule::shared("config_reload", || Lab::up_on_debian(workdir_without_turn(), &[]))
}

#[test]
fn servers_present_the_certificates_of_the_bundle() {
    cluster().presents_the_current_certificates();
}

/// A truncated bundle, another cluster's bundle, another router id: refused, and the node keeps its configuration.
#[test]
fn an_unfit_bundle_or_spec_is_rejected_and_changes_nothing() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let before = lab.output("node1", &["sh", "-c", "find /etc -newer /run/hanode/reloaded.json -type f"]);
    let refused = |words: &str| {
        let output = lab.on("node1", &["hanode", "apply"]);
        let message = text(&output.stderr);
        assert!(!output.status.success() && message.contains(words), "{words:?}: {message}");
        // A service that starts meanwhile does not use the pending files.
        assert!(lab.health().healthy);
        lab.output("node1", &["sh", "-c", "rm /etc/hanode/*"]);
    };
    let scratch = tempfile::tempdir().unwrap();
    let bundle = std::fs::read(lab.cluster.dir.join("bundle.tar.gz")).unwrap();
    let cut = scratch.path().join("cut");
    std::fs::write(&cut, &bundle[..bundle.len() / 2]).unwrap();
    lab.copy(&cut, "node1", "/etc/hanode/bundle.tar.gz");
    lab.output("node1", &["systemctl", "restart", "redis-sentinel"]);
    lab.eventually("Sentinel is back", 30, || lab.health().healthy);
    refused("truncated");

    let other = ClusterDir::init(&scratch.path().join("other"), hanode_core::spec::STARTER).unwrap();
    lab.copy(&other.dir.join("bundle.tar.gz"), "node1", "/etc/hanode/bundle.tar.gz");
    refused("another service CA");

    let spec = lab.cluster.spec_text.replace("router_id = 51", "router_id = 52");
    assert_ne!(spec, lab.cluster.spec_text);
    std::fs::write(scratch.path().join("spec"), spec).unwrap();
    lab.copy(&scratch.path().join("spec"), "node1", "/etc/hanode/cluster.toml");
    refused("keepalived.router_id");
    let after = lab.output("node1", &["sh", "-c", "find /etc -newer /run/hanode/reloaded.json -type f"]);
    assert_eq!(before, after);
}

#[test]
fn renewed_certificates_are_reloaded_without_a_dropped_connection() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let clients = Clients::start(lab);
    lab.certs("renew", &[]);
    lab.apply_everywhere();
    lab.healthy_within(HEALTHY);
    let count = clients.end();
    eprintln!("renewal: {count:?}");
    assert_eq!((count.dropped_postgres, count.dropped_redis), (0, 0), "{count:?}");
    assert!(count.new_postgres > 20 && count.new_redis > 20, "{count:?}");
    assert_eq!((count.refused_postgres, count.refused_redis), (0, 0), "{count:?}");
    lab.presents_the_current_certificates();
}

/// Every log file of a server is rotated while it runs, and the size of the journal is limited.
#[test]
fn logs_are_rotated_and_bounded() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let node = "node2";
    let written = "for f in /var/log/redis/redis.log /var/log/redis/sentinel.log /var/log/patroni/patroni.log; do test -s $f || echo $f; done; \
        ls /var/log/postgresql/postgresql-*.log > /dev/null";
    assert_eq!(lab.output(node, &["sh", "-c", written]), "");
    for unit in ["etcd", "haproxy", "keepalived", "hanode-plan", "hanode-ready"] {
        let lines = lab.output(node, &["sh", "-c", &format!("journalctl -b -u {unit} -o cat | wc -l")]);
        assert_ne!(lines, "0", "{unit} writes nothing to the journal");
    }
    assert_eq!(lab.output(node, &["systemctl", "is-enabled", "logrotate.timer"]), "enabled");
    let old = "f=/var/log/postgresql/postgresql-2020-01-01_000000.log; echo old > $f; chown postgres: $f; touch -d 2020-01-01 $f; \
        logrotate --force /etc/logrotate.conf && ! test -e $f && test -s /var/log/redis/redis.log.1";
    lab.output(node, &["sh", "-c", old]);
    // Redis continues in a new file of the same name.
    lab.output(node, &["systemctl", "reload", "redis-server"]);
    lab.output(node, &["systemctl", "restart", "redis-sentinel"]);
    lab.output(node, &["sh", "-c", "sleep 1; test -s /var/log/redis/sentinel.log"]);
    let journald = lab.output(node, &["systemd-analyze", "cat-config", "systemd/journald.conf"]);
    assert!(journald.lines().any(|l| l == "SystemMaxUse=256M"), "{journald}");
    lab.healthy_within(HEALTHY);
}

/// The status shows the alarm of a full etcd until an operator applies the remedy of the documentation.
#[test]
fn an_alarm_of_etcd_is_reported_until_it_is_disarmed() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let member: Value = {
        let status = lab.status();
        assert_eq!(status["healthy"], true);
        status["nodes"][0]["etcd"].clone()
    };
    let access = hanode_admin::access::access(&lab.cluster.dir).unwrap();
    let alarm = |action: &str| {
        let http =
            || hanode_cluster::client::http::HttpClient::new(Some(&access.cluster), Duration::from_secs(5));
        let body = serde_json::json!({"action": action, "alarm": "NOSPACE"});
        lab.in_network(|| http()?.call("https://192.168.18.21:2379/v3/maintenance/alarm", &body)).unwrap()
    };
    alarm("ACTIVATE");
    lab.eventually(&format!("an alarm is seen, after {member}"), 20, || {
        lab.status()["problems"].to_string().contains("NOSPACE")
    });
    lab.output("node1", &["sh", "-c", &format!("{ETCDCTL} defrag --cluster && {ETCDCTL} alarm disarm")]);
    lab.healthy_within(HEALTHY);
}

/// Certificates in use are revoked: the revocation list takes effect once no server presents them; then clients with them
/// are refused.
#[test]
fn revoked_certificates_are_refused_once_no_server_presents_them() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let leaves = lab.cluster.dir.join("pki");
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
    let ca = lab.cluster.dir.join("pki/cluster/ca.crt");
    let (ca, service) = (ca.to_str().unwrap(), lab.cluster.dir.join("pki/service/ca.crt"));
    let query_etcd = |node: &str| {
        let address = lab.cluster.spec.node(node).unwrap().address;
        let (url, crt, key) =
            (format!("https://{address}:2379/version"), format!("{etcd}.crt"), format!("{etcd}.key"));
        lab.outside(&["curl", "-sSf", "--cacert", ca, "--cert", &crt, "--key", &key, &url])
    };
    let query_postgres = || {
        let target = format!("{} sslcert={pgsql}.crt sslkey={pgsql}.key", psql_login(lab));
        lab.outside(&["psql", "-XAtqc", "SELECT 1", &target])
    };
    let query_haproxy = || {
        let (crt, key) = (format!("{pgsql}.crt"), format!("{pgsql}.key"));
        let password = format!("REDISCLI_AUTH={}", lab.cluster.secrets.redis);
        let tls =
            ["redis-cli", "--tls", "--cacert", service.to_str().unwrap(), "--cert", &crt, "--key", &key];
        let message = lab.outside(
            &[&["env", &password][..], &tls, &["-h", "192.168.18.20", "-p", "6379", "PING"]].concat(),
        );
        message.and_then(|message| if message == "PONG" { Ok(message) } else { Err(message) })
    };
    for node in NODES {
        query_etcd(node).unwrap();
    }
    query_postgres().unwrap();
    query_haproxy().unwrap();

    lab.certs("revoke", &["pgsql"]);
    lab.certs("revoke", &["etcd"]);
    lab.apply_everywhere();
    lab.eventually("the revocation lists take effect", 60, || {
        NODES.iter().all(|node| query_etcd(node).is_err())
            && query_postgres().is_err()
            && query_haproxy().is_err()
    });
    lab.healthy_within(HEALTHY);
    lab.presents_the_current_certificates();
    lab.outside(&["psql", "-XAtqc", "SELECT 1", &psql_login(lab)]).unwrap();
    for node in NODES {
        lab.output(node, &["sh", "-c", "! test -e /run/hanode/active/held-back"]);
    }
}

/// Edits of cluster.toml reach running servers: by reload, by restart, and in etcd for Patroni's dynamic configuration.
#[test]
fn edits_of_the_spec_reach_running_servers() {
    // A cluster of its own: with the two replicas that the edit asks for, no later restart of a node is allowed. Its
    // spec has one network more than the starter, which the edit removes again.
    let clients = ("clients = [\"192.168.18.0/24\"]", "clients = [\"192.168.18.0/24\", \"10.1.0.0/16\"]");
    let lab = &Lab::up_on_debian(workdir_alone(), &[clients]);
    let spec = &lab.cluster.spec_text;
    let edits = [
        ("ttl = 20", "ttl = 25"),
        ("# min_replicas = 1", "min_replicas = 2"),
        ("clients = [\"192.168.18.0/24\", \"10.1.0.0/16\"]", "clients = [\"192.168.18.0/24\"]"),
    ];
    lab.outside(&["ip", "address", "add", "10.1.0.9/32", "dev", "br0"]).unwrap();
    let from_elsewhere = |address: &str| {
        let url = format!("http://{address}:7080/server.crl");
        lab.outside(&["curl", "-sS", "-o", "/dev/null", "--interface", "10.1.0.9", &url])
    };
    for node in &lab.cluster.spec.nodes {
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
    std::fs::write(lab.cluster.dir.join("cluster.toml"), new).unwrap();
    lab.apply_everywhere();
    for node in &lab.cluster.spec.nodes {
        let refused = from_elsewhere(&node.address.to_string()).unwrap_err();
        // The connection fails; HAProxy would have sent the list.
        assert!(refused.contains("curl: (7)"), "{}: {refused}", node.name);
    }
    let leader = || {
        let status = lab.status();
        let rows = status["nodes"].as_array().unwrap().clone();
        rows.iter()
            .find(|r| r["postgres"]["role"] == "leader")
            .map(|r| r["name"].as_str().unwrap().to_string())
    };
    let show = |what: &str| lab.outside(&["psql", "-XAtqc", &format!("SHOW {what}"), &psql_login(lab)]);
    lab.eventually("work_mem", 30, || show("work_mem").as_deref() == Ok("7MB"));
    let config = || lab.output("node1", &["patronictl", "-c", "/etc/patroni/config.yml", "show-config"]);
    lab.eventually("etcd", 60, || {
        config().contains("ttl: 25") && config().contains("max_connections: '150'")
    });
    lab.eventually("PostgreSQL has a leader", 30, || leader().is_some());
    let redis = lab.output("node2", &["grep", "min-replicas-to-write", "/var/lib/redis/hanode/redis.conf"]);
    assert_eq!(redis, "min-replicas-to-write 2");
}

/// A setting changed by hand is in the status until it is undone; one in the spec takes effect without a restart, and
/// survives one.
#[test]
fn settings_of_redis_are_changed_without_a_restart_and_survive_one() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let cli = |node: &str, command: &str| {
        let password = lab.cluster.secrets.redis_admin.as_ref().unwrap();
        let tls = "--user hanode --tls --cacert /etc/ssl/myca/root.crt -p 6378";
        lab.output(
            node,
            &["sh", "-c", &format!("REDISCLI_AUTH={password} redis-cli -h $(hostname) {tls} {command}")],
        )
    };
    let get = |node: &str, name: &str| {
        cli(node, &format!("CONFIG GET {name}")).lines().nth(1).unwrap_or_default().to_string()
    };
    let processes = || NODES.map(|node| lab.output(node, &["pidof", "redis-server"]));
    let before = processes();

    assert_eq!(cli("node1", "CONFIG SET hz 33"), "OK");
    let finding = "node1: Redis runs with hz = \"33\", its file has \"10\"";
    lab.eventually("the status names it", 40, || lab.status()["problems"].to_string().contains("hz ="));
    let problems = lab.status()["problems"].clone();
    assert!(problems.as_array().unwrap().iter().any(|p| p["message"].as_str().unwrap().starts_with(finding)));
    lab.output("node1", &["hanode", "reload-redis"]);
    assert_eq!(get("node1", "hz"), "10");
    lab.healthy_within(HEALTHY);

    let old = lab.cluster.spec_text.clone();
    let new = old.replace(
        "[redis.parameters]",
        "[redis.parameters]\nhz = 20\nnotify-keyspace-events = \"Ex\"\nmaxmemory = \"100mb\"\n",
    );
    let limit = get("node1", "maxmemory");
    std::fs::write(lab.cluster.dir.join("cluster.toml"), new).unwrap();
    lab.apply_everywhere();
    for node in NODES {
        let values = ["hz", "notify-keyspace-events", "maxmemory"].map(|name| get(node, name));
        assert_eq!(values, ["20", "xE", "104857600"], "{node}");
    }
    assert_eq!(processes(), before, "Redis was restarted");
    let replica = NODES.into_iter().find(|node| cli(node, "ROLE").starts_with("slave")).unwrap();
    lab.output(replica, &["systemctl", "restart", "redis-server"]);
    lab.healthy_within(HEALTHY);
    assert_eq!((get(replica, "hz"), get(replica, "notify-keyspace-events")), ("20".into(), "xE".into()));

    std::fs::write(lab.cluster.dir.join("cluster.toml"), old).unwrap();
    lab.apply_everywhere();
    for node in NODES {
        let values = ["hz", "notify-keyspace-events", "maxmemory"].map(|name| get(node, name));
        assert_eq!(values, ["10", "", &limit], "{node}");
    }
    lab.healthy_within(HEALTHY);
}

/// With `huge_pages = "on"`, PostgreSQL starts only on a machine that has reserved such pages. No validator finds that.
#[test]
fn a_setting_with_which_postgresql_starts_nowhere_can_be_corrected() {
    let lab = &Lab::up_on_debian(workdir_alone(), &[]);
    let good = lab.cluster.spec_text.clone();
    let bad = good.replace("[postgres.parameters]", "[postgres.parameters]\nhuge_pages = \"on\"\n");
    std::fs::write(lab.cluster.dir.join("cluster.toml"), bad).unwrap();
    lab.apply_everywhere();
    let restarts = NODES.map(|node| lab.on(node, &["systemctl", "restart", "--no-block", "patroni"]));
    assert!(restarts.iter().all(|restart| restart.status.success()));
    let query = || lab.outside(&["psql", "-XAtqc", "SELECT 1", &psql_login(lab)]);
    lab.eventually("PostgreSQL is down", 60, || query().is_err());
    sleep(Duration::from_secs(15));
    assert!(query().is_err(), "it started with huge pages");

    std::fs::write(lab.cluster.dir.join("cluster.toml"), good).unwrap();
    let start = Instant::now();
    lab.apply_everywhere();
    lab.eventually("PostgreSQL accepts connections", 60, || query().is_ok());
    lab.eventually("the cluster is healthy", 60, || lab.health().healthy);
    eprintln!("healthy {:.1} s after the first apply", start.elapsed().as_secs_f64());
}

/// The libraries of a spec must exist on the node.
#[test]
fn a_library_to_preload_that_is_not_installed_is_refused() {
    let cluster = cluster();
    let lab: &Lab = &cluster;
    let spec = lab.cluster.spec_text.replace(
        "[postgres.parameters]",
        "[postgres.parameters]\nshared_preload_libraries = \"auto_explain, timescaledb\"\n",
    );
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("spec"), spec).unwrap();
    lab.copy(&scratch.path().join("spec"), "node1", "/etc/hanode/cluster.toml");
    let output = lab.on("node1", &["hanode", "apply"]);
    lab.output("node1", &["sh", "-c", "rm /etc/hanode/*"]);
    let message = text(&output.stderr);
    assert!(!output.status.success(), "{message}");
    assert!(
        message.contains("PostgreSQL has no library timescaledb (shared_preload_libraries)"),
        "{message}"
    );
    assert!(lab.health().healthy);
}

impl Lab {
    pub fn certs(&self, verb: &str, arguments: &[&str]) -> String {
        let output = hanode().args(["certs", verb, self.dir()]).args(arguments).output().unwrap();
        assert!(output.status.success(), "certs {verb}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub fn outside(&self, command: &[&str]) -> Result<String, String> {
        let output = self.driver().client_output(&[&["timeout", "20"], command].concat());
        let output = output.map_err(|error| format!("{error:#}"))?;
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    pub fn dir(&self) -> &str {
        self.cluster.dir.to_str().unwrap()
    }

    /// A file of the admin machine, copied to a node.
    fn copy(&self, file: &Path, node: &str, to: &str) {
        let mut cat =
            self.driver().node_command(node, &["sh", "-c", &format!("umask 077; cat > {to}")]).unwrap();
        let mut cat = cat.stdin(Stdio::piped()).spawn().unwrap();
        cat.stdin.take().unwrap().write_all(&std::fs::read(file).unwrap()).unwrap();
        assert!(cat.wait().unwrap().success());
    }

    /// Runs the command of docs/operate.md on one node after the other, as the login user.
    pub fn apply_everywhere(&self) {
        let page = include_str!("../../docs/operate.md");
        let script =
            page.lines().find_map(|line| line.trim().strip_prefix("ssh debian@$n '")?.split('\'').next());
        let script = script.expect("the command of docs/operate.md");
        for node in NODES {
            let start = Instant::now();
            let mut tar = Command::new("tar");
            tar.args(["-C", self.dir(), "-c", "bundle.tar.gz", "cluster.toml"]).stdout(Stdio::piped());
            let mut tar = tar.spawn().unwrap();
            let mut ssh = self
                .driver()
                .node_command(node, &["runuser", "-u", "debian", "--", "sh", "-c", script])
                .unwrap();
            let output = ssh.stdin(tar.stdout.take().unwrap()).output().unwrap();
            eprintln!("{}\n{node}: {:.1} s", text(&output.stderr), start.elapsed().as_secs_f64());
            assert!(output.status.success() && tar.wait().unwrap().success(), "apply on {node}");
        }
    }

    /// The serial of the certificate that a server on a node presents.
    fn served_serial(&self, node: &str, port: u16, more: &[&str]) -> String {
        let address = self.cluster.spec.node(node).unwrap().address;
        let more = more.join(" ");
        let script = format!(
            "openssl s_client -connect {address}:{port} {more} </dev/null 2>/dev/null | openssl x509 -noout -serial"
        );
        self.outside(&["sh", "-c", &script]).unwrap().trim_start_matches("serial=").to_string()
    }

    /// The same for a port that only nodes reach.
    fn served_serial_inside(&self, node: &str, port: u16, more: &str) -> String {
        let address = self.cluster.spec.node(node).unwrap().address;
        let script = format!(
            "openssl s_client -connect {address}:{port} {more} </dev/null 2>/dev/null | openssl x509 -noout -serial"
        );
        self.output(node, &["sh", "-c", &script]).trim().trim_start_matches("serial=").to_string()
    }

    /// What every server of a node presents, by name of the certificate.
    fn served_serials(&self, node: &str) -> Vec<(&'static str, String)> {
        let key = format!("{}/pki/cluster/operator.key", self.dir());
        let crt = format!("{}/pki/cluster/operator.crt", self.dir());
        let operator = ["-cert", crt.as_str(), "-key", key.as_str()];
        vec![
            ("pgsql", self.served_serial_inside(node, 5433, "-starttls postgres")),
            ("redis", self.served_serial(node, 6378, &[])),
            ("redis", self.served_serial(node, 26378, &[])),
            ("haproxy", self.served_serial(node, 6379, &[])),
            ("etcd", self.served_serial(node, 2379, &operator)),
            ("patroni", self.served_serial(node, 8008, &[])),
            ("node", self.served_serial(node, 7081, &operator)),
        ]
    }

    fn serial(&self, leaf: &str) -> String {
        let shown: Value = serde_json::from_str(&self.certs("show", &["--json"])).unwrap();
        let certificates = shown["certificates"].as_array().unwrap();
        let found = certificates.iter().find(|c| c["name"] == leaf).unwrap();
        found["serial"].as_str().unwrap().replace(':', "").to_uppercase()
    }

    pub fn presents_the_current_certificates(&self) {
        for node in NODES {
            for (leaf, serial) in self.served_serials(node) {
                assert_eq!(serial, self.serial(leaf), "{node}: {leaf}");
            }
        }
    }

    pub fn eventually(&self, what: &str, limit: u64, mut is: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is() {
            let problems = || self.health().problems;
            assert!(start.elapsed().as_secs() < limit, "{what}: not within {limit} s; {:#?}", problems());
            sleep(Duration::from_millis(500));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_string()
}
