//! The settings of Redis that `[redis.parameters]` may have: their values as Redis itself prints them, and Redis' defaults.
//!
//! The rendered file has all of them that Redis can change while it runs, so that a setting that leaves the spec returns to
//! its default without a restart, and a setting that was changed by hand is found. Names and defaults are those that Redis
//! 6.0 and all later releases share, except where `since` names a release.

use std::collections::{BTreeMap, BTreeSet};

/// What a value may be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// `yes` or `no`.
    Flag,
    Number(i64, i64),
    /// Bytes, at least this many.
    Bytes(u64),
    Choice(&'static [&'static str]),
    /// The letters of `notify-keyspace-events`.
    Events,
    /// `client-output-buffer-limit`: class, hard limit, soft limit, seconds.
    OutputBuffers,
}

#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    kind: Kind,
    /// As `CONFIG GET` prints it.
    default: &'static str,
    /// The first release that has it; older ones than 6.0 are not supported.
    since: (u32, u32),
    /// Whether Redis can change it while it runs.
    pub is_live: bool,
}

const LARGE: i64 = i32::MAX as i64;
const POLICIES: &[&str] = &[
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
];

const fn live(name: &'static str, kind: Kind, default: &'static str) -> Parameter {
    Parameter { name, kind, default, since: (6, 0), is_live: true }
}

const fn since(release: (u32, u32), parameter: Parameter) -> Parameter {
    Parameter { since: release, ..parameter }
}

static PARAMETERS: &[Parameter] = &[
    live("acllog-max-len", Kind::Number(0, LARGE), "128"),
    live("active-expire-effort", Kind::Number(1, 10), "1"),
    live("activerehashing", Kind::Flag, "yes"),
    live("aof-rewrite-incremental-fsync", Kind::Flag, "yes"),
    live("appendfsync", Kind::Choice(&["everysec", "always"]), "everysec"),
    live("auto-aof-rewrite-min-size", Kind::Bytes(0), "67108864"),
    live("auto-aof-rewrite-percentage", Kind::Number(0, LARGE), "100"),
    live(
        "client-output-buffer-limit",
        Kind::OutputBuffers,
        "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
    ),
    live("client-query-buffer-limit", Kind::Bytes(1 << 20), "1073741824"),
    live("dynamic-hz", Kind::Flag, "yes"),
    live("hash-max-ziplist-entries", Kind::Number(0, LARGE), "512"),
    live("hash-max-ziplist-value", Kind::Bytes(0), "64"),
    live("hll-sparse-max-bytes", Kind::Bytes(0), "3000"),
    live("hz", Kind::Number(1, 500), "10"),
    Parameter { is_live: false, ..live("io-threads", Kind::Number(1, 128), "1") },
    live("jemalloc-bg-thread", Kind::Flag, "yes"),
    live("latency-monitor-threshold", Kind::Number(0, LARGE), "0"),
    since((7, 0), live("latency-tracking", Kind::Flag, "yes")),
    live("lazyfree-lazy-eviction", Kind::Flag, "no"),
    live("lazyfree-lazy-expire", Kind::Flag, "no"),
    live("lazyfree-lazy-server-del", Kind::Flag, "no"),
    live("lazyfree-lazy-user-del", Kind::Flag, "no"),
    live("lfu-decay-time", Kind::Number(0, LARGE), "1"),
    live("lfu-log-factor", Kind::Number(0, LARGE), "10"),
    live("list-compress-depth", Kind::Number(0, LARGE), "0"),
    live("list-max-ziplist-size", Kind::Number(-5, LARGE), "-2"),
    live("loglevel", Kind::Choice(&["debug", "verbose", "notice", "warning"]), "notice"),
    live("lua-time-limit", Kind::Number(0, LARGE), "5000"),
    // Without a limit Redis would take the memory of PostgreSQL.
    live("maxmemory", Kind::Bytes(1 << 20), "0"),
    live("maxmemory-policy", Kind::Choice(POLICIES), "noeviction"),
    live("maxmemory-samples", Kind::Number(1, 64), "5"),
    live("no-appendfsync-on-rewrite", Kind::Flag, "no"),
    live("notify-keyspace-events", Kind::Events, ""),
    live("proto-max-bulk-len", Kind::Bytes(1 << 20), "536870912"),
    live("rdb-save-incremental-fsync", Kind::Flag, "yes"),
    live("rdbcompression", Kind::Flag, "yes"),
    live("repl-backlog-size", Kind::Bytes(1 << 20), "1048576"),
    live("repl-backlog-ttl", Kind::Number(0, LARGE), "3600"),
    live("repl-disable-tcp-nodelay", Kind::Flag, "no"),
    live("repl-ping-replica-period", Kind::Number(1, LARGE), "10"),
    live("repl-timeout", Kind::Number(10, LARGE), "60"),
    live("replica-lazy-flush", Kind::Flag, "no"),
    live("set-max-intset-entries", Kind::Number(0, LARGE), "512"),
    live("slowlog-log-slower-than", Kind::Number(-1, LARGE), "10000"),
    live("slowlog-max-len", Kind::Number(0, LARGE), "128"),
    live("stop-writes-on-bgsave-error", Kind::Flag, "yes"),
    live("stream-node-max-bytes", Kind::Bytes(0), "4096"),
    live("stream-node-max-entries", Kind::Number(0, LARGE), "100"),
    live("tcp-keepalive", Kind::Number(1, LARGE), "300"),
    live("timeout", Kind::Number(0, LARGE), "0"),
    live("tracking-table-max-keys", Kind::Number(0, LARGE), "1000000"),
    live("zset-max-ziplist-entries", Kind::Number(0, LARGE), "128"),
    live("zset-max-ziplist-value", Kind::Bytes(0), "64"),
];

