//! The spec: values of the starter, and the line of each fault.

use hanode_core::spec::{Faults, Repository, STARTER, Spec, VipMode, parse, warnings};

fn starter() -> Spec {
    parse(STARTER).unwrap_or_else(|faults| panic!("the starter has faults:\n{faults}"))
}

/// The starter with one piece replaced, which must occur exactly once.
fn with(old: &str, new: &str) -> String {
    assert_eq!(STARTER.matches(old).count(), 1, "{old:?} is not in the starter exactly once");
    STARTER.replace(old, new)
}

/// The starter with backups into this repository.
fn with_backup(repository: &str, keys: &str) -> String {
    let table = format!("[backup]\nrepository = \"{repository}\"\n{keys}\n");
    with("# [backup]\n# repository = \"s3://bucket/prefix\"", &format!("{table}# repository"))
}

fn line_of(text: &str, piece: &str) -> usize {
    text.lines().position(|line| line.contains(piece)).expect("the piece is in the text") + 1
}

/// Parses `text`, which must have exactly one fault, on the line of `piece`, whose text holds `what`.
#[track_caller]
pub(crate) fn one_fault(text: &str, piece: &str, what: &str) {
    let Faults(faults) = parse(text).expect_err("a fault");
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert_eq!(faults[0].line, line_of(text, piece), "{faults:#?}");
    let message = faults[0].to_string();
    assert!(message.contains(what), "{message:?} does not contain {what:?}");
}

#[test]
fn starter_has_the_documented_values() {
    let spec = starter();
    assert_eq!((spec.schema, spec.name.as_str()), (1, "hspas"));
    let network = &spec.network;
    assert_eq!(network.subnet.to_string(), "192.168.18.0/24");
    assert_eq!(network.clients.iter().map(|n| n.to_string()).collect::<Vec<_>>(), ["192.168.18.0/24"]);
    assert_eq!(network.vip.to_string(), "192.168.18.20");
    assert_eq!((network.vip_mode, network.join_port), (VipMode::Vrrp, 7081));
    let nodes: Vec<_> = spec
        .nodes
        .iter()
        .map(|n| (n.name.as_str(), n.address.to_string(), n.hostname.as_str(), n.vrrp_priority))
        .collect();
    let node = |name, address: &str, priority| (name, address.to_string(), name, priority);
    assert_eq!(
        nodes,
        [
            node("node1", "192.168.18.21", 99),
            node("node2", "192.168.18.22", 100),
            node("node3", "192.168.18.23", 101)
        ]
    );
    let pg = &spec.postgres;
    assert!(pg.tls && pg.synchronous && pg.parameters.is_empty());
    assert!(!pg.superusers_from_clients);
    assert_eq!(pg.alt_names, ["pgsql.demo.lab", "*.demo.lab"]);
    assert_eq!((pg.port, pg.vip_port, pg.vip_read_port), (5433, 5432, 5434));
    let patroni = &spec.patroni;
    assert_eq!(
        (patroni.ttl, patroni.loop_wait, patroni.retry_timeout, patroni.restapi_port),
        (20, 10, 5, 8008)
    );
    let redis = &spec.redis;
    assert!(redis.tls);
    assert_eq!(redis.alt_names, ["redis.demo.lab", "*.demo.lab"]);
    assert_eq!((redis.initial_primary.as_str(), redis.master_name.as_str()), ("node2", "redis-cluster"));
    assert_eq!((redis.min_replicas, redis.port, redis.vip_port, redis.sentinel_port), (1, 6378, 6379, 26378));
    assert_eq!((spec.haproxy.stats_port, spec.haproxy.crl_port), (7000, 7080));
    assert!(spec.haproxy.extra.is_empty());
    assert_eq!((spec.keepalived.router_id, spec.keepalived.interface.as_deref()), (51, None));
    let pki = &spec.pki;
    assert_eq!(
        (pki.ca_name.as_str(), pki.ca_days, pki.leaf_days, pki.crl_days),
        ("Self-Signed CA", 3650, 1825, 3650)
    );
    assert_eq!(pki.crl_url, "http://192.168.18.20:7080/server.crl");
    assert_eq!(spec.storage.data, None);
}

