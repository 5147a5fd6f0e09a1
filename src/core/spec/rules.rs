//! The syntax of single values, and the PostgreSQL settings that the spec may not set.

use std::net::IpAddr;

/// A host name of RFC 1123 that cannot be mistaken for an address.
pub(super) fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

/// A name for a certificate: a DNS name, a wildcard for its first label, or an address.
pub(super) fn is_alt_name(name: &str) -> bool {
    let dns = name.strip_prefix("*.").unwrap_or(name);
    is_host_name(dns) || name.parse::<IpAddr>().is_ok()
}

/// A name that needs no quoting in any component's configuration.
pub(super) fn is_plain_name(name: &str, others: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// Whether a cluster may have this name.
pub(crate) fn is_cluster_name(name: &str) -> bool {
    is_plain_name(name, "_-")
}

/// A host name or address with an optional port, as in a URL.
pub(super) fn is_endpoint(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let valid_host = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host_name(host) || host.parse::<std::net::Ipv4Addr>().is_ok(),
    };
    valid_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

pub(super) fn is_http_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split('/').next().unwrap_or_default());
    let allowed = |c: char| c.is_ascii_graphic() && !"<>\"'`\\{}|^".contains(c);
    url.len() <= 1024
        && url.chars().all(allowed)
        && host.is_some_and(|h| !h.is_empty() && !h.starts_with(':'))
}

/// A volume in the syntax of fstab's first column.
pub(super) fn is_volume(text: &str) -> bool {
    let tags = ["LABEL=", "UUID=", "PARTLABEL=", "PARTUUID="];
    let plain =
        |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "_.:+-".contains(c));
    match tags.iter().find_map(|tag| text.strip_prefix(tag)) {
        Some(value) => plain(value),
        None => text
            .strip_prefix("/dev/")
            .is_some_and(|path| path.split('/').all(|part| plain(part) && part != "." && part != "..")),
    }
}

/// A version of a package or program, in the characters that packages use.
pub(super) fn is_version(text: &str) -> bool {
    (1..=60).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".+-_~:".contains(c))
}

pub fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-@".contains(c))
        && name != "."
        && name != ".."
}

pub(super) fn is_setting_name(name: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    name.len() <= 63 && name.split('.').count() <= 2 && name.split('.').all(part)
}

/// Parses a size in PostgreSQL's units, which are powers of 1024; at most 1024 TB.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let units = [("kB", 10), ("MB", 20), ("GB", 30), ("TB", 40)];
    let (number, shift) = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    let number: u64 = number.trim_end().parse().ok()?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes <= 1 << 50)
}

/// Why a PostgreSQL setting cannot be passed through, if it cannot.
pub(super) fn reserved_by(name: &str) -> Option<&'static str> {
    const BY_SPEC: &[&str] =
        &["port", "listen_addresses", "synchronous_standby_names", "unix_socket_directories"];
    const BY_PATRONI: &[&str] = &[
        "wal_level",
        "hot_standby",
        "wal_log_hints",
        "cluster_name",
        "primary_conninfo",
        "primary_slot_name",
        "promote_trigger_file",
        "trigger_file",
        "standby_mode",
        "restore_command",
        "hba_file",
        "ident_file",
        "config_file",
        "data_directory",
        "external_pid_file",
    ];
    const BY_HANODE: &[&str] =
        &["password_encryption", "logging_collector", "log_directory", "log_filename", "log_destination"];
    let has_prefix = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if BY_SPEC.contains(&name) {
        Some("other keys of the spec set it")
    } else if name == "ssl" || has_prefix(&["ssl_"]) {
        Some("[postgres] tls and the certificates set it")
    } else if BY_PATRONI.contains(&name) || has_prefix(&["recovery_", "archive_", "include"]) {
        Some("Patroni sets it, or the cluster depends on its value")
    } else if BY_HANODE.contains(&name) {
        Some("hanode sets it the same way on every node")
    } else {
        None
    }
}

/// The directives that hanode sets in HAProxy's `global` section, and others with the same effect.
///
/// Without `log`, which may occur several times.
const HAPROXY_GLOBAL_DIRECTIVES: &[&str] = &[
    "chroot",
    "daemon",
    "gid",
    "group",
    "hard-stop-after",
    "master-worker",
    "maxconn",
    "pidfile",
    "ssl-default-bind-ciphers",
    "ssl-default-bind-options",
    "ssl-default-server-options",
    "stats socket",
    "stats timeout",
    "tune.bufsize",
    "tune.ssl.default-dh-param",
    "uid",
    "user",
];
const HAPROXY_DEFAULTS_DIRECTIVES: &[&str] = &[
    "clitcpka-cnt",
    "clitcpka-idle",
    "clitcpka-intvl",
    "maxconn",
    "mode",
    "option clitcpka",
    "option dontlognull",
    "option log-health-checks",
    "option srvtcpka",
    "option tcpka",
    "retries",
    "srvtcpka-cnt",
    "srvtcpka-idle",
    "srvtcpka-intvl",
    "stats",
    "timeout check",
    "timeout client",
    "timeout client-fin",
    "timeout connect",
    "timeout server",
    "timeout tunnel",
];

