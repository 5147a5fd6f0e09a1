//! The status as a table with one row per node, or as a paragraph per node on a narrow terminal.

use super::{HaproxyStatus, NodeStatus, Problem, ProblemKind, RedisRole, Status, disk_space, selinux};
use std::fmt::Write;
use textwrap::{Options, WordSplitter};

const HEAD: [&str; 9] = ["NODE", "ADDRESS", "PHASE", "ETCD", "POSTGRESQL", "LAG", "REDIS", "HAPROXY", "VIP"];

/// `width` of the terminal in columns; `None` if the output is not a terminal.
pub fn table(status: &Status, width: Option<usize>) -> String {
    let width = width.unwrap_or(usize::MAX);
    let rows: Vec<[String; 9]> = status.nodes.iter().map(|node| row(status, node)).collect();
    let fits = |table: &String| table.lines().all(|line| line.chars().count() <= width);
    // The address is the least important column.
    let tables = [None, Some("ADDRESS")].map(|without| aligned(&rows, without));
    let mut out = match tables.into_iter().find(fits) {
        Some(table) => table,
        None => rows.iter().map(|row| paragraph(row, width)).collect(),
    };
    let answers = if status.vip.answers { "answers" } else { "does not answer from here" };
    let _ = writeln!(out, "\nvirtual IP  {} {answers}", status.vip.address);
    if let Some(first) = status.certificates.iter().min_by_key(|c| c.not_after) {
        let (name, days) = (&first.name, first.days_left);
        let expiry = match days {
            ..0 => format!("{name}, expired {} ago", plural(-days, "day")),
            _ => format!("{name} on {}, in {}", nodes_with_bundle(status), plural(days, "day")),
        };
        out += &wrapped(&expiry, "first certificate to expire: ", "  ", width);
    }
    for line in hanode_core::backup::summary(&status.backups()) {
        out += &wrapped(&line, "backup  ", "  ", width);
    }
    if let Some(restore) = status.nodes.iter().find_map(|node| node.backup.as_ref()?.restore.as_ref()) {
        out += &wrapped(&restore.to_string(), "restored  ", "  ", width);
    }
    for node in &status.nodes {
        for path in &node.moved_aside {
            let _ = writeln!(
                out,
                "moved aside  {}:{path} (not used by the cluster; delete it when no longer needed)",
                node.name
            );
        }
        if node.moved_aside_omitted > 0 {
            let _ = writeln!(out, "moved aside  {}: {} more", node.name, node.moved_aside_omitted);
        }
    }
    if let Some(summary) = selinux::summary(status) {
        out += &wrapped(&summary, "SELinux     ", "  ", width);
    }
    for notice in disk_space::notices(status) {
        out += &wrapped(&notice.to_string(), "disk space  ", "  ", width);
    }
    for warning in &status.warnings {
        out += &wrapped(warning, "warning  ", "  ", width);
    }
    if status.healthy {
        out += "healthy\n";
    } else {
        let _ = writeln!(out, "unhealthy: {}", plural(status.problems.len() as i64, "problem"));
        out.extend(
            status.problems.iter().map(|problem| wrapped(&problem.to_string(), "  - ", "    ", width)),
        );
    }
    out
}

fn plural(count: i64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The nodes that have the certificates of the status: all whose bundle is not another one.
fn nodes_with_bundle(status: &Status) -> String {
    let other = |node: &NodeStatus| {
        let differs =
            |p: &&Problem| p.kind == ProblemKind::OtherBundle && p.node.as_ref() == Some(&node.name);
        node.bundle_generation.is_none() || status.problems.iter().any(|p| differs(&p))
    };
    let names: Vec<&str> = status.nodes.iter().filter(|n| !other(n)).map(|n| n.name.as_str()).collect();
    match names.len() {
        0 => "no reachable node".into(),
        n if n == status.nodes.len() => "every node".into(),
        _ => names.join(", "),
    }
}

/// Width of the terminal in columns; `None` if standard output is a file or a pipe.
pub(super) fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| width.0.into())
}

fn row(status: &Status, node: &NodeStatus) -> [String; 9] {
    let etcd = match (node.servers.etcd.healthy, node.servers.etcd.leader) {
        (false, _) => "down",
        (true, true) => "leader",
        (true, false) => "ok",
    };
    let postgres = &node.servers.postgres;
    let role = postgres.role.map_or_else(|| postgres.state.to_string(), |role| role.name().to_string());
    let lag = postgres.lag.map_or(String::new(), |lag| lag.to_string());
    let redis = match (node.servers.redis.role, node.servers.redis.link_up) {
        (Some(RedisRole::Primary), _) => "primary",
        (Some(RedisRole::Replica), true) => "replica",
        (Some(RedisRole::Replica), false) => "no link",
        (None, _) => "down",
    };
    let holds = if status.vip.holders.contains(&node.name) { "held" } else { "" };
    let haproxy = match &node.servers.haproxy {
        haproxy if haproxy.answers() => "ok",
        HaproxyStatus { refused: Some(_), .. } => "no clients",
        _ => "down",
    };
    let address = node.address.to_string();
    [&node.name, &address, node.phase.name(), etcd, &role, &lag, redis, haproxy, holds].map(String::from)
}

/// The table; `without` is a column to omit.
fn aligned(rows: &[[String; 9]], without: Option<&str>) -> String {
    let all = std::iter::once(HEAD.map(String::from)).chain(rows.iter().cloned());
    let cells = |row: [String; 9]| {
        let cells = HEAD.into_iter().zip(row);
        cells.filter(|(column, _)| Some(*column) != without).map(|(_, cell)| cell).collect::<Vec<_>>()
    };
    hanode_util::table::aligned(all.map(cells), &[]) + "\n"
}

/// A node on a narrow terminal: name, address and phase, then all its services.
fn paragraph(
    [name, address, phase, etcd, role, lag, redis, haproxy, vip]: &[String; 9],
    width: usize,
) -> String {
    let lag = if lag.is_empty() { String::new() } else { format!(" (lag {lag})") };
    let holds = if vip.is_empty() { "" } else { ", holds the virtual IP" };
    let services = [("etcd", etcd), ("PostgreSQL", role), ("Redis", redis), ("HAProxy", haproxy)];
    let services = services.map(|(service, state)| match service {
        "PostgreSQL" => format!("{service} {state}{lag}"),
        _ => format!("{service} {state}"),
    });
    wrapped(&format!("{name} {address} {phase}{holds}"), "", "  ", width)
        + &wrapped(&services.join(", "), "  ", "  ", width)
}

/// Text in lines no longer than `width`, except for longer words.
fn wrapped(text: &str, first: &str, then: &str, width: usize) -> String {
    let options = Options::new(width).initial_indent(first).subsequent_indent(then);
    let options = options.break_words(false).word_splitter(WordSplitter::NoHyphenation);
    // Errors can contain line breaks.
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    textwrap::fill(&line, options) + "\n"
}

#[cfg(test)]
mod tests;