/// A missing key has the value that the starter shows.
#[test]
fn defaults_are_the_starters_values() {
    let least = r#"
        schema = 1
        network = { subnet = "192.168.18.0/24", vip = "192.168.18.20" }
        node = [
            { name = "node1", address = "192.168.18.21" },
            { name = "node2", address = "192.168.18.22" },
            { name = "node3", address = "192.168.18.23" },
        ]"#;
    let mut spec = parse(least).expect("the least spec");
    spec.postgres.alt_names = starter().postgres.alt_names;
    spec.redis.alt_names = starter().redis.alt_names;
    assert_eq!(spec, starter());
    assert_eq!(spec.hash(), starter().hash());
}

#[test]
fn optional_values_are_read() {
    let text = with(
        "# max_connections = 200",
        "max_connections = 200\nfsync = true\nrandom_page_cost = 1.1\nbig = 0x10\n\"a.b\" = \"c\"",
    )
    .replace("# global = [", "global = [")
    .replace("# idle_timeout = \"24d\"", "idle_timeout = \"12h\"")
    .replace("# maxmemory = \"2gb\"", "hz = 20\nactiverehashing = true")
    .replace("# interface =", "interface =")
    .replace("# data =", "data =")
    .replace("# ca_days = 3650", "ca_days = 700")
    .replace("vip_mode = \"vrrp\"", "vip_mode = \"external\"")
    .replace("vip = \"192.168.18.20\"", "vip = \"10.0.0.1\"")
    .replace("name = \"node3\"", "name = \"node3\"\nhostname = \"db3.example.org\"\nvrrp_priority = 7");
    let spec = parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
    let parameters: Vec<_> = spec.postgres.parameters.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(parameters, ["a.b=c", "big=16", "fsync=on", "max_connections=200", "random_page_cost=1.1"]);
    assert_eq!((starter().haproxy.idle_timeout, spec.haproxy.idle_timeout), (24 * 86_400, 43_200));
    assert_eq!(spec.redis.parameters["hz"], "20");
    assert_eq!(spec.redis.parameters["activerehashing"], "on");
    assert_eq!(spec.haproxy.extra["global"], ["nbthread 2"]);
    assert_eq!(spec.keepalived.interface.as_deref(), Some("eth0"));
    assert_eq!(spec.storage.data.as_deref(), Some("LABEL=hanode-data"));
    assert_eq!((spec.pki.ca_days, spec.pki.leaf_days, spec.pki.crl_days), (700, 700, 700));
    assert_eq!(spec.network.vip_mode, VipMode::External);
    assert_eq!(spec.pki.crl_url, "http://10.0.0.1:7080/server.crl");
    assert_eq!((spec.nodes[2].hostname.as_str(), spec.nodes[2].vrrp_priority), ("db3.example.org", 7));
}

#[test]
fn a_cluster_may_use_ipv6() {
    let text = STARTER.replace("192.168.18.0/24", "fd00:18::/64").replace("192.168.18.", "fd00:18::");
    let spec = parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(spec.pki.crl_url, "http://[fd00:18::20]:7080/server.crl");
}

/// A valid DNS name that is too long for a host name.
const LONG: &str = "name = \"a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a\"";