const OUTPUT_BUFFERS: &str = "client-output-buffer-limit";

/// The names of all parameters.
pub fn names() -> Vec<&'static str> {
    PARAMETERS.iter().map(|parameter| parameter.name).collect()
}

pub fn parameter(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.name == name)
}

/// Why a setting of Redis cannot be passed through, if it cannot.
pub fn reserved_by(name: &str) -> Option<&'static str> {
    const ACCESS: &[&str] =
        &["requirepass", "masterauth", "masteruser", "aclfile", "user", "acl-pubsub-default"];
    const BY_SPEC: &[&str] =
        &["port", "bind", "bind-source-addr", "min-replicas-to-write", "min-slaves-to-write"];
    const BY_HANODE: &[&str] = &[
        "save",
        "dir",
        "dbfilename",
        "appendonly",
        "appendfilename",
        "appenddirname",
        "aof-load-truncated",
        "aof-use-rdb-preamble",
        "supervised",
        "daemonize",
        "pidfile",
        "logfile",
        "unixsocket",
        "unixsocketperm",
        "protected-mode",
        "rename-command",
        "include",
        "loadmodule",
        "maxclients",
        "tcp-backlog",
    ];
    const REPLICATION: &[&str] = &[
        "replicaof",
        "slaveof",
        "replica-priority",
        "slave-priority",
        "min-replicas-max-lag",
        "min-slaves-max-lag",
        "repl-diskless-sync",
        "repl-diskless-sync-delay",
        "repl-diskless-load",
        "databases",
    ];
    let has_prefix = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if ACCESS.contains(&name) {
        Some("the password of the only user is in secrets.toml")
    } else if name.starts_with("tls-") {
        Some("[redis] tls and the certificates set it")
    } else if BY_SPEC.contains(&name) {
        Some("other keys of the spec set it")
    } else if name == "activedefrag" || has_prefix(&["active-defrag-"]) {
        Some("the distributions build Redis without the allocator that it needs")
    } else if BY_HANODE.contains(&name) || has_prefix(&["cluster-", "enable-", "syslog-"]) {
        Some("hanode sets it the same way on every node")
    } else if REPLICATION.contains(&name)
        || has_prefix(&["replica-announce", "replica-read", "replica-serve", "replica-ignore"])
    {
        Some("the guarantees of the cluster depend on its value")
    } else {
        None
    }
}

impl Parameter {
    /// The value as Redis prints it; fails with what the value should be.
    pub fn normalized(&self, value: &str) -> Result<String, String> {
        let value = value.trim();
        match self.kind {
            Kind::Flag => match value {
                "yes" | "on" => Ok("yes".into()),
                "no" | "off" => Ok("no".into()),
                _ => Err("use true or false".into()),
            },
            Kind::Number(least, most) => {
                let number = value.parse::<i64>().ok().filter(|n| (least..=most).contains(n));
                number.map(|n| n.to_string()).ok_or_else(|| format!("use {least} to {most}"))
            }
            Kind::Bytes(least) => {
                let bytes = bytes(value).filter(|n| *n >= least && *n <= i64::MAX as u64);
                let help = || format!("use a size such as \"100mb\" or 1048576, at least {least} bytes");
                bytes.map(|n| n.to_string()).ok_or_else(help)
            }
            Kind::Choice(choices) if choices.contains(&value) => Ok(value.into()),
            Kind::Choice(choices) => Err(format!("use one of {}", choices.join(", "))),
            Kind::Events if value.chars().all(|c| EVENTS.contains(c)) => Ok(value.into()),
            Kind::Events => Err(format!("use letters of {EVENTS}, as in Redis' manual")),
            Kind::OutputBuffers => output_buffers(value).map(|limits| joined(&limits)).ok_or_else(|| {
                "write class, hard limit, soft limit and seconds, e.g. \"replica 1gb 0 0 pubsub 64mb 16mb 60\"".into()
            }),
        }
    }

