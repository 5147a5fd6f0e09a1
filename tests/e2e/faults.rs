//! Faults of single servers, in the lab under write load: what was promised is kept, the virtual IP has one
//! holder, nobody intervenes. Takes minutes and root: `make test-faults`.

use hanode::cluster::Cluster;
use hanode::health::{self, Access, Status};
use hanode::lab::chaos::Fault;
use hanode::lab::load::{Load, Service, Verdict};
use hanode::lab::{self, Lab, Options, Probe};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

const HEALED: Duration = Duration::from_secs(180);
/// Longer than Patroni's ttl and what follows.
const PG_PATIENCE: Duration = Duration::from_secs(45);

/// A cluster in a lab of its own, in service; it goes down with the test, however that ends.
struct Bench {
    cluster: Cluster,
    access: Access,
    lab: Lab,
    _dir: support::Workdir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:#?}", self.status().problems);
            for node in self.lab.nodes() {
                let words = ["journalctl", "-b", "-n", "60", "--no-pager", "-o", "short-precise"];
                let journal = self.lab.exec_output(node, &words);
                let text = journal.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
                eprintln!("--- {node}\n{}", text.unwrap_or_default());
            }
        }
        if let Err(error) = lab::down(&self.cluster.dir) {
            eprintln!("lab down: {error:#}");
        }
    }
}

impl Bench {
    /// Of the starter spec.
    fn up() -> Bench {
        Bench::edited(&[])
    }

    /// With these words of the spec replaced.
    fn edited(edit: &[(&str, &str)]) -> Bench {
        let dir = support::workdir();
        let (cluster, image): (Cluster, PathBuf) =
            support::edited_cluster_with_image(dir.path(), "node.tar", edit);
        let access = hanode::cli::access(&cluster.dir).unwrap();
        let options = Options {
            dir: cluster.dir.clone(),
            image,
            vm: false,
            timeout_scale: 2.0,
            nodes: Vec::new(),
            program: Some(HANODE.into()),
        };
        let probe = || match health::collect(&access) {
            Ok(Status { healthy, problems, .. }) => Probe { healthy, problems },
            Err(error) => Probe { healthy: false, problems: vec![format!("{error:#}")] },
        };
        let up = lab::up(&options, &cluster.spec, &probe, &AtomicBool::new(false));
        if let Err(error) = up {
            let _ = lab::down(&cluster.dir);
            panic!("{error:#}");
        }
        let lab = Lab::open(&cluster.dir).unwrap().run_by(HANODE);
        Bench { cluster, access, lab, _dir: dir }
    }

    fn status(&self) -> Status {
        self.lab.in_network(|| health::collect(&self.access)).unwrap().unwrap()
    }

    /// Twice in a row: the first look may be of before anybody noticed.
    fn healed(&self) {
        let begun = Instant::now();
        let mut well = 0;
        while well < 2 {
            let status = self.status();
            well = if status.healthy { well + 1 } else { 0 };
            assert!(begun.elapsed() < HEALED, "not well after {HEALED:?}: {:#?}", status.problems);
            sleep(Duration::from_millis(300));
        }
        eprintln!("  well {:.1} s later", begun.elapsed().as_secs_f64());
    }

    fn load(&self) -> Load {
        let load = Load::start(&self.lab, &self.access).unwrap();
        let begun = Instant::now();
        // Of a load balancer the health probe's port is not asked.
        let written = [Service::Postgres, Service::RedisWait, Service::RedisPlain];
        while written.iter().any(|s| load.acknowledged(*s) < 20) {
            assert!(begun.elapsed() < Duration::from_secs(30), "the load's writes are not acknowledged");
            sleep(Duration::from_millis(100));
        }
        load
    }

    fn on(&self, node: &str, script: &str) -> String {
        let output = self.lab.exec_output(node, &["sh", "-c", script]).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).trim().to_string();
        assert!(output.status.success(), "{node}: {script}: {}", String::from_utf8_lossy(&output.stderr));
        said
    }

    fn redis_primary(&self) -> String {
        self.status().redis.into_iter().find(|r| r.role == "master").unwrap().name
    }

    /// One of Sentinel's own commands.
    fn sentinel(&self, node: &str, words: &str) -> String {
        let address = self.cluster.spec.node(node).unwrap().address;
        let password = &self.cluster.secrets.sentinel;
        self.on(
            node,
            &format!(
                "REDISCLI_AUTH={password} redis-cli --tls --cacert /etc/ssl/myca/root.crt -h {address} -p 26378 {words}"
            ),
        )
    }

    /// Who has the virtual IP on its interface, looked at on the nodes themselves.
    fn holders(&self) -> Vec<String> {
        let vip = format!(" {}/", self.cluster.spec.network.vip);
        let holds = |node: &&str| {
            let output = self.lab.exec_output(node, &["ip", "-o", "address"]);
            output.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(&vip))
        };
        self.lab.nodes().filter(holds).map(String::from).collect()
    }
}