#[test]
fn each_fault_is_reported_with_its_line() {
    let table: &[(&str, &str, &str, &str)] = &[
        // piece of the starter, its replacement, a piece of the fault's line, a part of the message
        ("schema = 1", "schema = 2", "schema = 2", "schema 2"),
        ("schema = 1", "", "# One highly", "schema is missing"),
        ("name = \"hspas\" ", "name = \"a b\" ", "a b", "valid cluster name"),
        (
            "subnet = \"192.168.18.0/24\"",
            "subnet = \"192.168.18.1/24\"",
            "subnet =",
            "write \"192.168.18.0/24\"",
        ),
        ("subnet = \"192.168.18.0/24\"", "subnet = \"192.168.18\"", "subnet =", "not a network"),
        ("[\"192.168.18.0/24\"]", "[\n\"10.0.0.0/8\",\n\"10.1.2.3\"]", "10.1.2.3", "10.1.2.3/32"),
        ("[\"192.168.18.0/24\"]", "\"0.0.0.0/0\"", "clients", "not a list"),
        ("vip = \"192.168.18.20\"", "vip = \"192.168.19.20\"", "vip =", "outside the subnet"),
        ("vip = \"192.168.18.20\"", "vip = \"192.168.18.255\"", "vip =", "broadcast"),
        ("vip = \"192.168.18.20\"", "", "[network]", "network.vip is missing"),
        ("vip_mode = \"vrrp\"", "vip_mode = \"VRRP\"", "vip_mode", "\"vrrp\" or \"external\""),
        ("join_port = 7081", "join_port = 0", "join_port", "1 to 65535"),
        ("join_port = 7081", "join_port = \"7081\"", "join_port", "a whole number"),
        ("join_port = 7081", "join_port = 2379", "join_port", "etcd's clients"),
        ("join_port = 7081", "join_port = 5355", "join_port", "LLMNR"),
        ("join_port = 7081", "join_port = 53", "join_port", "the local resolver"),
        ("join_port = 7081", "join_port = 2381", "join_port", "etcd's metrics"),
        ("\nport = 5433", "\nport = 433", "port = 433", "1024 to 65535"),
        ("restapi_port = 8008", "restapi_port = 808", "restapi_port", "1024 to 65535"),
        ("\nport = 6378", "\nport = 637", "port = 637", "1024 to 65535"),
        ("sentinel_port = 26378", "sentinel_port = 26", "sentinel_port", "1024 to 65535"),
        ("join_port = 7081", "join_prot = 7081", "join_prot", "did you mean join_port?"),
        (
            "address = \"192.168.18.21\"",
            "address = \"192.168.18.20\"",
            "address = \"192.168.18.20\"",
            "the vip",
        ),
        (
            "address = \"192.168.18.21\"",
            "address = \"192.168.18.0\"",
            "address = \"192.168.18.0\"",
            "network or broadcast",
        ),
        (
            "address = \"192.168.18.21\"",
            "adress = \"192.168.18.21\"\naddress = \"192.168.18.21\"",
            "adress",
            "did you mean address?",
        ),
        ("name = \"node1\"", "name = \"node_1\"", "node_1", "valid node name"),
        ("name = \"node1\"", "name = \"10.0.0.1\"", "10.0.0.1", "valid node name"),
        ("name = \"node1\"", "name = \"Redis\"", "name = \"Redis\"", "name in Redis' certificate"),
        (
            "name = \"node1\"",
            "name = \"node1\"\nhostname = \"no de\"",
            "hostname = \"no",
            "valid node hostname",
        ),
        (
            "name = \"node3\"",
            "name = \"node3\"\nhostname = \"NODE1\"",
            "NODE1",
            "already that of another node",
        ),
        ("name = \"node1\"", LONG, "name = \"a.a", "63 characters"),
        ("name = \"node1\"", "name = \"node1\"\nvrrp_priority = 255", "vrrp_priority = 255", "1 to 254"),
        (
            "name = \"node3\"",
            "name = \"node3\"\nvrrp_priority = 99",
            "vrrp_priority = 99",
            "two nodes have vrrp_priority = 99",
        ),
        ("initial_primary = \"node2\"", "initial_primary = \"node4\"", "node4", "node1, node2, node3"),
        ("# min_replicas = 1", "min_replicas = 3", "min_replicas", "accept no write"),
        ("master_name = \"redis-cluster\"", "master_name = \"a b\"", "master_name", "Sentinel master name"),
        ("ttl = 20", "ttl = 19", "ttl = 19", "20 to"),
        ("loop_wait = 10", "loop_wait = 11", "ttl = 20", "loop_wait + 2 * retry_timeout = 21"),
        ("router_id = 51", "router_id = 256", "router_id", "1 to 255"),
        ("vip_port = 5432", "vip_port = 5433", "vip_port = 5433", "used by postgres.port"),
        (
            "[\"pgsql.demo.lab\", \"*.demo.lab\"]",
            "[\"pgsql.demo.lab\", \"a.*.lab\"]",
            "a.*.lab",
            "name for a certificate",
        ),
        ("ca_name = \"Self-Signed CA\"", "ca_name = \"\"", "ca_name", "1 to 64"),
        ("ca_name = \"Self-Signed CA\"", "ca_name = \"a\\nb\"", "ca_name", "control character"),
        ("ca_name = \"Self-Signed CA\"", "ca_name = 'a\"b'", "ca_name", "contains \""),
        ("# crl_url =", "crl_url = \"ftp://a/b\" #", "ftp://", "not an http or https"),
        ("# ca_days = 3650", "ca_days = 0", "ca_days", "1 to 36500"),
        ("# leaf_days = 1825", "leaf_days = 3651", "leaf_days", "outlive"),
        ("# data = \"LABEL=hanode-data\"", "data = \"vdb\"", "data = \"vdb\"", "is not a volume"),
        ("# interface = \"eth0\"", "interface = \"a/b\"", "a/b", "interface name"),
        ("# max_connections = 200", "listen_addresses = \"*\"", "listen_addresses", "cannot be set here"),
        ("# idle_timeout = \"24d\"", "idle_timeout = \"25d\"", "idle_timeout =", "from 1min to 24d"),
        ("# idle_timeout = \"24d\"", "idle_timeout = \"30\"", "idle_timeout =", "with min, h or d"),
        ("# maxmemory-policy", "requirepass = \"x\" #", "requirepass =", "secrets.toml"),
        (
            "# maxmemory-policy",
            "min-replicas-to-write = 1 #",
            "min-replicas-to-write",
            "other keys of the spec",
        ),
        ("# maxmemory-policy", "activedefrag = true #", "activedefrag", "without the allocator"),
        (
            "# maxmemory-policy",
            "maxmemory-polici = \"x\" #",
            "maxmemory-polici",
            "did you mean maxmemory-policy?",
        ),
        ("# maxmemory-policy", "hz = 1000 #", "hz =", "use 1 to 500"),
        ("# maxmemory-policy", "maxmemory = 0 #", "maxmemory = 0", "at least 1048576 bytes"),
        ("# maxmemory-policy", "maxmemory = [] #", "maxmemory = []", "a string, a number"),
        ("# max_connections = 200", "max_connections = \"abc\"", "max_connections", "1 to 262143"),
        ("# max_connections = 200", "max_connections = 0", "max_connections", "1 to 262143"),
        ("# max_connections = 200", "archive_mode = true", "archive_mode", "cannot be set here"),
        ("# max_connections = 200", "\"work_mem = 1\\nx\" = 1", "work_mem", "not a valid PostgreSQL setting"),
        ("# max_connections = 200", "work_mem = \"1'\"", "work_mem", "contains '"),
        ("# max_connections = 200", "work_mem = nan", "work_mem", "a number"),
        ("# max_connections = 200", "a.b = 1", "a.b = 1", "a table"),
        ("# global = [\"nbthread 2\"]", "frontend = []", "frontend", "global, defaults"),
        ("# global = [\"nbthread 2\"]", "global = [\"a\\nb\"]", "global = [", "control character"),
        ("# global = [\"nbthread 2\"]", "global = [\" backend x\"]", "backend x", "new backend section"),
        ("[versions]", "[versions]\netcd = \"3.5.16; id\"", "3.5.16; id", "versions.etcd"),
        ("[versions]", "[versions]\nredis = \"$(id)\"", "$(id)", "versions.redis"),
        ("[keepalived]", "[keepalive]", "[keepalive]", "did you mean keepalived?"),
    ];
    for (old, new, piece, what) in table {
        let text = STARTER.replacen(old, new, 1);
        assert_ne!(text, STARTER, "{old:?} is not in the starter");
        if *new == "[keepalive]" {
            one_fault(&text.replace("router_id = 51", ""), piece, what);
        } else {
            one_fault(&text, piece, what);
        }
    }
}

