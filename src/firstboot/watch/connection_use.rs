//! How much of its connection limits HAProxy uses. Clients beyond the limit of a server wait in a queue and are closed after
//! `timeout queue`; those beyond the limit of a port are not accepted. Neither learns why, so the status names it before.

use std::fmt;

/// Reported from this share of a limit on, in percent.
const NEARLY: u64 = 90;
/// Ports and backends of the applications, and what they connect to.
const CONNECTIONS: [(&str, &str); 6] = [
    ("postgres", "port of the PostgreSQL leader"),
    ("postgres_read", "port of the PostgreSQL replicas"),
    ("redis", "port of the Redis primary"),
    ("postgres_primary", "PostgreSQL"),
    ("postgres_replicas", "PostgreSQL"),
    ("redis_primary", "Redis"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Usage {
    used: u64,
    limit: u64,
    to: String,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} of {} connections to {}", self.used, self.limit, self.to)
    }
}

/// The limits in the answer to `show stat` that are nearly reached.
pub(super) fn nearly_used(stat: &str) -> Vec<Usage> {
    let mut lines = stat.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = lines.next().unwrap_or_default();
    let column = |name: &str| head.iter().position(|h| h.trim_start_matches("# ") == name);
    let (Some(proxy), Some(server), Some(used), Some(limit)) =
        (column("pxname"), column("svname"), column("scur"), column("slim"))
    else {
        return Vec::new();
    };
    let usage = |row: Vec<&str>| {
        let (_, name) = CONNECTIONS.iter().find(|(known, _)| row.get(proxy) == Some(known))?;
        let to = match *row.get(server)? {
            "BACKEND" => return None,
            "FRONTEND" => format!("the {name}"),
            server => format!("{name} on {server}"),
        };
        let number = |column: usize| row.get(column)?.parse::<u64>().ok();
        let usage = Usage { used: number(used)?, limit: number(limit)?, to };
        (usage.limit > 0 && usage.used * 100 >= usage.limit * NEARLY).then_some(usage)
    };
    lines.filter_map(usage).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_are_nearly_reached_are_named() {
        // Output of HAProxy 3.0, shortened.
        let stat = "# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,\n\
            postgres,FRONTEND,,,180,180,1024,9,OPEN,\n\
            postgres_primary,node1,2,2,171,171,190,9,UP,\n\
            postgres_primary,node2,0,0,170,170,190,9,UP,\n\
            postgres_primary,BACKEND,2,2,341,341,103,9,UP,\n\
            redis,FRONTEND,,,4096,4096,4096,9,OPEN,\n\
            peers,node2-redis,0,0,0,0,,9,UP,\n\
            stats,FRONTEND,,,512,512,512,9,OPEN,\n";
        let found: Vec<String> = nearly_used(stat).iter().map(Usage::to_string).collect();
        let expected = [
            "171 of 190 connections to PostgreSQL on node1",
            "4096 of 4096 connections to the port of the Redis primary",
        ];
        assert_eq!(found, expected);
        assert_eq!(nearly_used("Unknown command\n"), []);
    }
}