fn report(what: &str, verdict: &Verdict) {
    let row = |name: &str, kept: &lab::load::Kept| {
        format!("{name} {} of {} lost", kept.lost.len(), kept.acknowledged)
    };
    eprintln!(
        "{what}: {}, {}, {}",
        row("commits", &verdict.postgres),
        row("WAIT", &verdict.redis_wait),
        row("plain", &verdict.redis_plain)
    );
}

/// `SENTINEL FAILOVER`, as any operator types it, with clients writing: the primary lives on meanwhile.
#[test]
#[ignore = "minutes: make test-faults"]
fn planned_failovers_of_redis_lose_nothing() {
    let bench = Bench::up();
    let load = bench.load();
    for round in 0..6 {
        let before = bench.redis_primary();
        let asked = ["node1", "node2", "node3"][round % 3];
        let from = load.now();
        assert_eq!(bench.sentinel(asked, "sentinel failover redis-cluster"), "OK");
        let begun = Instant::now();
        while bench.sentinel("node1", "sentinel get-master-addr-by-name redis-cluster")
            == format!("{}\n6378", bench.cluster.spec.node(&before).unwrap().address)
        {
            assert!(begun.elapsed() < HEALED, "nobody was promoted");
            sleep(Duration::from_millis(200));
        }
        bench.healed();
        sleep(Duration::from_secs(2));
        let (wait, plain) =
            (load.longest_gap(Service::RedisWait, from), load.longest_gap(Service::RedisPlain, from));
        eprintln!(
            "{before} -> {} asked of {asked}: longest gap {:.1} s (WAIT), {:.1} s (plain)",
            bench.redis_primary(),
            wait.seconds,
            plain.seconds
        );
    }
    let verdict = load.stop().verify().unwrap();
    report("planned failovers", &verdict);
    assert!(verdict.promises_kept(), "{:?}", verdict.redis_wait);
    assert!(verdict.redis_plain.lost.is_empty(), "{:?}", verdict.redis_plain);
}

/// Leader of PostgreSQL and of etcd in one: that etcd comes back with an old clock, and would end the new leader's lock.
#[test]
#[ignore = "minutes: make test-faults"]
fn whoever_led_etcd_too_and_was_frozen_takes_nothing_back() {
    let bench = Bench::up();
    let spec = &bench.cluster.spec;
    let load = bench.load();
    for _ in 0..4 {
        let before = bench.postgres_leader().unwrap();
        let from = load.now();
        bench.on(&before, MOVE_ETCD_HERE);
        Fault::Freeze.apply(&bench.lab, spec, &before).unwrap();
        bench.until("another leads", || bench.postgres_leader().is_some_and(|leader| leader != before));
        let leader = bench.postgres_leader();
        Fault::Freeze.take_back(&bench.lab, spec, &before).unwrap();
        bench.healed();
        let gap = load.longest_gap(Service::Postgres, from);
        eprintln!(
            "{before} frozen, {leader:?} led, now {:?}, longest gap {:.1} s",
            bench.postgres_leader(),
            gap.seconds
        );
        assert_eq!(bench.postgres_leader(), leader);
    }
    let verdict = load.stop().verify().unwrap();
    report("frozen leaders", &verdict);
    assert!(verdict.promises_kept(), "{:?}", verdict.postgres.lost);
}

const MOVE_ETCD_HERE: &str = "E='etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/ssl/hanode/ca.crt \
    --cert=/etc/ssl/hanode/etcd.crt --key=/etc/ssl/hanode/etcd.key'; \
    own=$($E member list | grep \"$(hostname),\" | cut -d, -f1); \
    leads=$($E endpoint status --cluster | awk -F', ' '$5 == \"true\" {print $1}'); \
    case $leads in *\"$(hostname -I | cut -d' ' -f1)\":*) ;; *) E=\"$E --endpoints=$leads\"; $E move-leader $own || true;; esac";