/// Every port of the spec conflicts with every other one: each node listens on all of them.
#[test]
fn each_port_is_used_once() {
    let ports: Vec<(usize, &str)> = STARTER.lines().enumerate().filter(|(_, l)| is_port(l)).collect();
    assert_eq!(ports.len(), 10, "{ports:?}");
    for (first, (_, one)) in ports.iter().enumerate() {
        for (at, other) in &ports[first + 1..] {
            let value =
                |line: &str| line.split('#').next().unwrap().split('=').nth(1).unwrap().trim().to_string();
            let mut lines: Vec<String> = STARTER.lines().map(String::from).collect();
            lines[*at] = other.replacen(&value(other), &value(one), 1);
            let Faults(faults) = parse(&lines.join("\n")).expect_err(&lines[*at]);
            assert_eq!(faults.len(), 1, "{faults:#?}");
            assert!(faults[0].what.contains("is already used by"), "{faults:#?}");
        }
    }
}

fn is_port(line: &str) -> bool {
    let key = line.split('=').next().unwrap_or_default().trim();
    line.contains('=') && (key == "port" || key.ends_with("_port")) && !key.starts_with('#')
}

#[test]
fn the_number_of_nodes_is_odd_and_at_least_three() {
    let node3 = "[[node]]\nname = \"node3\"\naddress = \"192.168.18.23\"\n";
    one_fault(&with(node3, ""), "[[node]]", "2 [[node]] tables");
    let more = |n: u32| {
        (4..=n)
            .map(|i| format!("[[node]]\nname = \"node{i}\"\naddress = \"192.168.18.2{i}\"\n"))
            .collect::<String>()
    };
    let with_nodes = |n| with(node3, &format!("{node3}{}", more(n)));
    one_fault(&with_nodes(4), "[[node]]", "4 [[node]] tables");
    assert_eq!(parse(&with_nodes(5)).expect("five nodes").majority(), 3);
    let one_table = "schema = 1\nnode = { name = \"node1\" }\nnetwork = { subnet = \"10.0.0.0/8\", vip = \"10.0.0.1\" }\n";
    one_fault(one_table, "node =", "a list of [[node]] tables");
}

