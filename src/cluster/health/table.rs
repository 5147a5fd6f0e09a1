//! The status as an operator reads it: one row a node where the terminal is wide enough, else a few
//! lines each.

use super::Status;
use std::fmt::Write;
use textwrap::{Options, WordSplitter};

const HEAD: [&str; 9] = ["NODE", "ADDRESS", "PHASE", "ETCD", "POSTGRESQL", "LAG", "REDIS", "HAPROXY", "VIP"];

/// `width`: of the terminal; none where the output is not one.
pub fn table(status: &Status, width: Option<usize>) -> String {
    let width = width.unwrap_or(usize::MAX);
    let rows: Vec<[String; 9]> = (0..status.nodes.len()).map(|i| row(status, i)).collect();
    let fits = |table: &String| table.lines().all(|line| line.chars().count() <= width);
    // The address is the first that an operator can do without.
    let tables = [None, Some("ADDRESS")].map(|without| aligned(&rows, without));
    let mut out = match tables.into_iter().find(fits) {
        Some(table) => table,
        None => rows.iter().map(|row| paragraph(row, width)).collect(),
    };
    let answers = if status.vip.answers { "answers" } else { "does not answer here" };
    let _ = writeln!(out, "\nvirtual IP  {} {answers}", status.vip.address);
    if let Some(first) = status.certificates.iter().min_by_key(|c| c.days_left) {
        let ends = format!("{} in {} days", first.name, first.days_left);
        out += &folded(&ends, "first to expire  ", "  ", width);
    }
    for node in &status.nodes {
        for path in &node.moved_aside {
            let _ = writeln!(
                out,
                "kept aside  {}:{path} (not part of the cluster; remove it when done)",
                node.name
            );
        }
    }
    if status.healthy {
        out += "healthy\n";
    } else {
        let _ = writeln!(out, "NOT HEALTHY: {} problem(s)", status.problems.len());
        out.extend(status.problems.iter().map(|problem| folded(problem, "  - ", "    ", width)));
    }
    out
}

/// Of the terminal that standard output is; none where it is a file or a pipe.
pub fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| width.0.into())
}

fn row(status: &Status, i: usize) -> [String; 9] {
    let node = &status.nodes[i];
    let etcd = status.etcd.get(i).map_or("", |m| match (m.healthy, m.leader) {
        (false, _) => "down",
        (true, true) => "leader",
        (true, false) => "ok",
    });
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
    [&node.name, &address, &node.phase, etcd, role, &lag, redis, haproxy, holds].map(String::from)
}

/// The table; `without` leaves a column out.
fn aligned(rows: &[[String; 9]], without: Option<&str>) -> String {
    let all = std::iter::once(HEAD.map(String::from)).chain(rows.iter().cloned());
    let shown = |row: [String; 9]| {
        let cells = HEAD.into_iter().zip(row);
        cells.filter(|(column, _)| Some(*column) != without).map(|(_, cell)| cell).collect::<Vec<_>>()
    };
    hanode_util::table::aligned(all.map(shown), &[]) + "\n"
}

/// A node on a narrow terminal: who it is, then its services, none left out.
fn paragraph(
    [name, address, phase, etcd, role, lag, redis, haproxy, vip]: &[String; 9],
    width: usize,
) -> String {
    let behind = if lag.is_empty() { String::new() } else { format!(" (lag {lag})") };
    let holds = if vip.is_empty() { "" } else { ", holds the virtual IP" };
    let services = [("etcd", etcd), ("PostgreSQL", role), ("Redis", redis), ("HAProxy", haproxy)];
    let services = services.map(|(service, how)| match service {
        "PostgreSQL" => format!("{service} {how}{behind}"),
        _ => format!("{service} {how}"),
    });
    folded(&format!("{name} {address} {phase}{holds}"), "", "  ", width)
        + &folded(&services.join(", "), "  ", "  ", width)
}

/// A sentence in lines no longer than `width`, broken between words; a longer word stays whole.
fn folded(text: &str, first: &str, then: &str, width: usize) -> String {
    let options = Options::new(width).initial_indent(first).subsequent_indent(then);
    let options = options.break_words(false).word_splitter(WordSplitter::NoHyphenation);
    // One paragraph, whatever blanks and line ends are in the text.
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    textwrap::fill(&words, options) + "\n"
}

#[cfg(test)]
mod tests;