/// The primary is stopped until another is promoted, and goes on at that very moment.
#[test]
#[ignore = "minutes: make test-faults"]
fn a_pause_that_ends_in_mid_failover_loses_nothing_promised() {
    let bench = Bench::up();
    let spec = &bench.cluster.spec;
    let load = bench.load();
    for fault in [Fault::PauseRedis, Fault::Freeze, Fault::PauseRedis, Fault::Freeze] {
        let before = bench.redis_primary();
        let from = load.now();
        fault.apply(&bench.lab, spec, &before).unwrap();
        bench.until("a replica is promoted", || bench.is_primary_elsewhere(&before));
        fault.take_back(&bench.lab, spec, &before).unwrap();
        bench.healed();
        let gap = load.longest_gap(Service::RedisWait, from);
        eprintln!("{} of {before}, longest gap {:.1} s", fault.name(), gap.seconds);
    }
    for fault in [Fault::Freeze, Fault::PausePostgres] {
        let before = bench.postgres_leader().unwrap();
        let from = load.now();
        fault.apply(&bench.lab, spec, &before).unwrap();
        // PostgreSQL alone may hang for less than Patroni's patience: then nobody is promoted.
        let begun = Instant::now();
        while bench.postgres_leader().is_none_or(|leader| leader == before) && begun.elapsed() < PG_PATIENCE {
            sleep(Duration::from_millis(200));
        }
        fault.take_back(&bench.lab, spec, &before).unwrap();
        bench.healed();
        let gap = load.longest_gap(Service::Postgres, from);
        eprintln!(
            "{} of {before} ({:?} leads now), longest gap {:.1} s",
            fault.name(),
            bench.postgres_leader(),
            gap.seconds
        );
    }
    let verdict = load.stop().verify().unwrap();
    report("pauses", &verdict);
    assert!(verdict.promises_kept(), "{:?} {:?}", verdict.redis_wait.lost, verdict.postgres.lost);
}

/// What is done to the virtual IP's holder, and how it is taken back.
const VIP_FAULTS: [(&str, &str, &str); 3] = [
    (
        "HAProxy's configuration broken, then a restart",
        "echo nonsense >> /etc/haproxy/haproxy.cfg; systemctl restart haproxy || true",
        "sed -i '/^nonsense/d' /etc/haproxy/haproxy.cfg; systemctl restart haproxy",
    ),
    ("interface down", "ip link set host0 down", "ip link set host0 up"),
    (
        "HAProxy killed, again and again",
        "systemd-run -q --unit=killer sh -c 'while :; do pkill -KILL -x haproxy; sleep 0.2; done'",
        "systemctl stop killer",
    ),
];

/// Whatever befalls its holder: the address moves, one node has it then, and one when all is over.
#[test]
#[ignore = "minutes: make test-faults"]
fn the_virtual_ip_leaves_a_node_that_cannot_serve() {
    let bench = Bench::up();
    let spec = &bench.cluster.spec;
    let load = bench.load();
    for (name, break_it, mend_it) in VIP_FAULTS {
        bench.vip_moves(
            &load,
            name,
            |node| drop(bench.on(node, break_it)),
            |node| drop(bench.on(node, mend_it)),
        );
    }
    for fault in [Fault::PauseHaproxy, Fault::Deaf, Fault::Mute, Fault::Split, Fault::Partition] {
        let name = fault.name();
        bench.vip_moves(
            &load,
            &name,
            |node| fault.apply(&bench.lab, spec, node).unwrap(),
            |node| fault.take_back(&bench.lab, spec, node).unwrap(),
        );
    }
    let verdict = load.stop().verify().unwrap();
    report("virtual IP", &verdict);
    assert!(verdict.promises_kept());
}

impl Bench {
    fn vip_moves(&self, load: &Load, what: &str, apply: impl Fn(&str), take_back: impl Fn(&str)) {
        let [holder] = &self.holders()[..] else { panic!("{:?} hold the address", self.holders()) };
        let from = load.now();
        let begun = Instant::now();
        apply(holder);
        self.until(what, || self.holders().iter().any(|h| h != holder) && !self.holders().contains(holder));
        let moved = begun.elapsed().as_secs_f64();
        // It stays where it is, with one node.
        let new = self.holders();
        for _ in 0..10 {
            sleep(Duration::from_millis(500));
            assert_eq!(self.holders(), new, "{what}");
        }
        take_back(holder);
        self.healed();
        for _ in 0..10 {
            sleep(Duration::from_millis(500));
            assert_eq!(self.holders().len(), 1, "{what}, taken back");
        }
        let gap = load.longest_gap(Service::Vip, from).seconds;
        eprintln!("{what}: {holder} -> {new:?} after {moved:.1} s, longest gap {gap:.1} s");
    }

    fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: not within 60 s");
            sleep(Duration::from_millis(50));
        }
    }

    fn is_primary_elsewhere(&self, than: &str) -> bool {
        let redis = &self.access.redis;
        let asked = |node: &hanode::spec::Node| {
            let (port, password) = (self.cluster.spec.redis.port, &self.access.secrets.redis);
            let patience = Duration::from_millis(500);
            hanode::client::redis::Redis::connect(redis.as_ref(), node.address, port, password, patience)?
                .info("replication")
        };
        let is = |node| asked(node).is_ok_and(|info| info.get("role").is_some_and(|r| r == "master"));
        self.lab.in_network(|| self.cluster.spec.peers(than).any(is)).unwrap()
    }

    fn postgres_leader(&self) -> Option<String> {
        self.status().postgres.into_iter().find(|m| m.role == "leader").map(|m| m.name)
    }
}

/// What an old leader alone has, and cannot be rewound since its log is gone: kept, while the node is cloned anew.
#[test]
#[ignore = "minutes: make test-faults"]
fn diverged_data_that_cannot_be_rewound_is_kept_aside() {
    let bench = Bench::up();
    let old = bench.postgres_leader().unwrap();
    let sql = |node: &str, words: &str| {
        let psql = "psql -XAtq -v ON_ERROR_STOP=1 -h /run/postgresql -p 5433 -U admin postgres";
        bench.on(node, &format!("runuser -u postgres -- {psql} -c \"{words}\""))
    };
    sql(&old, "CREATE TABLE told (n int)");
    bench.lab.link(&old, false).unwrap();
    // Commits that no standby has; a segment each, so that the one with the parting of ways can go.
    for n in 1..=4 {
        sql(&old, &format!("SET synchronous_commit = local; INSERT INTO told VALUES ({n})"));
        sql(&old, "SELECT pg_switch_wal()");
        sql(&old, "CHECKPOINT");
    }
    bench.until("another leads", || bench.postgres_leader().is_some_and(|leader| leader != old));
    bench.until("the old leader gave up", || sql(&old, "SELECT pg_is_in_recovery()") == "t");
    let data = "/var/lib/postgresql/17/hanode";
    bench.on(
        &old,
        &format!("cd {data}/pg_wal && rm -v $(ls -d 0000000?0* | grep -v history | sort | head -n -3)"),
    );
    bench.lab.link(&old, true).unwrap();
    bench.healed();

    let status = bench.status();
    let kept = &status.nodes.iter().find(|n| n.name == old).unwrap().kept_aside;
    let [aside] = &kept[..] else { panic!("{old} keeps {kept:?} aside") };
    assert!(aside.starts_with(&format!("{data}.aside-")), "{aside}");
    assert_eq!(sql(&old, "SELECT count(*) FROM told"), "0", "it follows the others");
    let look = format!(
        "rm -f {aside}/standby.signal; echo 'SELECT max(n) FROM told' | \
         runuser -u postgres -- /usr/lib/postgresql/17/bin/postgres --single -D {aside} -c logging_collector=off postgres"
    );
    let seen = bench.on(&old, &look);
    assert!(seen.contains("max = \"4\""), "what was kept holds what the others do not: {seen}");
    let table = health::table(&status, None);
    assert!(table.contains("kept aside") && table.contains("healthy"), "{table}");
}

/// A statement that is under way when its server hangs: the client is told once there is another leader.
#[test]
#[ignore = "minutes: make test-faults"]
fn sessions_on_an_old_leader_that_hangs_are_cut() {
    let bench = Bench::up();
    let spec = &bench.cluster.spec;
    let ca = bench.cluster.dir.join("pki/service/ca.crt");
    let password = format!("PGPASSWORD={}", bench.cluster.secrets.postgres_dbadmin);
    let target = format!(
        "host={} port=5432 user=dbadmin dbname=postgres sslmode=verify-full sslrootcert={}",
        spec.network.vip,
        ca.display()
    );
    let psql = ["env", &password, "timeout", "170", "psql", "-XAtq", "-c", "SELECT pg_sleep(600)", &target];
    let mut client = bench.lab.outside(&psql).spawn().unwrap();
    // Longer than what counts as connecting.
    sleep(Duration::from_secs(20));
    assert!(client.try_wait().unwrap().is_none(), "it sleeps");
    let old = bench.postgres_leader().unwrap();
    let begun = Instant::now();
    Fault::PausePostgres.apply(&bench.lab, spec, &old).unwrap();
    let status = client.wait().unwrap();
    let told = begun.elapsed();
    let leader = bench.postgres_leader();
    Fault::PausePostgres.take_back(&bench.lab, spec, &old).unwrap();
    bench.healed();
    eprintln!("{old} hung; {leader:?} leads, the client was told after {:.1} s", told.as_secs_f64());
    assert_ne!(status.code(), Some(124), "it was left hanging");
    assert_ne!(leader.as_ref(), Some(&old));
}

