//! The status in the text format of Prometheus. A node exports its own metrics, the admin machine those of all nodes,
//! under the same names.

mod backups;

use super::Status;
use hanode_core::peer::FileSystem;
use std::fmt::Write;

struct Metric {
    name: &'static str,
    help: &'static str,
    /// Label sets with their values.
    samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

/// Metrics of the whole cluster and of all its nodes.
pub fn metrics(status: &Status) -> String {
    let cluster = [
        one(
            "hanode_cluster_healthy",
            "Whether hanode status reports no problems.",
            as_number(status.healthy),
        ),
        one(
            "hanode_cluster_problems",
            "Number of problems that hanode status reports.",
            status.problems.len() as f64,
        ),
    ];
    let paused = status.patroni.as_ref().map(|config| {
        let help = "Whether Patroni is paused, so that no failover is automatic.";
        one("hanode_patroni_paused", help, as_number(config.paused))
    });
    text(&cluster) + &paused.map(|paused| text(&[paused])).unwrap_or_default() + &node_metrics(status)
}

/// Metrics of the nodes in the status, without the cluster's.
pub fn node_metrics(status: &Status) -> String {
    let mut all = Vec::new();
    all.extend(nodes(status));
    all.extend(file_systems(status));
    all.extend(etcd(status));
    all.extend(postgres(status));
    all.extend(redis(status));
    all.extend(backups::metrics(status));
    all.push(one(
        "hanode_vip_answers",
        "Whether HAProxy or a load balancer responds on the virtual IP, as seen from here.",
        as_number(status.vip.answers),
    ));
    let expiries = status.certificates.iter().map(|c| (vec![("file", c.name.clone())], c.not_after as f64));
    all.push(Metric {
        name: "hanode_certificate_not_after_timestamp_seconds",
        help: "Expiry of a certificate or revocation list.",
        samples: expiries.collect(),
    });
    text(&all)
}

fn nodes(status: &Status) -> [Metric; 6] {
    let nodes = &status.nodes;
    let each = |name, help, value: &dyn Fn(&super::NodeStatus) -> Option<f64>| {
        let samples = nodes.iter().filter_map(|n| Some((vec![("node", n.name.clone())], value(n)?)));
        Metric { name, help, samples: samples.collect() }
    };
    let phases = nodes.iter().map(|n| (vec![("node", n.name.clone()), ("phase", n.phase.to_string())], 1.0));
    let specs = nodes
        .iter()
        .filter_map(|n| Some((vec![("node", n.name.clone()), ("spec_hash", n.spec_hash.clone()?)], 1.0)));
    [
        each("hanode_node_healthy", "Whether the node is in service and reports no problems.", &|n| {
            Some(as_number(n.in_service() && n.problems.is_empty()))
        }),
        Metric { name: "hanode_node_phase", help: "Phase of the node.", samples: phases.collect() },
        each("hanode_bundle_generation", "Generation of the bundle on the node.", &|n| {
            n.bundle_generation.map(|g| g as f64)
        }),
        Metric { name: "hanode_spec_info", help: "Hash of the spec on the node.", samples: specs.collect() },
        each("hanode_haproxy_up", "Whether HAProxy responds to its health probe.", &|n| {
            Some(as_number(n.servers.haproxy.answers()))
        }),
        each("hanode_vip_held", "Whether the node holds the virtual IP.", &|n| {
            Some(as_number(status.vip.holders.contains(&n.name)))
        }),
    ]
}

fn file_systems(status: &Status) -> [Metric; 6] {
    let each = |name, help, value: &dyn Fn(&FileSystem) -> Option<u64>| {
        let all = status.nodes.iter().flat_map(|n| n.file_systems.iter().map(move |f| (n, f)));
        let labels = |n: &super::NodeStatus, f: &FileSystem| {
            vec![("node", n.name.clone()), ("mount", f.mount.clone())]
        };
        let samples = all.filter_map(|(n, f)| Some((labels(n, f), value(f)? as f64)));
        Metric { name, help, samples: samples.collect() }
    };
    // File systems without a limit of inodes have no values.
    let limited = |f: &FileSystem| f.inodes > 0;
    [
        each("hanode_filesystem_size_bytes", "Size of a file system with the system or data.", &|f| {
            Some(f.size_bytes)
        }),
        each("hanode_filesystem_free_bytes", "Bytes that are available to an ordinary user.", &|f| {
            Some(f.free_bytes)
        }),
        each("hanode_filesystem_files", "Inodes of the file system.", &|f| limited(f).then_some(f.inodes)),
        each("hanode_filesystem_files_free", "Free inodes of the file system.", &|f| {
            limited(f).then_some(f.inodes_free)
        }),
        each(
            "hanode_filesystem_age_seconds",
            "Age of these values; it grows while the storage does not answer.",
            &|f| Some(f.age_seconds),
        ),
        each("hanode_filesystem_fault", "Whether the storage hangs, fails, is read-only or full.", &|f| {
            Some(f.fault.is_some().into())
        }),
    ]
}

fn etcd(status: &Status) -> [Metric; 4] {
    let each = |name, help, value: &dyn Fn(&super::EtcdStatus) -> Option<f64>| {
        let samples = status
            .nodes
            .iter()
            .filter_map(|n| Some((vec![("node", n.name.clone())], value(&n.servers.etcd)?)));
        Metric { name, help, samples: samples.collect() }
    };
    // A member that does not respond has no values.
    let responds = |m: &super::EtcdStatus| !m.version.is_empty();
    [
        each("hanode_etcd_healthy", "Whether the member responds, has a quorum and no alarm.", &|m| {
            Some(as_number(m.healthy))
        }),
        each("hanode_etcd_leader", "Whether the member is the leader.", &|m| Some(as_number(m.leader))),
        each("hanode_etcd_alarms", "Alarms of the member, such as NOSPACE.", &|m| {
            responds(m).then_some(m.alarms as f64)
        }),
        each("hanode_etcd_database_bytes", "Size of the member's database.", &|m| {
            responds(m).then_some(m.db_bytes as f64)
        }),
    ]
}

fn postgres(status: &Status) -> [Metric; 4] {
    let each = |name, help, value: &dyn Fn(&super::PostgresStatus) -> Option<f64>| {
        let samples = status
            .nodes
            .iter()
            .filter_map(|n| Some((vec![("node", n.name.clone())], value(&n.servers.postgres)?)));
        Metric { name, help, samples: samples.collect() }
    };
    let labels = |n: &super::NodeStatus| {
        Some(vec![("node", n.name.clone()), ("role", n.servers.postgres.role?.name().to_string())])
    };
    let roles = status.nodes.iter().filter_map(|n| Some((labels(n)?, 1.0)));
    [
        each("hanode_postgres_up", "Whether PostgreSQL runs, and streams if it is a replica.", &|m| {
            Some(as_number(m.state.is_up()))
        }),
        Metric {
            name: "hanode_postgres_role",
            help: "Role of the node in Patroni.",
            samples: roles.collect(),
        },
        each("hanode_postgres_lag_bytes", "Bytes that a replica is behind the leader.", &|m| {
            m.lag.map(|l| l as f64)
        }),
        each("hanode_postgres_timeline", "PostgreSQL timeline of the node.", &|m| {
            m.timeline.map(|t| t as f64)
        }),
    ]
}

fn redis(status: &Status) -> [Metric; 5] {
    let each = |name, help, value: &dyn Fn(&super::RedisStatus) -> f64| {
        let samples = status.nodes.iter().map(|n| (vec![("node", n.name.clone())], value(&n.servers.redis)));
        Metric { name, help, samples: samples.collect() }
    };
    let sentinels = status
        .nodes
        .iter()
        .map(|n| (vec![("node", n.name.clone())], as_number(n.servers.sentinel.error.is_none())));
    [
        each("hanode_redis_up", "Whether Redis responds.", &|r| as_number(r.error.is_none())),
        each("hanode_redis_primary", "Whether Redis is a primary.", &|r| as_number(r.is_primary())),
        each("hanode_redis_link_up", "Whether a replica is connected to its primary.", &|r| {
            as_number(r.link_up)
        }),
        each("hanode_redis_replicas", "Replicas connected to the node.", &|r| f64::from(r.replicas)),
        Metric {
            name: "hanode_sentinel_quorum",
            help: "Whether the Sentinel of the node sees a quorum for a failover.",
            samples: sentinels.collect(),
        },
    ]
}

fn one(name: &'static str, help: &'static str, value: f64) -> Metric {
    Metric { name, help, samples: vec![(Vec::new(), value)] }
}

fn as_number(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn text(metrics: &[Metric]) -> String {
    let mut out = String::new();
    for Metric { name, help, samples } in metrics.iter().filter(|m| !m.samples.is_empty()) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escaped(v))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    }
    out
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::testing::{healthy, spec};
    use crate::health::{Phase, Problem, ProblemKind};
    use hanode_core::peer::StorageFault;
    use std::collections::BTreeSet;

