//! The limits of a report. A node shortens its own: a peer refuses a longer one, and the node would count as unreachable.

use super::NodeReport;
use crate::state::{Problem, ProblemKind};
use anyhow::Result;
use serde_json::Value;

/// Upper bound on a report, in bytes.
pub const MAX_REPORT: usize = 64 << 10;
/// Upper bound on a text in it, in characters.
const MAX_TEXT: usize = 300;
const MAX_PROBLEMS: usize = 16;
const MAX_MOVED_ASIDE: usize = 8;

/// The report as JSON of at most [`MAX_REPORT`] bytes. What is left out is counted.
pub fn pack(mut report: NodeReport) -> Result<Vec<u8>> {
    report.moved_aside_omitted += report.moved_aside.len().saturating_sub(MAX_MOVED_ASIDE);
    report.moved_aside.truncate(MAX_MOVED_ASIDE);
    let omitted = report.problems.len().saturating_sub(MAX_PROBLEMS);
    if omitted > 0 {
        report.problems.truncate(MAX_PROBLEMS);
        report.problems.push(Problem::new(ProblemKind::Omitted, omitted.to_string()));
    }
    let packed = shortened(&report)?;
    if packed.len() <= MAX_REPORT {
        return Ok(packed);
    }
    // Only what a decision does not need.
    let problem = Problem::new(ProblemKind::Omitted, report.problems.len().to_string());
    report =
        NodeReport { problems: vec![problem], haproxy_down: None, selinux: None, backup: None, ..report };
    report.image.clear();
    shortened(&report)
}

fn shortened(report: &NodeReport) -> Result<Vec<u8>> {
    let mut value = serde_json::to_value(report)?;
    shorten(&mut value);
    Ok(serde_json::to_vec(&value)?)
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
                text.truncate(end);
                text.push('…');
            }
        }
        Value::Array(values) => values.iter_mut().for_each(shorten),
        Value::Object(values) => values.values_mut().for_each(shorten),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::parse;
    use crate::state::Component;

    fn report() -> NodeReport {
        let spec = crate::spec::parse(crate::spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        NodeReport::blank(&spec, "node1", 1, "id")
    }

    fn sent(report: NodeReport) -> NodeReport {
        let packed = pack(report).expect("JSON");
        assert!(packed.len() <= MAX_REPORT, "{} bytes", packed.len());
        parse(&packed).expect("a report")
    }

    #[test]
    fn an_ordinary_report_is_sent_as_it_is() {
        let mut ordinary = report();
        ordinary.moved_aside = vec!["/var/lib/postgresql/17/hanode.aside-1".into()];
        ordinary.problems = vec![Problem::check_failed(Component::Redis, "loading")];
        assert_eq!(sent(ordinary.clone()), ordinary);
    }

    /// User postgres makes directories with these names.
    #[test]
    fn many_long_names_leave_the_node_reachable() {
        let mut long = report();
        let name = |n: usize| format!("/var/lib/postgresql/17/{n}.aside-{}", "\u{1b}".repeat(240));
        long.moved_aside = (0..700).map(name).collect();
        let sent = sent(long);
        assert_eq!((sent.moved_aside.len(), sent.moved_aside_omitted), (MAX_MOVED_ASIDE, 692));
        assert!(sent.moved_aside[0].starts_with("/var/lib/postgresql/17/0.aside-"));
    }

    #[test]
    fn many_long_problems_are_counted() {
        let mut long = report();
        long.problems = (0..90)
            .map(|n| Problem::check_failed(Component::Etcd, format!("{n}{}", "x".repeat(9000))))
            .collect();
        let sent = sent(long);
        assert_eq!(sent.problems.len(), MAX_PROBLEMS + 1);
        assert_eq!(
            sent.problems[MAX_PROBLEMS].to_string(),
            "74 more problems, which the node's report omits"
        );
        assert_eq!(sent.problems[0].detail.chars().count(), MAX_TEXT + 1);
    }

    #[test]
    fn no_combination_exceeds_the_limit() {
        let mut long = report();
        let hostile = "\u{1b}".repeat(9000);
        long.moved_aside = vec![hostile.clone(); 700];
        long.problems = vec![Problem::new(ProblemKind::Stopped, &hostile); 700];
        long.image = (0..700).map(|n| (n.to_string(), hostile.clone())).collect();
        assert!(!sent(long).problems.is_empty());
    }
}