/// A load balancer as clouds have them: it asks each node's `/health` and sends clients to one that says yes.
struct Balancer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Balancer {
    /// On the address of the spec, which it puts on the lab's bridge.
    fn start(bench: &Bench) -> Balancer {
        let spec = bench.cluster.spec.clone();
        let vip = spec.network.vip;
        let output =
            bench.lab.run_outside(&["ip", "address", "add", &format!("{vip}/32"), "dev", "br0"]).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let nodes: Vec<IpAddr> = spec.nodes.iter().map(|n| n.address).collect();
        let stop = Arc::new(AtomicBool::new(false));
        // What `cloud-init/README.md` says.
        let ports =
            [spec.postgres.vip_port, spec.postgres.vip_read_port, spec.redis.vip_port, spec.haproxy.crl_port];
        let serve = |port| {
            let listener = bench.lab.in_network(|| TcpListener::bind((vip, port))).unwrap().unwrap();
            listener.set_nonblocking(true).unwrap();
            let (nodes, stop) = (nodes.clone(), stop.clone());
            // Threads begun in the lab's network stay in it.
            bench
                .lab
                .in_network(move || std::thread::spawn(move || balance(&listener, &nodes, port, &stop)))
                .unwrap()
        };
        Balancer { threads: ports.map(serve).into(), stop }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn balance(listener: &TcpListener, nodes: &[IpAddr], port: u16, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        let Ok((client, _)) = listener.accept() else {
            sleep(Duration::from_millis(10));
            continue;
        };
        let fit = nodes.iter().copied().find(|node| says(*node) == Some(200));
        let Some(node) = fit else { continue };
        let Ok(server) = TcpStream::connect_timeout(&(node, port).into(), Duration::from_secs(1)) else {
            continue;
        };
        client.set_nonblocking(false).unwrap();
        for (mut from, mut to) in
            [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
        {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    }
}

/// What a node's `/health` answers, where it does.
fn says(node: IpAddr) -> Option<u16> {
    let url = format!("http://{node}:7000/health");
    let patience = Duration::from_millis(500);
    hanode::client::http::Http::new(None, patience).ok()?.get(&url).ok().map(|answer| answer.status)
}

/// `vip_mode = "external"`: no node takes the address, and `/health` tells a load balancer who is fit.
#[test]
#[ignore = "minutes: make test-faults"]
fn a_load_balancer_is_told_who_is_fit() {
    let edit = [("vip_mode = \"vrrp\"", "vip_mode = \"external\"")];
    let bench = Bench::edited(&edit);
    let spec = &bench.cluster.spec;
    let asked = || -> Vec<Option<u16>> {
        bench.lab.in_network(|| spec.nodes.iter().map(|n| says(n.address)).collect()).unwrap()
    };
    bench.until("all are fit", || asked() == [Some(200); 3]);
    assert_eq!(bench.holders(), [""; 0]);
    for node in ["node1", "node2", "node3"] {
        assert_eq!(bench.on(node, "systemctl is-enabled keepalived || true"), "disabled", "{node}");
    }
    assert!(!bench.status().vip.answers, "nobody has the address yet");
    let _balancer = Balancer::start(&bench);
    bench.healed();
    assert!(bench.status().vip.answers);
    let load = bench.load();
    // The first is the one that the balancer likes best.
    for fault in [Fault::PauseHaproxy, Fault::Split, Fault::Power] {
        let from = load.now();
        fault.apply(&bench.lab, spec, "node1").unwrap();
        let refused = if fault == Fault::Split { Some(503) } else { None };
        bench.until(&fault.name(), || asked() == [refused, Some(200), Some(200)]);
        sleep(Duration::from_secs(3));
        assert_eq!(asked(), [refused, Some(200), Some(200)], "{}", fault.name());
        fault.take_back(&bench.lab, spec, "node1").unwrap();
        bench.healed();
        bench.until("all are fit", || asked() == [Some(200); 3]);
        let gap = load.longest_gap(Service::Postgres, from).seconds;
        eprintln!("{} of node1 behind a load balancer: {gap:.1} s without a commit", fault.name());
    }
    let verdict = load.stop().verify().unwrap();
    report("load balancer", &verdict);
    assert!(verdict.promises_kept());
}