/// The directive of an extra line, if hanode sets it, too.
pub(super) fn set_by_hanode(section: &str, line: &str) -> Option<String> {
    let known = if section == "global" { HAPROXY_GLOBAL_DIRECTIVES } else { HAPROXY_DEFAULTS_DIRECTIVES };
    // HAProxy removes quotation marks and backslashes before it looks up a keyword.
    let plain = line.replace(['"', '\'', '\\'], "");
    let words: Vec<&str> = plain.split_whitespace().skip_while(|w| ["no", "default"].contains(w)).collect();
    let directive = |length: usize| words.get(..length).map(|words| words.join(" "));
    [2, 1].into_iter().filter_map(directive).find(|directive| known.contains(&directive.as_str()))
}

/// The word that HAProxy reads as another keyword than it seems, if there is one: it expands escapes such as `\x73` and
/// variables, and lines such as `.if` switch others off.
pub(super) fn disguised(line: &str) -> Option<&str> {
    let plain = |word: &&str| {
        word.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '#')
            && !word.contains(['"', '\'', '\\', '$'])
    };
    let mut words = line.split_whitespace().skip_while(|w| ["no", "default"].contains(w));
    let first = words.next()?;
    let second = words.next().filter(|_| ["option", "stats", "timeout"].contains(&first));
    [Some(first), second].into_iter().flatten().find(|word| !plain(word))
}

/// The keywords that start a section in haproxy.cfg.
pub(super) const HAPROXY_SECTIONS: &[&str] = &[
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "resolvers",
    "userlist",
    "mailers",
    "cache",
    "program",
    "http-errors",
    "ring",
    "log-forward",
    "fcgi-app",
    "crt-store",
    "traces",
    "log-profile",
    "acme",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn each(rule: fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(rule(text), "{text:?} was refused");
        }
        for text in bad {
            assert!(!rule(text), "{text:?} was accepted");
        }
    }

    #[test]
    fn host_names() {
        each(
            is_host_name,
            &["node1", "a", "db-1.example.org", "0a"],
            &["", "-a", "a-", "a_b", "a..b", "a b", "10.0.0.1", "12", "a.", "é"],
        );
    }

    #[test]
    fn alt_names() {
        each(
            is_alt_name,
            &["pgsql.demo.lab", "*.demo.lab", "10.0.0.1", "::1"],
            &["", "*", "*.", "a.*.b", "**.b", "a/b", "10.0.0.0/8"],
        );
    }

    #[test]
    fn urls() {
        each(
            is_http_url,
            &["http://192.168.18.20:7080/server.crl", "https://example.org/a?b=c", "http://[fd00::1]:7080/x"],
            &[
                "",
                "ftp://a/b",
                "http://",
                "http:///x",
                "http://:80/",
                "http://a/b c",
                "http://a/\n",
                "HTTP//a",
                "http://a/\"x",
            ],
        );
    }

    #[test]
    fn endpoints() {
        each(
            is_endpoint,
            &["s3.eu-central-1.amazonaws.com", "minio:9000", "10.0.0.1:443", "[fd00::1]:9000", "[fd00::1]"],
            &[
                "",
                "https://s3",
                "minio:",
                "minio:0",
                "minio:65536",
                "a b",
                "minio/x",
                "fd00::1",
                "[10.0.0.1]:1",
            ],
        );
    }

    #[test]
    fn volumes() {
        each(
            is_volume,
            &["LABEL=hanode-data", "UUID=0a-b", "/dev/vdb", "/dev/disk/by-id/virtio-1"],
            &[
                "",
                "LABEL=",
                "vdb",
                "/dev/",
                "/dev/../etc",
                "/dev//vdb",
                "LABEL=a b",
                "/dev/vdb\n",
                "LABEL=a/b",
            ],
        );
    }

    #[test]
    fn settings() {
        each(
            is_setting_name,
            &["work_mem", "pg_stat_statements.track"],
            &["", "Work_Mem", "a.b.c", "a b", "a=b", "1a", "a.", "a\n"],
        );
        for name in [
            "ssl",
            "ssl_ca_file",
            "archive_mode",
            "port",
            "wal_level",
            "hot_standby",
            "include_dir",
            "hba_file",
        ] {
            assert!(reserved_by(name).is_some(), "{name} was accepted");
        }
        for name in ["max_connections", "shared_buffers", "work_mem", "synchronous_commit"] {
            assert!(reserved_by(name).is_none(), "{name} was refused");
        }
    }

    #[test]
    fn versions() {
        each(
            is_version,
            &["3.5.16", "5:8.0.2-3+deb13u3", "2.0~rc1-1_2", "v3"],
            &["", "x; touch /tmp/x", "1 2", "$(id)", "`id`", "-1", "../1", "1/2", "1\n", "1'", "1&2", "1|2"],
        );
    }

    #[test]
    fn sizes() {
        assert_eq!(["0kB", "1MB", "16 MB", "2GB"].map(bytes), [0, 1 << 20, 1 << 24, 1 << 31].map(Some));
        each(|t| bytes(t).is_some(), &["1024TB"], &["", "1", "MB", "1mb", "1.5GB", "-1MB", "1025TB"]);
    }

    #[test]
    fn names() {
        each(|n| is_plain_name(n, "_-"), &["hspas", "redis-cluster"], &["", "-a", "a.b", "a b", "ä"]);
        each(is_interface, &["eth0", "enp0s1.100"], &["", "a/b", "..", "averyverylongname", "eth 0"]);
    }
}