    /// Whether two values that Redis may print mean the same.
    fn is_same(&self, a: &str, b: &str) -> bool {
        match self.kind {
            Kind::Events => events(a) == events(b),
            _ => a == b,
        }
    }

    /// Whether this release of Redis has it.
    pub fn exists_in(&self, version: &str) -> bool {
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= self.since
    }
}

/// The letters of `notify-keyspace-events` that all releases know.
const EVENTS: &str = "KEg$lshzxetmA";

/// `A` stands for all but `K`, `E` and `m`.
fn events(letters: &str) -> BTreeSet<char> {
    letters.replace('A', "g$lshzxet").chars().filter(|c| EVENTS.contains(*c)).collect()
}

/// A size in Redis' units: `kb` is 1024 bytes, `k` 1000.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// The classes in Redis' order; it still prints `slave` for replicas.
const CLASSES: [&str; 3] = ["normal", "slave", "pubsub"];

/// Class to its limits: hard and soft in bytes, and seconds.
type OutputBuffers = BTreeMap<&'static str, [u64; 3]>;

fn output_buffers(text: &str) -> Option<OutputBuffers> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut limits = OutputBuffers::new();
    for four in words.chunks(4) {
        let [class, hard, soft, seconds] = four else { return None };
        let class = if *class == "replica" { "slave" } else { class };
        let class = CLASSES.into_iter().find(|known| *known == class)?;
        let seconds = seconds.parse::<u32>().ok()?;
        limits.insert(class, [bytes(hard)?, bytes(soft)?, seconds.into()]);
    }
    (!limits.is_empty()).then_some(limits)
}

fn joined(limits: &OutputBuffers) -> String {
    let in_order = CLASSES.iter().filter_map(|class| Some((class, limits.get(class)?)));
    let texts = in_order.map(|(class, [hard, soft, seconds])| format!("{class} {hard} {soft} {seconds}"));
    texts.collect::<Vec<_>>().join(" ")
}

/// Every parameter that this release has, with its value: the last of `layers` that sets it, else Redis' default. The
/// layers of `client-output-buffer-limit` are merged by class.
pub(crate) fn values(
    version: &str,
    layers: &[&BTreeMap<String, String>],
) -> Result<Vec<(&'static Parameter, String)>, String> {
    let value = |parameter: &'static Parameter| {
        let mut value = parameter.default.to_string();
        for set in layers.iter().filter_map(|layer| layer.get(parameter.name)) {
            let wrong = |help| format!("{} = {set:?}: {help}", parameter.name);
            let normal = parameter.normalized(set).map_err(wrong)?;
            // Redis merges the lines of one file by class, too.
            value = if parameter.name == OUTPUT_BUFFERS { format!("{value} {normal}") } else { normal };
        }
        let value = if parameter.name == OUTPUT_BUFFERS { parameter.normalized(&value)? } else { value };
        Ok((parameter, value))
    };
    let newer = |parameter: &&Parameter| {
        !parameter.exists_in(version) && layers.iter().any(|layer| layer.contains_key(parameter.name))
    };
    if let Some(Parameter { name, since: (major, minor), .. }) = PARAMETERS.iter().find(newer) {
        return Err(format!("{name} needs Redis {major}.{minor}, the version is {version}"));
    }
    PARAMETERS.iter().filter(|parameter| parameter.exists_in(version)).map(value).collect()
}

/// A parameter as lines of a configuration file: before 7.0 a line has one class of output buffers.
pub(crate) fn lines(name: &str, value: &str) -> Vec<String> {
    if name == OUTPUT_BUFFERS {
        let words: Vec<&str> = value.split(' ').collect();
        return words.chunks(4).map(|four| format!("{name} {}", four.join(" "))).collect();
    }
    vec![if value.is_empty() { format!("{name} \"\"") } else { format!("{name} {value}") }]
}

/// Reads a rendered file: name to value.
pub fn parse(text: &str) -> BTreeMap<String, String> {
    let mut values = BTreeMap::<String, String>::new();
    for (name, value) in
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '))
    {
        let value = value.trim_matches('"');
        let all = values.entry(name.into()).or_default();
        *all = if all.is_empty() { value.into() } else { format!("{all} {value}") };
    }
    values
}

/// A parameter that runs with another value than the file has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub name: String,
    pub wanted: String,
    pub running: String,
}

/// `file`: the values of a rendered file; `running`: those of `CONFIG GET`.
pub fn differences(file: &BTreeMap<String, String>, running: &BTreeMap<String, String>) -> Vec<Difference> {
    let difference = |(name, wanted): (&String, &String)| {
        let (parameter, running) = (parameter(name)?, running.get(name)?);
        let difference = Difference { name: name.clone(), wanted: wanted.clone(), running: running.clone() };
        (!parameter.is_same(wanted, running)).then_some(difference)
    };
    file.iter().filter_map(difference).collect()
}

#[cfg(test)]
mod tests;