#[test]
fn all_faults_are_reported_at_once_in_order() {
    let text = with("join_port = 7081", "join_prot = 7081")
        .replace("name = \"node3\"", "name = \"node1\"")
        .replace("tls = true\nalt_names = [\"redis", "tls = \"yes\"\nalt_names = [\"redis")
        .replace("router_id = 51", "router_id = 0");
    let Faults(faults) = parse(&text).expect_err("faults");
    let lines: Vec<usize> = faults.iter().map(|f| f.line).collect();
    let expected = [
        line_of(&text, "join_prot"),
        line_of(&text, "192.168.18.23") - 1,
        line_of(&text, "tls = \"yes\""),
        line_of(&text, "router_id = 0"),
    ];
    assert_eq!(lines, expected, "{faults:#?}");
}

#[test]
fn a_syntax_error_is_the_only_fault_reported() {
    let text = with("join_port = 7081", "join_port = ").replace("router_id = 51", "router_id = 0");
    one_fault(&text, "join_port =", "this is not TOML");
}

#[test]
fn the_hash_depends_on_values_not_on_text() {
    let base = starter().hash();
    let same = parse(&STARTER.replace("# the cluster's name", "# another comment")).expect("a spec");
    assert_eq!(same.hash(), base);
    let other = parse(&with("router_id = 51", "router_id = 52")).expect("a spec");
    assert_ne!(other.hash(), base);
}