    /// Name, labels and value of each sample. Panics if the text violates the format of Prometheus: each family starts
    /// with one HELP and one TYPE line, all its samples follow, and no sample is repeated.
    fn parse(text: &str) -> Vec<String> {
        let mut families = BTreeSet::new();
        let mut samples = Vec::new();
        let mut lines = text.lines().peekable();
        assert!(text.ends_with('\n'), "the last line has no line feed");
        while let Some(line) = lines.next() {
            let (family, help) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')).expect("HELP");
            assert!(!help.is_empty() && families.insert(family), "{line}");
            assert_eq!(lines.next(), Some(format!("# TYPE {family} gauge").as_str()));
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                let sample = sample(line);
                assert_eq!(sample.split(' ').next(), Some(family), "{line}");
                samples.push(sample);
            }
        }
        let names: BTreeSet<_> = samples.iter().filter_map(|s| s.rsplit_once(' ')).map(|(n, _)| n).collect();
        assert_eq!(names.len(), samples.len(), "a sample is repeated: {samples:#?}");
        samples
    }

    /// A sample without quotes and escapes: name, `label=value` pairs, value.
    fn sample(line: &str) -> String {
        let (labelled, value) = line.rsplit_once(' ').expect("a value");
        value.parse::<f64>().unwrap_or_else(|error| panic!("{line}: {error}"));
        let word = |c: char| c.is_ascii_lowercase() || c == '_';
        let (name, mut rest) = match labelled.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect("closed labels")),
            None => (labelled, ""),
        };
        assert!(!name.is_empty() && name.chars().all(word), "{line}");
        let mut out = name.to_string();
        while !rest.is_empty() {
            let (label, quoted) = rest.split_once("=\"").expect("a quoted value");
            assert!(!label.is_empty() && label.chars().all(word), "{line}");
            let (text, end) =
                unescape(quoted).unwrap_or_else(|| panic!("{line}: invalid escape or no closing quote"));
            out += &format!(" {label}={text}");
            rest = quoted[end..].strip_prefix(',').unwrap_or(&quoted[end..]);
        }
        format!("{out} {value}")
    }

    /// A label's value, and the offset after its closing quote.
    fn unescape(quoted: &str) -> Option<(String, usize)> {
        let mut out = String::new();
        let mut chars = quoted.char_indices();
        loop {
            match chars.next()? {
                (at, '"') => return Some((out, at + 1)),
                (_, '\\') => out.push(match chars.next()?.1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    _ => return None,
                }),
                (_, c) => out.push(c),
            }
        }
    }

    #[test]
    fn the_metrics_follow_the_prometheus_text_format() {
        let spec = spec();
        let mut status = healthy(&spec);
        status.healthy = false;
        status.problems = vec![Problem::new(ProblemKind::Other, "x")];
        status.nodes[2].servers.postgres.lag = Some(4096);
        status.nodes[1].servers.etcd.version = "3.5.16".into();
        status.nodes[1].servers.etcd.alarms = 1;
        status.nodes[0].phase = Phase::Starting;
        status.nodes[0].spec_hash = Some("a \"hash\"\\\n".into());
        let root = FileSystem {
            mount: "/".into(),
            size_bytes: 4096,
            free_bytes: 1024,
            inodes: 100,
            fault: Some(StorageFault::Hangs),
            ..FileSystem::default()
        };
        let unlimited = FileSystem { mount: "/a \"b\"".into(), inodes: 0, ..root.clone() };
        status.nodes[1].file_systems = vec![root, unlimited];
        let samples = parse(&metrics(&status));
        for sample in [
            "hanode_cluster_healthy 0",
            "hanode_cluster_problems 1",
            "hanode_node_phase node=node1 phase=starting 1",
            "hanode_spec_info node=node1 spec_hash=a \"hash\"\\\n 1",
            "hanode_node_healthy node=node1 0",
            "hanode_node_healthy node=node2 1",
            "hanode_vip_held node=node3 1",
            "hanode_vip_held node=node1 0",
            "hanode_filesystem_size_bytes node=node2 mount=/ 4096",
            "hanode_filesystem_free_bytes node=node2 mount=/a \"b\" 1024",
            "hanode_filesystem_files_free node=node2 mount=/ 0",
            "hanode_filesystem_fault node=node2 mount=/ 1",
            "hanode_filesystem_fault node=node1 mount=/ 0",
            "hanode_etcd_leader node=node1 1",
            "hanode_etcd_alarms node=node2 1",
            "hanode_postgres_role node=node2 role=sync_standby 1",
            "hanode_postgres_lag_bytes node=node3 4096",
            "hanode_redis_primary node=node2 1",
            "hanode_sentinel_quorum node=node1 1",
            "hanode_certificate_not_after_timestamp_seconds file=/etc/ssl/hanode/etcd.crt 1857680000",
        ] {
            assert!(samples.iter().any(|t| t == sample), "{sample:?} is not among {samples:#?}");
        }
        let count = |name: &str| samples.iter().filter(|s| s.starts_with(&format!("{name} "))).count();
        assert_eq!(
            [
                count("hanode_postgres_lag_bytes"),
                count("hanode_etcd_alarms"),
                count("hanode_filesystem_files"),
            ],
            [1, 1, 1],
            "unknown values are omitted"
        );
        assert!(!parse(&node_metrics(&status)).iter().any(|t| t.contains("cluster")));
    }
}
