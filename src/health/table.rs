//! The status as an operator reads it.

use super::Status;
use std::fmt::Write;

pub fn table(status: &Status) -> String {
    let mut rows = vec![["NODE", "ADDRESS", "PHASE", "ETCD", "POSTGRESQL", "LAG", "REDIS", "HAPROXY", "VIP"].map(String::from)];
    for (i, node) in status.nodes.iter().enumerate() {
        let etcd = status.etcd.get(i).map_or("", |m| if !m.healthy { "down" } else if m.leader { "leader" } else { "ok" });
        let postgres = status.postgres.get(i);
        let role = postgres.map_or("", |m| if m.role.is_empty() { m.state.as_str() } else { m.role.as_str() });
        let lag = postgres.and_then(|m| m.lag).map_or(String::new(), |lag| lag.to_string());
        let redis = status.redis.get(i).map_or("", |r| match (r.role.as_str(), r.link_up) {
            ("master", _) => "primary",
            ("slave", true) => "replica",
            ("slave", false) => "no link",
            _ => "down",
        });
        let holds = if status.vip.holders.contains(&node.name) { "held" } else { "" };
        let haproxy = if node.haproxy { "ok" } else { "down" };
        let address = node.address.to_string();
        let cells: [&str; 9] = [&node.name, &address, &node.phase, etcd, role, &lag, redis, haproxy, holds];
        rows.push(cells.map(String::from));
    }
    let mut out = aligned(&rows);
    let _ = writeln!(out, "\nvirtual IP  {} {}", status.vip.address, if status.vip.answers { "answers" } else { "does not answer" });
    if let Some(first) = status.certificates.iter().min_by_key(|c| c.days_left) {
        let _ = writeln!(out, "first to expire  {} in {} days", first.name, first.days_left);
    }
    if status.healthy {
        out += "healthy\n";
    } else {
        let _ = writeln!(out, "NOT HEALTHY: {} problem(s)", status.problems.len());
        status.problems.iter().for_each(|problem| {
            let _ = writeln!(out, "  - {problem}");
        });
    }
    out
}

fn aligned(rows: &[[String; 9]]) -> String {
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..9).map(width).collect();
    let line = |row: &[String; 9]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