#[test]
fn warnings_name_risky_settings() {
    let warned = |text: &str| {
        let found = warnings(&parse(text).unwrap_or_else(|faults| panic!("{faults}")));
        found.iter().map(|fault| fault.to_string()).collect::<Vec<_>>().join("\n")
    };
    assert!(warned(&with("[\"192.168.18.0/24\"]", "[\"0.0.0.0/0\"]")).contains("network.clients"));
    assert!(warned(STARTER).contains("there is no [backup]"));
    let quiet = &with_backup("file:///mnt/backup", "");
    assert_eq!(warned(quiet), "");
    for (old, new, what) in [
        ("synchronous = true", "synchronous = false", "postgres.synchronous"),
        ("# min_replicas = 1", "min_replicas = 0", "min_replicas"),
        ("# max_connections = 200", "synchronous_commit = false", "synchronous_commit"),
        ("# crl_days = 3650", "crl_days = 7", "crl_days"),
    ] {
        let message = warned(&quiet.replacen(old, new, 1));
        assert!(message.contains(what) && message.lines().count() == 1, "{message}");
    }
}

#[test]
fn backups_have_a_repository_and_a_schedule() {
    assert_eq!(starter().backup, None);
    let file = parse(&with_backup("file:///mnt/backup", "")).expect("a spec").backup.expect("backups");
    assert_eq!(file.repository, Repository::File { path: "/mnt/backup".into() });
    assert_eq!((file.schedule.as_str(), file.retention, file.archive_timeout), ("*-*-* 01:30:00", 14, 60));
    let keys = "endpoint = \"minio.example.org:9000\"\npath_style = true\narchive_timeout = \"2min\"";
    let s3 = parse(&with_backup("s3://bucket/a/b", keys)).expect("a spec").backup.expect("backups");
    assert_eq!(s3.repository.to_string(), "s3://bucket/a/b");
    assert_eq!((s3.archive_timeout, s3.path_style), (120, true));
    for (repository, keys, piece, what) in [
        ("/mnt/backup", "", "repository = \"/mnt", "is not a URL"),
        ("file:///mnt/../etc", "", "repository = \"file", "not a plain absolute path"),
        ("ftp://host/a", "", "repository = \"ftp", "unsupported kind"),
        ("s3://bucket", "", "[backup]", "endpoint is missing"),
        ("s3://b", "endpoint = \"https://s3\"", "endpoint = \"https", "is not a host name"),
        ("file:///b", "endpoint = \"s3\"", "endpoint = \"s3\"", "has no effect"),
        ("file:///b", "archive_timeout = \"1s\"", "archive_timeout = \"1s", "not a time from 10s"),
        ("file:///b", "schedule = \"daily %i\"", "schedule = \"daily", "not a calendar event"),
        ("file:///b", "retention = 0", "retention = 0", "out of range"),
    ] {
        one_fault(&with_backup(repository, keys), piece, what);
    }
    one_fault(&with("# [backup]", "[backup]"), "[backup]", "backup.repository is missing");
}

/// By default, the primary and the replicas that must confirm a write are a majority of the nodes.
#[test]
fn min_replicas_grows_with_the_cluster() {
    let starter = with_backup("file:///mnt/backup", "");
    let grown = |min_replicas: &str| {
        let more: String = (4..=5)
            .map(|i| format!("[[node]]\nname = \"node{i}\"\naddress = \"192.168.18.2{i}\"\n"))
            .collect();
        let text = starter.replacen("# min_replicas = 1", min_replicas, 1);
        parse(&text.replacen("[postgres]", &format!("{more}[postgres]"), 1)).expect("a spec")
    };
    assert_eq!(grown("").redis.min_replicas, 2);
    assert_eq!(grown("").confirming_replicas(), 2);
    assert_eq!(warnings(&grown("")), []);
    let kept = warnings(&grown("min_replicas = 1"));
    assert!(kept.len() == 1 && kept[0].to_string().contains("WAIT 2"), "{kept:?}");
}

/// `UPDATE_GOLDEN=1 cargo test --test it -- golden spec::` writes docs/cluster.schema.json again.
#[test]
fn the_schema_in_docs_is_current() {
    let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cluster.schema.json");
    let now = hanode_core::spec::schema_text();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&kept, &now).expect("writing it");
    }
    let kept = std::fs::read_to_string(kept).expect("the schema in docs");
    assert!(
        kept == now,
        "docs/cluster.schema.json is outdated: UPDATE_GOLDEN=1 cargo test --test it -- golden spec::"
    );
}
